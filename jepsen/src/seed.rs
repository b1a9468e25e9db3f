//! What makes a run what it is, kept beside it: `seed.json`, and the command that does the same again.
//!
//! Whatever was drawn is drawn again: which faults strike whom, in which order, and what clients ask for. When things happen
//! does not follow from a seed: processes and the system's scheduler are real.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{
    run::{Options, name_of},
    workload::Orders,
};

/// Its name in a run's directory.
const FILE: &str = "seed.json";
/// How deep below the store a run may be: a suite keeps those of each scenario in a directory.
const DEPTH_MAX: u32 = 2;

/// The file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seed {
    /// The harness that played it.
    pub version: String,
    /// The server, as it says.
    pub build: String,
    /// Everything that was asked for, and the seed.
    pub options: Options,
}

impl Seed {
    /// Of a run by this harness.
    #[must_use]
    pub fn new(options: &Options, build: &str) -> Self {
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), build: build.to_owned(), options: options.clone() }
    }

    /// Keeps it in a run's directory.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep(&self, store: &Path) -> Result<()> {
        let path = store.join(FILE);
        fs::write(&path, serde_json::to_string_pretty(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// That of a run: of a directory, or of the latest run below `out` that had this seed.
    ///
    /// # Errors
    /// There is no such run, or a harness of another version cannot tell what it was asked for.
    pub fn find(run: &str, out: &Path) -> Result<(PathBuf, Self)> {
        let dir = Path::new(run);
        if dir.is_dir() {
            return Ok((dir.to_owned(), Self::read(dir)?));
        }
        let Ok(seed) = run.parse::<u64>() else {
            bail!("{run} is neither the directory of a run nor a seed");
        };
        let mut dirs = Vec::new();
        list(out, DEPTH_MAX, &mut dirs);
        let runs = dirs.into_iter().filter_map(|dir| Self::read(&dir).ok().map(|kept| (dir, kept)));
        let same = runs.filter(|(_, kept)| kept.options.orders.seed == seed);
        // Their names begin with the time.
        let latest = same.max_by(|(a, _), (b, _)| a.file_name().cmp(&b.file_name()));
        latest.with_context(|| format!("no run below {} had the seed {seed}", out.display()))
    }

    fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let text = fs::read_to_string(&path).with_context(|| {
            format!("{}: it is not the directory of a run, or of one that an older harness played", path.display())
        })?;
        serde_json::from_str(&text).with_context(|| {
            format!("{}: a harness of another version wrote it; play it with that one", path.display())
        })
    }
}

fn list(dir: &Path, depth: u32, found: &mut Vec<PathBuf>) {
    for path in fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if path.join(FILE).is_file() {
            found.push(path);
        } else if depth > 1 && path.is_dir() {
            list(&path, depth - 1, found);
        }
    }
}

impl Options {
    /// The command that does the same again.
    #[must_use]
    pub fn again(&self) -> String {
        let mut said = format!(
            "jepsen run --workload {} --nodes {} --env {}",
            self.workload.name(),
            self.nodes,
            name_of(self.env)
        );
        if !self.families.is_empty() {
            let families: Vec<&str> = self.families.iter().map(|family| family.name()).collect();
            let _ = write!(said, " --nemesis {}", families.join(","));
        }
        if let Some(lie) = self.lie {
            let _ = write!(said, " --lie {}", name_of(lie));
        }
        if self.bites_min > 1 {
            let _ = write!(said, " --bites {}", self.bites_min);
        }
        let Orders { keys, clients, rate, seed, .. } = self.orders;
        let (disk, time, interval) = (name_of(self.disk), self.time.as_secs(), self.interval.as_secs());
        let (targets, acked_min) = (name_of(self.targets), self.acknowledged_min);
        let _ = write!(
            said,
            " --targets {targets} --disk {disk} --time {time} --interval {interval} --keys {keys} --clients {clients} \
             --rate {rate} --acked-min {acked_min} --seed {seed}"
        );
        said
    }
}

/// Whole seconds, as the command line has them.
pub mod seconds {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    /// As a number.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(duration.as_secs())
    }

    /// From a number.
    ///
    /// # Errors
    /// It is none.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(seed: u64) -> serde_json::Value {
        serde_json::json!({
            "workload": "queue", "nemesis": ["pause-kill"], "targets": "any", "nodes": 3, "env": "proxy", "disk": "dir",
            "time_s": 5, "interval_s": 2, "bites": 1, "acked_min": 10, "lie": null,
            "orders": { "keys": 1, "replicas": 3, "clients": 8, "rate": 0, "seed": seed },
        })
    }

    fn write(dir: &Path, options: &serde_json::Value) {
        fs::create_dir_all(dir).unwrap();
        let kept = serde_json::json!({ "version": "0.1.0", "build": "levada 0.1.0", "options": options });
        fs::write(dir.join(FILE), kept.to_string()).unwrap();
    }

    #[test]
    fn a_run_is_found_by_its_directory_or_the_latest_by_its_seed_wherever_a_suite_keeps_it() {
        let store = tempfile::tempdir().unwrap();
        for (dir, seed) in [("20260102-1-queue", 7), ("smoke/20260103-1-queue", 7), ("20260104-1-queue", 8)] {
            write(&store.path().join(dir), &options(seed));
        }
        let (dir, kept) = Seed::find("7", store.path()).unwrap();
        assert!(dir.ends_with("smoke/20260103-1-queue"), "{}", dir.display());
        assert_eq!((kept.options.orders.seed, kept.options.time.as_secs()), (7, 5));
        let dir = store.path().join("20260104-1-queue");
        assert_eq!(Seed::find(dir.to_str().unwrap(), store.path()).unwrap().1.options.orders.seed, 8);
        assert!(Seed::find("9", store.path()).is_err());
        assert!(Seed::find("nothing", store.path()).is_err());
        assert!(Seed::find(store.path().to_str().unwrap(), store.path()).is_err(), "it is no run");
    }

    #[test]
    fn what_another_version_asked_for_is_not_left_out_in_silence() {
        let store = tempfile::tempdir().unwrap();
        let mut later = options(1);
        later["gravity"] = 2.into();
        write(store.path(), &later);
        let error = Seed::find(store.path().to_str().unwrap(), store.path()).unwrap_err();
        assert!(
            format!("{error:#}").contains("another version") && format!("{error:#}").contains("gravity"),
            "{error:#}"
        );
    }
}
