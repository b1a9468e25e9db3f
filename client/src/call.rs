//! One request to whoever can answer it: found, asked, followed to where it is redirected, and asked again after a
//! pause until `operation_timeout` is over.

use std::{collections::BTreeSet, fmt, time::Duration};

use bytes::Bytes;
use levada_protocol::{
    error::{Error, ErrorClass, ErrorCode, NodeAddresses, Result},
    frame::{Api, Frame},
    ids::{NodeId, PartitionId, TopicPartition},
    messages::native::MetadataRequest,
};
use prost::Message;
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    cluster::Cluster,
    error::{CallError, disconnected},
    retry::{Backoff, Rng},
};

/// Redirects that are followed without a pause; nodes that disagree about a leader must not be asked in a loop.
const HOPS_MAX: u32 = 3;

/// How long an answer may take before we look whether somebody else should be asked by now.
const SLOW_AFTER: Duration = Duration::from_millis(500);

/// Who can answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    /// Any node.
    Any,
    /// The leader of the metadata group.
    Controller,
    /// The leader of a partition of the named topic.
    Leader(&'a str, TopicPartition),
}

/// As people are told.
impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any node"),
            Self::Controller => f.write_str("the controller"),
            Self::Leader(topic, place) => write!(f, "the leader of partition {} of {topic:?}", place.partition),
        }
    }
}

/// A failure, and what went before it.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: Error,
    /// An earlier try may have taken effect without saying so.
    pub(crate) may_have_happened: bool,
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

impl Cluster {
    /// Asks until there is an answer, the request is refused for good, or the time is over. A try may have taken
    /// effect although its answer got lost: what is asked must bear being asked twice.
    ///
    /// `patience` is how long the server may deliberately hold the answer back.
    pub(crate) async fn call(
        &self,
        target: Target<'_>,
        api: Api,
        message: &impl Message,
        patience: Duration,
    ) -> std::result::Result<Frame, Failed> {
        let give_up = Instant::now() + self.config().operation_timeout + patience;
        let mut rng = Rng::from_entropy();
        let (mut failures, mut hops) = (0, 0);
        let mut may_have_happened = false;
        let mut hint = None;
        let mut in_vain = BTreeSet::new();
        loop {
            let tried = match self.address_of(target, hint.take(), &in_vain) {
                Some(address) => {
                    let tried = self.attempt(target, &address, api, message, patience).await;
                    in_vain.insert(address);
                    tried.inspect_err(|failed| may_have_happened |= failed.may_have_happened())
                }
                None => Err(CallError::unsent(Error::new(ErrorCode::NotReady, format!("{target} is not known")))),
            };
            let error = match tried {
                Ok(frame) => return Ok(frame),
                Err(failed) => failed.error,
            };
            if !is_worth_another_try(error.code) || Instant::now() >= give_up {
                return Err(Failed { error, may_have_happened });
            }
            hint = error.leader.as_deref().cloned();
            if let Some(leader) = &hint {
                self.learn(leader);
                hops += 1;
                if hops <= HOPS_MAX {
                    continue;
                }
            }
            failures += 1;
            hops = 0;
            let pause = if error.code == ErrorCode::Busy { Backoff::BUSY } else { Backoff::ELECTION };
            sleep(pause.pause(failures, &mut rng)).await;
            // Without an answer the next try is made with what is known.
            let _ = timeout_at(give_up, self.refresh(request_for(target))).await;
        }
    }

    /// Asks one node; does not wait for it when another turns out to lead in its place.
    async fn attempt(
        &self,
        target: Target<'_>,
        address: &str,
        api: Api,
        message: &impl Message,
        patience: Duration,
    ) -> std::result::Result<Frame, CallError> {
        let connection = self.pool().get(address);
        let moved = async {
            sleep(patience).await;
            loop {
                sleep(SLOW_AFTER).await;
                let _ = self.refresh(request_for(target)).await;
                if self.known_address(target).is_some_and(|leader| leader != address) {
                    return;
                }
            }
        };
        tokio::select! {
            answer = connection.call(api, message, Bytes::new(), self.config().request_timeout + patience) => answer,
            () = moved => Err(CallError::sent(disconnected(address, "no answer, and another node leads by now"))),
        }
    }

