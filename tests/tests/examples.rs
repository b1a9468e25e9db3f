//! The client's examples, run as they stand.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use levada_tests::{dev::Dev, tools};

#[test]
fn a_topic_is_made_written_and_read_by_the_examples() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let dev = Dev::start(tools::levada(), directory.path(), &["--nodes", "1", "--port-base", "0"])?;
    let run = |name: &str| -> Result<String> {
        let output = Command::new(tools::client_example(name)?).args([dev.bootstrap(), "orders".into()]).output()?;
        ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    let made = run("admin")?;
    assert_eq!(made.matches("offsets 0 to 0").count(), 4, "four empty partitions: {made}");
    let written = run("produce")?;
    assert_eq!(written.lines().count(), 10, "{written}");
    let described = run("admin")?;
    let records: u64 = described.lines().filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum();
    assert_eq!(records, 10, "{described}");

    // This one follows, until somebody ends it.
    let output = Command::new("timeout")
        .arg("3")
        .arg(tools::client_example("consume")?)
        .args([dev.bootstrap(), "orders".into()])
        .stdin(Stdio::null())
        .output()?;
    let mut rows = 0;
    for line in String::from_utf8(output.stdout)?.lines() {
        let count = line.split(": ").nth(1).and_then(|rest| rest.split(' ').next());
        rows += count.with_context(|| line.to_owned())?.parse::<u64>()?;
    }
    assert_eq!(rows, 10, "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
