//! `levada doctor`: looks at a machine and a configuration as the server would meet them, and at the cluster if there is
//! one, and says of everything it finds what to do about it.
//!
//! It changes nothing but for a scratch file in the data directory, which it removes. Each check is a function that gives
//! findings; what a check decides by is kept apart from how it looks, so that it can be tested.

mod clock;
mod cluster;
pub(crate) mod configuration;
mod directory;
mod doors;
mod limits;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;
use serde_json::json;

use self::configuration::Configuration;
use crate::{args::Global, print, server::flags::ConfigFlags};

/// Looks for what is wrong with a machine, a configuration or a cluster, and says what to do.
#[derive(Args)]
#[command(after_help = "\
Takes the configuration as `levada server` does: file, environment, flags. Without any it looks
at the machine alone, with --data-dir also at that directory's disk. Nodes are asked at
--bootstrap. Ends with 1 if something is wrong.")]
pub(crate) struct DoctorArgs {
    /// The node's configuration file
    #[arg(long, env = "LEVADA_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: ConfigFlags,
}

/// How it is with what was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it should be.
    Ok,
    /// It could not be looked at.
    Skipped,
    /// It works, but not well, or not for long.
    Warning,
    /// It does not work, or does not keep what is promised.
    Wrong,
}

/// What was seen, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What was looked at: stable, for scripts.
    check: &'static str,
    state: State,
    pub(crate) saw: String,
    /// Empty when there is nothing to be done.
    todo: String,
}

impl Finding {
    fn ok(check: &'static str, saw: impl Into<String>) -> Self {
        Self { check, state: State::Ok, saw: saw.into(), todo: String::new() }
    }

    fn skipped(check: &'static str, saw: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { check, state: State::Skipped, saw: saw.into(), todo: todo.into() }
    }

    fn warning(check: &'static str, saw: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { check, state: State::Warning, saw: saw.into(), todo: todo.into() }
    }

    fn wrong(check: &'static str, saw: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { check, state: State::Wrong, saw: saw.into(), todo: todo.into() }
    }
}

pub(crate) async fn run(global: &Global, args: DoctorArgs) -> Result<()> {
    let reached = cluster::reach(global).await;
    let (configuration, finding) = Configuration::load(args.config, args.flags);
    let mut findings = vec![finding];
    if let Some(configuration) = &configuration {
        findings.extend(directory::check(configuration).await);
        findings.extend(doors::check(configuration, reached.as_ref().ok()).await);
    }
    findings.extend(limits::check(configuration.as_ref()));
    findings.push(clock::check());
    findings.extend(cluster::check(reached).await);
    tell(global, &findings)?;
    match findings.iter().filter(|finding| finding.state == State::Wrong).count() {
        0 => Ok(()),
        1 => bail!("one thing is wrong; what to do stands beside it"),
        wrong => bail!("{wrong} things are wrong; what to do stands beside each"),
    }
}

fn tell(global: &Global, findings: &[Finding]) -> Result<()> {
    if global.is_json() {
        let wrong = findings.iter().filter(|finding| finding.state == State::Wrong).count();
        return print::json(&json!({"wrong": wrong, "findings": findings}));
    }
    let shown: Vec<String> = findings.iter().map(show).collect();
    print::line(&shown.join("\n"))
}

/// Where the words of a finding begin, and where they end.
const INDENT: usize = 24;
const WIDTH: usize = 110;

fn show(finding: &Finding) -> String {
    let state = match finding.state {
        State::Ok => "ok",
        State::Skipped => "skipped",
        State::Warning => "warning",
        State::Wrong => "WRONG",
    };
    let saw = wrap(&finding.saw, "");
    let head = format!("{state:<9}{:<15}{}", finding.check, saw.trim_start());
    if finding.todo.is_empty() { head } else { format!("{head}\n{}", wrap(&finding.todo, "-> ")) }
}

/// Breaks words into lines behind the indent; the mark stands before the first.
fn wrap(words: &str, mark: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut line = mark.to_owned();
    for word in words.split_whitespace() {
        if INDENT + line.chars().count() + word.chars().count() > WIDTH && line.trim() != mark.trim() {
            lines.push(std::mem::replace(&mut line, " ".repeat(mark.len())));
        }
        line.push_str(word);
        line.push(' ');
    }
    lines.push(line);
    let lines: Vec<String> = lines.iter().map(|line| format!("{:INDENT$}{}", "", line.trim_end())).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_shown_with_what_to_do_below() {
        assert_eq!(show(&Finding::ok("ports", "all are free")), "ok       ports          all are free");
        let long = "word ".repeat(30);
        let shown = show(&Finding::wrong("disk.sync", long.trim(), "buy another"));
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 3, "{shown}");
        assert!(lines[0].starts_with("WRONG    disk.sync      word word") && lines[0].len() <= WIDTH, "{shown}");
        assert!(lines[1].starts_with(&format!("{:INDENT$}word", "")), "{shown}");
        assert_eq!(lines[2], format!("{:INDENT$}-> buy another", ""));
    }
}
