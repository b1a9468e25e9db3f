//! Of a run that is INVALID, what a person must read: a minimal history beside the whole one, its story, and both in the report.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use levada_checkers::{
    history::{Event, file},
    log, register,
    shrink::{Minimal, Progress, shrink},
    verdict::{Anomaly, Check},
};

use crate::{
    report,
    results::{Results, Shrunk},
    workload::{LOG, WITH_GAPS},
};

/// Their names in a run's directory.
pub const HISTORY: &str = "minimal.jsonl.zst";
/// The story's.
pub const STORY: &str = "minimal.txt";

/// Shrinks the history of a run to what shows an anomaly of a kind, or the first that was found, and keeps that beside it.
///
/// # Errors
/// There is no such run, it is not INVALID, or what is wrong with it is not in its history.
pub fn run(store: &Path, kind: Option<&str>, tell: &mut dyn FnMut(Progress)) -> Result<String> {
    let path = store.join("results.json");
    let text =
        fs::read(&path).with_context(|| format!("{}: it is not the directory of a run that ended", path.display()))?;
    let mut results: Results = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    let events = file::read(&store.join("history.jsonl.zst"))?;
    let minimal = minimal(&results, &events, kind, tell)?;
    let mut writer = file::Writer::create(&store.join(HISTORY))?;
    minimal.events.iter().try_for_each(|event| writer.append(event))?;
    writer.finish()?;
    let story = minimal.story();
    fs::write(store.join(STORY), &story)?;
    results.shrunk = Some(Shrunk { kind: minimal.anomaly.kind, story: story.clone() });
    fs::write(&path, serde_json::to_string_pretty(&results)?)?;
    fs::write(store.join("report.html"), report::html(&results, &events))?;
    Ok(story)
}

fn minimal(results: &Results, events: &[Event], kind: Option<&str>, tell: &mut dyn FnMut(Progress)) -> Result<Minimal> {
    let (judge, anomaly) = target(events, kind).with_context(|| {
        let kinds: Vec<&str> = results.checks.iter().flat_map(|check| check.counts.keys()).map(String::as_str).collect();
        let kinds = if kinds.is_empty() { "nothing".to_owned() } else { kinds.join(", ") };
        format!(
            "the history of {} shows no {} that could be shrunk (only what the checkers of logs and registers find can be); what was \
             found in this run is: {kinds}",
            results.id,
            kind.unwrap_or("anomaly")
        )
    })?;
    let Some(minimal) = shrink(events, &anomaly, judge, tell) else {
        bail!(
            "the {} that was found is not found again in the part of the history that is about its key",
            anomaly.kind
        );
    };
    ensure!(!minimal.events.is_empty(), "nothing is left");
    Ok(minimal)
}

type Judge = &'static dyn Fn(&[Event]) -> Check;

/// The anomaly to keep, and who finds it. Whoever does not take what was left out for a gap comes first.
fn target(events: &[Event], kind: Option<&str>) -> Option<(Judge, Anomaly)> {
    let judges: [Judge; 3] =
        [&|events| log::check_with(events, &WITH_GAPS), &|events| log::check_with(events, &LOG), &register::check];
    judges.into_iter().find_map(|judge| {
        let found = judge(events).anomalies.into_iter();
        found.into_iter().find(|anomaly| kind.is_none_or(|kind| anomaly.kind == kind)).map(|anomaly| (judge, anomaly))
    })
}

#[cfg(test)]
mod tests {
    use levada_checkers::verdict::Verdict;

    use super::*;
    use crate::{report::sample, workload::Workload};

    fn kept(dir: &Path, (results, events): (Results, Vec<Event>)) {
        fs::write(dir.join("results.json"), serde_json::to_string(&results).unwrap()).unwrap();
        let mut writer = file::Writer::create(&dir.join("history.jsonl.zst")).unwrap();
        events.iter().for_each(|event| writer.append(event).unwrap());
        writer.finish().unwrap();
    }

    #[test]
    fn an_invalid_run_gets_a_minimal_history_a_story_and_both_in_its_report() {
        let dir = tempfile::tempdir().unwrap();
        kept(dir.path(), sample::invalid(4));
        let mut told = 0;
        let story = run(dir.path(), None, &mut |_| told += 1).unwrap();
        assert!(told > 10, "{told}");
        let (whole, minimal) = (
            file::read(&dir.path().join("history.jsonl.zst")).unwrap(),
            file::read(&dir.path().join(HISTORY)).unwrap(),
        );
        assert!(whole.len() > 1_000 && minimal.len() < 20, "{} of {}", minimal.len(), whole.len());
        let kind = story.split(' ').next().unwrap();
        let check = log::check_with(&minimal, &WITH_GAPS);
        assert!(check.counts.contains_key(kind) && check.verdict == Verdict::Invalid, "{kind}: {:?}", check.counts);
        assert_eq!(fs::read_to_string(dir.path().join(STORY)).unwrap(), story);
        let report = fs::read_to_string(dir.path().join("report.html")).unwrap();
        assert!(report.contains(STORY) && report.contains(HISTORY) && report.contains("histories were judged"));
    }

    #[test]
    fn any_kind_of_a_run_can_be_shrunk() {
        let (results, events) = sample::invalid(4);
        let checks = [Workload::Queue, Workload::Register].map(|workload| workload.check(&events)).concat();
        let kinds: Vec<&String> = checks.iter().flat_map(|check| check.counts.keys()).collect();
        assert!(kinds.len() > 5, "{kinds:?}");
        for kind in kinds {
            let minimal = minimal(&results, &events, Some(kind), &mut |_| {}).unwrap();
            assert!(minimal.anomaly.kind == *kind && minimal.events.len() < 60, "{kind}: {}", minimal.story());
        }
    }

    #[test]
    fn a_run_with_nothing_wrong_in_its_history_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        kept(dir.path(), sample::valid(4));
        let refused = run(dir.path(), None, &mut |_| {}).unwrap_err().to_string();
        assert!(refused.contains("nothing"), "{refused}");
        assert!(!dir.path().join(HISTORY).exists());
    }
}
