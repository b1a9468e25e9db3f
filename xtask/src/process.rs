//! Running other programs, with errors that say which one and what to do.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    // This crate stands one level below.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The cargo that runs this program, in the repository's root.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Runs it to its end; whether it succeeded.
pub(crate) fn succeeds(command: &mut Command) -> Result<bool> {
    let status = command.status().with_context(|| format!("cannot run {}", shown(command)))?;
    Ok(status.success())
}

/// Runs it to its end and answers what it printed; its failure is an error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {}", shown(command)))?;
    if !output.status.success() {
        bail!("{} failed ({}): {}", shown(command), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// As one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args()).map(|word| word.to_string_lossy().into_owned());
    words.collect::<Vec<_>>().join(" ")
}

/// What cargo knows of this workspace, without its dependencies.
pub(crate) fn metadata() -> Result<serde_json::Value> {
    metadata_of("Cargo.toml")
}

/// The same of the workspace with this manifest.
pub(crate) fn metadata_of(manifest: &str) -> Result<serde_json::Value> {
    let mut metadata = cargo(&["metadata", "--no-deps", "--format-version", "1", "--offline"]);
    let text = output(metadata.arg("--manifest-path").arg(root().join(manifest)))?;
    serde_json::from_str(&text).context("cargo metadata does not print JSON")
}

/// Where cargo builds to.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let metadata = metadata()?;
    let directory = metadata["target_directory"].as_str().context("cargo metadata names no target directory")?;
    Ok(PathBuf::from(directory))
}

/// `cargo xtask sim`: the simulator with these arguments, optimised, as it runs for minutes.
pub(crate) fn sim(arguments: &[String]) -> Result<bool> {
    let mut command = cargo(&["run", "--release", "--package", "levada-sim", "--"]);
    succeeds(command.args(arguments))
}

/// `cargo xtask selftest`: the simulator with bugs planted in the product, each of which it must find.
pub(crate) fn selftest(arguments: &[String]) -> Result<bool> {
    let mut command =
        cargo(&["run", "--release", "--package", "levada-sim", "--features", "planted", "--", "--selftest"]);
    succeeds(command.args(arguments))
}

/// `cargo xtask metrics`: the test that compares `docs/metrics.md` with the constants of all crates, told to write it. Not a
/// dependency on these crates: this one builds in seconds.
pub(crate) fn metrics() -> Result<bool> {
    let mut command = cargo(&["test", "--quiet", "--package", "levada", "--test", "metrics_page"]);
    succeeds(command.env("TEST_WRITE_METRICS_PAGE", "1"))
}

/// `cargo xtask demo`: real data through three nodes, optimised.
pub(crate) fn demo(arguments: &[String]) -> Result<bool> {
    println!("building the levada command and the demo (optimised; minutes the first time)");
    if !succeeds(&mut cargo(&["build", "--release", "--package", "levada", "--package", "levada-demo"]))? {
        bail!("the demo does not build: see above");
    }
    let built = target_dir()?.join("release");
    let mut demo = Command::new(built.join("levada-demo"));
    succeeds(demo.arg("--levada").arg(built.join("levada")).args(arguments))
}
