//! What the kinds of anomalies mean, in plain words.

/// By name, as checkers give it.
const KINDS: &[(&str, &str)] = &[
    ("inconsistent-offsets", "Two values are said to stand at one offset of one log."),
    ("duplicate", "One value stands at two offsets of a log, though it was sent once."),
    ("lost-write", "A value that was certainly written is missing, though readers were shown what stands after it."),
    ("unseen", "A value was acknowledged or shown, and is missing from what all nodes held when everything was over."),
    ("lost-end", "A log ends before what somebody was told of it."),
    ("aborted-read", "A reader was shown a value whose sender was told that it had certainly not been written."),
    ("phantom", "A value was read that nobody ever wrote."),
    ("time-travel", "A value was read before its sender began to send it."),
    ("poll-skip", "A reader was not shown records that stand between two that it was shown."),
    ("nonmonotonic-poll", "A reader was shown records again, or out of the order of the log."),
    ("nonmonotonic-send", "What a process sent later stands before what it had sent earlier."),
    ("send-skip", "What a process sent is missing, though what it sent later is there."),
    ("stale-end", "The end of a log was said to be lower than somebody had been told before the question."),
    ("stale-poll", "A reader was shown nothing, though a record was known before it asked."),
    ("stale-send", "A value was acknowledged at an offset that the log was known to have passed before it was sent."),
    ("divergence", "Two nodes hold different records at an offset that is committed."),
    ("flight-differs", "Arrow over Flight and rows over the native protocol differ at the same offsets."),
    (
        "nonlinearizable",
        "No order of these operations, each at a moment between its begin and its end, gives these answers.",
    ),
    ("not-recovered", "Without any fault left, it took too long until something was done."),
    ("stuck", "An operation never ended, though the history went on."),
    ("damaged", "A client was shown bytes that nobody wrote."),
    ("missing-replica", "A partition has fewer replicas than were asked for."),
    ("died", "A node's process ended by itself."),
    ("not-ready", "A node did not become ready, though nothing disturbed it any more."),
    ("not-whole", "Something was missing or still moved, though nothing disturbed it any more."),
    ("went-on", "A node went on after a sync that failed: what it acknowledges may not be on its disk."),
    ("unreadable", "Nobody could be asked about the topic when everything was over."),
    ("panic", "A node's log tells of a panic."),
];

/// `None` for one that is not known here.
pub(super) fn meaning(kind: &str) -> Option<&'static str> {
    KINDS.iter().find(|(name, _)| *name == kind).map(|(_, meaning)| *meaning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_explained_once() {
        for (at, (name, meaning)) in KINDS.iter().enumerate() {
            assert!(KINDS.iter().skip(at + 1).all(|(other, _)| other != name), "{name}");
            assert!(meaning.ends_with('.'), "{name}");
        }
    }

    /// As they stand in the sources of the checkers and of this crate, and nothing else.
    #[test]
    fn every_kind_that_can_be_found_is_explained_and_no_other() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut found = std::collections::BTreeSet::new();
        let mut directories = vec![root.join("src"), root.join("../checkers/src")];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let is_made_up =
                    ["sample.rs", "tests.rs", "tests", "verdict.rs"].iter().any(|name| path.ends_with(name));
                if path.is_dir() && !is_made_up {
                    directories.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") && !is_made_up {
                    let text = std::fs::read_to_string(&path).unwrap();
                    for call in [concat!("found", "(\""), concat!("wrong", "(\"")] {
                        let kinds = text.split(call).skip(1).filter_map(|rest| rest.split('"').next());
                        found.extend(kinds.map(str::to_owned));
                    }
                }
            }
        }
        let explained = KINDS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(found, explained);
    }
}
