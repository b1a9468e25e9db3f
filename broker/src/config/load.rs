//! From providers to a checked configuration.

use std::path::Path;

use figment::{Figment, Provider, value::Value};
use levada_protocol::{
    limits::{FRAME_BYTES_MAX, REPLICAS_MAX},
    trace::PER_MILLION,
};

use super::{ConfigError, ServerConfig, address, keys, source::Given};
use crate::logging;

/// The most seed nodes: they are the voters of the metadata group.
const SEED_NODES_MAX: usize = 5;
/// The most directories for segments: each has its share of the files that are kept open.
const SEGMENT_DIRS_MAX: usize = 32;

impl ServerConfig {
    /// Defaults, over them a file, over it environment variables (`LEVADA_…`; pass `std::env::vars()`), over them flags.
    ///
    /// # Errors
    /// The first thing that is wrong, with the key it is about.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: impl Provider,
    ) -> Result<Self, ConfigError> {
        let environment: Vec<(String, String)> = environment.into_iter().collect();
        let mut figment = Figment::from(Given::defaults());
        if let Some(path) = file {
            figment = figment.merge(Given::file(path)?);
        }
        Self::checked(&figment.merge(Given::variables("environment", &environment)?).merge(flags))
    }

    /// Defaults, and over them what is given, the last first.
    pub(super) fn of(given: &[&Given]) -> Result<Self, ConfigError> {
        let over = |figment: Figment, given: &&Given| figment.merge(*given);
        Self::checked(&given.iter().fold(Figment::from(Given::defaults()), over))
    }

    fn checked(figment: &Figment) -> Result<Self, ConfigError> {
        let merged: Value = figment.extract().map_err(|error| from_figment(&error))?;
        check_known(&merged, "")?;
        let config: Self = figment.extract().map_err(|error| from_figment(&error))?;
        config.check()?;
        Ok(config)
    }

    /// Checks what one value alone, or several together, must be.
    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key: &'static str, why: String| Err(ConfigError::new(key, why));
        if self.node_id == 0 {
            return wrong("node_id", "node ids start at 1".to_owned());
        }
        if self.data_dir.as_os_str().is_empty() {
            return wrong("data_dir", "it is empty".to_owned());
        }
        if !(1..=REPLICAS_MAX).contains(&(self.default_replicas as usize)) {
            return wrong("default_replicas", format!("1 to {REPLICAS_MAX}, not {}", self.default_replicas));
        }
        if !matches!(self.log.format.as_str(), "text" | "json") {
            return wrong("log.format", format!("text or json, not {:?}", self.log.format));
        }
        logging::parse(&self.log.filter)?;
        let endpoint = &self.tracing.otlp_endpoint;
        if !endpoint.is_empty() && endpoint.strip_prefix("http://").is_none_or(|rest| address::split(rest).is_err()) {
            return wrong("tracing.otlp_endpoint", format!("http://host:port, not {endpoint:?}"));
        }
        self.check_directories()?;
        self.check_addresses()?;
        self.check_seeds()?;
        self.check_numbers()
    }

    fn check_directories(&self) -> Result<(), ConfigError> {
        let wrong = |why: String| Err(ConfigError::new("segment.dirs", why));
        let dirs = &self.segment.dirs;
        for (at, dir) in dirs.iter().enumerate() {
            if dir.as_os_str().is_empty() {
                return wrong("a directory's name is empty".to_owned());
            }
            if *dir == self.data_dir {
                return wrong(format!("{} is the data directory, which takes segments anyway", dir.display()));
            }
            if dirs.iter().take(at).any(|before| before == dir) {
                return wrong(format!("{} is listed twice", dir.display()));
            }
        }
        if dirs.len() > SEGMENT_DIRS_MAX {
            return wrong(format!("at most {SEGMENT_DIRS_MAX}, not {}", dirs.len()));
        }
        Ok(())
    }

    fn check_addresses(&self) -> Result<(), ConfigError> {
        let doors = [
            ("listen.native", &self.listen.native, "advertised.native", &self.advertised.native),
            ("listen.flight", &self.listen.flight, "advertised.flight", &self.advertised.flight),
            ("listen.http", &self.listen.http, "advertised.http", &self.advertised.http),
        ];
        for (listen_key, listen, advertised_key, advertised) in doors {
            let (host, _) = address::split(listen).map_err(|why| ConfigError::new(listen_key, why))?;
            if !address::is_loopback(host) && !self.insecure {
                return Err(ConfigError::new(
                    listen_key,
                    format!(
                        "{listen} can be reached from other machines, and there is no authentication yet: whoever \
                         reaches it can read and delete everything. Listen on 127.0.0.1, or set insecure = true \
                         (--insecure) if the network is yours alone"
                    ),
                ));
            }
            if !advertised.is_empty() {
                let (host, port) = address::split(advertised).map_err(|why| ConfigError::new(advertised_key, why))?;
                if address::is_unspecified(host) || port == 0 {
                    let why = format!("{advertised} is not an address that anybody can connect to");
                    return Err(ConfigError::new(advertised_key, why));
                }
            } else if address::is_unspecified(host) {
                let why = format!("must be set, as {listen_key} = {listen} says not under which address others come");
                return Err(ConfigError::new(advertised_key, why));
            }
        }
        Ok(())
    }

    fn check_seeds(&self) -> Result<(), ConfigError> {
        let wrong = |why: String| Err(ConfigError::new("seed_nodes", why));
        let mut ids: Vec<u64> = self.seed_nodes.iter().map(|seed| seed.node.get()).collect();
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find(|pair| pair.first() == pair.last()) {
            return wrong(format!("node {} is listed twice", twice.first().copied().unwrap_or_default()));
        }
        if ids.len() > SEED_NODES_MAX {
            return wrong(format!("at most {SEED_NODES_MAX}, not {}", ids.len()));
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), ConfigError> {
        const MIB: u64 = 1 << 20;
        let (limits, journal) = (&self.limits, &self.journal);
        let frame = FRAME_BYTES_MAX as u64;
        let bounds = [
            ("limits.connections_max", limits.connections_max, 1, 1_000_000),
            ("limits.connection_requests_max", limits.connection_requests_max, 1, 100_000),
            ("limits.connection_bytes_max", limits.connection_bytes_max, MIB, u64::from(u32::MAX)),
            ("limits.request_bytes_max", limits.request_bytes_max, frame, u64::from(u32::MAX)),
            ("limits.handshake_ms", limits.handshake_ms, 10, 600_000),
            ("limits.frame_ms", limits.frame_ms, 100, 3_600_000),
            ("limits.idle_ms", limits.idle_ms, 100, 86_400_000),
            ("limits.produce_ms", limits.produce_ms, 100, 3_600_000),
            ("scrub.bytes_per_s", self.scrub.bytes_per_s, 0, 1 << 40),
            ("scrub.interval_s", self.scrub.interval_s, 1, 100 * 86_400),
            ("limits.copy_bytes_per_s", limits.copy_bytes_per_s, 64 << 10, 1 << 40),
            ("flight.connections_max", self.flight.connections_max, 1, 1_000_000),
            ("flight.stalled_ms", self.flight.stalled_ms, 100, 3_600_000),
            ("flight.held_bytes_max", self.flight.held_bytes_max, 16 * MIB, 65_536 * MIB),
            ("flight.append_ms", self.flight.append_ms, 100, 3_600_000),
            ("tracing.samples_per_million", self.tracing.samples_per_million.into(), 0, PER_MILLION.into()),
            ("journal.file_bytes", journal.file_bytes, 48 * MIB, 4096 * MIB),
            ("journal.files_keep", journal.files_keep, 2, 10_000),
            ("journal.gather_bytes", journal.gather_bytes, 64 << 10, 48 * MIB),
            ("journal.checkpoint_bytes", journal.checkpoint_bytes, MIB, 65_536 * MIB),
            ("segment.write_bytes_min", self.segment.write_bytes_min, 0, 64 * MIB),
            ("segment.write_bytes_max", self.segment.write_bytes_max, 64 << 10, 64 * MIB),
            ("segment.writeback_bytes", self.segment.writeback_bytes, 4 << 10, 64 * MIB),
            ("tail.bytes_max", self.tail.bytes_max, 32 * MIB, 65_536 * MIB),
            ("tail.keep_bytes", self.tail.keep_bytes, 0, self.tail.bytes_max / 4),
            ("disk.reserve_percent", self.disk.reserve_percent, 0, 50),
            ("disk.slow_ms", self.disk.slow_ms, 0, 60_000),
            ("journal.queue_ms", self.journal.queue_ms, 0, 60_000),
            ("journal.held_bytes_max", journal.held_bytes_max, 2 * self.tail.bytes_max, 262_144 * MIB),
        ];
        for (key, value, min, max) in bounds {
            if !(min..=max).contains(&value) {
                return Err(ConfigError::new(key, format!("a number from {min} to {max}, not {value}")));
            }
        }
        Ok(())
    }
}

/// Refuses keys that nobody reads.
fn check_known(value: &Value, name: &str) -> Result<(), ConfigError> {
    let inner = match value {
        _ if keys::find(name).is_some() => return Ok(()),
        Value::Dict(_, inner) => inner,
        _ => {
            let hint = keys::nearest(name).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            return Err(ConfigError::new(name, format!("there is no such key{hint}")));
        }
    };
    inner.iter().try_for_each(|(key, value)| {
        let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
        check_known(value, &name)
    })
}

fn from_figment(error: &figment::Error) -> ConfigError {
    match &error.kind {
        figment::error::Kind::MissingField(field) => {
            let path: Vec<&str> = error.path.iter().map(String::as_str).chain([field.as_ref()]).collect();
            ConfigError::new(path.join("."), "must be set")
        }
        kind => ConfigError::new(error.path.join("."), kind.to_string()),
    }
}
