//! A replica in doubt is replaced, and what it has is kept until the new one has it.

use levada_storage_engine::disk::DiskSpace;

use super::*;

const VALUE_BYTES: usize = 100_000;
const COUNT: i32 = 35;
/// What the journal alone has, where it is to be damaged.
const LOST: &str = "this is going to be lost";

/// A partition of several segments on three nodes, and one of them whose journal is going to be damaged.
struct Kept {
    world: World,
    place: TopicPartition,
    group: GroupId,
    leader: NodeId,
    doubted: NodeId,
    third: NodeId,
}

fn value(sequence: i32) -> String {
    format!("{sequence:03}.").repeat(VALUE_BYTES / 4)
}

/// The third node hears nothing behind the first `heard` records.
fn kept(heard: i32) -> Kept {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[("segment.bytes", "1048576")])[0];
    (0..heard).for_each(|sequence| produce(&mut world, place, sequence));
    let count = usize::try_from(heard).unwrap();
    world.until(|world| (1..=3).all(|node| world.values(NodeId(node), place).len() == count));
    let leader = world.leader(place).unwrap();
    let mut others = (1..=3).map(NodeId).filter(|node| *node != leader);
    let (doubted, third) = (others.next().unwrap(), others.next().unwrap());
    let group = world.nodes[&leader].places[&place];
    if heard < COUNT {
        world.cut = [third].into();
        (heard..COUNT).for_each(|sequence| produce(&mut world, place, sequence));
    }
    (0..30).for_each(|_| world.step());
    Kept { world, place, group, leader, doubted, third }
}

fn produce(world: &mut World, place: TopicPartition, sequence: i32) {
    world.produce(place, batch(&[&value(sequence)], sequence)).unwrap();
    world.step();
}

impl Kept {
    fn checkpoint(&mut self, nodes: &[NodeId]) {
        for node in nodes {
            self.world.nodes.get_mut(node).unwrap().begin_checkpoint();
        }
        (0..5).for_each(|_| self.world.step());
    }

    /// One more record, which is lost on that node. It comes back and is in doubt, with all that was in its checkpoint.
    fn damage(&mut self, sequence: i32) {
        self.world.produce(self.place, batch(&[LOST], sequence)).unwrap();
        (0..40).for_each(|_| self.world.step());
        self.world.crash(self.doubted);
        damage_journal(&self.world.disks[&self.doubted], LOST.as_bytes());
        self.world.restart(self.doubted);
        assert!(self.node().store.kept_to(self.group).is_some(), "it is in doubt");
    }

    fn node(&self) -> &Node {
        &self.world.nodes[&self.doubted]
    }

    fn replica(&self) -> Option<ReplicaId> {
        self.node().partitions.get(&self.group).map(|partition| partition.group.replica())
    }

    fn is_being_replaced(&self) -> bool {
        self.node().copies.replica(self.group).is_some()
    }

    /// The new replica is there with everything, it votes, and the doubt is gone.
    fn is_whole(&mut self, lost: usize) {
        let (place, group, doubted) = (self.place, self.group, self.doubted);
        let mut expected: Vec<String> = (0..COUNT).map(value).collect();
        expected.extend(std::iter::repeat_n(LOST.to_owned(), lost));
        self.world.until(|world| (1..=3).all(|node| world.values(NodeId(node), place) == expected));
        assert!(!self.node().store.doubts(group) && self.node().lost.is_empty());
        let replica = self.replica().unwrap();
        self.world.until(|world| {
            let leader = world.leader(place);
            leader.is_some_and(|leader| {
                let conf = world.nodes[&leader].partitions[&group].group.conf();
                conf.voters.contains(&replica) && conf.everybody().len() == 3 && !conf.is_joint()
            })
        });
        self.world.crash(doubted);
        self.world.restart(doubted);
        assert_eq!(self.replica(), Some(replica), "it stays who it is");
    }

    /// The files of its segments.
    fn files(&self) -> Vec<FileName> {
        let names = self.world.disks[&self.doubted].list("segments").unwrap().into_iter();
        let names = names.filter(|name| name.starts_with(&format!("{:020}-", self.group.get())));
        names.map(|name| FileName::new(format!("segments/{name}"))).collect()
    }
}

/// And the next time its journal is damaged, it does so again.
#[test]
fn what_it_has_is_not_copied_again() {
    let mut kept = kept(COUNT);
    for round in 0..2 {
        kept.checkpoint(&[1, 2, 3].map(NodeId));
        let before = kept.replica().unwrap();
        kept.damage(COUNT + round);
        assert_eq!(kept.replica(), None, "the old one takes no part");
        kept.world.until(|world| world.nodes[&kept.doubted].partitions.contains_key(&kept.group));
        assert!(kept.replica().unwrap() > before);
        let copied = kept.node().copies.copied_bytes();
        assert!(copied < 1_200_000, "{copied} bytes for 3.5 MB: the one that is written at most");
        kept.is_whole(usize::try_from(round).unwrap() + 1);
    }
}

/// A third node is behind, and what it needs has rotted where the group is led from: what is kept is all that there is.
#[test]
fn what_is_kept_is_lent() {
    let mut kept = kept(5);
    let (leader, doubted, third) = (kept.leader, kept.doubted, kept.third);
    kept.checkpoint(&[leader, doubted]);
    kept.damage(COUNT);
    kept.checkpoint(&[leader]);
    let log = kept.world.nodes[&leader].view.partition(kept.place).unwrap().log.clone();
    let segments = log.segments();
    assert!(segments[1].sealed && segments[1].base_offset > Offset(5), "{segments:?}");
    let file = levada_storage_engine::store::segment_file(kept.group, segments[1].first_index);
    kept.world.crash(leader);
    kept.world.disks[&leader].flip_bit(&file, 300_000, 3);
    kept.world.restart(leader);
    kept.world.cut.clear();
    kept.world.until(|world| world.nodes[&leader].mends.mended() == 1);
    kept.world.until(|world| world.values(third, kept.place).len() > 5);
    kept.is_whole(1);
}

