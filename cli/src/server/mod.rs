//! `levada server`: one node. The composition root: here the broker gets its Arrow codec, and the Flight service gets the
//! broker behind `protocol`'s traits. Nowhere else do the two meet.
//!
//! One token tells all parts to stop: a signal cancels it, and so does the end of any part.

pub(crate) mod flags;

use std::{
    collections::BTreeSet, io::Read, os::unix::process::CommandExt as _, path::PathBuf, process::Command, sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;
use levada_broker::{
    config::{Reloader, ServerConfig, Source},
    logging, metrics,
    node::MemberLoss,
    server::{Hooks, Listeners, Running, ServerError, descriptors_for_connections, report_faults},
};
use levada_compute::{
    codec::ArrowCodec,
    flight::{FlightConfig, FlightDeps, FlightServer},
};
use levada_protocol::context::{AllowAll, Authorizer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use self::flags::ConfigFlags;
use crate::{exit, print, telemetry};

/// Runs one node.
#[derive(Args)]
#[command(after_help = flags::HELP)]
pub(crate) struct ServerArgs {
    /// A configuration file in TOML
    #[arg(long, env = "LEVADA_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Prints the configuration in force, and ends
    #[arg(long)]
    print_config: bool,
    /// Stops when standard input closes: whoever started it is gone
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
    /// A directory of segment.dirs that has failed: what started this process said so
    #[arg(long, hide = true, value_name = "DIRECTORY")]
    without_segment_dir: Vec<PathBuf>,
    /// What is amiss with the replica of the metadata in the data directory: what started this process said so
    #[arg(long, hide = true)]
    metadata_replica: Option<MemberLoss>,
    #[command(flatten)]
    flags: ConfigFlags,
}

pub(crate) async fn run(args: ServerArgs) -> Result<()> {
    let source = Source { file: args.config, environment: environment().collect(), flags: args.flags.variables() };
    if args.print_config {
        return print::line(&source.load()?.config.lines().join("\n"));
    }
    let reloader = Reloader::load(source)?;
    let config = reloader.config();
    logging::init(&config.log)?;
    let is_json = config.log.format == "json";
    let without =
        Without { segment_dirs: args.without_segment_dir.into_iter().collect(), metadata: args.metadata_replica };
    let ended = serve(config, &reloader, args.until_stdin_closes, without).await;
    let ended = ended.map_err(|error| match Without::what_has_failed(&error) {
        Some(failed) => failed.start_again(&error),
        None => error,
    });
    // Whoever reads the log as JSON gets the last words as JSON, too.
    ended.map_err(|error| if is_json { tell(error) } else { error })
}

/// What a node goes on without, as the process before said in whose place this one is.
#[derive(Default)]
struct Without {
    segment_dirs: BTreeSet<PathBuf>,
    /// Its replica of the metadata, as it is.
    metadata: Option<MemberLoss>,
}

impl Without {
    /// What another start can do without; `None` if that would not help.
    fn what_has_failed(error: &anyhow::Error) -> Option<Self> {
        let nothing = Self::default();
        match error.downcast_ref()? {
            ServerError::SegmentDirsFailed { paths, .. } => {
                Some(Self { segment_dirs: paths.iter().cloned().collect(), ..nothing })
            }
            ServerError::MetadataGivenUp(loss, _) => Some(Self { metadata: Some(*loss), ..nothing }),
            _ => None,
        }
    }

    /// Another start takes this process's place, as after a crash, and leaves alone what has failed: it may have left
    /// anything behind, and what this process believes of it is worth nothing.
    fn start_again(&self, why: &anyhow::Error) -> anyhow::Error {
        const METADATA: &str = "--metadata-replica=";
        if self.metadata.is_some() {
            tracing::warn!(why = exit::words(why), "server.again: to get another replica of the metadata");
        } else {
            tracing::error!(why = exit::words(why), "server.again: without what has failed");
        }
        let mut arguments = std::env::args_os();
        // The program that runs, whatever stands under its name by now.
        let mut program = Command::new("/proc/self/exe");
        program.arg0(arguments.next().unwrap_or_default());
        // What the process before said of that has been made good.
        program.args(arguments.filter(|argument| !argument.as_encoded_bytes().starts_with(METADATA.as_bytes())));
        for directory in &self.segment_dirs {
            program.arg("--without-segment-dir").arg(directory);
        }
        if let Some(loss) = self.metadata {
            program.arg(format!("{METADATA}{loss}"));
        }
        anyhow::Error::new(program.exec()).context(format!("{why}; nor can the node start again without it"))
    }
}

fn tell(error: anyhow::Error) -> anyhow::Error {
    let (code, exit) = (exit::name_of(&error), exit::code_of(&error));
    tracing::error!(error = exit::words(&error), code, exit, "server.ended");
    exit::Told(error).into()
}

async fn serve(
    config: ServerConfig,
    reloader: &Arc<Reloader>,
    until_stdin_closes: bool,
    without: Without,
) -> Result<()> {
    log_panics();
    raise_file_limit();
    report_faults();
    let shutdown = CancellationToken::new();
    stop_on_signals(&shutdown)?;
    reload_on_hangup(reloader)?;
    if until_stdin_closes {
        stop_with_stdin(shutdown.clone());
    }

    let codec = Arc::new(ArrowCodec::new());
    let authorizer: Arc<dyn Authorizer> = Arc::new(AllowAll);
    let (tracer, exporter) = telemetry::of_server(&config)?.unzip();
    if let Some(tracer) = tracer.clone() {
        reloader.on_change(move |config| tracer.set_per_million(config.tracing.samples_per_million));
    }
    let hooks = Hooks {
        codec: Some(codec.clone()),
        authorizer: Arc::clone(&authorizer),
        tracer: tracer.clone(),
        reloader: Some(Arc::clone(reloader)),
        without: without.segment_dirs,
        member_loss: without.metadata,
    };
    let (listeners, flight_listener) = Listeners::bind(&config).await?;
    let running = tokio::select! {
        running = Running::start(config, listeners, hooks) => running?,
        () = shutdown.cancelled() => return Ok(()),
    };
    metrics::describe(levada_compute::metrics::ALL);
    let (source, sink, catalog) = (running.source(), running.sink(), running.catalog());
    let deps = FlightDeps { source, sink, catalog, authorizer, codec, tracer };
    let flight = FlightServer::serve(flight_listener, deps, flight_settings(reloader), shutdown.clone());
    let flight = tokio::spawn({
        let shutdown = shutdown.clone();
        async move {
            let _stop_the_others = shutdown.drop_guard();
            flight.await
        }
    });
    let node_ended = running.run_until(shutdown.clone()).await;
    shutdown.cancel();
    if matches!(node_ended, Err(ServerError::SegmentDirsFailed { .. } | ServerError::MetadataGivenUp(..))) {
        // Whoever reads slowly is not waited for: the node is to be back at once.
        flight.abort();
    }
    let flight_ended = flight.await;
    if let Some(exporter) = exporter {
        exporter.finish().await;
    }
    node_ended?;
    Ok(flight_ended.context("the Flight service failed")??)
}

/// The Flight service's settings, as the configuration has them at each moment.
fn flight_settings(reloader: &Reloader) -> watch::Receiver<FlightConfig> {
    let (settings, receiver) = watch::channel(FlightConfig::default());
    reloader.on_change(move |config| {
        let of = &config.flight;
        settings.send_replace(FlightConfig {
            connections_max: usize::try_from(of.connections_max).unwrap_or(usize::MAX),
            descriptors: descriptors_for_connections(),
            stalled: Duration::from_millis(of.stalled_ms),
            held_bytes_max: usize::try_from(of.held_bytes_max).unwrap_or(usize::MAX),
            append_timeout: Duration::from_millis(of.append_ms),
            ..FlightConfig::default()
        });
    });
    receiver
}

/// A panic's words go where the others go.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(why = panic.payload_as_str(), place, %backtrace, "process.panicked");
    }));
}