    fn known_address(&self, target: Target<'_>) -> Option<String> {
        let node = match target {
            Target::Any => None,
            Target::Controller => self.controller(),
            Target::Leader(topic, partition) => self.leader(topic, partition).and_then(|node| self.node(node)),
        };
        node.map(|node| node.native)
    }

    /// Whom to ask. Of nodes of which any will do, first those that have not been asked in vain.
    fn address_of(
        &self,
        target: Target<'_>,
        hint: Option<NodeAddresses>,
        in_vain: &BTreeSet<String>,
    ) -> Option<String> {
        let hinted = hint.map(|hint| hint.native).filter(|address| !address.is_empty());
        match (hinted.or_else(|| self.known_address(target)), target) {
            (Some(address), _) => Some(address),
            // Whoever is asked knows the controller better than we do.
            (None, Target::Any | Target::Controller) => {
                let candidates = self.candidates();
                let other = candidates.iter().find(|address| !in_vain.contains(*address));
                other.or(candidates.first()).cloned()
            }
            (None, Target::Leader(..)) => None,
        }
    }

    /// The same to the leader of a partition. A topic that is unknown there was perhaps made anew: then its present
    /// self is asked.
    pub(crate) async fn call_leader<M: Message>(
        &self,
        topic: &str,
        partition: PartitionId,
        api: Api,
        message: impl Fn(TopicPartition) -> M,
        patience: Duration,
    ) -> Result<Frame> {
        let known = self.topic(topic).await?.topic_partition(partition)?;
        let failed = match self.call(Target::Leader(topic, known), api, &message(known), patience).await {
            Ok(frame) => return Ok(frame),
            Err(failed) => failed,
        };
        if failed.error.code != ErrorCode::UnknownTopic {
            return Err(failed.into());
        }
        let present = self.fresh_topic(topic).await?.topic_partition(partition)?;
        if present == known {
            return Err(failed.into());
        }
        Ok(self.call(Target::Leader(topic, present), api, &message(present), patience).await?)
    }

    /// The leader of a partition, as far as known.
    pub(crate) fn leader(&self, topic: &str, partition: TopicPartition) -> Option<NodeId> {
        self.known_topic(topic)?.partition(partition.partition)?.leader
    }
}

fn request_for(target: Target<'_>) -> MetadataRequest {
    let topics = match target {
        Target::Leader(topic, _) => vec![topic.to_owned()],
        Target::Any | Target::Controller => Vec::new(),
    };
    MetadataRequest { topics, ..MetadataRequest::default() }
}

/// Whether another node, or the same one later, may answer better.
const fn is_worth_another_try(code: ErrorCode) -> bool {
    match code.class() {
        ErrorClass::Retry | ErrorClass::Redirect => true,
        ErrorClass::Stop => matches!(code, ErrorCode::StorageFailed),
        ErrorClass::Fence | ErrorClass::FixRequest => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClientConfig;

    #[test]
    fn who_was_asked_in_vain_is_not_asked_again_before_all_others() {
        let cluster = Cluster::unknown(ClientConfig::new("a:1,b:1,c:1").unwrap());
        let mut in_vain = BTreeSet::new();
        for _ in 0..3 {
            // However many others have had their turn meanwhile.
            cluster.candidates();
            let address = cluster.address_of(Target::Any, None, &in_vain).unwrap();
            assert!(in_vain.insert(address), "each once: {in_vain:?}");
        }
        assert!(cluster.address_of(Target::Controller, None, &in_vain).is_some(), "and then anybody");
    }
}
