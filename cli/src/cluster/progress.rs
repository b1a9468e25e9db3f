//! How far something is that takes a while: on a terminal a line that changes, elsewhere a line now and then.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

/// What takes no longer than this needs no words where nobody looks on.
const QUIET: Duration = Duration::from_secs(1);
/// Between two lines that say the same, and how far it is.
const AGAIN: Duration = Duration::from_secs(10);
/// How often the line on a terminal moves.
const TICK: Duration = Duration::from_millis(250);

/// What is waited for, and how far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    /// What has to happen, or what keeps it from happening.
    pub(super) what: String,
    /// What changes all the time.
    pub(super) how_far: String,
}

impl Waiting {
    pub(super) fn words(&self) -> String {
        if self.how_far.is_empty() { self.what.clone() } else { format!("{}; {}", self.what, self.how_far) }
    }
}

/// Says it.
pub(super) struct Progress {
    bar: ProgressBar,
    is_json: bool,
    begun: Instant,
    /// What was said last, and when.
    said: RefCell<Option<(String, Instant)>>,
}

impl Progress {
    pub(super) fn begin(is_json: bool) -> Self {
        let style = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}");
        let bar = ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.enable_steady_tick(TICK);
        Self { bar, is_json, begun: Instant::now(), said: RefCell::default() }
    }

    pub(super) const fn begun(&self) -> Instant {
        self.begun
    }

    pub(super) fn say(&self, waiting: &Waiting) {
        self.bar.set_message(waiting.words());
        let now = Instant::now();
        let mut said = self.said.borrow_mut();
        if !self.bar.is_hidden() || !is_due(self.begun, said.as_ref(), &waiting.what, now) {
            return;
        }
        let words = waiting.words();
        if self.is_json {
            eprintln!("{}", json!({"waiting": words}));
        } else {
            eprintln!("{words}");
        }
        *said = Some((waiting.what.clone(), now));
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn is_due(begun: Instant, said: Option<&(String, Instant)>, what: &str, now: Instant) -> bool {
    match said {
        None => now.duration_since(begun) >= QUIET,
        Some((said, at)) => {
            let ago = now.duration_since(*at);
            ago >= AGAIN || said != what && ago >= QUIET
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_said_when_it_is_another_one_or_old() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        assert!(!is_due(begun, None, "a", at(900)) && is_due(begun, None, "a", at(1_000)));
        let said = ("a".to_owned(), at(1_000));
        let due = |what, ms| is_due(begun, Some(&said), what, at(ms));
        assert!(!due("b", 1_500) && due("b", 2_000));
        assert!(!due("a", 10_900) && due("a", 11_000));
    }
}
