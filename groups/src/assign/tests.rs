use levada_protocol::ids::TopicId;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

type Targets = BTreeMap<MemberId, BTreeSet<TopicPartition>>;

fn shapes(partitions: &[u32]) -> BTreeMap<String, TopicShape> {
    let shape = |(number, partitions): (usize, &u32)| {
        let id = TopicId(Uuid::from_u128(number as u128 + 1));
        (format!("t{number}"), TopicShape { id, partitions: *partitions })
    };
    partitions.iter().enumerate().map(shape).collect()
}

fn subscriptions(wants: &[Vec<bool>]) -> BTreeMap<MemberId, BTreeSet<String>> {
    let wanted = |wants: &Vec<bool>| {
        wants.iter().enumerate().filter(|(_, wants)| **wants).map(|(topic, _)| format!("t{topic}")).collect()
    };
    wants.iter().enumerate().map(|(member, wants)| (MemberId::new(&format!("m{member:03}")), wanted(wants))).collect()
}

fn assign(
    assignor: Assignor,
    subscriptions: &BTreeMap<MemberId, BTreeSet<String>>,
    had: &Targets,
    topics: &BTreeMap<String, TopicShape>,
) -> Targets {
    let nothing = BTreeSet::new();
    let wishes = subscriptions
        .iter()
        .map(|(id, topics)| (id.clone(), Wish { order: id.as_str(), topics, had: had.get(id).unwrap_or(&nothing) }))
        .collect();
    assignor.assign(&wishes, topics)
}

/// Each partition of a topic that somebody wants is exactly one member's, who wants it.
fn check(
    targets: &Targets,
    subscriptions: &BTreeMap<MemberId, BTreeSet<String>>,
    topics: &BTreeMap<String, TopicShape>,
) {
    assert!(targets.keys().eq(subscriptions.keys()), "every member is in the answer");
    let given: usize = targets.values().map(BTreeSet::len).sum();
    let wanted = topics.iter().filter(|(name, _)| subscriptions.values().any(|wants| wants.contains(*name)));
    let mut count = 0;
    for (name, shape) in wanted {
        for place in shape.places() {
            let owners: Vec<_> = targets.iter().filter(|(_, places)| places.contains(&place)).collect();
            assert_eq!(owners.len(), 1, "{place} has {} owners", owners.len());
            assert!(subscriptions[owners[0].0].contains(name));
            count += 1;
        }
    }
    assert_eq!(given, count, "nothing else is given");
}

fn moved(before: &Targets, after: &Targets) -> usize {
    after.iter().map(|(id, places)| places.difference(before.get(id).unwrap_or(&BTreeSet::new())).count()).sum()
}

#[test]
fn range_gives_the_same_numbers_of_every_topic() {
    let topics = shapes(&[5, 5]);
    let targets =
        assign(Assignor::Range, &subscriptions(&[vec![true, true], vec![true, true]]), &BTreeMap::new(), &topics);
    let numbers = |id: &str, topic: &str| {
        let of = topics[topic].id;
        let places = targets[&MemberId::new(id)].iter().filter(move |place| place.topic == of);
        places.map(|place| place.partition.get()).collect::<Vec<_>>()
    };
    for topic in ["t0", "t1"] {
        assert_eq!(numbers("m000", topic), [0, 1, 2]);
        assert_eq!(numbers("m001", topic), [3, 4]);
    }
}

#[test]
fn sticky_moves_no_more_than_it_must() {
    let topics = shapes(&[100]);
    let nine = subscriptions(&vec![vec![true]; 9]);
    let ten = subscriptions(&vec![vec![true]; 10]);
    let before = assign(Assignor::Sticky, &nine, &BTreeMap::new(), &topics);
    let after = assign(Assignor::Sticky, &ten, &before, &topics);
    assert_eq!(moved(&before, &after), 10, "the new member's share");
    let again = assign(Assignor::Sticky, &nine, &after, &topics);
    assert_eq!(moved(&after, &again), 10, "the share of who left");
    assert!(moved(&before, &assign(Assignor::Uniform, &ten, &before, &topics)) > 10, "uniform looks at nobody's past");
}

#[test]
fn a_large_group_is_shared_out_in_a_moment() {
    let topics = shapes(&[10_000, 40_000]);
    let many = subscriptions(&vec![vec![true, true]; 1_000]);
    for assignor in Assignor::ALL {
        let targets = assign(assignor, &many, &BTreeMap::new(), &topics);
        assert_eq!(targets.values().map(BTreeSet::len).sum::<usize>(), 50_000);
        let again = assign(assignor, &many, &targets, &topics);
        assert_eq!(moved(&targets, &again), 0);
    }
}

proptest! {
    #[test]
    fn every_partition_is_somebodys_who_wants_it(
        partitions in proptest::collection::vec(0..9u32, 1..5),
        wants in proptest::collection::vec(proptest::collection::vec(any::<bool>(), 4), 0..7),
        wants_then in proptest::collection::vec(proptest::collection::vec(any::<bool>(), 4), 0..7),
    ) {
        let topics = shapes(&partitions);
        let (first, then) = (subscriptions(&wants), subscriptions(&wants_then));
        for assignor in Assignor::ALL {
            let before = assign(assignor, &first, &BTreeMap::new(), &topics);
            check(&before, &first, &topics);
            let after = assign(assignor, &then, &before, &topics);
            check(&after, &then, &topics);
            prop_assert_eq!(&after, &assign(assignor, &then, &before, &topics), "the same question has the same answer");
            if assignor == Assignor::Sticky {
                prop_assert_eq!(moved(&after, &assign(assignor, &then, &after, &topics)), 0, "what is even stays");
            }
        }
    }

    #[test]
    fn loads_are_even_among_equals(partitions in 0..60u32, members in 1..9usize, members_then in 1..9usize) {
        let topics = shapes(&[partitions]);
        for assignor in Assignor::ALL {
            let before = assign(assignor, &subscriptions(&vec![vec![true]; members]), &BTreeMap::new(), &topics);
            let after = assign(assignor, &subscriptions(&vec![vec![true]; members_then]), &before, &topics);
            let loads: Vec<usize> = after.values().map(BTreeSet::len).collect();
            prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{:?}", loads);
        }
    }
}
