//! The power fails before, in the middle of and after every effect.

use levada_storage_engine::sim_disk::CrashPlan;
use rand::Rng;

use crate::world::{Mutation, World};

/// Several hundred appends with checkpoints, idle times, kills and power cuts in between.
fn run(seed: u64, appends: usize, mutation: Mutation) -> Result<World, String> {
    let mut world = World::new(seed, mutation);
    for _ in 0..appends {
        for _ in 0..world.rng.random_range(1..4) {
            world.submit();
        }
        for _ in 0..world.rng.random_range(0..5) {
            world.step()?;
        }
        match world.rng.random_range(0..40) {
            0..4 => world.checkpoint(),
            4 | 5 => {
                world.run_dry()?;
                world.writer.tick();
                world.writer.tick();
            }
            6 => world.restart(None)?,
            7 => {
                let seed = world.rng.random();
                world.restart(Some(CrashPlan::seeded(seed)))?;
            }
            _ => {}
        }
    }
    world.run_dry()?;
    Ok(world)
}

#[test]
fn what_was_acknowledged_is_replayed_wherever_the_power_fails() {
    let (mut images, mut tails) = (0, 0);
    for seed in 0..4 {
        let world = run(seed, 120, Mutation::None).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        assert!(world.writer.synced_lsn().get() > 60, "too few blocks were written");
        images += world.images_checked;
        tails += world.tails_found;
    }
    println!("{images} crash images, {tails} restarts that found an unproven tail");
    assert!(images > 5_000 && tails > 2, "{images} {tails}");
}

/// The test above must be able to fail: each of these breaks a rule, and is found.
#[test]
fn broken_drivers_and_recoveries_are_found() {
    for mutation in [Mutation::SkipSync, Mutation::AckBeforeSync, Mutation::SkipSyncDir, Mutation::TrustTail] {
        let found = (0..4).find_map(|seed| run(seed, 60, mutation).err().map(|violation| (seed, violation)));
        let (seed, violation) = found.unwrap_or_else(|| panic!("{mutation:?} goes unnoticed"));
        println!("{mutation:?} found with seed {seed}: {}", violation.chars().take(160).collect::<String>());
    }
}
