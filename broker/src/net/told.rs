//! What happens again and again, as clients try again, is told now and then.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Between two lines that say the same.
const AGAIN: Duration = Duration::from_secs(60);
/// So much is remembered at most; what does not fit may be told more often.
const REMEMBERED_MAX: usize = 1_000;

/// What was told, and when.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<BTreeMap<String, Instant>>);

impl Told {
    /// Whether these words are to be told now: they are new, or it is long ago that they were.
    pub(crate) fn is_due(&self, words: &str, now: Instant) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = |at: &Instant| now.duration_since(*at) < AGAIN;
        if told.get(words).is_some_and(is_recent) {
            return false;
        }
        if told.len() >= REMEMBERED_MAX {
            told.retain(|_, at| is_recent(at));
        }
        if told.len() < REMEMBERED_MAX {
            told.insert(words.to_owned(), now);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock;

    #[test]
    fn the_same_is_told_once_a_minute() {
        let (told, begun) = (Told::default(), clock::instant());
        let is_due = |words: &str, s| told.is_due(words, begun + Duration::from_secs(s));
        assert!(is_due("a", 0) && !is_due("a", 59) && is_due("b", 59) && is_due("a", 60) && !is_due("a", 61));
        for n in 0..2 * REMEMBERED_MAX {
            assert!(is_due(&n.to_string(), 62), "what is new is told at once");
        }
        assert!(told.0.lock().unwrap().len() <= REMEMBERED_MAX);
    }
}
