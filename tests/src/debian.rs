//! Programs from the Debian archive, unpacked into the cache directory: installed, some would start as services.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::tools;

/// Where these packages are unpacked, under a name of their own; downloaded if they are not yet.
///
/// # Errors
/// There is no apt, or no network.
pub fn unpacked(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let directory = tools::cache()?.join(name);
    if directory.join("usr").is_dir() {
        return Ok(directory);
    }
    // Made beside and renamed: another test run may be making it, too.
    let made = directory.with_extension(std::process::id().to_string());
    fs::create_dir_all(&made)?;
    let download = || {
        let mut apt = Command::new("apt-get");
        apt.args(["download", "--quiet"]).args(packages).current_dir(&made).status()
    };
    if !download().context("cannot run apt-get")?.success() {
        // It may not know yet what there is.
        Command::new("apt-get").args(["update", "--quiet"]).status()?;
        ensure!(download()?.success(), "apt-get cannot download {packages:?}");
    }
    for file in fs::read_dir(&made)?.filter_map(|entry| Some(entry.ok()?.path())) {
        if file.extension().is_some_and(|extension| extension == "deb") {
            let unpacked = Command::new("dpkg").arg("-x").arg(&file).arg(&made).status()?;
            ensure!(unpacked.success(), "dpkg cannot unpack {}", file.display());
        }
    }
    let _ = fs::rename(&made, &directory);
    ensure!(directory.join("usr").is_dir(), "{packages:?} hold nothing below usr");
    Ok(directory)
}
