//! Registers: for every rule a history that keeps it and one that breaks it.

mod made_up;

use crate::{
    testing::{Story, kinds, shown_by},
    verdict::Verdict,
};

use super::*;

fn read() -> Op {
    Op::Read { key: 0, value: None }
}

fn read_as(value: State) -> Op {
    Op::Read { key: 0, value }
}

fn write(value: Value) -> Op {
    Op::Write { key: 0, value }
}

fn cas(expected: State, value: Value) -> Op {
    Op::Cas { key: 0, expected, value }
}

fn told(tell: impl FnOnce(&mut Story)) -> Check {
    let mut story = Story::new();
    tell(&mut story);
    check(story.events())
}

/// Operations one after another, each with its completion.
fn in_turn(operations: &[(Op, Phase)]) -> Check {
    told(|story| {
        for (op, phase) in operations {
            let begun = story.begin(1, op.clone());
            story.complete(begun, *phase, op.clone());
        }
    })
}

#[track_caller]
fn assert_sound(check: &Check) {
    assert_eq!((check.verdict, check.anomalies.as_slice()), (Verdict::Valid, [].as_slice()), "{:?}", check.why);
}

#[track_caller]
fn assert_broken(check: &Check) {
    assert_eq!(kinds(check), [("nonlinearizable", 1)]);
}

use Phase::{Fail, Info, Ok as Done};

#[test]
fn what_is_written_is_read() {
    assert_sound(&in_turn(&[(read(), Done), (write(1), Done), (read_as(Some(1)), Done)]));
    assert_broken(&in_turn(&[(write(1), Done), (read(), Done)]));
    assert_broken(&in_turn(&[(read_as(Some(1)), Done), (write(1), Done)]));
    assert_broken(&in_turn(&[(write(1), Done), (write(2), Done), (read_as(Some(1)), Done)]));
}

#[test]
fn an_exchange_finds_what_it_expects_or_something_else() {
    assert_sound(&in_turn(&[(cas(None, 1), Done), (cas(Some(1), 2), Done), (read_as(Some(2)), Done)]));
    assert_broken(&in_turn(&[(write(1), Done), (cas(Some(3), 2), Done)]));
    assert_sound(&in_turn(&[(write(1), Done), (cas(Some(3), 2), Fail), (read_as(Some(1)), Done)]));
    assert_broken(&in_turn(&[(write(1), Done), (cas(Some(1), 2), Fail)]));
    assert_broken(&in_turn(&[(write(1), Done), (cas(Some(3), 2), Fail), (read_as(Some(2)), Done)]));
}

#[test]
fn an_exchange_that_failed_with_an_error_says_nothing() {
    let check = told(|story| {
        let first = story.begin(1, write(1));
        story.complete(first, Done, write(1));
        let failed = story.begin(1, cas(Some(1), 2));
        story.fails_with(failed, Some("NOT_LEADER"));
        let last = story.begin(1, read());
        story.complete(last, Done, read_as(Some(1)));
    });
    assert_sound(&check);
    assert_eq!(check.figures["operations"], 2.0);
}

#[test]
fn a_write_that_failed_is_never_there() {
    assert_sound(&in_turn(&[(write(1), Fail), (read(), Done)]));
    assert_broken(&in_turn(&[(write(1), Fail), (read_as(Some(1)), Done)]));
}

#[test]
fn what_nobody_knows_happens_at_any_time_or_never() {
    assert_sound(&in_turn(&[(write(1), Info), (read(), Done), (write(2), Done), (read_as(Some(1)), Done)]));
    assert_sound(&in_turn(&[(write(1), Info), (read(), Done), (read(), Done)]));
    assert_broken(&in_turn(&[(write(1), Info), (read_as(Some(1)), Done), (write(2), Done), (read_as(Some(1)), Done)]));
    assert_broken(&in_turn(&[(read_as(Some(1)), Done), (write(1), Info)]));
    // One without a completion is like one of which nobody knows.
    assert_sound(&told(|story| {
        story.begin(2, write(1));
        let last = story.begin(1, read());
        story.complete(last, Done, read_as(Some(1)));
    }));
    // An exchange happens only to what it expects.
    assert_sound(&in_turn(&[(write(1), Done), (cas(Some(1), 2), Info), (read_as(Some(2)), Done)]));
    assert_broken(&in_turn(&[(write(1), Done), (cas(Some(3), 2), Info), (read_as(Some(2)), Done)]));
    // Reads of which nobody knows say nothing.
    assert_sound(&in_turn(&[(read_as(Some(7)), Info), (read_as(Some(7)), Fail)]));
}

