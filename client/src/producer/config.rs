//! How a producer batches, waits and gives up.

use std::time::Duration;

use levada_protocol::{
    batch::Compression,
    error::{Error, ErrorCode, Result},
    limits::{BATCH_BYTES_MAX, KIB, MIB},
};

use super::Producer;
use crate::config::ClientConfig;

/// The settings of a [`Producer`].
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    /// How to reach the cluster.
    pub client: ClientConfig,
    /// A batch is sent when it has grown to this (the topic's `max.message.bytes` may ask for less).
    pub batch_bytes: usize,
    /// A batch waits this long for more records; zero sends as soon as a batch can be on its way.
    pub linger: Duration,
    /// How batches are compressed.
    pub compression: Compression,
    /// Bytes of records not yet acknowledged; `send` waits when they are used up.
    pub buffer_bytes: usize,
    /// A record that is not acknowledged by then has failed.
    pub delivery_timeout: Duration,
    /// An acknowledgement that takes longer makes the producer ask who leads the partition now.
    pub slow_after: Duration,
}

impl ProducerConfig {
    /// Defaults for a cluster.
    #[must_use]
    pub const fn new(client: ClientConfig) -> Self {
        Self {
            client,
            batch_bytes: 256 * KIB,
            linger: Duration::from_millis(5),
            compression: Compression::None,
            buffer_bytes: 64 * MIB,
            delivery_timeout: Duration::from_secs(120),
            slow_after: Duration::from_millis(300),
        }
    }

    /// # Errors
    /// [`ErrorCode::InvalidConfig`] with words that name the setting.
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::new(ErrorCode::InvalidConfig, what));
        if !(KIB..=BATCH_BYTES_MAX).contains(&self.batch_bytes) {
            return wrong(format!("batch_bytes must be from {KIB} to {BATCH_BYTES_MAX}, not {}", self.batch_bytes));
        }
        if self.buffer_bytes < self.batch_bytes || self.buffer_bytes > u32::MAX as usize {
            return wrong(format!(
                "buffer_bytes must be from batch_bytes ({}) to {}, not {}",
                self.batch_bytes,
                u32::MAX,
                self.buffer_bytes
            ));
        }
        if self.delivery_timeout <= self.linger {
            return wrong(format!(
                "delivery_timeout ({:?}) must be longer than linger ({:?})",
                self.delivery_timeout, self.linger
            ));
        }
        if self.slow_after.is_zero() {
            return wrong("slow_after must not be zero".to_owned());
        }
        Ok(())
    }
}

/// Makes a [`Producer`].
#[derive(Clone, Debug)]
#[must_use = "call build()"]
pub struct ProducerBuilder {
    config: Result<ProducerConfig>,
}

impl ProducerBuilder {
    pub(super) fn new(bootstrap: &str) -> Self {
        Self { config: ClientConfig::new(bootstrap).map(ProducerConfig::new) }
    }

    fn with(mut self, change: impl FnOnce(&mut ProducerConfig)) -> Self {
        if let Ok(config) = &mut self.config {
            change(config);
        }
        self
    }

    /// A name for the servers' logs and metrics.
    pub fn client_id(self, client_id: impl Into<String>) -> Self {
        self.with(|config| config.client.client_id = client_id.into())
    }

    /// See [`ProducerConfig::batch_bytes`].
    pub fn batch_bytes(self, bytes: usize) -> Self {
        self.with(|config| config.batch_bytes = bytes)
    }

    /// See [`ProducerConfig::linger`].
    pub fn linger(self, linger: Duration) -> Self {
        self.with(|config| config.linger = linger)
    }

    /// See [`ProducerConfig::compression`].
    pub fn compression(self, compression: Compression) -> Self {
        self.with(|config| config.compression = compression)
    }

    /// See [`ProducerConfig::buffer_bytes`].
    pub fn buffer_bytes(self, bytes: usize) -> Self {
        self.with(|config| config.buffer_bytes = bytes)
    }

    /// See [`ProducerConfig::delivery_timeout`].
    pub fn delivery_timeout(self, timeout: Duration) -> Self {
        self.with(|config| config.delivery_timeout = timeout)
    }

    /// See [`ClientConfig::request_timeout`].
    pub fn request_timeout(self, timeout: Duration) -> Self {
        self.with(|config| config.client.request_timeout = timeout)
    }

    /// Finds the cluster.
    ///
    /// # Errors
    /// A setting is wrong; no node answers.
    pub async fn build(self) -> Result<Producer> {
        Producer::with_config(self.config?).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        let good = ProducerConfig::new(ClientConfig::new("localhost:1").unwrap());
        good.check().unwrap();
        let cases = [
            ("batch_bytes", ProducerConfig { batch_bytes: 10, ..good.clone() }),
            ("buffer_bytes", ProducerConfig { buffer_bytes: good.batch_bytes - 1, ..good.clone() }),
            ("delivery_timeout", ProducerConfig { delivery_timeout: good.linger, ..good.clone() }),
            ("slow_after", ProducerConfig { slow_after: Duration::ZERO, ..good }),
        ];
        for (name, config) in cases {
            let error = config.check().unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidConfig);
            assert!(error.message.starts_with(name), "{}", error.message);
        }
    }
}
