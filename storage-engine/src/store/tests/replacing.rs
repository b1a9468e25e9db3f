//! A group in doubt stays until another has taken its place, which may have its files.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use levada_protocol::ids::{GroupId, LogIndex, Term};

use super::world::{World, open};
use crate::{
    disk::{Disk, FileName},
    entry::{Entry, EntryKind},
    journal::Doubt,
    sim_disk::{CrashPlan, SimDisk},
    store::{Recovered, RecoveredGroup, SegmentSpec, Snapshot, segment_file},
};

const GROUP: GroupId = GroupId(1);
/// Has something in the same journal.
const OTHER: GroupId = GroupId(2);
const PAGE: u64 = 4096;

fn append(world: &mut World, group: GroupId, shapes: &[u64]) {
    let last = world.groups[&group].now.last();
    world.append(group, last, shapes, true);
    world.settle();
}

fn commit(world: &mut World, group: GroupId, roll: bool, log_start: Option<u64>) {
    let last = world.groups[&group].now.last();
    world.commit(group, last, roll, log_start);
    world.settle();
}

fn checkpoint(world: &mut World) {
    world.begin_checkpoint(|_| true);
    world.settle();
}

/// A sound replica, and the disk of one with the same segments that is in doubt, since a block of its journal is damaged behind
/// its last checkpoint. The sound one goes on from there: what was written to is sealed, and more is behind it.
struct Pair {
    sound: World,
    doubted: Arc<SimDisk>,
}

/// `goes_on` says what the sound one does.
fn pair(goes_on: fn(&mut World)) -> Pair {
    let mut world = World::new(4);
    world.create(GROUP);
    world.create(OTHER);
    append(&mut world, OTHER, &[3]);
    commit(&mut world, OTHER, false, None);
    for round in 0..4 {
        append(&mut world, GROUP, &[501, 502, 3]);
        commit(&mut world, GROUP, round < 3, None);
    }
    checkpoint(&mut world);
    (0..3).for_each(|_| append(&mut world, GROUP, &[4]));
    let doubted = in_doubt(&world.disk);
    goes_on(&mut world);
    checkpoint(&mut world);
    Pair { sound: world, doubted }
}

/// A disk with a bit of its journal flipped, so that this group alone is in doubt.
fn in_doubt(disk: &SimDisk) -> Arc<SimDisk> {
    let names = disk.list("journal").unwrap();
    let files = names.iter().map(|name| FileName::new(format!("journal/{name}")));
    let pages = files.flat_map(|file| {
        let pages = disk.len(&file).unwrap().unwrap() / PAGE;
        (0..pages).map(move |page| (file.clone(), page * PAGE + 300))
    });
    let mut damaged = pages.map(|(file, at)| {
        let damaged = Arc::new(disk.fork());
        damaged.flip_bit(&file, at, 3);
        damaged
    });
    let is_meant = |disk: &Arc<SimDisk>| open(disk).unwrap().doubt == Doubt::Groups([GROUP].into());
    damaged.find(is_meant).expect("a block has something of this group only")
}

fn rolls_and_goes_on(world: &mut World) {
    commit(world, GROUP, true, None);
    append(world, GROUP, &[503, 4]);
    commit(world, GROUP, false, None);
}

impl Pair {
    fn snapshot(&self) -> Snapshot {
        self.sound.store.snapshot(GROUP).unwrap()
    }

    /// The node of the one in doubt, as it starts.
    fn start(&self) -> World {
        start(&self.doubted)
    }

    /// What the sound replica has.
    fn entries(&self) -> Vec<Entry> {
        let log = self.sound.store.log(GROUP).unwrap();
        log.entries(log.first_index(), self.snapshot().applied().next(), usize::MAX).unwrap()
    }

