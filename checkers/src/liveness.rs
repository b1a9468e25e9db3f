//! Without faults, everything goes on in time and every operation ends.
//!
//! A key **waits** from the first attempt to do something with it until one is done; what failed or of which nothing is known
//! does not end it. Only what comes after the last fault is measured: attempts that were under way when it ended wait from then
//! on. Final reads are none: they ask one node for what it has, not the cluster to do something.
//!
//! | Kind | What must not be |
//! |---|---|
//! | `not-recovered` | a key waits for longer than the bound |
//! | `stuck` | an operation has no completion, and the history goes on for longer than the bound |
//!
//! Each kind of operation counts by itself: reads that go on do not hide writes that do not. A key with which nobody tried anything after the last fault leaves a doubt, and so does an operation that has no completion
//! because the history ends.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    history::{Event, Index, Key, Op, Phase},
    stats::ms,
    verdict::Check,
};

/// What must go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// Every key by itself.
    EachKey,
    /// All keys together: each is used for a while only.
    Whole,
}

/// Checks what comes after the last fault, which ended so long after the history began.
#[must_use]
pub fn check(events: &[Event], faults_end_ns: u64, bound: Duration) -> Check {
    check_served(events, faults_end_ns, bound, Served::EachKey)
}

/// The same for what must go on.
#[must_use]
pub fn check_served(events: &[Event], faults_end_ns: u64, bound: Duration, served: Served) -> Check {
    let mut check = Check::new("liveness");
    let bound_ns = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
    let mut services: BTreeMap<(Key, &str), Progress> = BTreeMap::new();
    let mut under_way: BTreeMap<Index, &Event> = BTreeMap::new();
    for event in events {
        if event.phase == Phase::Invoke {
            under_way.insert(event.index, event);
        } else {
            under_way.remove(&event.invocation);
        }
        if !matches!(event.op, Op::Final { .. }) {
            let key = if served == Served::EachKey { event.op.key() } else { 0 };
            services.entry((key, event.op.name())).or_default().hear(event, faults_end_ns);
        }
    }
    let end_ns = events.last().map_or(0, |event| event.time_ns);
    judge_ends(&under_way, end_ns, bound_ns, &mut check);
    let mut keys: BTreeMap<Key, bool> = BTreeMap::new();
    for (&(key, name), progress) in &mut services {
        progress.finish(end_ns);
        progress.judge(key, name, bound_ns, &mut check);
        *keys.entry(key).or_default() |= progress.longest.is_some();
    }
    for (key, _) in keys.iter().filter(|(_, tried)| !**tried) {
        check.doubt(format!("nobody tried anything with key {key} after the last fault"));
    }
    let recoveries = || services.values().filter_map(|progress| progress.first);
    let waits = services.values().filter_map(|progress| progress.longest);
    check.figure("keys", f64::from(u32::try_from(keys.len()).unwrap_or(u32::MAX)));
    check.figure("first_ok_max_ms", ms(recoveries().map(|wait| wait.ns()).max().unwrap_or(0)));
    check.figure("first_ok_min_ms", ms(recoveries().map(|wait| wait.ns()).min().unwrap_or(0)));
    check.figure("longest_gap_ms", ms(waits.map(|wait| wait.ns()).max().unwrap_or(0)));
    check.figure("fault_free_ms", ms(end_ns.saturating_sub(faults_end_ns)));
    check
}

/// A time in which a key waited.
#[derive(Clone, Copy, Debug)]
struct Wait {
    from_ns: u64,
    to_ns: u64,
    /// The attempt with which it began, and the event that ended it, if one did.
    tried: Index,
    done: Option<Index>,
}

impl Wait {
    const fn ns(&self) -> u64 {
        self.to_ns.saturating_sub(self.from_ns)
    }
}

/// How one key fares.
#[derive(Debug, Default)]
struct Progress {
    /// Attempts under way, in the order of their invocations.
    attempts: BTreeMap<Index, u64>,
    /// Since when it waits, and for what.
    waits: Option<(u64, Index)>,
    /// The last thing that happened with it after the last fault.
    last_ns: Option<u64>,
    /// The wait for the first that was done after the last fault.
    first: Option<Wait>,
    longest: Option<Wait>,
}

impl Progress {
    fn hear(&mut self, event: &Event, faults_end_ns: u64) {
        if event.phase == Phase::Invoke {
            self.attempts.insert(event.index, event.time_ns);
        }
        if event.time_ns >= faults_end_ns {
            self.last_ns = Some(event.time_ns);
            // From before the fault ended, or since just now.
            let oldest = self.attempts.first_key_value().map(|(&index, &begun)| (begun.max(faults_end_ns), index));
            self.waits = self.waits.or(oldest);
        }
        if event.phase != Phase::Invoke {
            self.attempts.remove(&event.invocation);
        }
        if event.time_ns >= faults_end_ns && event.answers() {
            self.end_wait(event.time_ns, Some(event.index));
            self.waits = self.attempts.first_key_value().map(|(&index, _)| (event.time_ns, index));
        }
    }

