//! What a test needs beyond Rust, made ready once: the built binary, and a Python with pyarrow.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, OnceLock, PoisonError},
};

use anyhow::{Context as _, Result, bail};

/// The `levada` binary of this build: the one that `TEST_LEVADA_BINARY` names, or built on first use.
///
/// # Panics
/// When it cannot be built: no test over it can say anything then.
#[must_use]
pub fn levada() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| build().expect("the levada binary is built"))
}

fn build() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("TEST_LEVADA_BINARY") {
        return Ok(path.into());
    }
    Ok(cargo_build(&["--package", "levada"])?.join("levada"))
}

/// An example of the client: from beside the binary that `TEST_LEVADA_BINARY` names, or built.
///
/// # Errors
/// When it cannot be built.
pub fn client_example(name: &str) -> Result<PathBuf> {
    if let Some(binary) = std::env::var_os("TEST_LEVADA_BINARY") {
        let beside = Path::new(&binary).with_file_name("examples").join(name);
        if beside.exists() {
            return Ok(beside);
        }
    }
    let directory = cargo_build(&["--package", "levada-client", "--features", "flight", "--example", name])?;
    Ok(directory.join("examples").join(name))
}

/// Builds for the profile of this test; where the result stands.
fn cargo_build(what: &[&str]) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    // target/debug/deps/test-name
    let profile = test.parent().and_then(Path::parent).context("a test runs in a target directory")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet"]).args(what).current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile.ends_with("release") {
        command.arg("--release");
    }
    if let Some(target) = profile.parent() {
        command.env("CARGO_TARGET_DIR", target);
    }
    if !command.status()?.success() {
        bail!("cargo build {} failed", what.join(" "));
    }
    Ok(profile.to_owned())
}

/// A Python interpreter with pyarrow, in a virtual environment of its own that is kept in the user's cache.
///
/// # Panics
/// When it cannot be made ready: a test that needs an independent client must not pass without one.
#[must_use]
pub fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| python_environment().expect("python3, its venv module and pyarrow (from PyPI) are needed"))
}

const PACKAGES: [&str; 1] = ["pyarrow==26.0.0"];

/// A Python interpreter with what OpenTelemetry's own project makes of its protocol, and gRPC; kept as [`python`] is.
///
/// # Errors
/// Python, its venv module or the network is missing.
pub fn python_with_opentelemetry() -> Result<PathBuf> {
    let packages = ["opentelemetry-proto==1.39.1", "grpcio==1.76.0"];
    environment(
        "python-opentelemetry",
        &packages,
        "import grpc, opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc",
    )
}

/// Where things are kept that are made or downloaded once: `levada` in the user's cache directory.
///
/// # Errors
/// There is no such directory and none can be made.
pub fn cache() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    let dir = cache.context("neither XDG_CACHE_HOME nor HOME is set")?.join("levada");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// The same as [`python`].
///
/// # Errors
/// Python, its venv module or the network is missing.
pub fn python_environment() -> Result<PathBuf> {
    environment("python", &PACKAGES, "import pyarrow.flight")
}

/// An environment of this name with these packages, of which `check` shows that it works.
fn environment(name: &str, packages: &[&str], check: &str) -> Result<PathBuf> {
    let dir = cache()?.join(name);
    let python = dir.join("bin/python");
    let works = |python: &Path| {
        let imported = Command::new(python).args(["-c", check]).output();
        imported.is_ok_and(|output| output.status.success())
    };
    if works(&python) {
        return Ok(python);
    }
    // One after the other in this process; made beside and renamed, as another test run may be making it, too.
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if works(&python) {
        return Ok(python);
    }
    let made = dir.with_extension(std::process::id().to_string());
    run(Command::new("python3").args(["-m", "venv"]).arg(&made))?;
    let mut pip = Command::new(made.join("bin/python"));
    run(pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(packages))?;
    if !works(&python) {
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::rename(&made, &dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    if works(&python) { Ok(python) } else { bail!("{packages:?} do not import") }
}

fn run(command: &mut Command) -> Result<()> {
    if command.status().with_context(|| format!("cannot run {command:?}"))?.success() {
        Ok(())
    } else {
        bail!("{command:?} failed")
    }
}
