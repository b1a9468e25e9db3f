//! Topic names and settings: what may be asked for, and what it means when nothing is said.

use std::collections::BTreeMap;

use crate::{
    error::{Error, ErrorCode, Result},
    limits::{BATCH_BYTES_DEFAULT, BATCH_BYTES_MAX, MIB, TOPIC_NAME_BYTES_MAX},
};

/// Checks a topic's name: 1 to 249 of `a-z A-Z 0-9 . _ -`, not `.` or `..` (Kafka's rule).
///
/// # Errors
/// [`ErrorCode::InvalidName`].
pub fn check_topic_name(name: &str) -> Result<()> {
    let legal = !name.is_empty()
        && name.len() <= TOPIC_NAME_BYTES_MAX
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if legal {
        return Ok(());
    }
    let shown: String = name.chars().take(64).collect();
    Err(Error::new(
        ErrorCode::InvalidName,
        format!(
            "{shown:?} is not a topic name: use 1 to {TOPIC_NAME_BYTES_MAX} of a-z A-Z 0-9 . _ - (and not . or .. alone)"
        ),
    ))
}

/// A topic's settings, with defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// The largest batch accepted, in bytes (`max.message.bytes`).
    pub max_message_bytes: usize,
    /// A segment is sealed when it has grown to this, in bytes (`segment.bytes`).
    pub segment_bytes: u64,
    /// Records older than this may go, in milliseconds (`retention.ms`); `None` keeps them for ever.
    pub retention_ms: Option<u64>,
    /// A partition larger than this loses its oldest segments, in bytes (`retention.bytes`); `None` has no bound.
    pub retention_bytes: Option<u64>,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            max_message_bytes: BATCH_BYTES_DEFAULT,
            segment_bytes: 256 * MIB as u64,
            retention_ms: Some(7 * 24 * 60 * 60 * 1000),
            retention_bytes: None,
        }
    }
}

/// The keys a topic's settings may have, each with what it means.
pub const TOPIC_CONFIG_KEYS: [(&str, &str); 4] = [
    ("max.message.bytes", "largest batch accepted, in bytes"),
    ("segment.bytes", "a segment is sealed when it has grown to this, in bytes"),
    ("retention.ms", "records older than this may go, in milliseconds; -1 keeps them for ever"),
    ("retention.bytes", "a partition larger than this loses its oldest segments, in bytes; -1 has no bound"),
];

impl TopicConfig {
    /// From the settings that were given; the others keep their defaults.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidConfig`] with words that name the key.
    pub fn from_map(map: &BTreeMap<String, String>) -> Result<Self> {
        let mut config = Self::default();
        for (key, value) in map {
            match key.as_str() {
                "max.message.bytes" => {
                    let bytes = number(key, value, 1024, BATCH_BYTES_MAX as u64)?;
                    config.max_message_bytes = usize::try_from(bytes).unwrap_or(BATCH_BYTES_MAX);
                }
                "segment.bytes" => config.segment_bytes = number(key, value, MIB as u64, 4096 * MIB as u64)?,
                "retention.ms" => config.retention_ms = bound(key, value)?,
                "retention.bytes" => config.retention_bytes = bound(key, value)?,
                _ => {
                    let known: Vec<&str> = TOPIC_CONFIG_KEYS.iter().map(|(key, _)| *key).collect();
                    return Err(Error::new(
                        ErrorCode::InvalidConfig,
                        format!("unknown topic setting {key:?}; known are {}", known.join(", ")),
                    ));
                }
            }
        }
        Ok(config)
    }

    /// All settings as text, by key.
    #[must_use]
    pub fn to_map(&self) -> BTreeMap<String, String> {
        let unbounded = |value: Option<u64>| value.map_or_else(|| "-1".to_owned(), |value| value.to_string());
        BTreeMap::from([
            ("max.message.bytes".to_owned(), self.max_message_bytes.to_string()),
            ("segment.bytes".to_owned(), self.segment_bytes.to_string()),
            ("retention.ms".to_owned(), unbounded(self.retention_ms)),
            ("retention.bytes".to_owned(), unbounded(self.retention_bytes)),
        ])
    }
}

fn number(key: &str, value: &str, min: u64, max: u64) -> Result<u64> {
    value.parse().ok().filter(|number| (min..=max).contains(number)).ok_or_else(|| {
        Error::new(ErrorCode::InvalidConfig, format!("{key} must be a number from {min} to {max}, not {value:?}"))
    })
}

/// A number of at least 1, or -1 for none.
fn bound(key: &str, value: &str) -> Result<Option<u64>> {
    if value == "-1" {
        return Ok(None);
    }
    value.parse().ok().filter(|number| (1..=i64::MAX.unsigned_abs()).contains(number)).map(Some).ok_or_else(|| {
        Error::new(ErrorCode::InvalidConfig, format!("{key} must be -1 or a number of at least 1, not {value:?}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "orders", "A.b_c-9", &"x".repeat(249)] {
            check_topic_name(good).unwrap();
        }
        for bad in ["", ".", "..", "a b", "a/b", "ü", "a\0", &"x".repeat(250)] {
            assert_eq!(check_topic_name(bad).unwrap_err().code, ErrorCode::InvalidName, "{bad:?}");
        }
    }

    #[test]
    fn settings_name_the_key_that_is_wrong() {
        let map = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        assert_eq!(TopicConfig::from_map(&map("retention.ms", "-1")).unwrap().retention_ms, None);
        assert_eq!(TopicConfig::from_map(&map("segment.bytes", "1048576")).unwrap().segment_bytes, 1 << 20);
        for (key, value) in
            [("retention.ms", "0"), ("segment.bytes", "1"), ("max.message.bytes", "x"), ("retention.hours", "1")]
        {
            let error = TopicConfig::from_map(&map(key, value)).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidConfig);
            assert!(error.message.contains(key), "{}", error.message);
        }
        let config = TopicConfig { retention_bytes: Some(5), ..TopicConfig::default() };
        assert_eq!(TopicConfig::from_map(&config.to_map()).unwrap(), config);
    }
}
