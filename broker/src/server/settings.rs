//! What of a configuration that was read again reaches a running server: every [live](crate::config::Key::live) key of
//! the broker.

use std::sync::Arc;

use crate::{
    broker::Broker,
    config::{Reloader, ServerConfig},
    logging,
    net::connection::Bounds,
    node::{ScrubConfig, event::Settings},
};

/// The part of a configuration that the node core looks at and that may change.
pub(super) fn of_the_core(config: &ServerConfig) -> Settings {
    Settings {
        default_replicas: config.default_replicas,
        copy_bytes_per_s: config.limits.copy_bytes_per_s,
        scrub: scrub(config),
    }
}

/// How often and how fast all segments are read again.
pub(super) const fn scrub(config: &ServerConfig) -> ScrubConfig {
    ScrubConfig { bytes_per_s: config.scrub.bytes_per_s, interval_ms: config.scrub.interval_s.saturating_mul(1_000) }
}

/// Follows the configuration from now on.
pub(super) fn follow(reloader: &Reloader, broker: &Arc<Broker>, bounds: &Arc<Bounds>) {
    let (broker, bounds) = (Arc::downgrade(broker), Arc::clone(bounds));
    reloader.on_change(move |config| {
        if let Err(error) = logging::set_filter(&config.log.filter) {
            tracing::error!(%error, "config.filter.refused");
        }
        let Some(broker) = broker.upgrade() else { return };
        bounds.limits.set(config.limits.clone());
        bounds.held.resize(config.limits.request_bytes_max);
        bounds.clients.resize(config.limits.connections_max);
        broker.worker.configure(of_the_core(config));
    });
}
