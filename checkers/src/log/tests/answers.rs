//! Answers: the order of polls, `poll-skip`, `stale-end`, `stale-poll`, `flight-differs`.

use crate::testing::shown_by;

use super::*;

/// Four values, acknowledged at 0 to 3.
fn four(story: &mut Story) {
    story.sent(1, 10, 0).sent(1, 11, 1).sent(1, 12, 2).sent(1, 13, 3);
}

const FOUR: [(Offset, Value); 4] = [(0, 10), (1, 11), (2, 12), (3, 13)];

#[test]
fn a_poll_shows_records_in_order() {
    let swapped = told(|story| {
        four(story);
        story.polled(3, 0, &[(0, 10), (1, 11), (3, 13), (2, 12)]).finals(&FOUR);
    });
    assert_eq!(kinds(&swapped), [("nonmonotonic-poll", 1), ("poll-skip", 1)]);
    assert_eq!(shown_by(&swapped, "nonmonotonic-poll"), [9]);

    let again = told(|story| {
        four(story);
        story.polled(3, 0, &[(0, 10), (0, 10)]).finals(&FOUR);
    });
    assert_only(&again, "nonmonotonic-poll");
}

#[test]
fn a_poll_shows_nothing_below_where_it_was_to_begin() {
    let check = told(|story| {
        four(story);
        story.polled(3, 2, &[(1, 11), (2, 12)]).finals(&FOUR);
    });
    assert_only(&check, "nonmonotonic-poll");
    assert_sound(&told(|story| {
        four(story);
        story.polled(3, 2, &[(2, 12)]).polled(3, 1, &[(1, 11)]).finals(&FOUR);
    }));
}

#[test]
fn what_goes_back_leaves_nothing_out() {
    let check = told(|story| {
        four(story);
        story.polled(3, 2, &[(2, 12), (0, 10), (3, 13)]).finals(&FOUR);
    });
    assert_only(&check, "nonmonotonic-poll");
}

#[test]
fn a_final_is_in_order_too() {
    let check = told(|story| {
        four(story);
        story.finals(&[(1, 11), (0, 10), (2, 12), (3, 13)]);
    });
    assert_eq!(kinds(&check), [("nonmonotonic-poll", 3)]);
}

#[test]
fn a_poll_leaves_out_nothing_that_somebody_was_told_of() {
    for poll in [&[(1, 11), (2, 12)][..], &[(0, 10), (2, 12)], &[(0, 10), (3, 13)]] {
        let check = told(|story| {
            four(story);
            story.polled(3, 0, poll).finals(&FOUR);
        });
        assert_only(&check, "poll-skip");
    }
    let seen_by_a_read_later = told(|story| {
        let (one, two) = (story.send(1, 10), story.send(1, 11));
        story.unsure(one);
        story.unsure(two);
        story.polled(3, 0, &[(1, 11)]).finals(&[(0, 10), (1, 11)]);
    });
    assert_only(&seen_by_a_read_later, "poll-skip");
    assert_eq!(shown_by(&seen_by_a_read_later, "poll-skip"), [7, 5]);
}

#[test]
fn rows_of_a_snapshot_leave_out_nothing_either() {
    let check = told(|story| {
        four(story);
        story.snapshot(0, &[(0, 10), (2, 12)], &[(0, 10), (2, 12)]).finals(&FOUR);
    });
    assert_eq!(kinds(&check), [("flight-differs", 1), ("poll-skip", 1)]);

    let unordered = told(|story| {
        four(story);
        story.snapshot(0, &[(1, 11), (0, 10)], &[(1, 11), (0, 10)]).finals(&FOUR);
    });
    assert_eq!(unordered.counts.get("nonmonotonic-poll"), Some(&1));
}

#[test]
fn offsets_that_nobody_saw_anything_at_may_be_missing_unless_logs_are_dense() {
    let dense = Options { dense: true, ..PLAIN };
    let middle = |story: &mut Story| {
        story.sent(1, 10, 0).sent(1, 11, 2).polled(3, 0, &[(0, 10), (2, 11)]).finals(&[(0, 10), (2, 11)]);
    };
    assert_sound(&told(middle));
    assert_eq!(kinds(&told_with(dense, middle)), [("poll-skip", 4)], "the poll and every final");
    assert_eq!(kinds(&told_with(Options { retention: true, ..dense }, middle)), [("poll-skip", 4)]);

    let front = |story: &mut Story| {
        story.sent(1, 11, 2).polled(3, 0, &[(2, 11)]).finals(&[(2, 11)]);
    };
    assert_sound(&told(front));
    assert_eq!(kinds(&told_with(dense, front)), [("poll-skip", 4)]);
    assert_sound(&told_with(Options { retention: true, ..dense }, front));
}

