//! Which value stands at which offset of one log: everything that anybody was ever told of it.
//!
//! Offsets of a log are nearly dense, so its cells stand in a vector. Only offsets that are much larger than there are events,
//! which only a broken log has (or one whose beginning is long gone), stand in a map.

use std::collections::BTreeMap;

use crate::history::{Index, Offset, Value};

/// A send's place among the sends of its log.
pub(super) type Place = u32;

/// How something was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks(u8);

impl Marks {
    /// To its sender.
    pub(super) const ACKED: Self = Self(1);
    /// To a reader.
    pub(super) const READ: Self = Self(2);
    /// To a reader whose operation was done.
    pub(super) const READ_OK: Self = Self(4);
    /// In the final read of a node.
    pub(super) const FINAL: Self = Self(8);

    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What stands at an offset.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    pub(super) value: Value,
    /// The event that was first to say so.
    pub(super) told_by: Index,
    /// The first read that showed it, if it is marked as read.
    pub(super) read_by: Index,
    /// The send that it is of; none, if nobody ever sent it.
    pub(super) sent: Option<Place>,
    pub(super) marks: Marks,
}

/// What a claim is to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It was known.
    Known,
    /// It was known from its sender, and now it is read for the first time.
    FirstRead,
    /// Nobody had said anything of this offset.
    New,
    /// Another value stood there; this event had said so.
    Contradiction(Value, Index),
}

/// The version order of one log.
#[derive(Debug, Default)]
pub(super) struct Versions {
    dense: Vec<Option<Cell>>,
    sparse: BTreeMap<Offset, Cell>,
    /// Values beyond the first of an offset.
    others: BTreeMap<(Offset, Value), Cell>,
}

impl Versions {
    /// One for a log of which so many cells are expected.
    pub(super) fn with_room(cells: usize) -> Self {
        Self { dense: vec![None; cells], ..Self::default() }
    }

    /// Somebody says that a value stands at an offset.
    pub(super) fn claim(
        &mut self,
        offset: Offset,
        value: Value,
        how: Marks,
        event: Index,
        find: impl FnOnce() -> Option<Place>,
    ) -> News {
        let cell = match usize::try_from(offset).ok().and_then(|i| self.dense.get_mut(i)) {
            Some(cell) => cell.as_mut(),
            None => self.sparse.get_mut(&offset),
        };
        match cell {
            Some(cell) if cell.value == value => cell.told_again(how, event),
            Some(&mut Cell { value: known, told_by, .. }) => {
                if let Some(other) = self.others.get_mut(&(offset, value)) {
                    return other.told_again(how, event);
                }
                self.others.insert((offset, value), Cell::new(value, how, event, find()));
                News::Contradiction(known, told_by)
            }
            None => {
                let cell = Cell::new(value, how, event, find());
                match usize::try_from(offset).ok().and_then(|i| self.dense.get_mut(i)) {
                    Some(place) => *place = Some(cell),
                    None => drop(self.sparse.insert(offset, cell)),
                }
                News::New
            }
        }
    }

    /// What stands at an offset, as it was first told.
    pub(super) fn at(&self, offset: Offset) -> Option<&Cell> {
        match usize::try_from(offset).ok().and_then(|i| self.dense.get(i)) {
            Some(cell) => cell.as_ref(),
            None => self.sparse.get(&offset),
        }
    }

    /// What was told of a value at an offset.
    pub(super) fn of(&self, offset: Offset, value: Value) -> Option<&Cell> {
        self.at(offset).filter(|cell| cell.value == value).or_else(|| self.others.get(&(offset, value)))
    }

    /// The first offset of these at which somebody saw something.
    pub(super) fn first_in(&self, from: Offset, to: Offset, how: Marks) -> Option<(Offset, &Cell)> {
        let len = self.dense.len() as Offset;
        let dense = (from.min(len)..to.min(len)).filter_map(|offset| Some((offset, self.at(offset)?)));
        let sparse = (from < to).then(|| self.sparse.range(from..to)).into_iter().flatten();
        dense.chain(sparse.map(|(&offset, cell)| (offset, cell))).find(|(_, cell)| cell.marks.has(how))
    }

    /// Everything that anybody was told.
    pub(super) fn all(&self) -> impl Iterator<Item = &Cell> {
        self.dense.iter().flatten().chain(self.sparse.values()).chain(self.others.values())
    }
}

impl Cell {
    const fn new(value: Value, marks: Marks, event: Index, sent: Option<Place>) -> Self {
        Self { value, told_by: event, read_by: event, sent, marks }
    }

    fn told_again(&mut self, how: Marks, event: Index) -> News {
        let first_read = how.has(Marks::READ) && !self.marks.has(Marks::READ);
        if first_read {
            self.read_by = event;
        }
        self.marks = self.marks.and(how);
        if first_read { News::FirstRead } else { News::Known }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_beyond_the_room_are_kept_as_well() {
        let mut versions = Versions::with_room(2);
        for offset in [1, 5, u64::MAX] {
            assert_eq!(versions.claim(offset, offset, Marks::READ, 9, || None), News::New);
            assert_eq!(versions.claim(offset, offset, Marks::READ, 10, || None), News::Known);
            assert_eq!(versions.claim(offset, 3, Marks::READ, 11, || None), News::Contradiction(offset, 9));
            assert_eq!(versions.claim(offset, 3, Marks::READ, 12, || None), News::Known);
            assert_eq!(versions.at(offset).map(|cell| cell.value), Some(offset));
            assert_eq!(versions.of(offset, 3).map(|cell| cell.told_by), Some(11));
        }
        let first = |from, to| versions.first_in(from, to, Marks::READ).map(|(offset, _)| offset);
        assert_eq!(first(0, 1), None);
        assert_eq!(first(0, 2), Some(1));
        assert_eq!(first(2, 5), None);
        assert_eq!(first(2, 6), Some(5));
        assert_eq!(first(6, u64::MAX), None);
        assert_eq!(first(9, 3), None);
        assert_eq!(versions.first_in(0, 9, Marks::FINAL).map(|(offset, _)| offset), None);
        assert_eq!(versions.all().count(), 6);
    }

    #[test]
    fn what_its_sender_told_is_first_read_once() {
        let mut versions = Versions::with_room(1);
        assert_eq!(versions.claim(0, 1, Marks::ACKED, 0, || Some(0)), News::New);
        assert_eq!(versions.claim(0, 1, Marks::READ, 1, || None), News::FirstRead);
        assert_eq!(versions.claim(0, 1, Marks::READ, 2, || None), News::Known);
        assert_eq!(versions.at(0).map(|cell| (cell.told_by, cell.read_by)), Some((0, 1)));
    }
}
