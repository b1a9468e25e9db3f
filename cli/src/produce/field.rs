//! Picks a few fields out of a JSON object without building the rest of it.

use std::fmt;

use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;

/// The values of the wanted fields of the JSON object in `line`, in the order of `wanted`; the last one if a field
/// stands there twice.
///
/// # Errors
/// The line is no JSON object.
pub(super) fn pick<const N: usize>(line: &[u8], wanted: [Option<&str>; N]) -> serde_json::Result<[Option<Value>; N]> {
    let mut deserializer = serde_json::Deserializer::from_slice(line);
    let picked = Picker(wanted).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(picked)
}

struct Picker<'a, const N: usize>([Option<&'a str>; N]);

impl<'de, const N: usize> DeserializeSeed<'de> for Picker<'_, N> {
    type Value = [Option<Value>; N];

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Picker<'_, N> {
    type Value = [Option<Value>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut picked = [const { None }; N];
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            let mut value = None;
            for (place, wanted) in picked.iter_mut().zip(self.0) {
                if wanted == Some(&*name) {
                    let parsed = match value.take() {
                        Some(parsed) => parsed,
                        None => map.next_value::<Value>()?,
                    };
                    value = Some(parsed.clone());
                    *place = Some(parsed);
                }
            }
            if value.is_none() {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(picked)
    }
}

/// A field's value as the bytes of a key: text as it is, anything else as JSON; null is no key.
pub(super) fn key_bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.into_bytes()),
        other => Some(other.to_string().into_bytes()),
    }
}

/// A field's value as milliseconds since 1970.
pub(super) fn milliseconds(value: &Value) -> Result<i64, String> {
    let text = match value {
        Value::Number(number) => return number.as_i64().ok_or_else(|| format!("{number} is no time in milliseconds")),
        Value::String(text) => text,
        other => return Err(format!("{other} is no time")),
    };
    if let Ok(milliseconds) = text.parse() {
        return Ok(milliseconds);
    }
    let time = text.parse::<jiff::Timestamp>();
    time.map(jiff::Timestamp::as_millisecond)
        .map_err(|_| format!("{text:?} is no time: use milliseconds since 1970 or RFC 3339"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_picked() {
        let line = br#"{"a": 1, "b": {"a": 2}, "c": "x\u0041", "a": 3}"#;
        assert_eq!(
            pick(line, [Some("a"), Some("c"), Some("a")]).unwrap(),
            [Some(json!(3)), Some(json!("xA")), Some(json!(3))]
        );
        assert_eq!(pick(line, [None, Some("z")]).unwrap(), [None, None]);
        for wrong in [&b"[1]"[..], b"1", b"", b"{\"a\":1} x", b"{\"a\":", b"\xff"] {
            assert!(pick(wrong, [Some("a")]).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn keys_and_times() {
        assert_eq!(key_bytes(json!("k")), Some(b"k".to_vec()));
        assert_eq!(key_bytes(json!(7)), Some(b"7".to_vec()));
        assert_eq!(key_bytes(Value::Null), None);
        assert_eq!(milliseconds(&json!(5)), Ok(5));
        assert_eq!(milliseconds(&json!("1970-01-01T00:00:01Z")), Ok(1000));
        assert!(milliseconds(&json!(1.5)).is_err() && milliseconds(&json!("soon")).is_err());
    }
}
