//! What may be depended on: `cargo deny` over `deny.toml`.
//!
//! The tool is installed into the cache directory by its first use (a few minutes). Bans, licences and sources need
//! nothing but the lock file. The advisories need their database from the network: `cargo deny check advisories`.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::process;

const VERSION: &str = "0.20.2";

/// Whether the dependencies keep the rules; `None` if the tool cannot be had.
pub(crate) fn run() -> Result<Option<bool>> {
    let home = cache()?.join("cargo-deny");
    let tool = home.join("bin/cargo-deny");
    let is_there = Command::new(&tool).arg("--version").output();
    let is_there = is_there.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(VERSION));
    if !is_there {
        println!("installing cargo-deny {VERSION} into {} (once)", home.display());
        let mut install = process::cargo(&["install", "--quiet", "cargo-deny", "--locked", "--version", VERSION]);
        // Of its own: what it is built from is none of this workspace's.
        install.arg("--root").arg(&home).env_remove("CARGO_TARGET_DIR");
        if !process::succeeds(&mut install)? {
            return Ok(None);
        }
    }
    let mut check = Command::new(tool);
    check.args(["--locked", "check", "bans", "licenses", "sources"]).current_dir(process::root());
    process::succeeds(&mut check).map(Some)
}

/// Where things are kept that are made or downloaded once, as `levada-tests` has it.
fn cache() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    Ok(cache.context("neither XDG_CACHE_HOME nor HOME is set")?.join("levada"))
}
