//! What is there at the end: `lost-write`, `unseen`, `lost-end`, `divergence`, and what is to be said when too little is known.

use std::ops::Range;

use crate::testing::{NODES, shown_by};

use super::*;

#[test]
fn what_was_acknowledged_is_in_the_final_reads() {
    let check = told(|story| {
        story.sent(1, 10, 0).finals(&[]);
    });
    assert_only(&check, "unseen");
    assert_eq!(shown_by(&check, "unseen"), [1, 3, 5, 7], "its acknowledgement and the final reads");
}

#[test]
fn what_was_read_stays_as_well() {
    let check = told(|story| {
        let send = story.send(1, 10);
        story.unsure(send);
        story.polled(3, 0, &[(0, 10)]).finals(&[]);
    });
    assert_only(&check, "unseen");
    assert_eq!(shown_by(&check, "unseen")[..2], [1, 3], "its completion and who read it");
    assert_eq!(check.figures["recovered"], 1.0);
    assert_eq!(check.figures["unseen_recovered"], 1.0);

    let shown_by_nobody_who_was_answered = told(|story| {
        let send = story.send(1, 10);
        story.unsure(send);
        let poll = story.poll(3, 0);
        story.shown(poll, Phase::Info, &[(0, 10)]);
        story.finals(&[]);
    });
    assert_sound(&shown_by_nobody_who_was_answered);
}

#[test]
fn below_what_was_read_nothing_is_lost() {
    let check = told(|story| {
        story.sent(1, 10, 0).sent(1, 11, 1).finals(&[(1, 11)]);
    });
    assert_eq!(kinds(&check), [("lost-write", 1), ("unseen", 1)]);
    assert_eq!(shown_by(&check, "lost-write"), [1, 5], "its acknowledgement and a read beyond it");

    let beyond = told(|story| {
        story.sent(1, 10, 0).sent(1, 11, 1).finals(&[(0, 10)]);
    });
    assert_only(&beyond, "unseen");

    let read_once = told(|story| {
        story.sent(1, 10, 0).sent(1, 11, 1).polled(3, 0, &[(0, 10)]).finals(&[(1, 11)]);
    });
    assert_only(&read_once, "unseen");

    let bound_of_a_poll = told(|story| {
        story.sent(1, 10, 0).sent(1, 11, 1).polled(3, 1, &[(1, 11)]).finals(&[]);
    });
    assert_eq!(kinds(&bound_of_a_poll), [("lost-write", 1), ("unseen", 2)]);

    let bound_of_nobody_who_was_answered = told(|story| {
        story.sent(1, 10, 0).sent(1, 11, 1);
        let poll = story.poll(3, 1);
        story.shown(poll, Phase::Info, &[(1, 11)]);
        story.finals(&[]);
    });
    assert_only_unseen_twice(&bound_of_nobody_who_was_answered);
}

#[track_caller]
fn assert_only_unseen_twice(check: &Check) {
    assert_eq!(kinds(check), [("unseen", 2)]);
}

#[test]
fn what_stands_twice_is_lost_only_below_its_last_place_and_bounds_by_its_first() {
    // 10 stands at 0 and 2, 11 at 1 was read: the last place of 10 is beyond it.
    let last = told(|story| {
        story.sent(1, 10, 0).sent(1, 11, 1);
        let poll = story.poll(3, 2);
        story.shown(poll, Phase::Info, &[(2, 10)]);
        story.finals(&[(1, 11)]);
    });
    assert_eq!(kinds(&last), [("duplicate", 1), ("unseen", 1)]);
    // 10 stands at 0 and 2 and is read at 2: 11 at 1 is not below its first place.
    let first = told(|story| {
        story.sent(1, 10, 0).sent(1, 11, 1).finals(&[(2, 10)]);
    });
    assert_eq!(kinds(&first), [("duplicate", 1), ("unseen", 1)]);
}

#[test]
fn what_another_value_stands_in_place_of_is_lost() {
    for retention in [false, true] {
        let check = told_with(Options { retention, ..PLAIN }, |story| {
            story.send(2, 20);
            story.sent(1, 10, 0).finals(&[(0, 20)]);
        });
        assert_eq!(kinds(&check), [("inconsistent-offsets", 1), ("lost-write", 1), ("unseen", 1)]);
    }
}

