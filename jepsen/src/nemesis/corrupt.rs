//! Disks that rot: bits of a node's files flip, or a file ends early, while the node is down.
//!
//! One node at a time, and only where every replica is whole: what the others have is what it is mended from.

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use levada_tests::rot;
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};

use super::{Done, Hand};

/// How long a node may take to be whole again before the next fault may begin. It goes on afterwards.
const MENDED_WITHIN: Duration = Duration::from_secs(60);
/// Bits that flip at most.
const BITS_MAX: u32 = 4;

pub(super) fn strike(hand: &mut Hand) -> Result<Option<Done>> {
    if !hand.control.is_whole() {
        return Ok(None);
    }
    let Some(victim) = hand.victim() else { return Ok(None) };
    let node = victim.node;
    hand.stage.kill(node)?;
    let data = hand.stage.data_dir(node).context("a node has a data directory")?;
    let done = damage(&data, &mut hand.dice)?;
    let what = format!("node {node} killed, its files damaged, and started again");
    hand.stage.say(&format!("{what}: {}", done.join(", ")));
    hand.last();
    hand.stage.spawn(node)?;
    hand.control.wait_whole(MENDED_WITHIN, &hand.stage.calm);
    let evidence = (!done.is_empty()).then(|| done.join(", "));
    Ok(Some(Done { what, nodes: vec![node], evidence }))
}

/// Damages some files; what was done to which.
fn damage(data: &Path, dice: &mut StdRng) -> Result<Vec<String>> {
    let mut files = Vec::new();
    list(data, &mut files)?;
    let mut done = Vec::new();
    let name = |file: &Path| file.strip_prefix(data).unwrap_or(file).display().to_string();
    if dice.random_bool(0.2) {
        // The end of a segment. A journal's is `wipe`'s business when it is the newest: see docs/operations.md.
        let segments: Vec<&PathBuf> = files.iter().filter(|file| !is_journal(file)).collect();
        if let Some(file) = segments.choose(dice) {
            let bytes = fs::metadata(file)?.len();
            let at = dice.random_range(0..bytes);
            rot::cut(file, at)?;
            done.push(format!("{} cut from {bytes} to {at} bytes", name(file)));
        }
        return Ok(done);
    }
    for _ in 0..dice.random_range(1..=BITS_MAX) {
        let Some(file) = files.choose(dice) else { break };
        let Some(at) = some_written_byte(file, dice)? else { continue };
        rot::flip(file, at)?;
        done.push(format!("a bit of byte {at} of {} flipped", name(file)));
    }
    Ok(done)
}

fn is_journal(file: &Path) -> bool {
    file.components().any(|part| part.as_os_str() == "journal")
}

/// Files that hold records or say where they are, with something in them.
fn list(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list(&entry.path(), files)?;
        } else if entry.metadata()?.len() > 0 && (is_journal(&entry.path()) || is_segment(&entry.path())) {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn is_segment(file: &Path) -> bool {
    file.components().any(|part| part.as_os_str() == "segments")
}

/// A byte that is not one of the zeros a file was made of: nobody reads those.
fn some_written_byte(file: &Path, dice: &mut StdRng) -> Result<Option<u64>> {
    let mut bytes = Vec::new();
    File::open(file)?.read_to_end(&mut bytes)?;
    for _ in 0..64 {
        let at = dice.random_range(0..bytes.len());
        if bytes[at] != 0 {
            return Ok(Some(u64::try_from(at)?));
        }
    }
    Ok(None)
}
