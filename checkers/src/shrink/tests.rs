//! Histories of more than a thousand operations in which one thing is wrong, and what is left of them.

use crate::{
    history::{Key, Offset, Op, Phase, Value},
    log, register,
    testing::Story,
    verdict::Verdict,
};

use super::*;

const KEYS: Key = 3;
const SENDERS: u32 = 12;
const READERS: u32 = 100;
const SENDS: u32 = 1_000;
/// Where something goes wrong: far from the beginning and the end.
const WRONG_KEY: Key = 1;
const WRONG_AT: Offset = 200;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Plant {
    /// An acknowledged value is in no read.
    Lost,
    /// A read shows another value at an offset.
    OtherValue,
    /// A value stands at the next offset, too.
    Twice,
    /// A read leaves a record out.
    Skip,
    /// The end is told to be where it was long ago.
    OldEnd,
    /// One node has another last record.
    Divergence,
    /// The value of a send that failed is read.
    Aborted,
}

/// What everybody sees of a log, but for what is planted.
fn seen(log: &[(Offset, Value)], key: Key, plant: Plant) -> Vec<(Offset, Value)> {
    let is_there = |&&(offset, _): &&(Offset, Value)| !(plant == Plant::Lost && key == WRONG_KEY && offset == WRONG_AT);
    log.iter().filter(is_there).copied().collect()
}

fn history(plant: Plant) -> Vec<Event> {
    let mut story = Story::new();
    let mut logs = vec![Vec::new(); KEYS as usize];
    for number in 0..SENDS {
        let key = number % KEYS;
        let (process, reader) = (number % SENDERS, READERS + number % 7);
        let log: &mut Vec<(Offset, Value)> = &mut logs[key as usize];
        let (offset, value) = (log.len() as Offset, 10_000 + u64::from(number));
        story.about(key);
        let is_here = key == WRONG_KEY && offset == WRONG_AT;
        let send = story.send(process, value);
        if is_here && plant == Plant::Aborted {
            story.fails_with(send, Some("refused"));
        } else {
            story.acked(send, offset);
        }
        log.push((offset, value));
        if number % 4 == 0 {
            let from = log.len().saturating_sub(10);
            let shown = seen(&log[from..], key, plant);
            story.polled(reader, from as Offset, &shown);
        }
        if number % 5 == 0 {
            story.ends(reader + 10, offset + 1);
        }
        if is_here {
            match plant {
                Plant::OtherValue => drop(story.polled(reader, offset, &[(offset, 10_001)])),
                Plant::Twice => drop(story.polled(reader, offset, &[(offset, value), (offset + 1, value)])),
                Plant::Skip => drop(story.polled(reader, offset - 2, &[(offset - 2, value - 6), (offset, value)])),
                Plant::OldEnd => drop(story.ends(reader + 10, offset - 50)),
                _ => {}
            }
        }
    }
    for key in 0..KEYS {
        story.about(key);
        let log = seen(&logs[key as usize], key, plant);
        for node in 1..=3 {
            let mut has = log.clone();
            if plant == Plant::Divergence && (key, node) == (WRONG_KEY, 3) {
                has.last_mut().unwrap().1 = 10_001;
            }
            story.final_of(node, &has);
        }
    }
    story.events().to_vec()
}

fn judge(events: &[Event]) -> Check {
    log::check_with(events, &log::Options::default())
}

fn anomaly(events: &[Event], kind: &str, judge: &dyn Fn(&[Event]) -> Check) -> Anomaly {
    let check = judge(events);
    check.anomalies.iter().find(|anomaly| anomaly.kind == kind).unwrap_or_else(|| panic!("{:?}", check.counts)).clone()
}

#[track_caller]
fn shrunk(events: &[Event], kind: &str, judge: &dyn Fn(&[Event]) -> Check) -> Minimal {
    assert!(operations(events) > 1_000);
    let minimal = shrink(events, &anomaly(events, kind, judge), judge, &mut |_| {}).unwrap();
    // It is a history, of events that were there, and shows the same.
    assert!((0..).zip(&minimal.events).all(|(number, event)| event.index == number));
    for (event, &place) in minimal.events.iter().zip(&minimal.places) {
        let whole = &events[usize::try_from(place).unwrap()];
        assert_eq!((whole.time_ns, whole.process, whole.phase), (event.time_ns, event.process, event.phase));
        assert_eq!(minimal.places[usize::try_from(event.invocation).unwrap()], whole.invocation);
    }
    assert!(judge(&minimal.events).anomalies.contains(&minimal.anomaly));
    minimal
}

#[test]
fn of_a_thousand_operations_a_handful_is_left() {
    // With the most operations that a person must read.
    for (plant, kind, most) in [
        (Plant::OtherValue, "inconsistent-offsets", 4),
        (Plant::Twice, "duplicate", 3),
        (Plant::Skip, "poll-skip", 3),
        (Plant::OldEnd, "stale-end", 2),
        (Plant::Divergence, "divergence", 4),
        (Plant::Aborted, "aborted-read", 2),
    ] {
        let events = history(plant);
        let minimal = shrunk(&events, kind, &judge);
        let left = operations(&minimal.events);
        assert!(left <= most, "{kind}: {left} are left:\n{}", minimal.story());
        assert!(minimal.judged < 2_000, "{kind}: {} were judged", minimal.judged);
    }
}