#[test]
fn the_bound_is_the_highest_of_all_first_places() {
    // 10 stands at 0 and 9, but 11 at 5 is what bounds; 12 was to stand between.
    let check = told(|story| {
        story.sent(1, 10, 0).sent(1, 12, 3).sent(1, 11, 5).finals(&[(0, 10), (5, 11), (9, 10)]);
    });
    assert_eq!(kinds(&check), [("duplicate", 1), ("lost-write", 1), ("unseen", 1)]);
}

#[test]
fn what_failed_need_not_be_there() {
    assert_sound(&told(|story| {
        let send = story.send(1, 10);
        story.fails(send);
        story.finals(&[]);
    }));
}

#[test]
fn with_retention_a_beginning_is_not_missed() {
    let retention = Options { retention: true, ..PLAIN };
    let beginning = |story: &mut Story| {
        story.sent(1, 10, 0).sent(1, 11, 1).finals(&[(1, 11)]);
    };
    assert_sound(&told_with(retention, beginning));
    let middle = |story: &mut Story| {
        story.sent(1, 10, 0).sent(1, 11, 1).sent(1, 12, 2).finals(&[(0, 10), (2, 12)]);
    };
    assert_eq!(kinds(&told_with(retention, middle)), [("lost-write", 1), ("unseen", 1)]);
    let all = |story: &mut Story| {
        story.sent(1, 10, 0).finals(&[]);
    };
    assert_only(&told_with(retention, all), "unseen");
}

#[test]
fn with_retention_the_node_that_has_most_tells_what_is_missed() {
    let check = told_with(Options { retention: true, ..PLAIN }, |story| {
        story.sent(1, 10, 0).sent(1, 11, 1).sent(1, 12, 2);
        story.final_of(1, &[(0, 10), (2, 12)]).final_of(2, &[(2, 12)]);
    });
    assert_eq!(kinds(&check), [("lost-write", 1), ("unseen", 1)]);
}

#[test]
fn a_dense_log_ends_where_it_was_told_to_reach() {
    let dense = Options { dense: true, ..PLAIN };
    let tell = |story: &mut Story| {
        story.sent(1, 10, 0).ends(3, 2).finals(&[(0, 10)]);
    };
    assert_sound(&told(tell));
    let check = told_with(dense, tell);
    assert_only(&check, "lost-end");
    assert_eq!(shown_by(&check, "lost-end"), [3, 5, 7, 9]);
    let on_one_node = told_with(dense, |story| {
        story.sent(1, 10, 0).sent(1, 11, 1).final_of(1, &[(0, 10), (1, 11)]).final_of(2, &[(0, 10)]);
    });
    assert_only(&on_one_node, "divergence");
    assert_sound(&told_with(dense, |story| {
        story.sent(1, 10, 0).ends(3, 1).finals(&[(0, 10)]);
    }));
}

#[test]
fn all_nodes_end_alike() {
    let ends = |one: &[(Offset, Value)], other: &[(Offset, Value)], options| {
        told_with(options, |story| {
            let (ten, eleven) = (story.send(1, 10), story.send(2, 11));
            story.unsure(ten);
            story.unsure(eleven);
            story.final_of(1, one).final_of(2, other).final_of(3, one);
        })
    };
    let lengths = ends(&[(0, 10)], &[(0, 10), (1, 11)], PLAIN);
    assert_only(&lengths, "divergence");
    assert_eq!(shown_by(&lengths, "divergence"), [5, 7]);
    assert_eq!(lengths.anomalies[0].what, "node 1 has 1 records, node 2 has 2");

    let values = ends(&[(0, 10)], &[(0, 11)], PLAIN);
    assert_eq!(kinds(&values), [("divergence", 1), ("inconsistent-offsets", 1)]);
    let what = values.anomalies.iter().find(|anomaly| anomaly.kind == "divergence").map(|found| found.what.as_str());
    assert_eq!(what, Some("at offset 0, node 1 has 10 and node 2 has 11"));

    let offsets = ends(&[(0, 10), (1, 11)], &[(1, 11)], PLAIN);
    assert_only(&offsets, "divergence");
    assert_eq!(offsets.anomalies[0].what, "node 1 has 10 at offset 0 where node 2 has 11 at 1");

    let retention = Options { retention: true, ..PLAIN };
    assert_sound(&ends(&[(0, 10), (1, 11)], &[(1, 11)], retention));
    assert_sound(&ends(&[(1, 11)], &[(0, 10), (1, 11)], retention));
    assert_only(&ends(&[(0, 10), (1, 11)], &[(0, 10)], retention), "divergence");
}