    /// Adopts what it can, and copies the rest. Answers what was adopted.
    fn copy(&self, to: &mut World) -> BTreeSet<LogIndex> {
        let mut adopted = BTreeSet::new();
        for segment in self.snapshot().segments() {
            let first = segment.first_index();
            if to.store.incoming(GROUP).contains_key(&first) {
                continue;
            }
            if to.store.may_adopt(GROUP, &segment) && is_sound(&to.disk, &segment) {
                adopted.insert(first);
                continue;
            }
            to.store.discard_incoming_file(GROUP, first);
            to.store.write_incoming(GROUP, first, bytes(&self.sound.disk, &segment).unwrap().into());
            to.store.finish_incoming(GROUP, first);
        }
        adopted
    }
}

fn start(disk: &Arc<SimDisk>) -> World {
    World::with(Arc::clone(disk), open(disk).unwrap().store, BTreeMap::new(), 7)
}

fn bytes(disk: &SimDisk, segment: &SegmentSpec) -> Option<Vec<u8>> {
    let mut bytes = disk.read(&segment_file(GROUP, segment.first_index()), 0, 1 << 24).ok()?.to_vec();
    if !segment.is_sealed() {
        bytes.truncate(usize::try_from(segment.bytes()).unwrap());
    }
    Some(bytes)
}

fn is_sound(disk: &SimDisk, segment: &SegmentSpec) -> bool {
    let mut check = segment.check();
    bytes(disk, segment).is_some_and(|bytes| check.update(&bytes).is_ok() && check.finish().is_ok())
}

fn found(disk: &Arc<SimDisk>) -> (Doubt, RecoveredGroup) {
    let Recovered { groups, doubt, .. } = open(disk).unwrap();
    (doubt, groups.into_iter().find(|found| found.group == GROUP).unwrap())
}

/// Whether the new group is what stands on the disk, as a whole, and nothing else does of it.
fn assert_replaced(pair: &Pair, disk: &Arc<SimDisk>) {
    let (doubt, group) = found(disk);
    let snapshot = pair.snapshot();
    assert_eq!((doubt, group.damaged, group.applied), (Doubt::None, false, snapshot.applied()));
    assert_eq!((&group.conf_state, &group.app_state), (snapshot.conf_state(), snapshot.app_state()));
    assert_eq!((group.hard_state.vote, group.log.last_index()), (0, snapshot.applied()), "nothing of the old one");
    let entries = group.log.entries(group.log.first_index(), group.applied.next(), usize::MAX).unwrap();
    assert_eq!(entries, pair.entries());
}

#[test]
fn what_is_the_same_stays_where_it_is() {
    let pair = pair(rolls_and_goes_on);
    let mut to = pair.start();
    let kept_to = to.store.kept_to(GROUP).unwrap();
    let before = found(&pair.doubted).1;
    assert_eq!((kept_to, to.store.kept_to(OTHER)), (before.applied, None));
    assert!(!to.store.is_gone(GROUP) && to.store.may_install(GROUP));
    let adopted = pair.copy(&mut to);
    let firsts: Vec<LogIndex> = pair.snapshot().segments().iter().map(SegmentSpec::first_index).collect();
    assert_eq!(adopted, firsts[..3].iter().copied().collect(), "sealed by both; the others go further");
    to.settle();
    let (log, number) = to.store.install(pair.snapshot(), &adopted);
    assert_eq!((log.last_index(), to.store.kept_to(GROUP)), (pair.snapshot().applied(), None));
    to.settle();
    let (doubt, old) = found(&Arc::new(to.disk.crash_image(&CrashPlan::LOSE_ALL)));
    assert_eq!((doubt, old.applied), (Doubt::Groups([GROUP].into()), kept_to), "no checkpoint says anything else");
    checkpoint(&mut to);
    assert!(to.checkpointed >= number && to.store.is_gone(OTHER) == to.store.log(OTHER).is_none());
    let image = Arc::new(to.disk.crash_image(&CrashPlan::LOSE_ALL));
    assert_replaced(&pair, &image);

    // It takes what follows.
    let (index, term) = (pair.snapshot().applied().next(), Term(1_000));
    let next = Entry { index, term, kind: EntryKind::Command, payload: b"next".to_vec().into() };
    to.store.append(GROUP, vec![next.clone()], None).unwrap();
    to.settle();
    to.store.commit(GROUP, index);
    to.store.roll(GROUP, index);
    to.settle();
    checkpoint(&mut to);
    let (_, group) = found(&Arc::new(to.disk.crash_image(&CrashPlan::LOSE_ALL)));
    assert_eq!(group.log.entries(index, index.next(), usize::MAX).unwrap(), [next]);
    let is_whole = |spec: SegmentSpec| is_sound(&to.disk, &spec);
    assert!(firsts.iter().all(|first| to.store.segment(GROUP, *first).is_some_and(is_whole)));
}

