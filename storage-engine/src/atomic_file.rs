//! Replacing a small file as a whole: after a crash there is the old one or the new one, never something between.
//!
//! The one place where this is done. Everything else in a data directory is only ever appended to, or made of blocks that
//! prove themselves.

use bytes::Bytes;

use crate::disk::{DiskOp, FileName};

/// What must be done, in this order, so that `file` has this content, durably. Its directory must be there.
pub(crate) fn replace(file: &FileName, content: Bytes) -> Vec<DiskOp> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        disk::Disk,
        sim_disk::{CrashPlan, SimDisk},
    };

    #[test]
    fn after_a_crash_there_is_the_old_content_or_the_new() {
        let file = FileName::new("table");
        let (old, new) = (Bytes::from(vec![1; 2000]), Bytes::from(vec![2; 3000]));
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
                let found = disk.read(&file, 0, 9999).unwrap();
                assert!(found == new || (found == old && done < ops.len()), "cut after {done} operations");
                seen_old |= found == old && done == 3;
                replace(&file, new.clone()).iter().for_each(|op| disk.perform(op).unwrap());
                assert_eq!(disk.read(&file, 0, 9999).unwrap(), new, "and it can be replaced again");
            }
        }
        assert!(seen_old, "without the sync of the directory the new name may be lost");
    }
}
