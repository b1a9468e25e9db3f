//! The batches of a log, as they were first seen: whoever shows them again shows the same bytes.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use levada_protocol::{
    batch::{self, BatchHeader, UNCRCED_BYTES},
    ids::{NodeId, Offset},
};

use super::Kind;
use crate::batches::{self, Value};

/// All batches that anybody was shown of a log.
#[derive(Debug, Default)]
pub(super) struct Batches(BTreeMap<Offset, Seen>);

/// A batch that somebody was shown.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Where it begins.
    pub(super) base: Offset,
    /// Where the next one does.
    pub(super) next: Offset,
    /// What it says.
    pub(super) values: Arc<[Value]>,
    /// Its first bytes. The checksum among them stands for the others.
    front: [u8; UNCRCED_BYTES],
    /// Who was first to show it.
    on: NodeId,
}

impl Batches {
    /// A node shows a batch.
    ///
    /// # Errors
    /// It is damaged, or not what stood there before.
    pub(super) fn see(&mut self, node: NodeId, bytes: &Bytes) -> Result<Seen, (Kind, String)> {
        let damaged = |error| (Kind::Damaged, format!("node {node} served a damaged batch: {error}"));
        batch::verify_crc(bytes).map_err(damaged)?;
        let header = BatchHeader::parse(bytes).map_err(damaged)?;
        let (base, next) = (header.base_offset, header.next_offset());
        let front = bytes.first_chunk().copied().unwrap_or([0; UNCRCED_BYTES]);
        // Whatever overlaps it must be it.
        if let Some((&other, known)) = self.0.range(..next).next_back()
            && known.next > base
        {
            if other == base && known.front == front {
                return Ok(known.clone());
            }
            let (on, end) = (known.on, known.next);
            let what =
                format!("node {on} had a batch at {other}..{end}, node {node} has another one at {base}..{next}");
            return Err((Kind::Diverged, what));
        }
        let values = batches::decode(bytes).map_err(damaged)?.into();
        let seen = Seen { base, next, values, front, on: node };
        self.0.insert(base, seen.clone());
        Ok(seen)
    }
}