/// The one that is written, too, if the other goes no further: it is written on.
#[test]
fn what_is_written_is_adopted_as_far_as_it_is_durable() {
    let pair = pair(|_| {});
    let mut to = pair.start();
    let adopted = pair.copy(&mut to);
    let segments = pair.snapshot().segments();
    assert!(adopted.len() == segments.len() && segments.last().is_some_and(|last| !last.is_sealed()));
    to.store.install(pair.snapshot(), &adopted);
    checkpoint(&mut to);
    assert_replaced(&pair, &Arc::new(to.disk.crash_image(&CrashPlan::LOSE_ALL)));
}

#[test]
fn what_may_not_be_adopted() {
    let pair = pair(rolls_and_goes_on);
    let to = pair.start();
    let segments = pair.snapshot().segments();
    let first = &segments[0];
    assert!(to.store.may_adopt(GROUP, first));
    assert!(!to.store.may_adopt(OTHER, first), "not in doubt");
    assert!(!pair.sound.store.may_adopt(GROUP, first), "not in doubt");
    let mut other = first.clone();
    other.header.previous_crc ^= 1;
    assert!(!to.store.may_adopt(GROUP, &other), "behind something else");
    let mut other = first.clone();
    other.end.checksum ^= 1;
    assert!(!to.store.may_adopt(GROUP, &other), "with something else in it");
    let mut other = first.clone();
    other.header.generation += 1;
    assert!(!to.store.may_adopt(GROUP, &other), "of another number");
    let shorter = SegmentSpec { sealed: false, ..first.clone() };
    assert!(to.store.may_adopt(GROUP, &shorter), "it ends where the sealed one does");
    // It is the one that was written, and its seal is on no disk for certain.
    assert!(segments[3].is_sealed() && !to.store.may_adopt(GROUP, &segments[3]));
    let further = SegmentSpec { sealed: false, ..segments[3].clone() };
    assert!(!to.store.may_adopt(GROUP, &further));
}

/// A checkpoint that is being made does not know the new one, and leaves the old one as it was.
#[test]
fn a_checkpoint_under_way_still_has_the_old_one() {
    let pair = pair(rolls_and_goes_on);
    let mut to = pair.start();
    let adopted = pair.copy(&mut to);
    to.settle();
    to.begin_checkpoint(|_| true);
    let (_, number) = to.store.install(pair.snapshot(), &adopted);
    assert_eq!(number, 2);
    to.settle();
    assert_eq!(to.checkpointed, 1);
    let image = Arc::new(to.disk.crash_image(&CrashPlan::LOSE_ALL));
    assert_eq!(found(&image).0, Doubt::Groups([GROUP].into()));
    assert!(pair.snapshot().segments()[..3].iter().all(|segment| is_sound(&image, segment)));
    checkpoint(&mut to);
    assert_replaced(&pair, &Arc::new(to.disk.crash_image(&CrashPlan::LOSE_ALL)));
}

