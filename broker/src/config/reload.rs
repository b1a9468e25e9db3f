//! A configuration that is read again while the server runs.
//!
//! All or nothing: a file that is wrong anywhere changes nothing. Of a right one the [live](super::Key::live) keys take
//! effect at once, through whoever asked to be told; the others are named, as they need a restart. They are compared
//! with what the server was started with, so they are named again each time, until it is restarted or they are set back.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    ConfigError, Key, ServerConfig,
    keys::KEYS,
    source::{Given, Loaded, Origin, Source},
    text,
};

/// A key that has another value than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: &'static str,
    /// Its value until now.
    pub from: String,
    /// Its new value.
    pub to: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {} (was {})", self.key, self.to, self.from)
    }
}

/// What came of reading the configuration again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Changed, and in force.
    pub applied: Vec<Change>,
    /// Changed, and in force once the server is restarted.
    pub needs_restart: Vec<Change>,
}

/// A key, and what there is to say about its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueInForce {
    /// The key.
    pub key: &'static Key,
    /// Its value.
    pub value: String,
    /// Where that was set.
    pub origin: Origin,
    /// The value that it has after a restart, if that is another one.
    pub after_restart: Option<String>,
}

type Listener = Box<dyn Fn(&ServerConfig) + Send>;

/// Reads a server's configuration again, and tells who must know.
pub struct Reloader {
    source: Source,
    state: Mutex<State>,
}

struct State {
    in_force: ServerConfig,
    last: Loaded,
    listeners: Vec<Listener>,
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloader").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Reloader {
    /// Reads the configuration for the first time.
    ///
    /// # Errors
    /// It is wrong.
    pub fn load(source: Source) -> Result<Arc<Self>, ConfigError> {
        let last = source.load()?;
        let state = State { in_force: last.config.clone(), last, listeners: Vec::new() };
        Ok(Arc::new(Self { source, state: Mutex::new(state) }))
    }

    /// What is in force.
    #[must_use]
    pub fn config(&self) -> ServerConfig {
        self.state().in_force.clone()
    }

    /// Calls `listener` with what is in force, now and after every change. It must be quick, and must not come back here.
    pub fn on_change(&self, listener: impl Fn(&ServerConfig) + Send + 'static) {
        let mut state = self.state();
        listener(&state.in_force);
        state.listeners.push(Box::new(listener));
    }

    /// Reads the configuration again. Waits for the file system.
    ///
    /// # Errors
    /// It is wrong; nothing has changed.
    pub fn reload(&self) -> Result<Outcome, ConfigError> {
        let mut state = self.state();
        let last = self.source.load().inspect_err(|error| {
            tracing::error!(%error, "config.refused");
        })?;
        let (old, new) = (values(&state.in_force), values(&last.config));
        let mut outcome = Outcome::default();
        let mut next = Vec::new();
        for ((key, old), (_, new)) in old.into_iter().zip(new) {
            if old != new {
                let change = Change { key: key.name, from: text(&old), to: text(&new) };
                if key.live { &mut outcome.applied } else { &mut outcome.needs_restart }.push(change);
            }
            next.push((key.name, if key.live { new } else { old }));
        }
        state.in_force = ServerConfig::of(&[&Given::values("in force", next)])?;
        state.last = last;
        let State { in_force, listeners, .. } = &*state;
        listeners.iter().for_each(|listener| listener(in_force));
        let told = |changes: &[Change]| changes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        tracing::info!(
            applied = told(&outcome.applied),
            needs_restart = told(&outcome.needs_restart),
            "config.reloaded"
        );
        Ok(outcome)
    }

    /// All keys, with what is in force and where that was set.
    #[must_use]
    pub fn values(&self) -> Vec<ValueInForce> {
        let state = self.state();
        let (in_force, last) = (values(&state.in_force), values(&state.last.config));
        let all = in_force.into_iter().zip(last).map(|((key, value), (_, next))| ValueInForce {
            key,
            origin: state.last.origins.get(key.name).cloned().unwrap_or_default(),
            after_restart: (value != next).then(|| text(&next)),
            value: text(&value),
        });
        all.collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The value of every key.
fn values(config: &ServerConfig) -> Vec<(&'static Key, figment::value::Value)> {
    let all = figment::value::Value::serialize(config).ok();
    let find = |key: &Key| all.as_ref().and_then(|all| all.find_ref(key.name)).cloned();
    KEYS.iter().filter_map(|key| Some((key, find(key)?))).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn write(path: &Path, more: &str) {
        fs::write(path, format!("node_id = 1\ndata_dir = '/d'\nseed_nodes = ['1@a:1']\n{more}")).unwrap();
    }

    #[test]
    fn what_can_change_does_and_the_rest_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("levada.toml");
        write(&file, "rack = 'a'\n");
        let flags = vec![("LEVADA_LIMITS_IDLE_MS".to_owned(), "1000".to_owned())];
        let source = Source { file: Some(file.clone()), flags, ..Source::default() };
        let reloader = Reloader::load(source).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let see = Arc::clone(&seen);
        reloader.on_change(move |config| see.lock().unwrap().push(config.limits.copy_bytes_per_s));
        assert_eq!(reloader.reload().unwrap(), Outcome::default());

        write(&file, "rack = 'b'\n[limits]\ncopy_bytes_per_s = 7000000\nidle_ms = 2000\n");
        let change = |key, from: &str, to: &str| Change { key, from: from.into(), to: to.into() };
        let rack = change("rack", "\"a\"", "\"b\"");
        let copy = change("limits.copy_bytes_per_s", "52428800", "7000000");
        assert_eq!(reloader.reload().unwrap(), Outcome { applied: vec![copy], needs_restart: vec![rack.clone()] });
        let config = reloader.config();
        assert_eq!((config.rack.as_str(), config.limits.copy_bytes_per_s), ("a", 7_000_000));
        assert_eq!(config.limits.idle_ms, 1000, "flags go before the file, then as at the start");

        write(&file, "rack = 'b'\n[limits]\ncopy_bytes_per_s = 8000000\nidle_ms = 'wrong'\n");
        // The flag hides it, so it is not even looked at: only what counts is checked.
        assert_eq!(reloader.reload().unwrap().applied.len(), 1);
        write(&file, "rack = 'b'\n[limits]\ncopy_bytes_per_s = 9000000\nframe_ms = 'wrong'\n");
        let error = reloader.reload().unwrap_err();
        assert!(error.to_string().contains("levada.toml, line 7)"), "{error}");
        assert_eq!(reloader.config().limits.copy_bytes_per_s, 8_000_000, "a wrong file changes nothing");
        let values = reloader.values();
        let rack_now = values.iter().find(|value| value.key.name == "rack").unwrap();
        assert_eq!((rack_now.value.as_str(), rack_now.after_restart.as_deref()), ("\"a\"", Some("\"b\"")));

        write(&file, "rack = 'a'\n");
        assert_eq!(reloader.reload().unwrap().needs_restart, vec![], "it is set back");
        assert_eq!(*seen.lock().unwrap(), [52_428_800, 52_428_800, 7_000_000, 8_000_000, 52_428_800]);
    }
}