#[test]
fn what_nobody_knows_happens_in_chains() {
    let chain = [(cas(Some(2), 3), Info), (cas(Some(1), 2), Info), (write(1), Info)];
    let read_3 = (read_as(Some(3)), Done);
    assert_sound(&in_turn(&[&chain[..], std::slice::from_ref(&read_3)].concat()));
    assert_broken(&in_turn(&[&chain[1..], std::slice::from_ref(&read_3)].concat()));
    assert_broken(&in_turn(&[&chain[..2], std::slice::from_ref(&read_3)].concat()));
    // It makes room for an exchange that found something else.
    assert_sound(&in_turn(&[(write(1), Done), (write(2), Info), (cas(Some(1), 3), Fail)]));
    assert_broken(&in_turn(&[(write(1), Done), (write(1), Info), (cas(Some(1), 3), Fail)]));
    assert_broken(&in_turn(&[(write(1), Done), (cas(Some(4), 2), Info), (cas(Some(1), 3), Fail)]));
}

#[test]
fn what_nobody_knows_happens_once_each() {
    let two = [(write(1), Info), (write(1), Info)];
    let again = [(write(2), Done), (read_as(Some(1)), Done)];
    assert_sound(&in_turn(&[&two[..], &again, &again].concat()));
    assert_broken(&in_turn(&[&two[..], &again, &again, &again].concat()));
}

#[test]
fn of_what_happens_at_once_any_order_will_do_but_one() {
    let check = |second: State| {
        told(|story| {
            let (one, two) = (story.begin(1, write(1)), story.begin(2, write(2)));
            let first = story.begin(3, read());
            story.complete(first, Done, read_as(Some(2)));
            story.complete(two, Done, write(2));
            story.complete(one, Done, write(1));
            let last = story.begin(3, read());
            story.complete(last, Done, read_as(second));
        })
    };
    assert_sound(&check(Some(1)));
    assert_sound(&check(Some(2)));
    assert_broken(&check(None));
}

#[test]
fn reads_do_not_go_back() {
    let check = told(|story| {
        let write_1 = story.begin(1, write(1));
        for value in [Some(1), None] {
            let begun = story.begin(2, read());
            story.complete(begun, Done, read_as(value));
        }
        story.complete(write_1, Done, write(1));
    });
    assert_broken(&check);
}

#[test]
fn registers_are_by_themselves() {
    let check = told(|story| {
        for (key, value) in [(1, 10), (2, 20)] {
            let op = Op::Write { key, value };
            let begun = story.begin(1, op.clone());
            story.complete(begun, Done, op);
        }
        for (key, value) in [(1, Some(10)), (2, Some(10))] {
            let op = Op::Read { key, value };
            let begun = story.begin(1, op.clone());
            story.complete(begun, Done, op);
        }
    });
    assert_broken(&check);
    assert_eq!(check.anomalies[0].key, Some(2));
    assert_eq!(check.figures["keys"], 2.0);
}

#[test]
fn what_cannot_be_is_told_with_what_led_there() {
    let check = in_turn(&[(write(1), Done), (write(2), Info), (read_as(Some(2)), Done), (read_as(Some(1)), Done)]);
    assert_broken(&check);
    assert_eq!(shown_by(&check, "nonlinearizable"), [1, 3, 5, 7]);
    assert_eq!(
        check.anomalies[0].what,
        "2 of 3 operations can be put in order, at last process 1 writes 1, process 1 writes 2, process 1 reads 2; \
         then the register holds 2, and none can be next of process 1 reads 1"
    );
}

