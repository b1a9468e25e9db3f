//! Whether this node is in the wrong place: its data directory is of one cluster, the seed nodes that it was told are of
//! another.
//!
//! One seed of another cluster may be in the wrong place itself. If all of them are, it is this node: it ends, and says so.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use levada_protocol::{
    error::{Error, ErrorCode},
    ids::{ClusterId, NodeId},
};

/// What the other seed nodes said.
#[derive(Debug)]
pub(crate) struct Strangers {
    cluster: Option<ClusterId>,
    seeds: BTreeSet<NodeId>,
    /// Those that are of another cluster, as far as is known.
    of_another: Mutex<BTreeSet<NodeId>>,
}

impl Strangers {
    /// For a node of this cluster, with these other seed nodes.
    pub(crate) fn new(cluster: Option<ClusterId>, seeds: impl IntoIterator<Item = NodeId>) -> Self {
        Self { cluster, seeds: seeds.into_iter().collect(), of_another: Mutex::default() }
    }

    /// A node was reached and took this one for one of its own.
    pub(crate) fn welcomed_by(&self, node: NodeId) {
        self.of_another.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
    }

    /// A node could not be reached, or did not want this one. Why this node must end, if that is clear by now.
    pub(crate) fn refused_by(&self, node: NodeId, error: &Error) -> Option<Error> {
        if error.code != ErrorCode::WrongCluster || !self.seeds.contains(&node) {
            return None;
        }
        let mut of_another = self.of_another.lock().unwrap_or_else(PoisonError::into_inner);
        of_another.insert(node);
        if !of_another.is_superset(&self.seeds) {
            return None;
        }
        let cluster = self.cluster?;
        let seeds: Vec<String> = self.seeds.iter().map(ToString::to_string).collect();
        let why = format!(
            "the data directory is of cluster {cluster}, and the other seed nodes ({}) are all of another one; check data_dir \
             and seed_nodes. What node {node} said: {}",
            seeds.join(", "),
            error.message
        );
        Some(Error::new(ErrorCode::WrongCluster, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stranger_is_lost_and_all_are_right() {
        let wrong = Error::new(ErrorCode::WrongCluster, "this node is of cluster b");
        let away = Error::new(ErrorCode::Disconnected, "nobody there");
        let strangers = Strangers::new(Some(ClusterId::from_bytes([1; 16])), [NodeId(1), NodeId(3)]);
        assert_eq!(strangers.refused_by(NodeId(1), &away), None);
        assert_eq!(strangers.refused_by(NodeId(1), &wrong), None, "node 3 may be of this cluster");
        strangers.welcomed_by(NodeId(1));
        assert_eq!(strangers.refused_by(NodeId(3), &wrong), None, "node 1 is of this cluster by now");
        assert_eq!(strangers.refused_by(NodeId(7), &wrong), None, "it is no seed");
        let error = strangers.refused_by(NodeId(1), &wrong).unwrap();
        assert_eq!(error.code, ErrorCode::WrongCluster);
        assert!(error.message.contains("seed nodes (1, 3)") && error.message.contains("of cluster b"), "{error}");
        let alone = Strangers::new(Some(ClusterId::from_bytes([1; 16])), []);
        assert_eq!(alone.refused_by(NodeId(1), &wrong), None);
    }
}
