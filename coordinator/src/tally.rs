//! How many of something each has at the same time. What was counted is given back when its guard is dropped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts by key, in as little memory as there are keys with something. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Tally<K>(Arc<Mutex<BTreeMap<K, usize>>>);

impl<K: Ord + Clone> Tally<K> {
    /// Counts one more for `key` while the guard lives; `None` when it has `most` already.
    pub(crate) fn enter(&self, key: K, most: usize) -> Option<Entry<K>> {
        self.enter_with(key, 1, most)
    }

    /// Counts so many more for `key` while the guard lives; `None` when it would have more than `most`.
    pub(crate) fn enter_with(&self, key: K, many: usize, most: usize) -> Option<Entry<K>> {
        let mut counts = self.lock();
        let count = counts.get(&key).copied().unwrap_or_default();
        if count.saturating_add(many) > most {
            return None;
        }
        counts.insert(key.clone(), count + many);
        drop(counts);
        Some(Entry { key, many, tally: self.clone() })
    }
}

impl<K> Tally<K> {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody has anything.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// What is counted.
#[derive(Debug)]
pub(crate) struct Entry<K: Ord> {
    key: K,
    many: usize,
    tally: Tally<K>,
}

impl<K: Ord> Drop for Entry<K> {
    fn drop(&mut self) {
        let mut counts = self.tally.lock();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= self.many;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_so_many_and_gives_them_back() {
        let tally = Tally::default();
        let first = tally.enter("a", 2).unwrap();
        let second = tally.enter("a", 2).unwrap();
        assert!(tally.enter("a", 2).is_none());
        let other = tally.enter("b", 2).unwrap();
        drop(first);
        let third = tally.enter("a", 2).unwrap();
        assert!(tally.enter("a", 2).is_none());
        drop((second, other, third));
        assert!(tally.is_empty());
        let several = tally.enter_with("a", 3, 4).unwrap();
        assert!(tally.enter_with("a", 2, 4).is_none());
        drop((tally.enter("a", 4).unwrap(), several));
        assert!(tally.is_empty());
    }
}
