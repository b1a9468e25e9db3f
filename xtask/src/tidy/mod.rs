//! `cargo xtask tidy`: what the compiler and clippy do not look for.
//!
//! - nothing is left behind: no notes to oneself, no debugging macros, no paths of the machine it was written on;
//! - no `.rs` file that no `mod` reaches;
//! - every crate takes the workspace's lints, and none has planted bugs by default;
//! - files over [`FILE_LINES_MAX`] and functions over [`FUNCTION_LINES_MAX`] lines stand in [`LONG`] with the reason why
//!   they may; what is no longer that long must not stand there;
//! - the tests that `docs/guarantees.md` and `docs/track-record.md` name exist.
//!
//! Every finding is one line: where, what, and what to do about it.

mod features;
mod modules;
mod rust;
mod shown;
mod text;

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use crate::process;

/// A longer file has more than one responsibility, or a reason in [`LONG`].
const FILE_LINES_MAX: usize = 600;
/// A longer function has more than one responsibility, or a reason in [`LONG`].
const FUNCTION_LINES_MAX: usize = 120;

/// What may be long, and why: a file's path, or `path: function`.
const LONG: &[(&str, &str)] = &[];

/// Something that is not as it should be, and what to do.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    /// From 1; 0 when it is about the whole file.
    line: usize,
    what: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }
}

/// Something that is longer than usual.
#[derive(Debug, PartialEq, Eq)]
struct Long {
    /// As it stands in [`LONG`].
    name: String,
    lines: usize,
    lines_max: usize,
}

/// Checks the whole tree; whether it is tidy.
pub(crate) fn run() -> Result<bool> {
    let root = process::root();
    let mut findings = Vec::new();
    let mut long = Vec::new();
    let files = files(root)?;
    let mut workspaces = Vec::new();
    for path in &files {
        // Binary files have nothing to be tidied.
        let Ok(text) = String::from_utf8(fs::read(root.join(path)).with_context(|| path.clone())?) else { continue };
        text::check(path, &text, &mut findings);
        if path.ends_with(".rs") {
            rust::check(path, &text, &mut findings, &mut long);
        }
        if path.ends_with("Cargo.toml") && text.contains("[package]") && !text.contains("[lints]\nworkspace = true") {
            findings.push(Finding::new(path, 0, "has no `[lints] workspace = true`: add it"));
        }
        if path.ends_with("Cargo.toml") && text.lines().any(|line| line == "[workspace]") {
            workspaces.push(process::metadata_of(path)?);
        }
    }
    shown::check(root, &files, &mut findings)?;
    modules::check(root, &files, &workspaces, &mut findings)?;
    features::check(&workspaces, &mut findings);
    findings.extend(judge(&long, LONG));

    for Finding { path, line, what } in &findings {
        match line {
            0 => println!("{path}: {what}"),
            line => println!("{path}:{line}: {what}"),
        }
    }
    println!("{} files looked at, {} findings", files.len(), findings.len());
    Ok(findings.is_empty())
}

/// The files of the repository and those about to be: tracked, or neither tracked nor ignored.
fn files(root: &Path) -> Result<Vec<String>> {
    let arguments = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let listing = process::output(Command::new("git").args(arguments).current_dir(root))?;
    let mut files: Vec<String> = listing.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect();
    files.retain(|path| root.join(path).is_file());
    files.sort_unstable();
    files.dedup();
    Ok(files)
}

/// What is long without a reason, and reasons without anything long. Prints what is long with one.
fn judge(long: &[Long], reasons: &[(&str, &str)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for Long { name, lines, lines_max } in long {
        match reasons.iter().find(|(known, _)| known == name) {
            Some((_, reason)) => println!("{name}: {lines} lines, because {reason}"),
            None => findings.push(Finding::new(
                name,
                0,
                format!("{lines} lines, more than {lines_max}: split it, or give a reason in xtask/src/tidy/mod.rs"),
            )),
        }
    }
    for (name, _) in reasons {
        if !long.iter().any(|long| long.name == *name) {
            findings.push(Finding::new(name, 0, "is not long any more: take it out of xtask/src/tidy/mod.rs"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_things_need_a_reason_and_reasons_need_long_things() {
        let long = |name: &str| Long { name: name.to_owned(), lines: 700, lines_max: 600 };
        let findings = judge(&[long("a.rs"), long("b.rs")], &[("b.rs", "it is a table"), ("c.rs", "it was one")]);
        let about: Vec<&str> = findings.iter().map(|finding| finding.path.as_str()).collect();
        assert_eq!(about, ["a.rs", "c.rs"]);
    }
}
