//! For every kind a history that shows it and one, as near as can be, that does not.

mod answers;
mod ends;
mod places;

use crate::{
    testing::{Story, kinds},
    verdict::{Check, Verdict},
};

use super::*;

/// What the options of a test are when it does not say.
const PLAIN: Options = Options { linearizable_polls: false, dense: false, retention: false, whole_streams: false };

fn told(tell: impl FnOnce(&mut Story)) -> Check {
    told_with(PLAIN, tell)
}

fn told_with(options: Options, tell: impl FnOnce(&mut Story)) -> Check {
    let mut story = Story::new();
    tell(&mut story);
    check_with(story.events(), &options)
}

#[track_caller]
fn assert_sound(check: &Check) {
    assert_eq!((check.verdict, check.anomalies.as_slice()), (Verdict::Valid, [].as_slice()), "{:?}", check.why);
}

#[track_caller]
fn assert_only(check: &Check, kind: &str) {
    assert_eq!(kinds(check), [(kind, 1)], "{:?}", check.anomalies);
    assert_eq!(check.verdict, Verdict::Invalid);
}

/// A bit of everything, and nothing wrong with it.
fn tell_everything(story: &mut Story) {
    // Two are under way at once, and their answers overtake one another.
    let (one, two) = (story.send(1, 10), story.send(1, 11));
    story.acked(two, 1);
    story.polled(3, 0, &[(0, 10), (1, 11)]).ends(3, 2);
    story.acked(one, 0);
    // Nobody knows, but it turns out; nobody knows, and it does not; it failed.
    let recovered = story.send(2, 20);
    story.unsure(recovered);
    let never = story.send(4, 21);
    story.unsure(never);
    story.send(5, 22);
    let failed = story.send(1, 12);
    story.fails(failed);
    // A poll whose answer is older than it could be.
    let poll = story.poll(3, 2);
    story.sent(1, 13, 3);
    story.shown(poll, Phase::Ok, &[(2, 20)]);
    story.polled(3, 4, &[]).ends(3, 4);
    story.snapshot(1, &[(1, 11), (2, 20)], &[(1, 11), (2, 20)]);
    story.finals(&[(0, 10), (1, 11), (2, 20), (3, 13)]);
    story.about(8).sent(1, 10, 0).finals(&[(0, 10)]);
}

#[test]
fn a_sound_history_is_sound_whatever_is_promised() {
    assert_sound(&told(tell_everything));
    let whole = Options { linearizable_polls: true, dense: true, retention: false, whole_streams: true };
    assert_sound(&told_with(whole, tell_everything));
    assert_sound(&told_with(Options { retention: true, ..whole }, tell_everything));
}

#[test]
fn everything_is_counted() {
    let check = told(tell_everything);
    let figures: Vec<(&str, f64)> = check.figures.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    assert_eq!(
        figures,
        [
            ("acked", 4.0),
            ("ends", 2.0),
            ("failed", 1.0),
            ("finals", 6.0),
            ("keys", 2.0),
            ("polls", 3.0),
            ("read", 22.0),
            ("recovered", 1.0),
            ("senders", 4.0),
            ("snapshots", 1.0),
            ("unknown", 3.0),
            ("unseen_recovered", 0.0),
        ]
    );
}

#[test]
fn registers_are_none_of_its_business() {
    let check = told(|story| {
        let op = Op::Read { key: 1, value: Some(3) };
        let read = story.begin(1, op.clone());
        story.complete(read, Phase::Ok, op);
    });
    assert_sound(&check);
    assert_eq!(check.figures["keys"], 0.0);
}
