//! A Python with pyarrow, made once and kept.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

/// Kept between runs and shared by all tests of the workspace.
fn home() -> PathBuf {
    let cache = std::env::var_os("LEVADA_CACHE").map(PathBuf::from);
    cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache/levada")).join("venv")
}

/// The interpreter; `None`, loudly, if it cannot be had.
pub fn interpreter() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOUND.get_or_init(|| find().inspect_err(|why| skipped(why)).ok()).as_deref()
}

fn find() -> Result<PathBuf, String> {
    let venv = home();
    let python = venv.join("bin/python");
    let works = |python: &Path| run(Command::new(python).args(["-c", "import pyarrow.flight"])).is_ok();
    if works(&python) {
        return Ok(python);
    }
    // Several test binaries may want it at once: each makes its own, and one of them stays.
    let made = venv.with_extension(std::process::id().to_string());
    run(Command::new("python3").arg("-m").arg("venv").arg(&made))?;
    run(Command::new(made.join("bin/python")).args(["-m", "pip", "install", "--quiet", "pyarrow"]))?;
    let _ = std::fs::remove_dir_all(&venv);
    let _ = std::fs::rename(&made, &venv);
    if works(&python) { Ok(python) } else { Err("pyarrow was installed and cannot be imported".to_owned()) }
}

fn run(command: &mut Command) -> Result<Output, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        Ok(output)
    } else {
        Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

fn skipped(why: &str) {
    if std::env::var_os("LEVADA_PYTHON_REQUIRED").is_some() {
        panic!("pyarrow is required and cannot be had: {why}");
    }
    let line = "!".repeat(100);
    eprintln!("{line}\nSKIPPED: tests with pyarrow did not run, because it cannot be installed: {why}\n{line}");
}

/// Runs a script with arguments; what it prints. Panics with its errors if it fails.
pub async fn python(interpreter: &Path, script: &str, arguments: &[&str]) -> String {
    let output = tokio::task::spawn_blocking({
        let mut command = Command::new(interpreter);
        command.arg("-c").arg(script).args(arguments);
        move || command.output().unwrap()
    });
    let output = output.await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    out.into_owned()
}
