//! `docs/events.md` lists every event that the code writes, with its levels, and no other; every event has a name.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

const CRATES: [&str; 6] = ["protocol", "storage-engine", "broker", "client", "compute", "cli"];

/// Of each event, the levels at which it is written.
type Events = BTreeMap<String, BTreeSet<String>>;

#[test]
fn the_page_lists_all_events() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut code = Events::new();
    for name in CRATES {
        sources(&root.join(name).join("src"), &mut |path, text| {
            for (level, words) in calls(text) {
                let name = words.split(": ").next().unwrap_or_default().to_owned();
                assert!(is_name(&name), "{}: {words:?} begins with no name like `peer.connected`", path.display());
                code.entry(name).or_default().insert(level);
            }
        });
    }
    assert!(code.len() > 50, "the code is not understood: {code:?}");
    let page = fs::read_to_string(root.join("docs/events.md")).unwrap();
    let listed: Events = page.lines().filter_map(row).collect();
    let lacks: Vec<_> = code.iter().filter(|(name, levels)| listed.get(*name) != Some(levels)).collect();
    assert!(lacks.is_empty(), "docs/events.md must list these, with these levels: {lacks:#?}");
    let gone: Vec<_> = listed.keys().filter(|name| !code.contains_key(*name)).collect();
    assert!(gone.is_empty(), "docs/events.md lists what nothing writes: {gone:?}");
}

/// The name and the levels in a row of the page.
fn row(line: &str) -> Option<(String, BTreeSet<String>)> {
    let mut cells = line.strip_prefix("| `")?.split(" | ");
    let name = cells.next()?.strip_suffix('`')?.to_owned();
    Some((name, cells.next()?.split(", ").map(str::to_owned).collect()))
}

fn is_name(name: &str) -> bool {
    name.contains('.') && name.bytes().all(|byte| byte.is_ascii_lowercase() || b"._".contains(&byte))
}

fn sources(directory: &Path, each: &mut impl FnMut(&Path, &str)) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, each);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            // Tests may write what they like.
            each(&path, text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default());
        }
    }
}

/// Level and last string of every call of one of `tracing`'s macros.
fn calls(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for level in ["error", "warn", "info", "debug", "trace"] {
        let call = format!("tracing::{level}!(");
        for (at, _) in text.match_indices(&call) {
            let rest = text.get(at + call.len()..).unwrap_or_default();
            found.push((level.to_uppercase(), last_string(rest)));
        }
    }
    found
}

/// The last string before the parenthesis that closes what was open at the beginning.
fn last_string(text: &str) -> String {
    let (mut depth, mut string, mut last) = (0_i32, None::<String>, String::new());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (&mut string, character) {
            (Some(_), '"') => last = string.take().unwrap_or_default(),
            (Some(string), '\\') => string.extend(characters.next()),
            (Some(string), other) => string.push(other),
            (None, '"') => string = Some(String::new()),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') if depth == 0 => break,
            (None, ')' | ']' | '}') => depth -= 1,
            _ => {}
        }
    }
    last
}

#[test]
fn strings_are_found_where_they_stand() {
    let text = r#"x(1); tracing::warn!(error = format!("{e} \" )"), at = ["y"], "a.b: and (more)"); other("c.d")"#;
    assert_eq!(calls(text), [("WARN".to_owned(), "a.b: and (more)".to_owned())]);
}
