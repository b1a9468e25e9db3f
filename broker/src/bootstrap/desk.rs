//! Where other seeds ask who this node is, and where the founder's decision is taken in.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use levada_protocol::{
    error::{Error, ErrorCode, Result},
    messages::peer::{FoundClusterRequest, SeedStateResponse},
};
use levada_storage_engine::disk::Disk;
use tokio::{sync::watch, task::spawn_blocking};

use super::{
    BootstrapError, Identity,
    record::{Decision, Record},
};

/// The record of this node, shared by who asks and who decides.
#[derive(Debug)]
pub(crate) struct SeedDesk {
    disk: Arc<dyn Disk>,
    record: Mutex<Record>,
    decided: watch::Sender<Option<Identity>>,
}

impl SeedDesk {
    pub(crate) fn new(disk: Arc<dyn Disk>, record: Record) -> Self {
        let decided = watch::Sender::new(record.identity());
        Self { disk, record: Mutex::new(record), decided }
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The record as it is now.
    pub(crate) fn record(&self) -> Record {
        self.lock().clone()
    }

    /// Who this is, once that is decided and durable.
    pub(crate) fn identity(&self) -> Option<Identity> {
        self.decided.borrow().clone()
    }

    /// Waits until it is.
    pub(crate) async fn decided(&self) -> Identity {
        let mut decided = self.decided.subscribe();
        loop {
            if let Some(identity) = decided.borrow_and_update().clone() {
                return identity;
            }
            // The sender lives as long as this.
            if decided.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The answer to a seed that asks.
    pub(crate) fn state(&self) -> SeedStateResponse {
        self.lock().to_wire()
    }

    /// Takes a decision in, durably: the first one. The same again changes nothing.
    pub(crate) async fn accept(self: &Arc<Self>, decision: Decision) -> Result<()> {
        let desk = Arc::clone(self);
        let accepted = spawn_blocking(move || desk.accept_now(decision)).await;
        accepted.unwrap_or_else(|_| Err(Error::new(ErrorCode::Internal, "the decision could not be taken in")))
    }

    /// As [`SeedDesk::accept`], from the wire.
    pub(crate) async fn accept_wire(self: &Arc<Self>, request: FoundClusterRequest) -> Result<()> {
        let decision = Decision::from_wire(&request.cluster_id, request.members)
            .map_err(|why| Error::new(ErrorCode::InvalidRequest, why))?;
        self.accept(decision).await
    }

    fn accept_now(&self, decision: Decision) -> Result<()> {
        // Held while the disk writes: two decisions at once are judged one after the other.
        let mut record = self.lock();
        if let Some(known) = &record.decision {
            if known.cluster == decision.cluster {
                return Ok(());
            }
            let why = format!("node {} belongs to cluster {} already", record.node, known.cluster);
            return Err(Error::new(ErrorCode::WrongCluster, why));
        }
        let founder = decision.members.get(&record.node).filter(|_| decision.joined.is_none());
        match founder {
            // The controller has judged it.
            None if decision.joined.is_some() => {}
            None => {
                let why = format!("node {} is not among the members", record.node);
                return Err(Error::new(ErrorCode::InvalidRequest, why));
            }
            Some(member) if member.incarnation != record.incarnation => {
                let why = format!("node {} has another data directory now than when it was asked", record.node);
                return Err(Error::new(ErrorCode::WrongIncarnation, why));
            }
            Some(_) => {}
        }
        let decided = Record { decision: Some(decision), ..record.clone() };
        decided.write(&*self.disk).map_err(|error: BootstrapError| {
            tracing::error!(%error, "bootstrap.write.failed");
            Error::new(ErrorCode::StorageFailed, error.to_string())
        })?;
        *record = decided;
        self.decided.send_replace(record.identity());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use levada_protocol::ids::{ClusterId, IncarnationId, NodeId};
    use levada_storage_engine::sim_disk::{Fault, SimDisk};

    use super::*;
    use crate::cluster::addresses::Member;

    fn desk(disk: &Arc<SimDisk>) -> Arc<SeedDesk> {
        let disk: Arc<dyn Disk> = Arc::clone(disk) as Arc<dyn Disk>;
        let record = Record::open(&*disk, NodeId(2), || IncarnationId::from_bytes([2; 16])).unwrap();
        Arc::new(SeedDesk::new(disk, record))
    }

    fn decision(cluster: u8, incarnation: u8) -> Decision {
        let member = Member { incarnation: IncarnationId::from_bytes([incarnation; 16]), native: "a:1".into() };
        let members = BTreeMap::from([(NodeId(2), member)]);
        Decision { cluster: ClusterId::from_bytes([cluster; 16]), members, joined: None }
    }

    #[tokio::test]
    async fn the_first_decision_for_this_directory_counts_and_is_durable() {
        let disk = Arc::new(SimDisk::new(1));
        let desk1 = desk(&disk);
        assert_eq!(desk1.accept(decision(7, 9)).await.unwrap_err().code, ErrorCode::WrongIncarnation);
        let mut without = decision(7, 2);
        without.members = BTreeMap::from([(NodeId(5), without.members[&NodeId(2)].clone())]);
        assert_eq!(desk1.accept(without).await.unwrap_err().code, ErrorCode::InvalidRequest);
        assert_eq!(desk1.identity(), None);
        assert!(desk1.state().cluster_id.is_empty());

        desk1.accept(decision(7, 2)).await.unwrap();
        desk1.accept(decision(7, 2)).await.unwrap();
        assert_eq!(desk1.accept(decision(8, 2)).await.unwrap_err().code, ErrorCode::WrongCluster);
        assert_eq!(desk1.decided().await.cluster, ClusterId::from_bytes([7; 16]));
        assert_eq!(desk(&disk).identity(), desk1.identity(), "after a restart");
    }

    #[tokio::test]
    async fn a_decision_that_could_not_be_written_is_not_accepted() {
        let disk = Arc::new(SimDisk::new(1));
        let desk = desk(&disk);
        disk.inject(Fault::fail("fdatasync"));
        assert_eq!(desk.accept(decision(7, 2)).await.unwrap_err().code, ErrorCode::StorageFailed);
        assert_eq!(desk.identity(), None);
    }
}
