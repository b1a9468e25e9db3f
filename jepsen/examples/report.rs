//! Writes the report of a run again, from what is in its directory: `cargo run -p levada-jepsen --example report -- DIR`.
//!
//! With `--sample valid` or `--sample invalid` before it, the directory gets a run that never was first: for who changes the
//! report, and wants to look at it without a cluster.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use levada_checkers::history::file;
use levada_jepsen::{
    report::{self, sample},
    results::Results,
};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *arguments.as_slice() {
        [dir] => render(Path::new(dir)),
        ["--sample", which, dir] => {
            write_sample(which, Path::new(dir))?;
            render(Path::new(dir))
        }
        _ => bail!("report [--sample valid|invalid] DIR"),
    }
}

fn render(dir: &Path) -> Result<()> {
    let path = dir.join("results.json");
    let text = fs::read(&path).with_context(|| path.display().to_string())?;
    let results: Results = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    let events = file::read(&dir.join("history.jsonl.zst"))?;
    let path = dir.join("report.html");
    fs::write(&path, report::html(&results, &events)).with_context(|| path.display().to_string())
}

fn write_sample(which: &str, dir: &Path) -> Result<()> {
    const SEED: u64 = 20;
    let (results, events) = match which {
        "valid" => sample::valid(SEED),
        "invalid" => sample::invalid(SEED),
        other => bail!("there is no sample {other}: valid, or invalid"),
    };
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    fs::write(dir.join("results.json"), serde_json::to_vec_pretty(&results)?)?;
    let mut writer = file::Writer::create(&dir.join("history.jsonl.zst"))?;
    for event in &events {
        writer.append(event)?;
    }
    Ok(writer.finish()?)
}
