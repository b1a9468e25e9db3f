//! Tests that a page names exist: a promise or a mended bug whose test was renamed away would be shown by nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result};

use super::Finding;

/// Pages that name tests.
const PAGES: [&str; 2] = ["docs/guarantees.md", "docs/track-record.md"];

/// What there is to be named.
struct Known {
    /// The names of a package's functions and files, by its name: a filter may name a part of either.
    packages: BTreeMap<String, String>,
    files: BTreeSet<String>,
}

pub(super) fn check(root: &Path, files: &[String], findings: &mut Vec<Finding>) -> Result<()> {
    let mut known = Known { packages: BTreeMap::new(), files: files.iter().cloned().collect() };
    for manifest in files.iter().filter(|path| path.ends_with("/Cargo.toml")) {
        let text = fs::read_to_string(root.join(manifest)).with_context(|| manifest.clone())?;
        let name = text.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
        let directory = manifest.trim_end_matches("Cargo.toml");
        let Some(name) = name else { continue };
        known.packages.insert(name.to_owned(), names_below(root, directory, files)?);
    }
    for page in PAGES {
        let text = fs::read_to_string(root.join(page)).with_context(|| page.to_owned())?;
        for (number, line) in (1..).zip(text.lines()) {
            for command in line.split('`').skip(1).step_by(2).filter(|span| span.starts_with("cargo test ")) {
                if let Some(what) = missing(command, &known) {
                    findings.push(Finding::new(
                        page,
                        number,
                        format!("`{command}`: there is no {what}: name the test that shows it"),
                    ));
                }
            }
        }
    }
    Ok(())
}

/// The functions and files of a package.
fn names_below(root: &Path, directory: &str, files: &[String]) -> Result<String> {
    let mut names = String::new();
    for path in files.iter().filter(|path| path.starts_with(directory)) {
        if path.ends_with(".rs") {
            let text = fs::read_to_string(root.join(path)).with_context(|| path.clone())?;
            let functions = text.lines().filter_map(|line| line.split_once("fn ")).map(|(_, name)| name);
            for name in functions.filter_map(|rest| rest.split(['(', '<']).next()) {
                names.push_str(name);
                names.push('\n');
            }
        }
        // A golden script is a test, too.
        names.push_str(path);
        names.push('\n');
    }
    Ok(names)
}

/// What a command names that is not there.
fn missing(command: &str, known: &Known) -> Option<String> {
    let mut names = None;
    let mut words = command.split_whitespace().skip(2);
    while let Some(word) = words.next() {
        match word {
            "-p" => {
                let package = words.next().unwrap_or_default();
                names = known.packages.get(package);
                if names.is_none() {
                    return Some(format!("package {package}"));
                }
            }
            "--test" => {
                let test = words.next().unwrap_or_default();
                let is_it = |file: &String| {
                    file.ends_with(&format!("/tests/{test}.rs")) || file.ends_with(&format!("/tests/{test}/main.rs"))
                };
                if !known.files.iter().any(is_it) {
                    return Some(format!("tests/{test}.rs"));
                }
            }
            "--" => return None,
            flag if flag.starts_with('-') => {}
            filter => {
                let part = filter.trim_end_matches("::").rsplit("::").next().unwrap_or_default();
                if !names.is_some_and(|names| names.contains(part)) {
                    return Some(format!("test {filter}"));
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_is_not_there_is_named() {
        let known = Known {
            packages: BTreeMap::from([
                ("levada-sim".to_owned(), "a_promise_holds\nsim/src/checker/tests.rs\n".to_owned()),
                ("levada-broker".to_owned(), "another\n".to_owned()),
            ]),
            files: BTreeSet::from(["sim/tests/worlds.rs".to_owned(), "sim/tests/large/main.rs".to_owned()]),
        };
        let missing = |command| missing(command, &known);
        assert_eq!(missing("cargo test -p levada-sim a_promise"), None);
        assert_eq!(missing("cargo test -p levada-sim --test worlds checker::"), None);
        assert_eq!(missing("cargo test -p levada-sim --test large"), None);
        assert_eq!(missing("cargo test -p levada-sim another"), Some("test another".to_owned()));
        assert_eq!(missing("cargo test -p levada-nobody"), Some("package levada-nobody".to_owned()));
        assert_eq!(missing("cargo test -p levada-sim --test small"), Some("tests/small.rs".to_owned()));
    }
}