/// Its last checkpoint is newer than those of the others: they make another.
#[test]
fn nothing_is_given_away_for_less() {
    let mut kept = kept(COUNT);
    let doubted = kept.doubted;
    kept.checkpoint(&[doubted]);
    kept.damage(COUNT);
    let kept_to = kept.node().store.kept_to(kept.group).unwrap();
    let is_short = |node: NodeId| {
        kept.world.nodes[&node].store.snapshot(kept.group).is_some_and(|known| known.applied() < kept_to)
    };
    assert!(is_short(kept.leader) && is_short(kept.third));
    kept.world.until(|world| world.nodes[&doubted].partitions.contains_key(&kept.group));
    let arrived = kept.node().store.snapshot(kept.group).unwrap().applied();
    assert!(arrived >= kept_to, "{arrived} is not before {kept_to}");
    assert!(kept.node().copies.copied_bytes() < 1_200_000);
    kept.is_whole(1);
}

/// A file of it that has rotted is copied like any other.
#[test]
fn what_has_rotted_is_not_adopted() {
    let mut kept = kept(COUNT);
    kept.checkpoint(&[1, 2, 3].map(NodeId));
    kept.damage(COUNT);
    let files = kept.files();
    kept.world.disks[&kept.doubted].flip_bit(&files[0], 300_000, 3);
    kept.world.disks[&kept.doubted].perform(&DiskOp::Remove { file: files[1].clone() }).unwrap();
    kept.is_whole(1);
}

/// However far it got.
#[test]
fn a_crash_on_the_way_leaves_one_or_the_other() {
    for steps in [0, 1, 2, 5, 12, 20] {
        let mut kept = kept(COUNT);
        kept.checkpoint(&[1, 2, 3].map(NodeId));
        let before = kept.replica();
        kept.world.copy_bytes_per_s = 2 << 20;
        kept.damage(COUNT);
        kept.world.until(|world| world.nodes[&kept.doubted].copies.replica(kept.group).is_some());
        for _ in 0..3 {
            (0..steps).for_each(|_| kept.world.step());
            kept.world.crash(kept.doubted);
            kept.world.restart(kept.doubted);
            assert_ne!(kept.replica(), before, "the old one votes again");
        }
        kept.is_whole(1);
    }
}

/// It has begun to copy, and gets on as slowly as can be.
fn slow() -> Kept {
    let mut kept = kept(COUNT);
    kept.checkpoint(&[1, 2, 3].map(NodeId));
    kept.world.copy_bytes_per_s = 2_000;
    kept.damage(COUNT);
    kept.world.until(|world| world.nodes[&kept.doubted].copies.replica(kept.group).is_some());
    (0..20).for_each(|_| kept.world.step());
    assert!(kept.is_being_replaced() && kept.files().len() >= 3);
    kept
}

#[test]
fn a_topic_that_is_deleted_takes_it_along() {
    let mut kept = slow();
    kept.world.ask_controller(Request::DeleteTopic { name: "orders".into(), id: None }).unwrap();
    kept.world.until(|world| !world.nodes[&kept.doubted].store.doubts(kept.group));
    kept.checkpoint(&[kept.doubted]);
    kept.checkpoint(&[kept.doubted]);
    assert_eq!((kept.files(), kept.is_being_replaced()), (vec![], false));
    kept.world.crash(kept.doubted);
    kept.world.restart(kept.doubted);
    assert!(kept.node().store.kept_to(kept.group).is_none());
}

/// An operator has it moved elsewhere meanwhile.
#[test]
fn a_replica_that_moves_away_takes_it_along() {
    let mut kept = slow();
    kept.world.copy_bytes_per_s = 50 << 20;
    kept.world.admit(NodeId(4), false);
    kept.world.join(NodeId(4));
    kept.world.may_end.insert(kept.doubted);
    kept.world.ask_controller(Request::DrainNode { node: kept.doubted, drain: true, dry_run: false }).unwrap();
    kept.world.until(|world| {
        !world.nodes.contains_key(&kept.doubted) || !world.nodes[&kept.doubted].store.doubts(kept.group)
    });
    let place = kept.place;
    kept.world.until(|world| world.nodes.contains_key(&NodeId(4)) && world.values(NodeId(4), place).len() == 36);
}

/// What is there of it needs no space. But what does not come for want of it keeps what is here for a minute only.
#[test]
fn a_full_disk_gets_rid_of_it() {
    let mut kept = slow();
    let full = DiskSpace { total_bytes: 1 << 40, free_bytes: 1 << 20 };
    let mut ticks = 0;
    while kept.node().store.kept_to(kept.group).is_some() {
        ticks += 1;
        assert!(ticks < 2_000, "it keeps it for ever");
        kept.world.events.push_back((kept.doubted, Event::Space(Some(full))));
        kept.world.step();
    }
    assert!(ticks > 1_000, "it was only for a moment: {ticks}");
    kept.checkpoint(&[kept.doubted]);
    kept.checkpoint(&[kept.doubted]);
    assert!(kept.files().is_empty());
    let roomy = DiskSpace { free_bytes: 1 << 39, ..full };
    kept.world.events.push_back((kept.doubted, Event::Space(Some(roomy))));
    kept.world.crash(kept.doubted);
    kept.world.copy_bytes_per_s = 50 << 20;
    kept.world.restart(kept.doubted);
    kept.is_whole(1);
}
