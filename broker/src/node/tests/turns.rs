//! Who sends much waits behind itself.

use super::*;

#[test]
fn a_flood_delays_others_by_little_of_what_it_has_under_way() {
    let mut world = World::new(1);
    let places = world.create_topic(2, &[]);
    let leader = world.leader(places[0]).unwrap();
    world.slow.insert(leader, 1);
    let large = "x".repeat(1 << 20);
    let send = |world: &mut World, place, batch| world.send(leader, Request::Produce { partition: place, batch });
    let flood: Vec<RequestId> =
        (0..40).map(|number| send(&mut world, places[0], batch_of(8, &[&large], number))).collect();
    world.step();
    let small = send(&mut world, places[1], batch(&["x"], 0));
    world.until(|world| world.replies.contains_key(&small));
    let before = flood.iter().filter(|id| world.replies.contains_key(id)).count();
    assert!(before < 10, "{before} of 40 MiB came first");
    world.until(|world| flood.iter().all(|id| world.replies.contains_key(id)));
    assert!(flood.iter().chain([&small]).all(|id| world.replies[id].is_ok()), "nobody is left behind");
}
