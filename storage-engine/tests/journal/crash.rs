//! The power fails before, in the middle of and after every effect.

use levada_storage_engine::sim_disk::{CrashPlan, Fault};
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
            8 => {
                let call = if world.rng.random() { "fdatasync" } else { "write" };
                world.disk.inject(Fault::fail(call).on("journal/"));
            }
            _ => {}
        }
    }
    world.disk.heal();
    world.run_dry()?;
    Ok(world)
}

fn campaign(seeds: std::ops::Range<u64>) -> (u64, u64, u64) {
    let (mut images, mut tails, mut failures) = (0, 0, 0);
    for seed in seeds {
        let world = run(seed, 120, Mutation::None).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        assert!(world.writer.synced_lsn().get() > 60, "too few blocks were written");
        images += world.images_checked;
        tails += world.tails_found;
        failures += world.failures;
    }
    println!("{images} crash images, {tails} restarts that found an unproven tail, {failures} failures of the disk");
    (images, tails, failures)
}

#[test]
fn what_was_acknowledged_is_replayed_wherever_the_power_fails() {
    let (images, tails, failures) = campaign(0..5);
    assert!(images > 5_000 && tails > 5 && failures > 5, "{images} {tails} {failures}");
}

#[test]
#[ignore = "minutes; run it after a change of the journal"]
fn what_was_acknowledged_is_replayed_in_a_long_campaign() {
    campaign(1_000..1_200);
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
