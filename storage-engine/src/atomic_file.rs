//! Replacing a small file as a whole: after a crash there is the old one or the new one, never something between.
//!
//! The one place where this is done. Everything else in a data directory is only ever appended to, or made of blocks that
//! prove themselves. Such a file holds its content twice, so that one bad sector does not take the node with it.

use bytes::Bytes;

use crate::{
    codec::to_usize,
    disk::{Disk, DiskOp, FileName},
    error::{DamageCause, OpenError},
};

/// Either copy takes a multiple of this; the rest is zeros.
const ALIGN: usize = 4096;

/// What must be done, in this order, so that `file` has this content, durably. Its directory must be there.
#[must_use]
pub fn replace(file: &FileName, mut content: Vec<u8>) -> Vec<DiskOp> {
    content.resize(content.len().next_multiple_of(ALIGN), 0);
    content.extend_from_within(..);
    let content = Bytes::from(content);
    let temporary = FileName::new(format!("{file}.tmp"));
    vec![
        // Left behind by a crash, it is emptied.
        DiskOp::Create { file: temporary.clone() },
        DiskOp::Write { file: temporary.clone(), pos: 0, bufs: vec![content] },
        DiskOp::Sync { file: temporary.clone() },
        DiskOp::Rename { from: temporary, to: file.clone() },
        DiskOp::SyncDir { dir: file.dir().to_owned() },
    ]
}

/// What a file says, durably, from the first of its copies that `decode` takes (zeros may follow the content); `None` if there is
/// no file.
///
/// # Errors
/// If the disk refuses, or `decode` takes neither copy.
pub fn read<T>(
    disk: &dyn Disk,
    file: &FileName,
    decode: impl Fn(&[u8]) -> Result<T, DamageCause>,
) -> Result<Option<T>, OpenError> {
    let Some(len) = disk.len(file)? else { return Ok(None) };
    // A process that was killed may have left it under its name in the page cache only. What is done on its word must not
    // be there when a power cut has brought its predecessor back.
    disk.perform(&DiskOp::SyncDir { dir: file.dir().to_owned() })?;
    let copy = |number: u64| match disk.read(file, number * (len / 2), to_usize(len / 2)) {
        // That says nothing of the file, which may well be sound.
        Err(error) if error.is_want() => Err(OpenError::Disk(error)),
        read => Ok(read.map_err(DamageCause::from).and_then(|bytes| decode(&bytes))),
    };
    let cause = match copy(0)? {
        Ok(content) => return Ok(Some(content)),
        Err(cause) => cause,
    };
    match copy(1)? {
        Ok(content) => {
            tracing::error!(%file, %cause, "file.copy.damaged: the first of two; the second is used");
            Ok(Some(content))
        }
        // Damage that hits both copies in the same way is another release.
        Err(second) if second == cause && matches!(cause, DamageCause::Version { .. }) => {
            Err(OpenError::OtherFormat { file: file.clone(), cause })
        }
        Err(_) => Err(OpenError::Damaged { file: file.clone(), cause }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim_disk::{CrashPlan, SimDisk};

    #[test]
    fn after_a_crash_there_is_the_old_content_or_the_new() {
        let file = FileName::new("table");
        let (old, new) = (vec![1; 2000], vec![2; 5000]);
        let decode = |bytes: &[u8]| Ok(bytes.iter().copied().take_while(|&byte| byte != 0).collect::<Vec<u8>>());
        let disk = SimDisk::new(1);
        replace(&file, old.clone()).iter().for_each(|op| disk.perform(op).unwrap());
        let ops = replace(&file, new.clone());
        let mut seen_old = false;
        for done in 0..=ops.len() {
            for seed in 0..20 {
                let disk = disk.fork();
                ops[..done].iter().for_each(|op| disk.perform(op).unwrap());
                if let Some(op) = ops.get(done) {
                    disk.perform_interrupted(op).unwrap();
                }
                disk.crash(&CrashPlan::seeded(seed));
                let found = read(&disk, &file, decode).unwrap().unwrap();
                assert!(found == new || (found == old && done < ops.len()), "cut after {done} operations");
                seen_old |= found == old && done == 3;
                replace(&file, new.clone()).iter().for_each(|op| disk.perform(op).unwrap());
                assert_eq!(read(&disk, &file, decode).unwrap().unwrap(), new, "and it can be replaced again");
            }
        }
        ops[..4].iter().for_each(|op| disk.perform(op).unwrap());
        assert_eq!(read(&disk, &file, decode).unwrap().unwrap(), new);
        disk.crash(&CrashPlan::LOSE_ALL);
        assert_eq!(read(&disk, &file, decode).unwrap().unwrap(), new, "what was read once stays");
        assert!(seen_old, "without the sync of the directory the new name may be lost");
    }
}
