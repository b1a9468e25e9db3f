//! Where the blocks of a journal stand, as `docs/format.md` draws them: for who damages them.

use levada_storage_engine::{
    disk::{Disk as _, FileName},
    sim_disk::SimDisk,
};

const PAGE_BYTES: usize = 4096;

/// A block whose header is whole, or looks like it.
#[derive(Clone, Debug)]
pub struct Block {
    /// Its file.
    pub file: FileName,
    /// Where it begins.
    pub position: u64,
    /// Its number.
    pub lsn: u64,
    /// The last block that it says to be durable.
    pub synced: u64,
    /// What its header takes, with the table of its groups.
    pub header_bytes: u64,
    /// What follows that.
    pub frame_bytes: u64,
}

/// All blocks of a journal, also those that do not count any more.
#[must_use]
pub fn blocks(disk: &SimDisk) -> Vec<Block> {
    let mut blocks = Vec::new();
    for name in disk.list("journal").unwrap_or_default() {
        let file = FileName::new(format!("journal/{name}"));
        let len = disk.len(&file).ok().flatten().unwrap_or(0);
        let bytes = disk.read(&file, 0, usize::try_from(len).unwrap_or(0)).unwrap_or_default();
        for (page, block) in bytes.chunks(PAGE_BYTES).enumerate() {
            let u32_at = |at: usize| block.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes).map(u64::from);
            let u64_at = |at: usize| block.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
            let (Some(header_bytes), Some(lsn), Some(synced), Some(frame_bytes)) =
                (u32_at(12), u64_at(40), u64_at(48), u32_at(76))
            else {
                continue;
            };
            if block.get(4..8) == Some(b"LVJB") && header_bytes <= PAGE_BYTES as u64 {
                let position = (page * PAGE_BYTES) as u64;
                blocks.push(Block { file: file.clone(), position, lsn, synced, header_bytes, frame_bytes });
            }
        }
    }
    blocks
}
