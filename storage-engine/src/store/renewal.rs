//! Another replica of the metadata, where the journal has lost what the one that was here had promised; or the same one, from a
//! later state on.
//!
//! All other groups learn from the metadata that they are to be replaced, so this one comes first: whoever leads it gives this
//! node another replica, and says where that begins. It takes the old one's place in the checkpoint, and what the journal has
//! of the old one counts no more.
//!
//! **Which groups are in doubt** is not known where not even the table of a damaged block can be read. The metadata as it is told
//! says which groups had a replica here: these, and those that are here, are all that can have had something in that block.
//! So from then on they are in doubt by name, and what comes later is not: the checkpoint says up to which block
//! (`accounted`). Damage that a later start finds up to there was about none but these; damage behind it is another matter.

use std::collections::BTreeSet;

use bytes::Bytes;
use levada_protocol::ids::{GroupId, Lsn};

use super::{Store, snapshot::GroupState};
use crate::{
    checkpoint::{Checkpoint, GroupRecord},
    disk::DiskOp,
    entry::HardState,
    error::OpenError,
    identity::DirIdentity,
    journal::{Doubt, PAGE_BYTES, lacking},
};

impl Store {
    /// Lets the metadata group begin anew with this state, durably. `replicated` are the groups that had a replica here
    /// as of it. Only for a store that was just opened: it is to be opened again.
    ///
    /// # Errors
    /// The disk refuses. A crash leaves what was there, or this.
    ///
    /// # Panics
    /// If it is another group's state.
    pub fn renew_metadata(self, state: GroupState, replicated: BTreeSet<GroupId>) -> Result<(), OpenError> {
        assert_eq!(state.group, GroupId::METADATA, "only the metadata begins like this");
        debug_assert!(self.jobs.is_empty() && self.checkpoints == 0, "the store was just opened");
        let mut checkpoint = Checkpoint::read(&*self.disk, self.identity.incarnation)?;
        // What was found at the journal's end is durable under this number.
        let born = Lsn(self.journal.next_lsn().get() - 1);
        let mut doubted = match &self.doubt {
            Doubt::None => BTreeSet::new(),
            Doubt::Groups(groups) => groups.clone(),
            Doubt::All => {
                checkpoint.accounted = born;
                self.groups.keys().copied().chain(replicated).collect()
            }
        };
        doubted.remove(&GroupId::METADATA);
        checkpoint.doubt = if doubted.is_empty() { Doubt::None } else { Doubt::Groups(doubted) };
        self.replace_metadata(&mut checkpoint, state.record(born))?;
        // What may have stood there was accounted for. Left as it is, it would be in doubt again at every start.
        if checkpoint.accounted == born {
            self.fill_journal()?;
        }
        Ok(())
    }

    /// Lets the same replica of the metadata group go on from a later state, durably: its log begins behind that. What it has promised,
    /// it has. Only for a store that was just opened: it is to be opened again.
    ///
    /// # Errors
    /// The disk refuses. A crash leaves what was there, or this.
    ///
    /// # Panics
    /// If it is another group's state, one that ends before the log does and not in a later term, or the replica is not sound.
    pub fn catch_up_metadata(self, state: GroupState) -> Result<(), OpenError> {
        assert_eq!(state.group, GroupId::METADATA, "only the metadata begins like this");
        assert!(!self.doubts(GroupId::METADATA), "what is in doubt does not go on");
        let mut checkpoint = Checkpoint::read(&*self.disk, self.identity.incarnation)?;
        let mut record = state.record(Lsn(self.journal.next_lsn().get() - 1));
        if let Some(group) = self.groups.get(&GroupId::METADATA) {
            let (last, term) = group.log.last();
            let is_later = last <= record.applied || term < record.hard_state.term;
            assert!(is_later, "nothing of its log is thrown away that may be committed");
            let promised = group.hard_state;
            if promised.term >= record.hard_state.term {
                record.hard_state = HardState { commit: record.applied, ..promised };
            }
        }
        self.replace_metadata(&mut checkpoint, record)
    }

    fn replace_metadata(&self, checkpoint: &mut Checkpoint, record: GroupRecord) -> Result<(), OpenError> {
        checkpoint.groups.retain(|known| known.group != GroupId::METADATA);
        checkpoint.groups.push(record);
        Ok(checkpoint.write().iter().try_for_each(|op| self.disk.perform(op))?)
    }

    fn fill_journal(&self) -> Result<(), OpenError> {
        let Some((_, journal)) = DirIdentity::read_with_journal(&*self.disk)? else { return Ok(()) };
        let lacking = lacking(&*self.disk, journal)?;
        for (file, pos) in lacking.pages {
            tracing::warn!(%file, pos, "journal.blanked: a page that cannot be read, and was accounted for");
            let bufs = vec![Bytes::from_static(&[0; PAGE_BYTES])];
            self.disk.perform(&DiskOp::Write { file: file.clone(), pos, bufs })?;
            self.disk.perform(&DiskOp::Sync { file })?;
        }
        if let Some((file, len)) = lacking.end {
            tracing::warn!(%file, len, "journal.filled: the end of a file that was cut, and was accounted for");
            self.disk.perform(&DiskOp::Preallocate { file: file.clone(), len })?;
            self.disk.perform(&DiskOp::Truncate { file: file.clone(), len })?;
            self.disk.perform(&DiskOp::Sync { file })?;
        }
        Ok(())
    }
}
