//! A control group that bounds a process's memory (version 1). Removed when dropped.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

const ROOT: &str = "/sys/fs/cgroup/memory";

/// Such a group.
#[derive(Debug)]
pub struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// Makes one that has this much and no swap; `None` where this machine lets nobody make them.
    ///
    /// # Errors
    /// It is there and cannot be set up.
    pub fn create(name: &str, bytes: u64) -> Result<Option<Self>> {
        let path = Path::new(ROOT).join(format!("{name}-{}", std::process::id()));
        if fs::create_dir(&path).is_err() || !path.join("memory.limit_in_bytes").exists() {
            return Ok(None);
        }
        let group = Self(path);
        group.set("memory.limit_in_bytes", &bytes.to_string())?;
        // Where swap is not accounted for there is no such file.
        let _ = group.set("memory.swappiness", "0");
        Ok(Some(group))
    }

    /// Another limit from now on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn limit(&self, bytes: u64) -> Result<()> {
        self.set("memory.limit_in_bytes", &bytes.to_string())
    }

    /// What to put in front of a command that is to run in it from the start: what a process had before it came is not
    /// counted.
    #[must_use]
    pub fn wrapper(&self) -> Vec<String> {
        let procs = self.0.join("cgroup.procs").display().to_string();
        ["sh", "-c", "echo $$ > \"$0\" && exec \"$@\"", &procs].map(str::to_owned).into()
    }

    /// What its processes have that cannot be dropped and read again, in bytes.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn held(&self) -> Result<u64> {
        self.number("memory.stat", "total_rss")
    }

    /// How many processes were ended because there was no more.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn ended(&self) -> Result<u64> {
        self.number("memory.oom_control", "oom_kill")
    }

    fn number(&self, file: &str, name: &str) -> Result<u64> {
        let said = fs::read_to_string(self.0.join(file))?;
        let number = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(number.with_context(|| format!("no {name} in {file}"))?.parse()?)
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        fs::write(self.0.join(file), value)
            .with_context(|| format!("{} does not take {value}", self.0.join(file).display()))
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