#[test]
fn a_lost_value_is_left_with_whoever_should_have_shown_it() {
    let minimal = shrunk(&history(Plant::Lost), "unseen", &|events| {
        let mut check = judge(events);
        // The same value is lost from the reads, too; here it is about the end.
        check.counts.remove("lost-write");
        check.anomalies.retain(|anomaly| anomaly.kind != "lost-write");
        check
    });
    let names: Vec<&str> = minimal.events.iter().map(|event| event.op.name()).collect();
    assert_eq!(names, ["send", "send", "final", "final", "final", "final", "final", "final"]);
    let shown =
        minimal.events.iter().filter(|event| matches!(&event.op, Op::Final { records, .. } if !records.is_empty()));
    assert_eq!(shown.count(), 0, "what else the logs hold does not matter");
}

#[test]
fn what_something_else_is_wrong_with_is_left_out() {
    let mut events = history(Plant::OldEnd);
    // Another one of the same kind, later, on another process and key.
    let later =
        events.iter().rposition(|event| event.phase == Phase::Ok && matches!(event.op, Op::End { .. })).unwrap();
    let key = events[later].op.key();
    events[later].op = Op::End { key, offset: Some(3) };
    let first = anomaly(&events, "stale-end", &judge);
    let minimal = shrink(&events, &first, &judge, &mut |_| {}).unwrap();
    assert_eq!((minimal.anomaly.what, minimal.anomaly.key), (first.what, first.key));
    assert_eq!(operations(&minimal.events), 2);
}

#[test]
fn an_anomaly_that_is_not_there_is_not_found() {
    let (sound, broken) = (history(Plant::OldEnd), history(Plant::Twice));
    let other = anomaly(&broken, "duplicate", &judge);
    assert_eq!(shrink(&sound, &other, &judge, &mut |_| {}), None);
}

/// Registers that many write and read, one after another; a read in the middle shows what was overwritten long before.
fn registers() -> Vec<Event> {
    let mut story = Story::new();
    let mut holds = [None; 4];
    for number in 0..1_200_u32 {
        let (key, process) = (number % 4, number % 9);
        let held = &mut holds[key as usize];
        if number % 3 == 0 {
            let value = u64::from(number);
            *held = Some(value);
            let op = Op::Write { key, value };
            let write = story.begin(process, op.clone());
            // Of some nobody knows, and they happened.
            story.complete(write, if number % 11 == 0 { Phase::Info } else { Phase::Ok }, op);
        } else {
            let read = story.begin(process, Op::Read { key, value: None });
            let value = if number == 601 { Some(513) } else { *held };
            story.complete(read, Phase::Ok, Op::Read { key, value });
        }
    }
    story.events().to_vec()
}

#[test]
fn of_registers_what_was_read_keeps_its_writer_so_that_nothing_wrong_is_made_up() {
    let events = registers();
    let judge: &dyn Fn(&[Event]) -> Check = &register::check;
    let anomaly = anomaly(&events, "nonlinearizable", judge);
    assert_eq!(anomaly.key, Some(1));
    let minimal = shrunk(&events, "nonlinearizable", judge);
    // The read, who wrote what it shows, and who had overwritten it before, as known by its answer or by who read it.
    assert!(operations(&minimal.events) <= 4, "{}", minimal.story());
    let stale = minimal.events.iter().find(|event| event.op == Op::Read { key: 1, value: Some(513) });
    assert!(stale.is_some(), "{}", minimal.story());
    assert!(minimal.events.iter().any(|event| event.op == Op::Write { key: 1, value: 513 }), "{}", minimal.story());
    assert_eq!(register::check(&minimal.events).verdict, Verdict::Invalid);
}

#[test]
fn progress_is_told_and_the_story_can_be_read() {
    let events = history(Plant::OldEnd);
    let mut told = Vec::new();
    let minimal =
        shrink(&events, &anomaly(&events, "stale-end", &judge), &judge, &mut |progress| told.push(progress)).unwrap();
    assert!(told.iter().any(|progress| progress.pass == "processes") && told.last().unwrap().operations == 2);
    assert!(told.windows(2).all(|pair| pair[1].operations <= pair[0].operations));
    let story = minimal.story();
    let lines: Vec<&str> = story.lines().collect();
    assert_eq!(lines[0], "stale-end on key 1: the end was said to be 150, but 201 was known before the question");
    let said: Vec<&str> = lines.iter().filter_map(|line| line.split_once("  p")).map(|(_, said)| said).collect();
    assert_eq!(said.len(), 4, "{story}");
    assert!(said[1].contains("is told that 10601 stands at offset 200"), "{story}");
    assert!(said[3].contains("is told that the log ends at 150"), "{story}");
    let starred = lines.iter().filter(|line| line.starts_with("* "));
    assert_eq!(starred.count(), 3, "{story}");
}
