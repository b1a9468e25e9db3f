//! What the kinds of anomalies mean, in plain words.

/// By name, as checkers give it.
const KINDS: &[(&str, &str)] = &[
    ("inconsistent-offsets", "Two values are said to stand at one offset of one log."),
    ("duplicate", "One value stands at two offsets of a log, though it was sent once."),
    ("lost-write", "A value that was certainly written is missing, though readers were shown what stands after it."),
    ("aborted-read", "A reader was shown a value whose sender was told that it had certainly not been written."),
    ("G1a", "A reader was shown a value whose sender was told that it had certainly not been written."),
    ("precommitted-read", "A transaction read a value that it was itself about to write."),
    ("poll-skip", "A reader went on after the records that it had seen, and was not shown some that stand in between."),
    ("int-poll-skip", "A single answer to a reader leaves out records that stand between two that it shows."),
    ("nonmonotonic-poll", "A reader that went on was shown records again, or earlier ones than before."),
    ("int-nonmonotonic-poll", "A single answer to a reader shows records out of the order of the log."),
    ("nonmonotonic-send", "What a process sent later stands before what it had sent earlier."),
    ("int-nonmonotonic-send", "What a transaction sent later stands before what it had sent earlier."),
    ("int-send-skip", "Records of others stand between those of one transaction."),
    ("unseen", "A value was acknowledged, and is missing from what all nodes held when everything was over."),
    ("G0", "Writes of several transactions stand in each other's way: each was first somewhere, so none was."),
    ("G1c", "Transactions saw each other's writes in a circle: each must have come before the other."),
    ("torn-transaction", "A reader saw a part of a transaction, past the place of the rest."),
    ("replica-divergence", "Two nodes hold different records at an offset that is committed."),
    ("divergence", "Two nodes hold different records at an offset that is committed."),
    ("high-watermark-regression", "The end of a log went back, though what is committed stays."),
    ("end-regression", "The end of a log went back, though what is committed stays."),
    ("nonmonotonic-end", "The end of a log went back, though what is committed stays."),
    ("fencing", "A leader that had been replaced still acknowledged a write."),
    ("snapshot", "Arrow over Flight and rows over the native protocol differ at the same offsets."),
    ("snapshot-mismatch", "Arrow over Flight and rows over the native protocol differ at the same offsets."),
    ("flight-mismatch", "Arrow over Flight and rows over the native protocol differ at the same offsets."),
    ("tier-mismatch", "What came back from the object store is not what was offloaded."),
    (
        "nonlinearizable",
        "No order of these operations, each at a moment between its begin and its end, gives these answers.",
    ),
    (
        "not-linearizable",
        "No order of these operations, each at a moment between its begin and its end, gives these answers.",
    ),
    ("stale-read", "A reader was shown an older value after a newer one had been acknowledged or shown."),
    ("phantom", "A value was read that nobody ever wrote."),
    ("phantom-read", "A value was read that nobody ever wrote."),
    ("unwritten-read", "A value was read that nobody ever wrote."),
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
}
