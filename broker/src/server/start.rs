//! The steps of a start, in order.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use levada_protocol::ids::{ClusterId, NodeId, ReplicaId};
use levada_storage_engine::{
    disk::Disk,
    identity::DirIdentity,
    journal::JournalId,
    store::{GroupState, Store},
};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    task::spawn_blocking,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    Hooks, Listeners, Running, ServerError, directories::Directories, membership, newcomers, observe,
    readiness::Readiness, settings, space, stoppers, vitals,
};
use crate::{
    bootstrap::{
        Identity,
        desk::SeedDesk,
        founding::{self, Settled},
        joining::{self, Applicant},
        record::Record,
    },
    broker::Broker,
    cluster::addresses::AddressBook,
    config::{LiveLimits, ServerConfig},
    forward::Forwarder,
    http,
    net::{
        connection::{Bounds, Held},
        dial::Caller,
        dispatch::Dispatch,
        door::UNFOLDED_AT_ONCE,
        listener::listen,
        room::descriptors_for_connections,
        told::Told,
        way::Way,
    },
    node::{Need, Node, NodeConfig, NodeOpenError, shortening::LOG_BYTES},
    runtime::{
        budget::Budget, clock::Clock, peers::Peers, random_seed, random_uuid, strangers::Strangers, worker::Worker,
    },
};

/// A replica that has not answered for so long does not hold back retention any more.
const ABSENT_MS: u64 = 600_000;
/// Between two rounds of asking for another replica of the metadata group.
const RENEWAL_PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn start(config: ServerConfig, listeners: Listeners, hooks: Hooks) -> Result<Running, ServerError> {
    let clock = Clock::start();
    let Listeners { native, http, bound } = listeners;
    let addresses = config.addresses(&bound);
    let (connections, tasks) = stoppers(&Handle::current());
    tracing::info!(
        node = config.node_id,
        data_dir = %config.data_dir.display(),
        native = addresses.native,
        http = addresses.http,
        version = env!("CARGO_PKG_VERSION"),
        "server.starting"
    );

    let readiness = Arc::new(Readiness::new(config.node()));
    let metrics = crate::metrics::install().map_err(|error| ServerError::System(error.to_string()))?;
    tasks.0.spawn(http::serve(http, metrics, clock, Arc::clone(&readiness)));

    let (directories, record) = {
        let (config, without) = (config.clone(), hooks.without);
        blocking(move || Directories::open(&config, &without)).await?
    };
    let disk = Arc::clone(&directories.disk);
    tasks.0.spawn(vitals::watch(config.data_dir.clone(), directories.used.clone(), clock.now().wall_ms));
    let desk = Arc::new(SeedDesk::new(Arc::clone(&disk), record));
    let dispatch = Arc::new(Dispatch::new(Arc::clone(&desk), Arc::clone(&hooks.authorizer), Arc::clone(&readiness)));
    let bounds = Arc::new(bounds(&config));
    tasks.0.spawn(listen(native, Arc::clone(&dispatch), Arc::clone(&bounds), connections.0.clone()));

    let seeds = seeds(&config, &addresses.native);
    let progress = |why: &str| readiness.waiting(why);
    let formatted = {
        let disk = Arc::clone(&disk);
        // Before anybody is asked: what others say of a directory that has lost its identity would lead astray.
        blocking(move || Ok(DirIdentity::is_formatted(&*disk).map_err(NodeOpenError::from)?)).await?
    };
    let applicant = Applicant { addresses: addresses.clone(), rack: config.rack.clone() };
    let fresh = || ClusterId(random_uuid());
    let Settled { identity, begins_with } =
        founding::settle(&desk, &applicant, &seeds, (fresh, formatted), progress).await?;
    tasks.0.spawn(founding::tell(Arc::clone(&desk), seeds.clone()));
    readiness.waiting("recovering from the journal");

    let core = node_config(&config, &identity);
    let first = NodeConfig { member_loss: hooks.member_loss, ..core.clone() };
    let opened = open_node(first, begins_with, Arc::clone(&disk)).await;
    let node = match opened {
        Err(ServerError::Recovery(NodeOpenError::MetadataDamaged { replica, need, known })) => {
            let founders = identity.members.iter().map(|(node, member)| (*node, member.native.clone()));
            let mut others: BTreeMap<NodeId, String> = founders.chain(known.clone()).chain(seeds.clone()).collect();
            others.remove(&identity.node);
            if others.is_empty() {
                return Err(NodeOpenError::MetadataDamaged { replica, need, known }.into());
            }
            let state = another_member(&desk.record(), &applicant, &others, (replica, need), progress).await?;
            let (renewed, from) = (core.clone(), Arc::clone(&disk));
            blocking(move || Ok(Node::renew_metadata(from, &renewed, state)?)).await?;
            open_node(core, None, Arc::clone(&disk)).await?
        }
        // One that has failed by now can be left alone at once.
        Err(ServerError::Recovery(error)) => {
            let (why, paths) = (error.to_string().into(), directories.end().await);
            return Err(if paths.is_empty() { error.into() } else { ServerError::SegmentDirsFailed { paths, why } });
        }
        opened => opened?,
    };
    let view = node.view();
    let others = seeds.keys().copied().filter(|seed| *seed != identity.node);
    let strangers = Strangers::new(Some(identity.cluster), others);
    let book = Arc::new(AddressBook::new(Arc::clone(&view), identity.members.clone(), seeds));
    let caller = Caller::of(&identity);
    let peers = Arc::new(Peers::new(caller, Arc::clone(&book), tasks.0.clone(), strangers));
    let worker = Worker::start(node, &disk, clock, Arc::clone(&peers))
        .map_err(|error| ServerError::System(error.to_string()))?;
    peers.report_to(worker.clone());
    let Held { requests, answers, .. } = bounds.held.clone();
    let broker = Arc::new(Broker {
        identity,
        addresses,
        rack: config.rack.clone(),
        segment_dirs_failed: directories.unused(),
        limits: Arc::clone(&bounds.limits),
        view,
        worker: worker.clone(),
        forwarder: Forwarder::new(caller, Arc::clone(&book), tasks.0.clone()),
        book,
        peers,
        clock,
        requests,
        answers,
        unfolding: Semaphore::new(UNFOLDED_AT_ONCE),
        codec: hooks.codec,
        authorizer: hooks.authorizer,
        told: Told::default(),
        tracer: hooks.tracer,
        reloader: hooks.reloader,
    });
    if let Some(reloader) = &broker.reloader {
        settings::follow(reloader, &broker, &bounds);
    }
    let (refuse, refused) = watch::channel(None);
    broker.peers.report_refusal(refuse.clone());
    let running = Running {
        broker: Arc::clone(&broker),
        directories,
        bounds,
        readiness: Arc::clone(&readiness),
        refused,
        connections,
        tasks,
    };
    readiness.started(Arc::clone(&broker));
    dispatch.open(Arc::clone(&broker));
    running.tasks.0.spawn(membership::register(Arc::clone(&broker), refuse));
    running.tasks.0.spawn(newcomers::ask_around(Arc::clone(&broker)));
    running.tasks.0.spawn(space::watch(disk, worker));
    running.tasks.0.spawn(observe::observe(broker, config));
    tracing::info!(node = running.node().get(), cluster = %running.cluster(), "server.started");
    Ok(running)
}