#[test]
fn the_longest_order_is_told_not_the_last_one_tried() {
    // What completes first is tried first: once that leads farther, once not.
    for farther_first in [true, false] {
        let check = told(|story| {
            let (one, two) = (story.begin(1, write(1)), story.begin(2, write(2)));
            let (first, second) = if farther_first { (two, one) } else { (one, two) };
            for begun in [first, second] {
                story.complete(begun, Done, write(if begun == one { 1 } else { 2 }));
            }
            for value in [1, 9] {
                let begun = story.begin(3, read());
                story.complete(begun, Done, read_as(Some(value)));
            }
        });
        assert_broken(&check);
        let what = "3 of 4 operations can be put in order, at last process 2 writes 2, process 1 writes 1, \
                    process 3 reads 1; then the register holds 1, and none can be next of process 3 reads 9";
        assert_eq!(check.anomalies[0].what, what);
    }
}

#[test]
fn logs_are_none_of_its_business() {
    let check = told(|story| {
        story.sent(1, 10, 0).polled(2, 0, &[(0, 11)]);
    });
    assert_sound(&check);
    assert_eq!(check.figures["keys"], 0.0);
}

/// Writes at once, and a value that nobody wrote.
fn tangle(writers: u32) -> Story {
    let mut story = Story::new();
    let begun: Vec<Index> = (0..writers).map(|i| story.begin(i, write(i.into()))).collect();
    for (i, begun) in (0..).zip(begun) {
        story.complete(begun, Done, write(i));
    }
    let last = story.begin(1, read());
    story.complete(last, Done, read_as(Some(999)));
    story
}

#[test]
fn where_too_much_would_have_to_be_tried_a_doubt_is_left() {
    let check = check_with(tangle(20).events(), &Options { memory_bytes_max: 1 << 20 });
    assert_eq!(check.verdict, Verdict::Inconclusive);
    assert!((1000.0..10_000.0).contains(&check.figures["configurations"]), "{:?}", check.figures);
    assert_broken(&check_with(tangle(8).events(), &Options { memory_bytes_max: 1 << 20 }));
}

#[test]
fn of_many_that_do_the_same_any_will_do() {
    let unknown = vec![(write(1), Info); 20];
    let again = [(write(2), Done), (read_as(Some(1)), Done)];
    let rounds = std::iter::repeat_n(again, 21).flatten().collect();
    let check = in_turn(&[unknown, rounds].concat());
    assert_broken(&check);
    assert!(check.figures["configurations"] < 100.0, "{:?}", check.figures);
}

#[test]
fn to_use_up_more_leads_nowhere_new() {
    let check = told(|story| {
        for _ in 0..30 {
            let unknown = story.begin(1, write(1));
            story.unsure(unknown);
        }
        // Each read shows what is written at once with it, or what nobody knows of.
        for _ in 0..30 {
            let (one, two) = (story.begin(1, write(1)), story.begin(2, read()));
            story.complete(two, Done, read_as(Some(1)));
            story.complete(one, Done, write(1));
            let reset = story.begin(1, write(2));
            story.complete(reset, Done, write(2));
        }
        let last = story.begin(2, read());
        story.complete(last, Done, read_as(Some(3)));
    });
    assert_broken(&check);
    assert!(check.figures["configurations"] < 150.0, "{:?}", check.figures);
}

#[test]
fn reads_at_once_cost_nothing() {
    let check = told(|story| {
        let begun: Vec<Index> = (0..20).map(|i| story.begin(i, read())).collect();
        for begun in begun {
            story.complete(begun, Done, read());
        }
        let last = story.begin(1, read());
        story.complete(last, Done, read_as(Some(1)));
    });
    assert_broken(&check);
    assert_eq!(check.figures["configurations"], 1.0);
}

#[test]
fn many_operations_of_which_nobody_knows_cost_little() {
    let check = told(|story| {
        for value in 0..200 {
            let begun = story.begin(1, write(value));
            story.unsure(begun);
            let begun = story.begin(2, cas(Some(1000), value));
            story.unsure(begun);
        }
        for value in (0..200).rev() {
            let begun = story.begin(3, read());
            story.complete(begun, Done, read_as(Some(value)));
        }
        let begun = story.begin(3, read());
        story.complete(begun, Done, read_as(Some(0)));
        let begun = story.begin(3, read());
        story.complete(begun, Done, read_as(Some(199)));
    });
    assert_broken(&check);
    assert!(check.figures["configurations"] < 1000.0, "{:?}", check.figures);
}
