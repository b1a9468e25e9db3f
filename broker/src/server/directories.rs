//! The directories of a node: the data directory, and those that only take segments (`segment.dirs`).
//!
//! Without the data directory there is no node. Any other directory may be missing: what cannot be read or written at the
//! start, or has failed while this process ran, is left alone, and what it had comes from other nodes. One that is somebody
//! else's is a mistake in the configuration, and ends the start.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use levada_protocol::ids::IncarnationId;
use levada_storage_engine::{
    disk::Disk,
    error::OpenError,
    std_disk::{LockError, StdDisk, StdDiskConfig},
    volumes::{ALWAYS, Owner, OwnerError, Volume, VolumeError, Volumes, next_start},
};

use tokio::{task::spawn_blocking, time::timeout};

use super::ServerError;
use crate::{
    bootstrap::{BootstrapError, record::Record},
    config::ServerConfig,
    runtime::random_uuid,
};

/// How long a disk may take to finish what it has begun.
const END_MAX: Duration = Duration::from_secs(10);

/// The directories that a node has taken, and who it is.
#[derive(Clone, Debug)]
pub(super) struct Directories {
    /// All of them as one.
    pub(super) disk: Arc<dyn Disk>,
    /// If there are more than the data directory.
    volumes: Option<Arc<Volumes>>,
    /// Of those of the configuration, beside the data directory: whether it is used.
    pub(super) used: BTreeMap<PathBuf, bool>,
}

impl Directories {
    /// Takes all directories but `without`. Blocks.
    pub(super) fn open(config: &ServerConfig, without: &BTreeSet<PathBuf>) -> Result<(Self, Record), ServerError> {
        let (root, node, dirs) = (&config.data_dir, config.node(), &config.segment.dirs);
        let default = StdDiskConfig { direct: config.disk.direct, ..StdDiskConfig::default() };
        // The journal is at home, and has its share whatever the others take.
        let share = |open_files_max| StdDiskConfig { open_files_max, ..default };
        let of_home = if dirs.is_empty() { default } else { share(default.open_files_max / 2) };
        let of_others = share(default.open_files_max / 2 / dirs.len().max(1));
        let home: Arc<dyn Disk> = Arc::new(StdDisk::open(root, of_home)?);
        let not_ours = |path: &PathBuf, error| ServerError::SegmentDir { path: path.clone(), error };
        if let Some(found) = Owner::read(&*home).map_err(|error| not_ours(root, error.into()))? {
            return Err(not_ours(root, OwnerError::Other { found }));
        }
        let record = Record::open(&*home, node, || IncarnationId(random_uuid()))?;
        if dirs.is_empty() {
            return Ok((Self { disk: home, volumes: None, used: BTreeMap::new() }, record));
        }
        let owner = Owner { node, incarnation: record.incarnation };
        let start = next_start(&*home, owner).map_err(BootstrapError::from)?;
        let mut others = Vec::new();
        for path in dirs {
            if without.contains(path) {
                left_alone(path, "it failed while the node ran");
            } else {
                others.extend(take(path, of_others, owner)?);
            }
        }
        let home = Volume { path: root.clone(), disk: home, last_used: ALWAYS };
        let volumes = loop {
            match Volumes::open(home.clone(), others.clone()) {
                Ok(volumes) => break Arc::new(volumes),
                Err(VolumeError { path, error }) if path != *root => {
                    left_alone(&path, &error);
                    others.retain(|volume| volume.path != path);
                }
                Err(VolumeError { error, .. }) => return Err(BootstrapError::from(error).into()),
            }
        };
        // Only now: what a directory brings back is settled by when it was used before.
        for Volume { path, disk, .. } in &others {
            if let Some(Err(error)) = start.map(|start| owner.stamp(&**disk, start)) {
                tracing::warn!(directory = %path.display(), %error, "directory.unstamped: it counts as older than it is");
            }
        }
        let is_used = |path: &PathBuf| others.iter().any(|volume| volume.path == *path);
        let used = dirs.iter().map(|path| (path.clone(), is_used(path))).collect();
        Ok((Self { disk: Arc::clone(&volumes) as Arc<dyn Disk>, volumes: Some(volumes), used }, record))
    }

    /// How many of the directories beside the data directory are not used.
    pub(super) fn unused(&self) -> u32 {
        u32::try_from(self.used.values().filter(|is_used| !**is_used).count()).unwrap_or(u32::MAX)
    }

    /// Ends all of them. Answers those that have failed, if the node can start again at once without them. A disk that
    /// hangs answers nothing, and then it cannot.
    pub(super) async fn end(&self) -> Vec<PathBuf> {
        let Some(volumes) = self.volumes.clone() else { return Vec::new() };
        let ended = timeout(END_MAX, spawn_blocking(move || volumes.end())).await;
        ended.ok().and_then(Result::ok).unwrap_or_default()
    }
}

/// Takes one directory; `None` if it cannot be used.
fn take(path: &Path, settings: StdDiskConfig, owner: Owner) -> Result<Option<Volume>, ServerError> {
    let disk = match StdDisk::open(path, settings) {
        Ok(disk) => Arc::new(disk),
        Err(LockError::Io { error, .. }) => {
            left_alone(path, &error);
            return Ok(None);
        }
        Err(error @ LockError::InUse { .. }) => return Err(error.into()),
    };
    match owner.take(&*disk) {
        Ok(last_used) => Ok(Some(Volume { path: path.to_owned(), disk, last_used })),
        Err(error @ (OwnerError::Other { .. } | OwnerError::Open(OpenError::NotEmpty { .. }))) => {
            Err(ServerError::SegmentDir { path: path.to_owned(), error })
        }
        // That says nothing of the directory, and without it much would be copied.
        Err(OwnerError::Open(OpenError::Disk(error))) if error.is_want() => {
            Err(ServerError::SegmentDir { path: path.to_owned(), error: OpenError::Disk(error).into() })
        }
        Err(OwnerError::Open(error)) => {
            left_alone(path, &error);
            Ok(None)
        }
    }
}

fn left_alone(path: &Path, why: &(impl std::fmt::Display + ?Sized)) {
    tracing::error!(
        directory = %path.display(), %why,
        "directory.failed: it is not used until the node is started again; its segments come from other nodes"
    );
}