    fn end_wait(&mut self, to_ns: u64, done: Option<Index>) {
        let Some((from_ns, tried)) = self.waits.take() else { return };
        let wait = Wait { from_ns, to_ns, tried, done };
        self.first = self.first.or(Some(wait));
        self.longest = self.longest.filter(|longest| longest.ns() >= wait.ns()).or(Some(wait));
    }

    /// The history ends.
    fn finish(&mut self, end_ns: u64) {
        let to_ns = if self.attempts.is_empty() { self.last_ns.unwrap_or(end_ns) } else { end_ns };
        self.end_wait(to_ns, None);
    }

    fn judge(&self, key: Key, name: &str, bound_ns: u64, check: &mut Check) {
        match self.longest {
            Some(wait) if wait.ns() > bound_ns => {
                let events = std::iter::once(wait.tried).chain(wait.done).collect();
                let (waited, bound) = (ms(wait.ns()), ms(bound_ns));
                let what = match wait.done {
                    Some(_) => format!("it took {waited} ms until a {name} was done, at most {bound} ms are allowed"),
                    None => format!("for the last {waited} ms no {name} was done, at most {bound} ms are allowed"),
                };
                check.found("not-recovered", Some(key), events, what);
            }
            Some(Wait { done: None, .. }) if self.first.is_some_and(|first| first.done.is_none()) => {
                check.doubt(format!("the history ends before any {name} was done with key {key} after the last fault"));
            }
            Some(_) | None => {}
        }
    }
}

