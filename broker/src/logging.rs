//! Structured logs on standard error.
//!
//! The message of an event is its name (`peer.unreachable`, `topic.created`), stable for whoever searches or counts;
//! what it is about stands in fields.

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::{ConfigError, LogConfig};

/// Starts to write logs of this process. A second call changes nothing.
///
/// # Errors
/// The filter does not parse.
pub fn init(config: &LogConfig) -> Result<(), ConfigError> {
    let filter =
        EnvFilter::try_new(&config.filter).map_err(|error| ConfigError::new("log.filter", error.to_string()))?;
    let registry = tracing_subscriber::registry().with(filter);
    let layer = fmt::layer().with_writer(std::io::stderr).with_target(false);
    // Somebody may have set up logs already: a test, or a program around this one.
    let _ = match config.format.as_str() {
        "json" => registry.with(layer.json().flatten_event(true)).try_init(),
        _ => registry.with(layer).try_init(),
    };
    Ok(())
}
