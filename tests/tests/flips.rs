//! Single bits flip on the disk of one node; the cluster mends them by itself.

use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};
use levada_tests::{
    flips::{self, Bite, Flips, Kind},
    tools,
};

/// Bits of the long one.
const FLIPS: usize = 64;
/// The seed of the long one, if it is to be the same again.
const SEED: &str = "FLIPS_SEED";

async fn play(seed: u64, kinds: impl FnOnce(&mut Flips) -> Vec<Kind>) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut flips = Flips::start(tools::levada(), dir.path(), seed).await?;
    let mut bites = Vec::new();
    for kind in kinds(&mut flips) {
        let bite = flips.bite(kind).await?;
        let Bite { node, is_down, file, at, bit, took, .. } = &bite;
        let (how, s) = (if *is_down { "down" } else { "up" }, took.as_secs_f64());
        writeln!(
            std::io::stderr(),
            "{s:5.1} s  node {node}, {how}: bit {bit} of byte {at} of {file} ({})",
            kind.name()
        )?;
        bites.push(bite);
    }
    let records = flips.finish().await?;
    writeln!(std::io::stderr(), "seed {seed}: {records} records, on every replica as they were produced")?;
    writeln!(std::io::stderr(), "{}", flips::table(&bites))?;
    let late = bites.iter().filter(|bite| bite.took > flips::REPAIRED_WITHIN).count();
    ensure!(late == 0, "{late} of {} flips took longer than {:?} to be repaired", bites.len(), flips::REPAIRED_WITHIN);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_is_repaired_without_an_operator() -> Result<()> {
    let kinds = [Kind::SegmentEntries, Kind::Journal, Kind::Identity, Kind::SegmentFooter];
    play(1, |_| kinds.to_vec()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a quarter of an hour: docs/harness.md says how to play it"]
async fn sixty_four_flipped_bits_are_repaired_without_an_operator() -> Result<()> {
    let seed = match std::env::var(SEED) {
        Ok(seed) => seed.parse().with_context(|| format!("{SEED} is a number"))?,
        Err(_) => rand::random(),
    };
    writeln!(std::io::stderr(), "{SEED}={seed}")?;
    play(seed, |flips| flips.deal(FLIPS)).await
}
