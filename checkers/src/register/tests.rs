//! Registers: for every rule a history that keeps it and one that breaks it, and all small ones against trying everything.

use proptest::prelude::*;

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

/// What one process does next in a made-up history.
#[derive(Clone, Debug)]
struct Move {
    process: Process,
    op: u8,
    value: Value,
    expected: State,
    outcome: u8,
}

fn moves(processes: Process, len: usize) -> impl Strategy<Value = Vec<Move>> {
    let one = (0..processes, 0_u8..3, 1_u64..4, proptest::option::of(1_u64..4), 0_u8..10);
    let one = one.prop_map(|(process, op, value, expected, outcome)| Move { process, op, value, expected, outcome });
    proptest::collection::vec(one, 0..len)
}

impl Move {
    fn op(&self) -> Op {
        match self.op {
            0 => read(),
            1 => write(self.value),
            _ => cas(self.expected, self.value),
        }
    }
}

/// Whatever processes might say, true or not.
fn any_history(moves: &[Move]) -> Story {
    let mut story = Story::new();
    let mut under_way: BTreeMap<Process, (Index, Op)> = BTreeMap::new();
    for step in moves {
        let Some((begun, op)) = under_way.remove(&step.process) else {
            under_way.insert(step.process, (story.begin(step.process, step.op()), step.op()));
            continue;
        };
        let shown = if matches!(op, Op::Read { .. }) { read_as(step.expected) } else { op };
        match step.outcome {
            0 | 1 => story.complete(begun, Info, shown),
            2 => story.fails_with(begun, Some("NOT_LEADER")),
            3 | 4 => story.complete(begun, Fail, shown),
            _ => story.complete(begun, Done, shown),
        };
    }
    story
}

/// What processes say of a register that is one: each operation takes effect as it begins or as it completes.
fn true_history(moves: &[Move]) -> Story {
    let mut story = Story::new();
    let mut state = None;
    let mut under_way = BTreeMap::new();
    for step in moves {
        match under_way.remove(&step.process) {
            None => {
                let op = step.op();
                let begun = story.begin(step.process, op.clone());
                let done = (step.outcome % 2 == 0).then(|| happen(&op, &mut state));
                under_way.insert(step.process, (begun, op, done));
            }
            Some((begun, op, done)) => {
                // Of a few, nothing is told: they happened as they began, or never do.
                if step.outcome == 0 {
                    story.complete(begun, Info, op);
                    continue;
                }
                let (phase, op) = done.unwrap_or_else(|| happen(&op, &mut state));
                story.complete(begun, phase, op);
            }
        }
    }
    story
}

fn happen(op: &Op, state: &mut State) -> (Phase, Op) {
    match *op {
        Op::Write { value, .. } => *state = Some(value),
        Op::Cas { expected, value, .. } if expected == *state => *state = Some(value),
        Op::Cas { .. } => return (Fail, op.clone()),
        _ => return (Done, read_as(*state)),
    }
    (Done, op.clone())
}

/// Tries every order of everything, with every choice of what took effect.
fn tried(certain: &[Operation], unknown: &[Operation], state: State) -> bool {
    let without = |list: &[Operation], i: usize| [&list[..i], &list[i + 1..]].concat();
    let free = |one: &Operation| certain.iter().all(|other| other.completed > one.invoked);
    certain.is_empty()
        || certain.iter().enumerate().any(|(i, one)| {
            free(one) && one.action.may_follow(state) && tried(&without(certain, i), unknown, one.action.after(state))
        })
        || unknown.iter().enumerate().any(|(i, one)| {
            free(one) && one.action.may_follow(state) && tried(certain, &without(unknown, i), one.action.after(state))
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn small_histories_are_judged_as_by_trying_everything(moves in moves(4, 16)) {
        let story = any_history(&moves);
        let possible = gather(story.events()).values().all(|register| tried(&register.certain, &register.unknown, None));
        prop_assert_eq!(check(story.events()).verdict == Verdict::Valid, possible, "{:#?}", story.events());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_true_register_is_sound(moves in moves(8, 600)) {
        let check = check(true_history(&moves).events());
        prop_assert_eq!(check.verdict, Verdict::Valid, "{:?}", check);
    }
}
