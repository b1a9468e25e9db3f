//! Finds `.rs` files that are compiled into nothing: no target's root, and reached by no `mod`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{Finding, rust};

pub(super) fn check(
    root: &Path,
    files: &[String],
    workspaces: &[serde_json::Value],
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let mut reached = BTreeSet::new();
    for metadata in workspaces {
        let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
        for target in packages.iter().filter_map(|package| package["targets"].as_array()).flatten() {
            let path = target["src_path"].as_str().context("cargo metadata names a target without a path")?;
            reach(Path::new(path), true, &mut reached)?;
        }
    }
    for path in files.iter().filter(|path| path.ends_with(".rs")) {
        if !reached.contains(&root.join(path)) {
            findings.push(Finding::new(path, 0, "no `mod` leads here, so it is never compiled: use or remove it"));
        }
    }
    Ok(())
}

/// Adds the file and all that its `mod` items lead to.
fn reach(file: &Path, is_root: bool, reached: &mut BTreeSet<PathBuf>) -> Result<()> {
    if !reached.insert(file.to_owned()) {
        return Ok(());
    }
    let Ok(text) = fs::read_to_string(file) else {
        // The compiler says it better.
        return Ok(());
    };
    let directory = file.parent().context("a source file stands in no directory")?;
    let stem = file.file_stem().context("a source file has no name")?;
    let children = if is_root || stem == "mod" { directory.to_owned() } else { directory.join(stem) };
    for module in declared(&text) {
        match module {
            Module::Named(name) => {
                let (flat, folder) = (children.join(format!("{name}.rs")), children.join(name).join("mod.rs"));
                reach(if flat.exists() { &flat } else { &folder }, false, reached)?;
            }
            Module::Path(path) => reach(&plain(&directory.join(path)), false, reached)?,
        }
    }
    Ok(())
}

/// A module in a file of its own.
#[derive(Debug, PartialEq, Eq)]
enum Module {
    /// Where its name says.
    Named(String),
    /// Where its `#[path]` says.
    Path(String),
}

/// The modules that a file declares: `mod name;`, with or without visibility and `#[path]`.
fn declared(text: &str) -> Vec<Module> {
    let mut modules = Vec::new();
    let mut path = None;
    for (line, original) in rust::code(text).lines().zip(text.lines()) {
        if let Some(given) = original.trim().strip_prefix("#[path = \"").and_then(|rest| rest.strip_suffix("\"]")) {
            path = Some(given.to_owned());
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = match words.as_slice() {
            [.., "mod", name] => name.strip_suffix(';'),
            _ => None,
        };
        if let Some(name) = name {
            modules.push(path.take().map_or_else(|| Module::Named(name.to_owned()), Module::Path));
        }
    }
    modules
}

/// Without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(out.pop()),
            part => out.push(part),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_found_where_they_are_declared() {
        let text =
            "mod a;\npub(crate) mod b;\n// mod c;\nmod d {}\n#[path = \"../x/e.rs\"]\nmod e;\n#[cfg(test)] mod f;\n";
        let named = |name: &str| Module::Named(name.to_owned());
        let expected = [named("a"), named("b"), Module::Path("../x/e.rs".to_owned()), named("f")];
        assert_eq!(declared(text), expected);
    }

    #[test]
    fn a_file_that_nothing_declares_is_found() {
        let directory = std::env::temp_dir().join(format!("levada-tidy-{}", std::process::id()));
        let source = directory.join("src");
        fs::create_dir_all(source.join("a")).unwrap();
        for (name, text) in [("lib.rs", "mod a;\n"), ("a/mod.rs", "mod b;\n"), ("a/b.rs", ""), ("a/dead.rs", "")] {
            fs::write(source.join(name), text).unwrap();
        }
        let files = ["src/lib.rs", "src/a/mod.rs", "src/a/b.rs", "src/a/dead.rs"].map(str::to_owned);
        let metadata = serde_json::json!({"packages": [{"targets": [{"src_path": source.join("lib.rs")}]}]});
        let mut findings = Vec::new();
        check(&directory, &files, &[metadata], &mut findings).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        let paths: Vec<&str> = findings.iter().map(|finding| finding.path.as_str()).collect();
        assert_eq!(paths, ["src/a/dead.rs"]);
    }
}
