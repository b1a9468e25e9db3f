//! The same world twice: it must tell the same story, or no failure could be looked into.
//!
//! A run follows from its seed, and nothing but its story shows whether it does. Both stories are kept, so that a difference is
//! told with the line at which it begins and what either run told there. What came of the runs is compared, too: not everything
//! that happens has a line.

use std::{cell::RefCell, io, rc::Rc};

use crate::{
    checker::{Anomaly, Kind},
    options::Options,
    scenarios,
    world::Outcome,
};

/// Runs a world twice.
///
/// # Errors
/// What should not have been, as in [`scenarios::run`], and that the runs differ ([`Kind::Differs`]).
pub fn run(options: &Options) -> Result<Outcome, Vec<Anomaly>> {
    compare(options, options)
}

fn compare(options: &Options, again: &Options) -> Result<Outcome, Vec<Anomaly>> {
    let (first, again) = (Run::of(options), Run::of(again));
    let Some(what) = first.differs(&again) else { return first.result };
    let mut anomalies = vec![Anomaly { kind: Kind::Differs, what }];
    anomalies.extend(first.result.err().into_iter().flatten());
    Err(anomalies)
}

/// What a run told, and came to.
#[derive(Debug)]
struct Run {
    story: Vec<u8>,
    result: Result<Outcome, Vec<Anomaly>>,
}

impl Run {
    fn of(options: &Options) -> Self {
        let story = Kept::default();
        let result = scenarios::run_told(options, story.clone());
        Self { story: story.0.take(), result }
    }

    /// How another run differs, if it does.
    fn differs(&self, again: &Self) -> Option<String> {
        let part = part(&self.story, &again.story);
        let is_same = self.result == again.result;
        part.or_else(|| {
            let (first, again) = (&self.result, &again.result);
            (!is_same).then(|| format!("two runs told the same story, and came to {first:?} and {again:?}"))
        })
    }
}

/// Where two stories part, if they do.
fn part(first: &[u8], again: &[u8]) -> Option<String> {
    if first == again {
        return None;
    }
    let (mut first, mut again) = (lines(first), lines(again));
    let mut number = 1_u64;
    loop {
        match (first.next(), again.next()) {
            (None, None) => return None,
            (first, again) if first == again => number += 1,
            (first, again) => {
                let (first, again) = (quoted(first), quoted(again));
                return Some(format!("two runs part at line {number}: the first told {first}, the second {again}"));
            }
        }
    }
}

fn lines(story: &[u8]) -> impl Iterator<Item = &[u8]> {
    story.split_inclusive(|byte| *byte == b'\n')
}

fn quoted(line: Option<&[u8]>) -> String {
    line.map_or_else(|| "no more".to_owned(), |line| format!("`{}`", String::from_utf8_lossy(line).trim()))
}

/// Keeps a story.
#[derive(Clone, Debug, Default)]
struct Kept(Rc<RefCell<Vec<u8>>>);

impl io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::scenarios::Scenario;

    use super::*;

    #[test]
    fn stories_part_at_the_first_line_that_is_not_the_same() {
        assert_eq!(part(b"a\nb\n", b"a\nb\n"), None);
        let parted = part(b"a\n 1 b\nc\n", b"a\n 1 x\nc\n").unwrap();
        assert_eq!(parted, "two runs part at line 2: the first told `1 b`, the second `1 x`");
        let shorter = part(b"a\nb\n", b"a\n").unwrap();
        assert_eq!(shorter, "two runs part at line 2: the first told `b`, the second no more");
        assert!(part(b"", b"a\n").unwrap().ends_with("the first told no more, the second `a`"));
    }

    #[test]
    fn worlds_that_differ_are_told_apart_with_the_step() {
        let options = Scenario::named("calm").unwrap().options(1, 3, 2);
        assert!(run(&options).is_ok());
        // The two are the same until the longer time of faults, or what is drawn for it, makes a difference.
        let mut longer = options.clone();
        longer.faults_us += 500_000;
        let anomalies = compare(&options, &longer).unwrap_err();
        assert_eq!(anomalies.len(), 1);
        assert_eq!(anomalies[0].kind, Kind::Differs);
        let line = anomalies[0].what.strip_prefix("two runs part at line ").unwrap();
        let line: u64 = line.split(':').next().unwrap().parse().unwrap();
        assert!(line > 1_000, "{anomalies:?}");
    }

    #[test]
    fn what_no_line_tells_is_compared_too() {
        let options = Scenario::named("calm").unwrap().options(1, 3, 1);
        let (first, mut again) = (Run::of(&options), Run::of(&options));
        assert_eq!(first.differs(&again), None);
        again.result.as_mut().unwrap().lasted_us += 1;
        assert!(first.differs(&again).unwrap().starts_with("two runs told the same story, and came to Ok"));
    }
}