fn judge_ends(under_way: &BTreeMap<Index, &Event>, end_ns: u64, bound_ns: u64, check: &mut Check) {
    let (stuck, cut): (Vec<&Event>, Vec<&Event>) =
        under_way.values().copied().partition(|event| end_ns.saturating_sub(event.time_ns) > bound_ns);
    for event in &stuck {
        let waited = ms(end_ns - event.time_ns);
        let what = format!("a {} of process {} has no end after {waited} ms", event.op.name(), event.process);
        check.found("stuck", Some(event.op.key()), vec![event.index], what);
    }
    if !cut.is_empty() {
        check.doubt(format!("{} operations are under way when the history ends", cut.len()));
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        testing::{Story, kinds, shown_by},
        verdict::Verdict,
    };

    use super::*;

    const BOUND: Duration = Duration::from_millis(100);
    const MS: u64 = 1_000_000;

    fn told(faults_end_ms: u64, tell: impl FnOnce(&mut Story)) -> Check {
        let mut story = Story::new();
        tell(&mut story);
        check(story.events(), faults_end_ms * MS, BOUND)
    }

    #[test]
    fn what_goes_on_in_time_is_well() {
        let check = told(10, |story| {
            // Long before the last fault ends.
            story.wait_ms(10).sent(1, 1, 0).wait_ms(50).sent(1, 2, 1).wait_ms(50).sent(1, 3, 2);
        });
        assert_eq!((check.verdict, &check.why), (Verdict::Valid, &None));
        assert_eq!(check.figures["keys"], 1.0);
        assert_eq!(check.figures["first_ok_max_ms"], 1.0);
        assert_eq!(check.figures["longest_gap_ms"], 1.0, "nobody tried in between");
        assert_eq!(check.figures["fault_free_ms"], 105.0);
    }

    #[test]
    fn a_key_recovers_within_the_bound_from_the_end_of_the_fault_on() {
        let after = |ms: u64| {
            told(50, |story| {
                let send = story.send(1, 1);
                // It waits from 50 ms on.
                story.wait_ms(49 + ms);
                story.acked(send, 0);
            })
        };
        let in_time = after(100);
        assert_eq!(in_time.verdict, Verdict::Valid);
        assert_eq!(in_time.figures["first_ok_max_ms"], 100.0);
        let late = after(101);
        assert_eq!(kinds(&late), [("not-recovered", 1)]);
        assert_eq!(shown_by(&late, "not-recovered"), [0, 1]);
    }

    #[test]
    fn what_was_done_during_the_fault_begins_no_wait() {
        let check = told(100, |story| {
            let send = story.send(1, 1);
            story.sent(2, 2, 0).wait_ms(190);
            story.acked(send, 1);
        });
        assert_eq!((check.verdict, check.figures["first_ok_max_ms"]), (Verdict::Valid, 93.0));
    }

    #[test]
    fn a_key_that_nobody_tries_does_not_wait() {
        let check = told(0, |story| {
            story.wait_ms(500).sent(1, 1, 0).wait_ms(500).polled(1, 0, &[(0, 1)]);
        });
        assert_eq!(check.verdict, Verdict::Valid);
    }

    #[test]
    fn together_keys_need_not_each_be_tried_again() {
        let mut story = Story::new();
        story.sent(1, 1, 0).wait_ms(50).about(9).sent(1, 1, 0);
        let of = |served| check_served(story.events(), 20 * MS, BOUND, served).verdict;
        assert_eq!(of(Served::EachKey), Verdict::Inconclusive);
        assert_eq!(of(Served::Whole), Verdict::Valid);
    }

    #[test]
    fn reads_that_go_on_do_not_hide_writes_that_do_not() {
        let check = told(0, |story| {
            let send = story.send(1, 1);
            for _ in 0..4 {
                story.wait_ms(40).polled(1, 0, &[]);
            }
            story.unsure(send);
        });
        assert_eq!(kinds(&check), [("not-recovered", 1)]);
    }

    #[test]
    fn failures_do_not_end_a_wait() {
        for done in [false, true] {
            let check = told(0, |story| {
                for value in 0..4 {
                    let send = story.send(1, value);
                    story.wait_ms(40);
                    if value % 2 == 0 {
                        story.fails(send)
                    } else {
                        story.unsure(send)
                    };
                }
                if done {
                    story.sent(1, 9, 0);
                }
            });
            assert_eq!(kinds(&check), [("not-recovered", 1)]);
            let events: &[Index] = if done { &[0, 9] } else { &[0] };
            assert_eq!(shown_by(&check, "not-recovered"), events);
        }
    }

    #[test]
    fn that_a_register_holds_another_value_is_an_answer() {
        let cas = |error: Option<&str>| {
            let mut story = Story::new();
            for _ in 0..4 {
                let op = Op::Cas { key: 1, expected: None, value: 1 };
                let cas = story.begin(1, op);
                story.wait_ms(40);
                story.fails_with(cas, error);
            }
            check(story.events(), 0, BOUND)
        };
        assert_eq!(cas(None).verdict, Verdict::Valid);
        assert_eq!(kinds(&cas(Some("NOT_LEADER"))), [("not-recovered", 1)]);
    }

    #[test]
    fn a_later_gap_is_found_too() {
        let check = told(0, |story| {
            story.sent(1, 1, 0);
            let (send, other) = (story.send(1, 2), story.send(2, 3));
            story.acked(other, 1);
            story.wait_ms(150);
            story.acked(send, 2);
            story.sent(2, 4, 3);
        });
        assert_eq!(kinds(&check), [("not-recovered", 1)]);
        assert_eq!(shown_by(&check, "not-recovered"), [2, 5]);
        assert_eq!(check.figures["first_ok_max_ms"], 1.0);
        assert_eq!(check.figures["longest_gap_ms"], 151.0);
    }

    #[test]
    fn every_key_recovers_by_itself() {
        let check = told(0, |story| {
            let send = story.about(1).send(1, 1);
            story.about(2).sent(2, 1, 0).wait_ms(60).sent(2, 2, 1).wait_ms(60).sent(2, 3, 2);
            story.acked(send, 0);
        });
        assert_eq!(kinds(&check), [("not-recovered", 1)]);
        assert_eq!(check.anomalies[0].key, Some(1));
        assert_eq!((check.figures["first_ok_min_ms"], check.figures["first_ok_max_ms"]), (1.0, 127.0));
    }

    #[test]
    fn a_key_waits_while_something_is_tried_not_while_others_go_on() {
        let others_go_on = |story: &mut Story| {
            story.about(2).sent(2, 1, 0).wait_ms(200).sent(2, 2, 1);
        };
        let given_up = told(0, |story| {
            let send = story.about(1).send(1, 1);
            story.fails(send);
            others_go_on(story);
        });
        assert_eq!(given_up.verdict, Verdict::Inconclusive);
        let under_way = told(0, |story| {
            story.about(1).send(1, 1);
            others_go_on(story);
        });
        assert_eq!(kinds(&under_way), [("not-recovered", 1), ("stuck", 1)]);
    }

    #[test]
    fn a_final_read_is_no_recovery() {
        let check = told(0, |story| {
            let send = story.send(1, 1);
            story.wait_ms(70).final_of(1, &[]).wait_ms(70);
            story.unsure(send);
        });
        assert_eq!(kinds(&check), [("not-recovered", 1)]);
    }

    #[test]
    fn an_operation_without_an_end_is_stuck() {
        let check = told(0, |story| {
            story.asks_final(1);
            story.send(1, 1);
            story.sent(2, 2, 0).wait_ms(60).sent(3, 3, 1).wait_ms(60).sent(3, 4, 2);
            // Not for long enough.
            story.send(4, 5);
        });
        assert_eq!(kinds(&check), [("stuck", 2)]);
        assert_eq!(check.anomalies.iter().map(|stuck| stuck.events.clone()).collect::<Vec<_>>(), [[0], [1]]);
    }

    #[test]
    fn what_the_end_of_the_history_cut_off_leaves_a_doubt() {
        let check = told(0, |story| {
            story.sent(2, 2, 0).send(1, 1);
        });
        assert_eq!(check.verdict, Verdict::Inconclusive);
        let first = told(0, |story| {
            let send = story.send(1, 1);
            story.fails(send);
        });
        assert_eq!(first.verdict, Verdict::Inconclusive, "it was tried for too short a time");
    }

    #[test]
    fn a_key_that_nobody_tried_after_the_fault_leaves_a_doubt() {
        let check = told(50, |story| {
            story.about(1).sent(1, 1, 0).wait_ms(100).about(2).sent(1, 1, 0);
        });
        assert_eq!(check.verdict, Verdict::Inconclusive);
        assert_eq!(check.why.as_deref(), Some("nobody tried anything with key 1 after the last fault"));
    }
}