#[test]
fn a_beginning_may_be_gone_with_retention_but_not_come_back() {
    let retention = Options { retention: true, ..PLAIN };
    let gone = |story: &mut Story| {
        four(story);
        story.polled(3, 0, &[(2, 12), (3, 13)]).finals(&FOUR[2..]);
    };
    assert_sound(&told_with(retention, gone));
    assert_eq!(kinds(&told(gone)), [("lost-write", 2), ("poll-skip", 1), ("unseen", 2)]);

    let back = |story: &mut Story| {
        four(story);
        story.polled(3, 0, &[(2, 12), (3, 13)]).finals(&FOUR[1..]);
    };
    assert_only(&told_with(retention, back), "poll-skip");
    let middle = |story: &mut Story| {
        four(story);
        story.polled(3, 0, &[(1, 11), (3, 13)]).finals(&FOUR[3..]);
    };
    assert_only(&told_with(retention, middle), "poll-skip");
}

#[test]
fn an_end_is_not_below_what_was_known_before_the_question() {
    let after_an_ack = told(|story| {
        story.sent(1, 10, 0).ends(3, 0).finals(&[(0, 10)]);
    });
    assert_only(&after_an_ack, "stale-end");
    assert_eq!(shown_by(&after_an_ack, "stale-end"), [1, 2, 3]);

    let after_a_read = told(|story| {
        story.send(1, 10);
        story.polled(3, 0, &[(0, 10)]).ends(3, 0).finals(&[(0, 10)]);
    });
    assert_only(&after_a_read, "stale-end");

    let after_an_end = told(|story| {
        story.ends(3, 2).ends(4, 1);
    });
    assert_only(&after_an_end, "stale-end");

    let after_the_question = told(|story| {
        let end = story.asks_end(3);
        story.sent(1, 10, 0);
        story.told_end(end, 0);
        story.finals(&[(0, 10)]);
    });
    assert_sound(&after_the_question);

    let of_another_key = told(|story| {
        story.sent(1, 10, 0).finals(&[(0, 10)]).about(9).ends(3, 0);
    });
    assert_sound(&of_another_key);
}

#[test]
fn a_linearizable_poll_shows_what_was_known_before_it() {
    let strict = Options { linearizable_polls: true, ..PLAIN };
    let after_an_ack = |story: &mut Story| {
        story.sent(1, 10, 0).polled(3, 0, &[]).finals(&[(0, 10)]);
    };
    assert_sound(&told(after_an_ack));
    assert_only(&told_with(strict, after_an_ack), "stale-poll");
    assert_eq!(shown_by(&told_with(strict, after_an_ack), "stale-poll"), [1, 2, 3]);

    assert_sound(&told_with(strict, |story| {
        story.sent(1, 10, 0).polled(3, 1, &[]);
        let (poll, unsure) = (story.poll(3, 1), story.poll(4, 0));
        story.sent(1, 11, 1);
        story.shown(poll, Phase::Ok, &[]);
        story.shown(unsure, Phase::Info, &[]);
        story.polled(3, 0, &[(0, 10)]).finals(&[(0, 10), (1, 11)]);
    }));

    let after_an_end = |story: &mut Story| {
        let send = story.send(1, 10);
        story.unsure(send);
        story.ends(3, 1).polled(3, 0, &[]).finals(&[(0, 10)]);
    };
    assert_sound(&told_with(strict, after_an_end));
    assert_only(&told_with(Options { dense: true, ..strict }, after_an_end), "stale-poll");
}

#[test]
fn columns_are_the_rows() {
    let of = |columns: &[(Offset, Value)], rows: &[(Offset, Value)]| {
        told(|story| {
            four(story);
            story.snapshot(0, columns, rows).finals(&FOUR);
        })
    };
    assert_sound(&of(&FOUR, &FOUR));
    assert_sound(&of(&[], &[]));
    for columns in [&FOUR[..3], &[], &[(0, 10), (1, 11), (2, 12), (3, 12)], &[(0, 10), (1, 11), (2, 12), (4, 13)]] {
        let check = of(columns, &FOUR);
        assert_eq!(check.counts.get("flight-differs"), Some(&1), "{columns:?}");
        assert_eq!(shown_by(&check, "flight-differs"), [9]);
    }
    assert_only(&of(&FOUR, &FOUR[..2]), "flight-differs");
}

#[test]
fn columns_are_what_others_were_told() {
    let check = told(|story| {
        four(story);
        story.snapshot(0, &[(0, 11)], &[(0, 11)]).finals(&FOUR);
    });
    assert_eq!(kinds(&check), [("duplicate", 1), ("flight-differs", 1), ("inconsistent-offsets", 1)]);
    assert_eq!(shown_by(&check, "flight-differs"), [1, 9]);

    let unsure = told(|story| {
        four(story);
        let op = |columns, rows| Op::Snapshot { key: crate::testing::KEY, from: 0, columns, rows };
        let snapshot = story.begin(3, op(Vec::new(), Vec::new()));
        story.complete(snapshot, Phase::Info, op(Vec::new(), vec![(0, 10)]));
        story.finals(&FOUR);
    });
    assert_sound(&unsure);
}
