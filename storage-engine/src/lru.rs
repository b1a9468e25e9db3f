//! A map that remembers the order of use, for the bounded caches of descriptors and maps.

use std::collections::BTreeMap;

/// Keys with values, from the one used longest ago to the one used last. The owner bounds it with [`Lru::pop_oldest`].
#[derive(Debug)]
pub(crate) struct Lru<K, V> {
    entries: BTreeMap<K, (u64, V)>,
    order: BTreeMap<u64, K>,
    clock: u64,
}

impl<K: Ord + Clone, V> Lru<K, V> {
    pub(crate) const fn new() -> Self {
        Self { entries: BTreeMap::new(), order: BTreeMap::new(), clock: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The value, now the one used last.
    pub(crate) fn get(&mut self, key: &K) -> Option<&V> {
        let (used, value) = self.entries.get_mut(key)?;
        self.order.remove(used);
        self.clock += 1;
        *used = self.clock;
        self.order.insert(self.clock, key.clone());
        Some(value)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.clock += 1;
        self.order.insert(self.clock, key.clone());
        if let Some((used, _)) = self.entries.insert(key, (self.clock, value)) {
            self.order.remove(&used);
        }
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let (used, value) = self.entries.remove(key)?;
        self.order.remove(&used);
        Some(value)
    }

    pub(crate) fn pop_oldest(&mut self) -> Option<(K, V)> {
        let (_, key) = self.order.pop_first()?;
        let (_, value) = self.entries.remove(&key)?;
        Some((key, value))
    }

    /// Takes out every entry that `wanted` holds for.
    pub(crate) fn extract(&mut self, wanted: impl Fn(&K, &V) -> bool) -> Vec<(K, V)> {
        let keys: Vec<K> = self.entries.iter().filter(|(k, (_, v))| wanted(k, v)).map(|(k, _)| k.clone()).collect();
        keys.into_iter().filter_map(|key| self.remove(&key).map(|value| (key, value))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_used_longest_ago_goes_first() {
        let mut lru = Lru::new();
        for key in ["a", "b", "c"] {
            lru.insert(key, key.len());
        }
        assert!(lru.get(&"a").is_some());
        lru.insert("b", 7);
        assert_eq!(lru.pop_oldest(), Some(("c", 1)));
        assert_eq!(lru.pop_oldest(), Some(("a", 1)));
        assert_eq!(lru.pop_oldest(), Some(("b", 7)));
        assert_eq!(lru.pop_oldest(), None);
        assert_eq!(lru.order.len(), 0);
    }
}
