//! Values and their offsets: `inconsistent-offsets`, `duplicate`, `phantom`, `aborted-read`, `time-travel`, and the order of sends.

use crate::testing::shown_by;

use super::*;

#[test]
fn an_offset_has_one_value_whoever_tells_of_it() {
    let twice_acked = told(|story| {
        let (one, two) = (story.send(1, 10), story.send(2, 20));
        story.acked(one, 0);
        story.acked(two, 0);
    });
    assert_only(&twice_acked, "inconsistent-offsets");
    assert_eq!(shown_by(&twice_acked, "inconsistent-offsets"), [2, 3]);

    let tellers: [fn(&mut Story); 4] = [
        |story| {
            story.polled(3, 0, &[(0, 20)]);
        },
        |story| {
            let poll = story.poll(3, 0);
            story.shown(poll, Phase::Info, &[(0, 20)]);
        },
        |story| {
            story.final_of(1, &[(0, 20)]);
        },
        |story| {
            story.snapshot(0, &[(0, 20)], &[(0, 20)]);
        },
    ];
    for teller in tellers {
        let check = told(|story| {
            story.send(2, 20);
            story.sent(1, 10, 0);
            teller(story);
        });
        assert_eq!(check.counts.get("inconsistent-offsets"), Some(&1), "{:?}", check.anomalies);
        assert_eq!(shown_by(&check, "inconsistent-offsets"), [2, 4]);
    }
    for (columns, rows) in [(20, 10), (10, 20)] {
        let check = told(|story| {
            story.send(2, 20);
            story.sent(1, 10, 0).snapshot(0, &[(0, columns)], &[(0, rows)]);
        });
        assert_eq!(check.counts.get("inconsistent-offsets"), Some(&1));
    }
}

#[test]
fn a_second_value_of_an_offset_is_told_once() {
    let check = told(|story| {
        story.send(2, 20);
        story.sent(1, 10, 0).polled(3, 0, &[(0, 20)]).polled(3, 0, &[(0, 20)]).polled(3, 0, &[(0, 10)]);
    });
    assert_only(&check, "inconsistent-offsets");
}

#[test]
fn keys_have_offsets_and_values_of_their_own() {
    assert_sound(&told(|story| {
        story.sent(1, 10, 0).finals(&[(0, 10)]);
        story.about(9).sent(1, 20, 0).finals(&[(0, 20)]);
        story.about(10).sent(1, 10, 5).finals(&[(5, 10)]);
    }));
}

#[test]
fn a_value_stands_once() {
    let read_elsewhere = told(|story| {
        story.sent(1, 10, 0).polled(3, 1, &[(1, 10)]).finals(&[(0, 10), (1, 10)]);
    });
    assert_only(&read_elsewhere, "duplicate");
    assert_eq!(shown_by(&read_elsewhere, "duplicate"), [1, 3]);

    let within_a_final = told(|story| {
        story.sent(1, 10, 0).finals(&[(0, 10), (1, 10)]);
    });
    assert_only(&within_a_final, "duplicate");
}

#[test]
fn what_is_read_was_sent() {
    let check = told(|story| {
        story.sent(1, 10, 0).polled(3, 0, &[(0, 10), (1, 66)]).finals(&[(0, 10), (1, 66)]);
    });
    assert_only(&check, "phantom");
    assert_eq!(shown_by(&check, "phantom"), [3]);

    let twice = told(|story| {
        story.polled(3, 0, &[(0, 66)]).polled(3, 1, &[(1, 66)]);
    });
    assert_eq!(kinds(&twice), [("duplicate", 1), ("phantom", 2)]);

    let to_another_key = told(|story| {
        story.sent(1, 10, 0).finals(&[(0, 10)]).about(9).polled(3, 0, &[(0, 10)]);
    });
    assert_only(&to_another_key, "phantom");
}

#[test]
fn what_failed_is_not_read() {
    let check = told(|story| {
        let send = story.send(1, 10);
        story.fails(send);
        story.polled(3, 0, &[(0, 10)]).finals(&[(0, 10)]);
    });
    assert_only(&check, "aborted-read");
    assert_eq!(shown_by(&check, "aborted-read"), [1, 3]);

    let known_only_later = told(|story| {
        let send = story.send(1, 10);
        story.polled(3, 0, &[(0, 10)]);
        story.fails(send);
        story.finals(&[(0, 10)]);
    });
    assert_only(&known_only_later, "aborted-read");
}

#[test]
fn what_failed_is_not_shown_by_a_read_of_which_nobody_knows_either() {
    let check = told(|story| {
        let send = story.send(1, 10);
        story.fails(send);
        let poll = story.poll(3, 0);
        story.shown(poll, Phase::Info, &[(0, 10)]);
    });
    assert_only(&check, "aborted-read");
}

#[test]
fn what_nobody_knows_may_be_read_or_not() {
    assert_sound(&told(|story| {
        let (info, _open) = (story.send(1, 10), story.send(2, 20));
        story.unsure(info);
        story.polled(3, 0, &[(0, 20), (1, 10)]).finals(&[(0, 20), (1, 10)]);
    }));
    assert_sound(&told(|story| {
        let (info, _open) = (story.send(1, 10), story.send(2, 20));
        story.unsure(info);
        story.polled(3, 0, &[]).finals(&[]);
    }));
}