/// A node has a descriptor for each connection and two for many of its files; the usual soft limit is for small programs.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
    {
        tracing::warn!(%error, limit = limit.current, "server.limits: the number of open files cannot be raised");
    }
}

/// The environment that configures a server; what tests pass on to each other is none of its business.
pub(crate) fn environment() -> impl Iterator<Item = (String, String)> {
    let variables =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    variables.filter(|(name, _)| !name.starts_with("LEVADA_TEST_"))
}

/// The first SIGTERM or SIGINT stops gracefully, the second at once.
fn stop_on_signals(shutdown: &CancellationToken) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        for first in [true, false] {
            let (name, code) = tokio::select! {
                _ = terminate.recv() => ("SIGTERM", 143),
                _ = interrupt.recv() => ("SIGINT", 130),
            };
            tracing::info!(signal = name, first, "server.signal");
            if !first {
                std::process::exit(code);
            }
            shutdown.cancel();
        }
    });
    Ok(())
}

/// SIGHUP has the configuration read again. How that went is told in the log.
fn reload_on_hangup(reloader: &Arc<Reloader>) -> Result<()> {
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for signals")?;
    let reloader = Arc::clone(reloader);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let reloader = Arc::clone(&reloader);
            // It has told the log.
            let _told = tokio::task::spawn_blocking(move || reloader.reload()).await;
        }
    });
    Ok(())
}

/// Stops when nobody can write to standard input any more.
fn stop_with_stdin(shutdown: CancellationToken) {
    std::thread::spawn(move || {
        let mut buffer = [0; 256];
        // An error is as good as an end.
        while std::io::stdin().read(&mut buffer).is_ok_and(|read| read > 0) {}
        shutdown.cancel();
    });
}
