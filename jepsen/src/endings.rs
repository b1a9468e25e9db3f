//! Which nodes may end by themselves, and what they must say then. More than one nemesis may let the same node: one that is to leave
//! has a sync fail meanwhile, and what is over of the one goes on of the other.

use std::collections::BTreeSet;

use crate::net::Host;

/// What was let and is not over.
#[derive(Debug, Default)]
pub(crate) struct Endings(BTreeSet<(Host, &'static str)>);

impl Endings {
    /// From now on a node may end by itself, if it says this in its last words.
    pub(crate) fn allow(&mut self, node: Host, words: &'static str) {
        self.0.insert((node, words));
    }

    /// From now on it may not, with these.
    pub(crate) fn forbid(&mut self, node: Host, words: &'static str) {
        self.0.remove(&(node, words));
    }

    /// Whether a node may have ended with these last words.
    pub(crate) fn allows(&self, node: Host, last_words: &str) -> bool {
        self.0.iter().any(|(of, words)| *of == node && last_words.contains(words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that was decommissioned while a sync of its failed counted as dead, though it ended as it should.
    #[test]
    fn what_is_over_of_one_goes_on_of_another() {
        let mut endings = Endings::default();
        endings.allow(2, "it left");
        endings.allow(2, "its disk failed");
        assert!(endings.allows(2, "at last its disk failed") && endings.allows(2, "so it left"));
        assert!(!endings.allows(2, "panic") && !endings.allows(1, "it left"));
        endings.forbid(2, "its disk failed");
        assert!(endings.allows(2, "it left"), "it is still to leave");
        assert!(!endings.allows(2, "its disk failed"));
    }
}
