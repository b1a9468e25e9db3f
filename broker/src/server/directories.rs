//! The directories of a node: the data directory, and those that only take segments (`segment.dirs`).
//!
//! Without the data directory there is no node. Any other directory may be missing: what cannot be read or written at the
//! start, or has failed while this process ran, is left alone, and what it had comes from other nodes. One that is somebody
//! else's is a mistake in the configuration, and ends the start.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use levada_protocol::ids::IncarnationId;
use levada_storage_engine::{
    disk::Disk,
    error::OpenError,
    std_disk::{LockError, StdDisk, StdDiskConfig},
    volumes::{Owner, OwnerError, Volume, Volumes},
};

use super::ServerError;
use crate::{
    bootstrap::{BootstrapError, record::Record},
    config::ServerConfig,
    runtime::random_uuid,
};

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
    pub(super) fn open(
        config: &ServerConfig,
        without: &BTreeSet<PathBuf>,
    ) -> Result<(Self, Record), ServerError> {
        let (root, node, dirs) = (&config.data_dir, config.node(), &config.segment.dirs);
        let default = StdDiskConfig::default();
        let open_files_max = default.open_files_max / (1 + dirs.len());
        let settings = StdDiskConfig { direct: config.disk.direct, open_files_max };
        let home: Arc<dyn Disk> = Arc::new(StdDisk::open(root, settings)?);
        let record = Record::open(&*home, node, || IncarnationId(random_uuid()))?;
        if dirs.is_empty() {
            return Ok((Self { disk: home, volumes: None, used: BTreeMap::new() }, record));
        }
        let (mut used, mut others) = (BTreeMap::new(), Vec::new());
        for path in dirs {
            let volume = if without.contains(path) {
                left_alone(path, "it failed while the node ran");
                None
            } else {
                take(path, settings, Owner { node, incarnation: record.incarnation })?
            };
            used.insert(path.clone(), volume.is_some());
            others.extend(volume);
        }
        let home = Volume { path: root.clone(), disk: home };
        let volumes = Arc::new(Volumes::open(home, others).map_err(BootstrapError::from)?);
        Ok((Self { disk: Arc::clone(&volumes) as Arc<dyn Disk>, volumes: Some(volumes), used }, record))
    }

    /// The directory that has failed, if the node can start again without it.
    pub(super) fn failed(&self) -> Option<PathBuf> {
        self.volumes.as_ref()?.failed()
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
        Ok(()) => Ok(Some(Volume { path: path.to_owned(), disk })),
        Err(error @ (OwnerError::Other { .. } | OwnerError::Open(OpenError::NotEmpty { .. }))) => {
            Err(ServerError::SegmentDir { path: path.to_owned(), error })
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
