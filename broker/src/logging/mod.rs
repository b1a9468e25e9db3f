//! Structured logs on standard error.
//!
//! The message of an event is its name (`peer.unreachable`, `topic.created`), stable for whoever searches or counts, and
//! perhaps words for a person behind it (`segment.damaged: …`); what it is about stands in fields. `docs/events.md` lists
//! all names.

mod json;

use std::{
    io::{self, IsTerminal as _},
    sync::OnceLock,
};

use tracing_subscriber::{EnvFilter, Registry, fmt, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _};

use self::json::JsonEvents;
use crate::config::{ConfigError, LogConfig};

/// The filter of this process, once it writes logs.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts to write logs of this process. A second call changes nothing.
///
/// # Errors
/// The filter does not parse.
pub fn init(config: &LogConfig) -> Result<(), ConfigError> {
    let (filter, handle) = reload::Layer::new(parse(&config.filter)?);
    let registry = tracing_subscriber::registry().with(filter);
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let layer = fmt::layer().with_writer(io::stderr).with_ansi(colours).with_target(false);
    // Somebody may have set up logs already: a test, or a program around this one.
    let begun = match config.format.as_str() {
        "json" => registry.with(layer.event_format(JsonEvents)).try_init(),
        _ => registry.with(layer).try_init(),
    };
    if begun.is_ok() {
        let _ = FILTER.set(handle);
    }
    Ok(())
}

/// From now on logs are filtered by this.
///
/// # Errors
/// It does not parse.
pub fn set_filter(filter: &str) -> Result<(), ConfigError> {
    let filter = parse(filter)?;
    // Without one of ours, whoever set up the logs filters them.
    if let Some(handle) = FILTER.get()
        && let Err(error) = handle.reload(filter)
    {
        return Err(ConfigError::new("log.filter", error.to_string()));
    }
    Ok(())
}

pub(crate) fn parse(filter: &str) -> Result<EnvFilter, ConfigError> {
    let wrong = |why: String| {
        ConfigError::new("log.filter", format!("{filter:?}: {why}; write it as `info,levada_broker=debug`"))
    };
    // The parser would panic.
    if !filter.is_ascii() {
        return Err(wrong("it has letters that no name in the program has".to_owned()));
    }
    // A value is that value, and no pattern: some patterns take the parser minutes.
    EnvFilter::builder().with_regex(false).parse(filter).map_err(|error| wrong(error.to_string()))
}