/// Retention took the front meanwhile, and files that only the old one had are gone when the new one begins.
#[test]
fn what_the_new_one_does_not_have_goes() {
    let pair = pair(|world| {
        commit(world, GROUP, true, None);
        let end = world.groups[&GROUP].now.next_offset(7);
        append(world, GROUP, &[503]);
        commit(world, GROUP, false, Some(end));
    });
    let mut to = pair.start();
    let names = |world: &World| world.disk.list("segments").unwrap();
    let before = names(&to);
    let adopted = pair.copy(&mut to);
    to.settle();
    assert!(before.iter().all(|name| names(&to).contains(name)), "not while it may be needed");
    to.store.install(pair.snapshot(), &adopted);
    checkpoint(&mut to);
    let of = |segment: &SegmentSpec| segment_file(GROUP, segment.first_index()).as_str().to_owned();
    let expected: BTreeSet<String> = pair.snapshot().segments().iter().map(of).collect();
    let is_its = |name: &&String| name.starts_with(&format!("{:020}-", GROUP.get()));
    let left: BTreeSet<String> = names(&to).iter().filter(is_its).map(|name| format!("segments/{name}")).collect();
    assert_eq!(left, expected);
    assert_replaced(&pair, &Arc::new(to.disk.crash_image(&CrashPlan::LOSE_ALL)));
}

#[test]
fn a_kept_one_that_is_removed_takes_its_doubt_with_it() {
    let pair = pair(rolls_and_goes_on);
    let mut to = pair.start();
    to.store.remove_group(GROUP);
    assert!(to.store.kept_to(GROUP).is_none() && !to.store.may_install(GROUP));
    checkpoint(&mut to);
    assert!(to.store.is_gone(GROUP) && to.store.may_install(GROUP));
    let adopted = pair.copy(&mut to);
    assert!(adopted.is_empty());
    to.settle();
    to.store.install(pair.snapshot(), &adopted);
    checkpoint(&mut to);
    assert_replaced(&pair, &Arc::new(to.disk.crash_image(&CrashPlan::LOSE_ALL)));
}

/// Cut at every operation: the old one is there, in doubt, with every sound file that it had, or the new one is. From either it goes
/// on, through a second cut as well.
#[test]
fn the_power_may_go_at_any_moment() {
    let pair = pair(rolls_and_goes_on);
    let had = open(&pair.doubted).unwrap().store;
    let sound: Vec<SegmentSpec> =
        pair.snapshot().segments().into_iter().filter(|segment| had.may_adopt(GROUP, segment)).collect();
    let (mut old, mut new) = (0, 0);
    for cut in 0.. {
        let disk = Arc::new(pair.doubted.fork());
        disk.halt_after(cut);
        let Ok(Recovered { store, .. }) = open(&disk) else { continue };
        if replace(&pair, World::with(Arc::clone(&disk), store, BTreeMap::new(), cut)) {
            assert!(old > 0 && new > 0, "{old} {new}");
            return;
        }
        for seed in 0..6 {
            let image = Arc::new(disk.crash_image(&CrashPlan::seeded(6 * cut + seed)));
            assert!(sound.iter().all(|segment| is_sound(&image, segment)), "what was sound is sound");
            if found(&image).0 == Doubt::None {
                assert_replaced(&pair, &image);
                new += 1;
                continue;
            }
            old += 1;
            image.halt_after(cut % 7);
            if let Ok(Recovered { store, .. }) = open(&image) {
                replace(&pair, World::with(Arc::clone(&image), store, BTreeMap::new(), seed));
            }
            let again = Arc::new(image.crash_image(&CrashPlan::seeded(seed)));
            assert!(replace(&pair, start(&again)) || found(&again).0 == Doubt::None);
            assert_replaced(&pair, &Arc::new(again.crash_image(&CrashPlan::LOSE_ALL)));
        }
    }
}

/// Puts the new one in the place of the old; whether nothing stopped that.
fn replace(pair: &Pair, mut to: World) -> bool {
    if to.store.kept_to(GROUP).is_none() {
        return false;
    }
    let adopted = pair.copy(&mut to);
    let mut is_installed = false;
    for _ in 0..3_000 {
        match to.drive_one(&mut |_, _| {}) {
            Ok(true) => {}
            Ok(false) if !is_installed => {
                to.store.install(pair.snapshot(), &adopted);
                is_installed = true;
                to.begin_checkpoint(|_| true);
            }
            Ok(false) => return true,
            Err(_) => return false,
        }
    }
    panic!("it never comes to rest");
}
