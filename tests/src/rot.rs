//! What disks do to files while nobody looks, and where in a data directory it hurts.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// Blocks of the journal stand on multiples of this.
pub const PAGE_BYTES: u64 = 4_096;

/// A bit of this byte is another than it was. The second time it is as before.
///
/// # Errors
/// There is no such byte.
pub fn flip(path: &Path, at: u64) -> Result<()> {
    flip_bit(path, at, 2)
}

/// The same for one of its eight bits.
///
/// # Errors
/// There is no such byte.
pub fn flip_bit(path: &Path, at: u64, bit: u8) -> Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).with_context(|| format!("{} is shorter", path.display()))?;
    file.write_all_at(&[byte[0] ^ 1 << bit], at)?;
    Ok(())
}

/// So many bytes from this one on.
///
/// # Errors
/// The file is shorter.
pub fn read(path: &Path, at: u64, len: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len)?];
    File::open(path)?.read_exact_at(&mut bytes, at).with_context(|| format!("{} is shorter", path.display()))?;
    Ok(bytes)
}

/// What is in one place stands in another, too.
///
/// # Errors
/// There is nothing to be copied.
pub fn copy_page((from, from_at): (&Path, u64), (to, to_at): (&Path, u64)) -> Result<()> {
    let page = read(from, from_at, PAGE_BYTES)?;
    File::options().write(true).open(to)?.write_all_at(&page, to_at)?;
    Ok(())
}

/// The file ends here.
///
/// # Errors
/// When the system refuses.
pub fn cut(path: &Path, at: u64) -> Result<()> {
    Ok(File::options().write(true).open(path)?.set_len(at)?)
}

/// Two files exchange their names.
///
/// # Errors
/// When the system refuses.
pub fn swap(one: &Path, other: &Path) -> Result<()> {
    let aside = one.with_extension("swapped");
    fs::rename(one, &aside)?;
    fs::rename(other, one)?;
    Ok(fs::rename(aside, other)?)
}

/// The segments in a data directory of each of these groups, in order. Group 0 is the metadata.
///
/// # Errors
/// It has none.
pub fn segments_of(data_dir: &Path, is_its: impl Fn(u64) -> bool) -> Result<Vec<Vec<PathBuf>>> {
    let mut of_groups: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
    for entry in fs::read_dir(data_dir.join("segments"))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some((group, _)) = name.split_once('-').filter(|_| name.ends_with(".seg")) else { continue };
        let group: u64 = group.parse().with_context(|| format!("{name} is a segment of no group"))?;
        if is_its(group) {
            of_groups.entry(group).or_default().push(path);
        }
    }
    of_groups.values_mut().for_each(|of_group| of_group.sort());
    Ok(of_groups.into_values().collect())
}

/// The sealed segments of partitions in a data directory: those that others follow.
///
/// # Errors
/// It has none.
pub fn sealed(data_dir: &Path) -> Result<Vec<PathBuf>> {
    let of_groups = segments_of(data_dir, |group| group > 0)?;
    let sealed = of_groups.into_iter().flat_map(|mut of_group| {
        of_group.pop();
        of_group
    });
    Ok(sealed.collect())
}

/// A block of the journal as `docs/format.md` draws it.
#[derive(Clone, Debug)]
pub struct Block {
    /// Its file.
    pub file: PathBuf,
    /// Where in the file it begins.
    pub position: u64,
    /// Its number.
    pub lsn: u64,
    /// Up to this one all were durable when it was written.
    pub synced: u64,
    /// Of its header with the table.
    pub header_bytes: u64,
    /// Who has something in it.
    pub groups: Vec<u64>,
    /// Of what stands behind the header.
    pub frame_bytes: u64,
}

/// What a data directory has of its journal, in order. A block that was written again is there twice.
///
/// # Errors
/// There is no journal.
pub fn blocks(data_dir: &Path) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    for entry in fs::read_dir(data_dir.join("journal"))? {
        let file = entry?.path();
        let bytes = fs::read(&file)?;
        let pages = bytes.chunks(usize::try_from(PAGE_BYTES)?).zip(0_u64..);
        blocks.extend(pages.filter_map(|(page, number)| block(&file, number * PAGE_BYTES, page)));
    }
    blocks.sort_by_key(|block| block.lsn);
    Ok(blocks)
}

fn block(file: &Path, position: u64, page: &[u8]) -> Option<Block> {
    let u32_at = |at| Some(u64::from(u32::from_le_bytes(page.get(at..at + 4)?.try_into().ok()?)));
    let u64_at = |at| Some(u64::from_le_bytes(page.get(at..at + 8)?.try_into().ok()?));
    let header_bytes = u32_at(12)?;
    if page.get(4..8) != Some(b"LVJB") || header_bytes > PAGE_BYTES {
        return None;
    }
    let groups = (96..usize::try_from(header_bytes).ok()?).step_by(56).filter_map(u64_at).collect();
    Some(Block {
        file: file.to_owned(),
        position,
        lsn: u64_at(40)?,
        synced: u64_at(48)?,
        header_bytes,
        groups,
        frame_bytes: u32_at(76)?,
    })
}

/// The first block that a start needs: the checkpoint has what is in those before.
///
/// # Errors
/// There is no checkpoint.
pub fn replay_from(data_dir: &Path) -> Result<u64> {
    let checkpoint = fs::read(data_dir.join("checkpoint"))?;
    // Magic, length and directory come first, then up to which block the journal is covered.
    let bytes = checkpoint.get(40..48).context("a checkpoint is longer")?;
    Ok(u64::from_le_bytes(bytes.try_into()?))
}
