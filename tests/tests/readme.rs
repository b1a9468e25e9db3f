//! What the README shows, run as it stands there.

use std::process::Command;

use anyhow::{Context as _, Result};
use levada_tests::{dev::Dev, tools};

const README: &str = include_str!("../../README.md");

/// What stands between two marks.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> Result<&'a str> {
    let (_, rest) = text.split_once(begin).with_context(|| format!("the README has no {begin:?}"))?;
    Ok(rest.split_once(end).with_context(|| format!("the README has no {end:?} behind {begin:?}"))?.0)
}

#[test]
fn five_minutes_and_ten_lines_of_python() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let dev = Dev::start(tools::levada(), &directory.path().join("cluster"), &["--nodes", "3", "--port-base", "0"])?;
    let binary = tools::levada().parent().context("the binary stands in a directory")?;
    // Everything of the tour but the nodes themselves, which run already.
    let tour = README.split("## Five minutes").nth(1).context("the README has no tour")?;
    let blocks: Vec<&str> = tour.split("```sh\n").skip(2).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 2, "the tour has two blocks behind the one that starts the nodes");
    let mut path = std::ffi::OsString::from(binary);
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut printed = String::new();
    for block in blocks {
        let output = Command::new("sh")
            .args(["-ec", block])
            .env("LEVADA_BOOTSTRAP", dev.bootstrap())
            .env("PATH", &path)
            .current_dir(directory.path())
            .output()?;
        assert!(output.status.success(), "{block}\n{}", String::from_utf8_lossy(&output.stderr));
        printed.push_str(&String::from_utf8_lossy(&output.stdout));
    }
    for word in ["\"value\":\"hello\"", "controller", "HOUSEHOLD  PRICE", "2.5"] {
        assert!(printed.contains(word), "{word} is not in:\n{printed}");
    }

    let example = between(README, "```python\n", "```")?;
    assert_eq!(example.lines().count(), 10, "ten lines, the import among them");
    let script = example.replace("127.0.0.1:9171", &dev.nodes[0].flight);
    assert_ne!(script, example);
    let output = Command::new(tools::python()).args(["-c", &script]).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("milk") && said.contains("household: int64 not null"), "{said}");
    Ok(())
}