#[test]
fn of_several_final_reads_of_a_node_the_last_counts() {
    assert_sound(&told(|story| {
        story.sent(1, 10, 0).final_of(2, &[]).finals(&[(0, 10)]);
    }));
    assert_sound(&told(|story| {
        story.sent(1, 10, 0).finals(&[(0, 10)]);
        let again = story.asks_final(2);
        story.unsure(again);
    }));
    let gone = told(|story| {
        story.sent(1, 10, 0).final_of(2, &[(0, 10)]);
        for node in NODES {
            story.final_of(node, &[]);
        }
    });
    assert_only(&gone, "unseen");
}

#[test]
fn without_final_reads_nothing_can_be_said_to_be_well() {
    let none = told(|story| {
        story.sent(1, 10, 0);
    });
    assert_eq!(none.verdict, Verdict::Inconclusive);

    let of_one_key = told(|story| {
        story.sent(1, 10, 0).finals(&[(0, 10)]).about(9).sent(1, 10, 0);
    });
    assert_eq!(of_one_key.verdict, Verdict::Inconclusive);

    let of_one_node = told(|story| {
        story.sent(1, 10, 0).asks_final(4);
        story.finals(&[(0, 10)]);
    });
    assert_eq!(of_one_node.verdict, Verdict::Inconclusive);

    assert_sound(&told(|story| {
        let send = story.send(1, 10);
        story.unsure(send);
    }));
}

#[test]
fn values_that_are_sent_twice_leave_nothing_to_be_said() {
    let check = told(|story| {
        let send = story.send(1, 10);
        story.unsure(send);
        story.sent(2, 10, 0).finals(&[(0, 10)]);
    });
    assert_eq!(check.verdict, Verdict::Inconclusive);
}

#[test]
fn a_log_that_retention_has_emptied_ends_where_it_says() {
    let options = Options { dense: true, retention: true, ..PLAIN };
    let emptied = |range: Option<Range<Offset>>| {
        told_with(options, |story| {
            story.sent(1, 10, 0).ends(2, 1);
            for node in NODES {
                story.final_in(node, range.clone(), &[]);
            }
        })
    };
    assert_sound(&emptied(Some(1..1)));
    assert_eq!(kinds(&emptied(Some(0..0))), [("lost-end", 1), ("unseen", 1)]);
    assert_eq!(kinds(&emptied(None)), [("lost-end", 1), ("unseen", 1)], "nobody says that it was there");
}

#[test]
fn a_node_shows_all_that_it_says_it_has() {
    let shown = |options, range, records: &[(Offset, Value)]| {
        told_with(options, |story| {
            story.sent(1, 10, 0).sent(1, 11, 1);
            story.final_in(1, range, records).final_in(2, 0..2, &[(0, 10), (1, 11)]);
        })
    };
    let dense = Options { dense: true, retention: true, ..PLAIN };
    assert_sound(&shown(dense, 0..2, &[(0, 10), (1, 11)]));
    assert_sound(&shown(dense, 1..2, &[(1, 11)]));
    assert_eq!(kinds(&shown(dense, 0..2, &[(1, 11)])), [("divergence", 1), ("poll-skip", 1)]);
    assert_eq!(kinds(&shown(dense, 0..3, &[(0, 10), (1, 11)])), [("divergence", 1), ("poll-skip", 1)]);
    assert_eq!(kinds(&shown(dense, 1..2, &[])), [("divergence", 1), ("poll-skip", 1)]);
    assert_only(&shown(PLAIN, 0..3, &[(0, 10), (1, 11)]), "divergence");
}
