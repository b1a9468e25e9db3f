//! Which sectors of a file the next sync writes.

/// A set of sectors, a bit each.
#[derive(Clone, Debug, Default)]
pub(super) struct Dirty {
    words: Vec<u64>,
}

impl Dirty {
    pub(super) fn insert(&mut self, sector: usize) {
        let (word, bit) = (sector / 64, sector % 64);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << bit;
    }

    /// Takes all, in ascending order.
    pub(super) fn drain(&mut self, mut each: impl FnMut(usize)) {
        for (at, word) in self.words.iter_mut().enumerate() {
            while *word != 0 {
                each(at * 64 + word.trailing_zeros() as usize);
                *word &= *word - 1;
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }
}

impl Extend<usize> for Dirty {
    fn extend<T: IntoIterator<Item = usize>>(&mut self, sectors: T) {
        sectors.into_iter().for_each(|sector| self.insert(sector));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_are_taken_once_in_ascending_order() {
        let mut dirty = Dirty::default();
        assert!(dirty.is_empty());
        dirty.extend([200, 3, 64, 63, 3, 0]);
        assert!(!dirty.is_empty());
        let mut taken = Vec::new();
        dirty.drain(|sector| taken.push(sector));
        assert_eq!(taken, [0, 3, 63, 64, 200]);
        assert!(dirty.is_empty());
        dirty.drain(|sector| panic!("{sector} was taken before"));
    }
}
