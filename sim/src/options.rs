//! What a world is like. Everything follows from the seed, unless a scenario or a test says otherwise.

use crate::{clients::PATIENCE_US, dice::Dice, disks::Speed, faults::Mix, network::Weather};

/// A promise that the world itself breaks, to see that the checker notices. Nothing of this is in the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// The journal's syncs report success and do nothing: what skipping `fdatasync` would do.
    SkipJournalSync,
    /// The node hears that its journal has written before it has.
    EarlyCompletion,
    /// Readers are shown what is in the log, committed or not.
    ReadUncommitted,
    /// Questions for the end of a log are answered by whichever node is asked, from what it knows.
    StaleBounds,
}

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Partitions of the topic they work with.
    pub partitions: u32,
    /// Producers of each partition.
    pub producers: u32,
    /// Readers of each partition.
    pub readers: u32,
    /// How often a producer makes a batch, about.
    pub pace_us: u64,
    /// The most records in a batch.
    pub records_max: u32,
    /// The most bytes that fill a record up.
    pub filling_max: usize,
    /// How many of a million times a producer looks for work it forgets everything instead, as if it had crashed.
    pub amnesia_ppm: u32,
    /// How long a producer waits for an answer before it tries another node.
    pub patience_us: u64,
    /// The bytes that the topic keeps per partition; `None` keeps everything.
    pub retention_bytes: Option<u64>,
}

impl Workload {
    fn drawn(dice: &mut Dice) -> Self {
        let heavy = dice.chance(25);
        Self {
            partitions: u32::try_from(dice.between(1..=4)).unwrap_or(1),
            producers: u32::try_from(dice.between(1..=3)).unwrap_or(1),
            readers: 2,
            pace_us: dice.pick(&[5_000, 20_000, 50_000]).unwrap_or(20_000),
            records_max: dice.pick(&[1, 5, 20]).unwrap_or(5),
            filling_max: if heavy { 4_000 } else { dice.pick(&[0, 50, 500]).unwrap_or(50) },
            amnesia_ppm: dice.pick(&[0, 500]).unwrap_or(0),
            patience_us: PATIENCE_US,
            retention_bytes: dice.chance(25).then_some(2 << 20),
        }
    }
}

/// What a world is like.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// What everything else is drawn from.
    pub seed: u64,
    /// How many nodes there are.
    pub nodes: u64,
    /// How long there are faults.
    pub faults_us: u64,
    /// How long everything may take to come right once there are none.
    pub settle_us: u64,
    /// What clients do.
    pub workload: Workload,
    /// The network while there are faults.
    pub weather: Weather,
    /// Each node's disk while there are faults.
    pub disks: Vec<Speed>,
    /// The faults.
    pub mix: Mix,
    /// Size of a journal file.
    pub journal_file_bytes: u64,
    /// How much goes into the journal between two checkpoints.
    pub checkpoint_bytes: u64,
    /// What a node may hold in memory of what is not in segments, before it refuses more.
    pub tail_bytes_max: u64,
    /// How much a group must have for a write of its own to its segment.
    pub write_bytes_min: u64,
    /// Ticks of a paused process come all at once when it goes on, or not at all.
    pub ticks_burst: bool,
    /// Who works with records does so for this long and then rests for as long, again and again: long enough for groups to
    /// fall asleep. `None`: no rest.
    pub day_us: Option<u64>,
    /// When all is well again, one node is away for two days.
    pub absence: bool,
    /// How many of 100 messages that make a voter of a group's new replica are followed by a network that parts: with the group's
    /// leader and that replica on one side.
    pub parting_percent: u32,
    /// Nodes come and go, and replicas move.
    pub moves: bool,
    /// As nodes go, majorities are lost for good, and an operator lets what is left go on. Only where `moves` is set.
    pub losses: bool,
    /// What new replicas may copy in a second.
    pub copy_bytes_per_s: u64,
    /// Below this much space on its disk a node takes no records.
    pub reserve_bytes: u64,
    /// What the world lies about.
    pub lie: Option<Lie>,
}

impl Options {
    /// The world of a seed.
    #[must_use]
    pub fn drawn(seed: u64, nodes: u64, faults_us: u64) -> Self {
        let dice = &mut Dice::new(seed, "options");
        let mut options = Self {
            seed,
            nodes,
            faults_us,
            settle_us: 30_000_000,
            workload: Workload::drawn(dice),
            weather: Weather::drawn(dice),
            disks: (0..nodes).map(|_| Speed::drawn(dice)).collect(),
            mix: Mix::drawn(dice),
            journal_file_bytes: dice.pick(&[512 << 10, 1 << 20]).unwrap_or(1 << 20),
            checkpoint_bytes: dice.pick(&[64 << 10, 256 << 10, 1 << 20]).unwrap_or(1 << 20),
            tail_bytes_max: dice.pick(&[256 << 10, 1 << 20, 8 << 20]).unwrap_or(8 << 20),
            ticks_burst: dice.chance(50),
            write_bytes_min: dice.pick(&[0, 16 << 10, 64 << 10]).unwrap_or(0),
            day_us: dice.pick(&[None, Some(3_500_000), Some(5_000_000)]).flatten(),
            absence: false,
            parting_percent: 0,
            moves: false,
            losses: false,
            copy_bytes_per_s: dice.pick(&[16 << 20, 64 << 20]).unwrap_or(4 << 20),
            reserve_bytes: dice.pick(&[0, 256 << 10, 1 << 20]).unwrap_or(0),
            lie: None,
        };
        // Who is in a hurry has left an old leader before that has heard of the new one.
        options.workload.patience_us = Dice::new(seed, "patience").pick(&[PATIENCE_US, 250_000]).unwrap_or(PATIENCE_US);
        options
    }

    /// How long it is until work goes on, if it is night.
    #[must_use]
    pub fn until_morning_us(&self, now_us: u64) -> Option<u64> {
        let day_us = self.day_us?;
        let is_night = (now_us / day_us) % 2 == 1;
        is_night.then(|| day_us - now_us % day_us)
    }
}