#[test]
fn nothing_is_read_before_it_is_sent() {
    let check = told(|story| {
        story.polled(3, 0, &[(0, 10)]);
        let send = story.send(1, 10);
        story.unsure(send);
        story.finals(&[(0, 10)]);
    });
    assert_only(&check, "time-travel");
    assert_eq!(shown_by(&check, "time-travel"), [1, 2]);

    assert_sound(&told(|story| {
        let poll = story.poll(3, 0);
        story.send(1, 10);
        story.shown(poll, Phase::Ok, &[(0, 10)]);
        story.finals(&[(0, 10)]);
    }));
}

#[test]
fn sends_of_a_process_stand_in_the_order_of_their_invocations() {
    let check = told(|story| {
        let (one, two) = (story.send(1, 10), story.send(1, 11));
        story.acked(two, 0);
        story.acked(one, 1);
        story.finals(&[(0, 11), (1, 10)]);
    });
    assert_only(&check, "nonmonotonic-send");
    assert_eq!(shown_by(&check, "nonmonotonic-send"), [3, 2]);

    assert_sound(&told(|story| {
        let (one, two) = (story.send(1, 10), story.send(2, 11));
        story.acked(two, 0);
        story.acked(one, 1);
        story.finals(&[(0, 11), (1, 10)]);
    }));
    assert_sound(&told(|story| {
        let one = story.send(1, 10);
        let two = story.about(9).send(1, 11);
        story.acked(two, 0);
        story.acked(one, 1);
        story.finals(&[(0, 11)]).about(7).finals(&[(1, 10)]);
    }));
}

#[test]
fn other_processes_in_between_do_not_hide_the_order_of_one() {
    let check = told(|story| {
        let (one, other, two) = (story.send(1, 10), story.send(2, 20), story.send(1, 11));
        story.acked(two, 0);
        story.acked(other, 1);
        story.acked(one, 2);
        story.finals(&[(0, 11), (1, 20), (2, 10)]);
    });
    assert_only(&check, "nonmonotonic-send");
}

#[test]
fn two_sends_of_a_process_at_one_offset_are_out_of_order() {
    let check = told(|story| {
        let (one, two) = (story.send(1, 10), story.send(1, 11));
        story.acked(one, 0);
        story.acked(two, 0);
    });
    assert_eq!(kinds(&check), [("inconsistent-offsets", 1), ("nonmonotonic-send", 1)]);
}

#[test]
fn sends_that_nobody_knows_of_have_an_order_where_streams_are_whole() {
    let tell = |story: &mut Story| {
        let (one, two) = (story.send(1, 10), story.send(1, 11));
        story.unsure(one);
        story.acked(two, 0);
        story.finals(&[(0, 11), (1, 10)]);
    };
    assert_sound(&told(tell));
    assert_only(&told_with(Options { whole_streams: true, ..PLAIN }, tell), "nonmonotonic-send");
}

#[test]
fn nothing_is_missing_within_a_whole_stream() {
    let whole = Options { whole_streams: true, ..PLAIN };
    let tell = |story: &mut Story| {
        let (one, two) = (story.send(1, 10), story.send(1, 11));
        story.unsure(one);
        story.acked(two, 0);
        story.finals(&[(0, 11)]);
    };
    assert_sound(&told(tell));
    let check = told_with(whole, tell);
    assert_only(&check, "send-skip");
    assert_eq!(shown_by(&check, "send-skip"), [2, 3]);
    assert_only(&told_with(Options { retention: true, ..whole }, tell), "send-skip");
    assert_sound(&told_with(Options { retention: true, ..whole }, |story| {
        let (one, two) = (story.send(1, 10), story.send(1, 11));
        story.unsure(one);
        story.acked(two, 1);
        story.finals(&[(1, 11)]);
    }));

    let in_the_middle = |story: &mut Story| {
        story.sent(1, 9, 0);
        let (one, two) = (story.send(1, 10), story.send(1, 11));
        story.unsure(one);
        story.acked(two, 1);
        story.finals(&[(0, 9), (1, 11)]);
    };
    assert_only(&told_with(Options { retention: true, ..whole }, in_the_middle), "send-skip");

    let read_once = told_with(whole, |story| {
        let (one, two) = (story.send(1, 10), story.send(1, 11));
        story.unsure(one);
        story.acked(two, 1);
        story.polled(3, 0, &[(0, 10)]).finals(&[(1, 11)]);
    });
    assert_only(&read_once, "unseen");

    assert_sound(&told_with(whole, |story| {
        let (failed, one, last) = (story.send(1, 9), story.send(1, 10), story.send(1, 11));
        story.fails(failed);
        story.acked(one, 0);
        story.unsure(last);
        story.finals(&[(0, 10)]);
    }));
}

#[test]
fn a_send_gets_no_offset_that_was_known_before_it_began() {
    let after_a_read = told(|story| {
        let send = story.send(1, 10);
        story.unsure(send);
        story.polled(3, 5, &[(5, 10)]).sent(2, 20, 4).finals(&[(4, 20), (5, 10)]);
    });
    assert_only(&after_a_read, "stale-send");
    assert_eq!(shown_by(&after_a_read, "stale-send"), [3, 4, 5]);

    let after_an_end = told(|story| {
        story.ends(3, 5).sent(2, 20, 4).finals(&[(4, 20)]);
    });
    assert_only(&after_an_end, "stale-send");

    assert_sound(&told(|story| {
        let late = story.send(2, 20);
        story.sent(1, 10, 5);
        story.acked(late, 4);
        story.finals(&[(4, 20), (5, 10)]);
    }));
}
