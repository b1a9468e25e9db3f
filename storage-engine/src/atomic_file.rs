//! Replacing a small file as a whole: after a crash there is the old one or the new one, never something between.
//!
//! The one place where this is done. Everything else in a data directory is only ever appended to, or made of blocks that
//! prove themselves. Such a file holds its content twice, so that one bad sector does not take the node with it.

use bytes::Bytes;

use crate::{
    codec::to_usize,
    disk::{Disk, DiskError, DiskOp, FileName},
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
/// no file. A copy that is not as the one that counts is mended from that, so that the next bad sector finds two again. Nobody else
/// may be writing to the file.
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
    let copies = [0, 1].map(|number| disk.read(file, number * (len / 2), to_usize(len / 2)));
    let look = |copy: &Result<Bytes, DiskError>| match copy {
        // That says nothing of the file, which may well be sound.
        Err(error) if error.is_want() => Err(OpenError::Disk(error.clone())),
        Err(error) => Ok(Err(DamageCause::from(error.clone()))),
        Ok(bytes) => Ok(decode(bytes).map(|content| (content, bytes.clone()))),
    };
    let [first, second] = copies.each_ref().map(look);
    match (first?, second) {
        (Ok((content, first)), second) => {
            let sound = match second {
                Ok(Ok((_, second))) if second == first => return Ok(Some(content)),
                // Where both say the same, what differs is among the zeros behind it.
                Ok(Ok((_, second))) => {
                    Some(in_both(&first, &second)).filter(|both| decode(both).is_ok()).unwrap_or(first)
                }
                Ok(Err(_)) => first,
                Err(_) => return Ok(Some(content)),
            };
            tracing::error!(%file, "file.copy.damaged: one of two");
            mend(disk, file, &sound);
            Ok(Some(content))
        }
        (Err(cause), second) => match second? {
            Ok((content, second)) => {
                tracing::error!(%file, %cause, "file.copy.damaged: the first of two; the second is used");
                mend(disk, file, &second);
                Ok(Some(content))
            }
            // Damage that hits both copies in the same way is another release.
            Err(second) if second == cause && matches!(cause, DamageCause::Version { .. }) => {
                Err(OpenError::OtherFormat { file: file.clone(), cause })
            }
            Err(_) => Err(OpenError::Damaged { file: file.clone(), cause }),
        },
    }
}

fn in_both(one: &[u8], other: &[u8]) -> Bytes {
    one.iter().zip(other).map(|(one, other)| one & other).collect()
}

/// Writes a file anew with the copy that counts. Where that cannot be, one copy is enough to go on with.
fn mend(disk: &dyn Disk, file: &FileName, copy: &[u8]) {
    match replace(file, copy.to_vec()).iter().try_for_each(|op| disk.perform(op)) {
        Ok(()) => tracing::info!(%file, "file.copy.mended"),
        Err(error) => tracing::error!(%file, %error, "file.copy.unmended: one copy is left, until the next start"),
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

    /// Content that ends with its own sum, and the zeros behind it.
    fn decode_sum(bytes: &[u8]) -> Result<Vec<u8>, DamageCause> {
        let (content, sum) = (bytes.get(..100), bytes.get(100..104));
        let is_sound = content.zip(sum).is_some_and(|(content, sum)| sum == crc32fast::hash(content).to_le_bytes());
        if is_sound { Ok(bytes[..100].to_vec()) } else { Err(DamageCause::Magic("sum")) }
    }

    fn with_sum() -> (SimDisk, FileName, Bytes) {
        let (disk, file) = (SimDisk::new(1), FileName::new("table"));
        let content = vec![7; 100];
        let sum = crc32fast::hash(&content).to_le_bytes();
        replace(&file, [&content[..], &sum].concat()).iter().for_each(|op| disk.perform(op).unwrap());
        let sound = disk.read(&file, 0, 2 * ALIGN).unwrap();
        (disk, file, sound)
    }

    /// Otherwise the second copy rots unseen, and the first years later.
    #[test]
    fn a_copy_that_is_not_sound_is_mended_from_the_other() {
        let (disk, file, sound) = with_sum();
        let what_is_there = |disk: &SimDisk| disk.read_from_disk(&file, 0, 2 * ALIGN).unwrap();
        let mut mended = 0;
        for at in (0..2 * ALIGN as u64).step_by(50) {
            let disk = disk.fork();
            disk.flip_bit(&file, at, 3);
            assert!(what_is_there(&disk) != sound);
            assert_eq!(read(&disk, &file, decode_sum).unwrap(), Some(vec![7; 100]));
            assert!(what_is_there(&disk) == sound, "byte {at}");
            disk.crash(&CrashPlan::LOSE_ALL);
            assert!(what_is_there(&disk) == sound, "byte {at}, after the power went");
            mended += 1;
        }
        assert!(mended > 150);
        for at in [0, ALIGN as u64] {
            let disk = disk.fork();
            disk.make_unreadable(&file, at, 1);
            assert_eq!(read(&disk, &file, decode_sum).unwrap(), Some(vec![7; 100]));
            assert!(what_is_there(&disk) == sound, "sector at {at}");
        }
        // Who reads what is sound writes nothing.
        disk.record_trace(true);
        read(&disk, &file, decode_sum).unwrap();
        assert!(matches!(&disk.trace()[..], [DiskOp::SyncDir { .. }]), "{:?}", disk.trace());
    }

    /// A write that the disk has lost leaves what was there before, which is sound, too.
    #[test]
    fn of_two_sound_copies_that_differ_the_first_counts() {
        let (disk, file, sound) = with_sum();
        let other = vec![9; 100];
        let older = [&other[..], &crc32fast::hash(&other).to_le_bytes()].concat();
        let buf = [older, vec![0; ALIGN - 104]].concat();
        disk.perform(&DiskOp::Write { file: file.clone(), pos: ALIGN as u64, bufs: vec![Bytes::from(buf)] }).unwrap();
        disk.perform(&DiskOp::Sync { file: file.clone() }).unwrap();
        assert_eq!(read(&disk, &file, decode_sum).unwrap(), Some(vec![7; 100]));
        assert!(disk.read(&file, 0, 2 * ALIGN).unwrap() == sound);
    }

    #[test]
    fn a_copy_that_cannot_be_mended_keeps_nobody_from_reading() {
        let (disk, file, _) = with_sum();
        disk.flip_bit(&file, 50, 3);
        disk.set_capacity(Some(0));
        let bufs = vec![Bytes::from(vec![0; 1 << 20])];
        assert!(disk.perform(&DiskOp::Write { file: file.clone(), pos: 0, bufs }).is_err(), "it is full");
        assert_eq!(read(&disk, &file, decode_sum).unwrap(), Some(vec![7; 100]));
    }
}