fn bounds(config: &ServerConfig) -> Bounds {
    Bounds {
        held: Held::new(config.limits.request_bytes_max),
        descriptors: descriptors_for_connections(),
        clients: Budget::new(config.limits.connections_max),
        idle: Way::default(),
        strangers: Way::default(),
        drain: CancellationToken::new(),
        limits: Arc::new(LiveLimits::new(config.limits.clone())),
    }
}

/// The founders: those of the configuration, or this node alone.
fn seeds(config: &ServerConfig, native: &str) -> BTreeMap<NodeId, String> {
    if config.seed_nodes.is_empty() {
        return BTreeMap::from([(config.node(), native.to_owned())]);
    }
    config.seed_nodes.iter().map(|seed| (seed.node, seed.native.clone())).collect()
}

/// Waits until others have given this node another replica of the metadata group, or a later state of the one that it has.
async fn another_member(
    own: &Record,
    applicant: &Applicant,
    others: &BTreeMap<NodeId, String>,
    (lost, need): (ReplicaId, Need),
    progress: impl Fn(&str),
) -> Result<GroupState, ServerError> {
    let sound_to = need.sound_to.map(|(term, last)| format!("{last} of term {term}"));
    tracing::error!(replica = %lost, applied = need.applied.get(), term = need.term.get(), sound_to, "metadata.lost: the node cannot go on with this replica; others are asked for another, or a later state of it");
    let mut told = String::new();
    loop {
        match joining::renew(own, applicant, others, lost, need).await? {
            Ok(state) => return Ok(state),
            Err(why) => {
                progress(&format!(
                    "the replica of the metadata here cannot go on as it is, and there is nothing else yet: {why}"
                ));
                if told != why {
                    tracing::warn!(why, "bootstrap.waiting");
                    told = why;
                }
                sleep(RENEWAL_PAUSE).await;
            }
        }
    }
}

fn node_config(config: &ServerConfig, identity: &Identity) -> NodeConfig {
    NodeConfig {
        cluster: identity.cluster,
        node: identity.node,
        incarnation: identity.incarnation,
        founders: identity.members.keys().copied().collect(),
        default_replicas: config.default_replicas,
        seed: random_seed(),
        store: config.store(),
        copy_bytes_per_s: config.limits.copy_bytes_per_s,
        scrub: settings::scrub(config),
        watermarks: config.watermarks(),
        slow_disk_ms: config.disk.slow_ms,
        journal_queue_ms: config.journal.queue_ms,
        member_loss: None,
        metadata_log_bytes: LOG_BYTES,
        absent_ms: ABSENT_MS,
    }
}

async fn open_node(
    config: NodeConfig,
    begins_with: Option<GroupState>,
    disk: Arc<dyn Disk>,
) -> Result<Node, ServerError> {
    let directory = DirIdentity { cluster: config.cluster, node: config.node, incarnation: config.incarnation };
    blocking(move || {
        // The decision is durable already: a crash here leaves a directory that is formatted again, by the founders' decision
        // or from what the controller says then.
        if DirIdentity::read(&*disk).map_err(NodeOpenError::from)?.is_none() {
            let journal = JournalId::from_bytes(random_uuid().into_bytes());
            let formatted = match begins_with {
                Some(state) => Store::format_joining(&*disk, &directory, journal, state),
                None => directory.format(&*disk, journal),
            };
            formatted.map_err(NodeOpenError::from)?;
        }
        Ok(Node::open(disk, config)?)
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ServerError> + Send + 'static,
) -> Result<T, ServerError> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(ServerError::System(error.to_string())))
}
