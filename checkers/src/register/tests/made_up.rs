//! Histories made up by chance: small ones against trying every order, and what a register that is one would say.

use proptest::prelude::*;

use super::*;

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
