//! A log line as JSON: `timestamp`, `level`, `event`, and the event's fields beside them.
//!
//! `event` is the name that `docs/events.md` lists. What a message says behind its name (`segment.damaged: …`) is for a
//! person and stands in `says`. Lines of libraries have no name of ours: their `event` is `foreign`, and `target` says
//! whose they are.

use std::fmt;

use serde_json::{Map, Value};
use tracing::{Event, Subscriber, field::Visit};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{FormatTime as _, SystemTime},
    },
    registry::LookupSpan,
};

/// The event of lines that are none of ours.
const FOREIGN: &str = "foreign";

/// Writes events as JSON.
#[derive(Clone, Copy, Debug)]
pub(super) struct JsonEvents;

impl<S, N> FormatEvent<S, N> for JsonEvents
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let metadata = event.metadata();
        let mut line = Map::new();
        line.insert("timestamp".to_owned(), timestamp.into());
        line.insert("level".to_owned(), metadata.level().as_str().into());
        match split(&fields.message).filter(|_| is_ours(metadata.target())) {
            Some((name, says)) => {
                line.insert("event".to_owned(), name.into());
                if !says.is_empty() {
                    line.insert("says".to_owned(), says.into());
                }
            }
            None => {
                line.insert("event".to_owned(), FOREIGN.into());
                line.insert("target".to_owned(), metadata.target().into());
                line.insert("says".to_owned(), fields.message.into());
            }
        }
        for (name, value) in fields.others {
            line.entry(name).or_insert(value);
        }
        writeln!(writer, "{}", Value::Object(line))
    }
}

fn is_ours(target: &str) -> bool {
    target.split("::").next().is_some_and(|name| name == "levada" || name.starts_with("levada_"))
}

/// The name of an event, and what its message says behind it.
fn split(message: &str) -> Option<(&str, &str)> {
    let (name, says) = message.split_once(": ").unwrap_or((message, ""));
    let is_name = name.contains('.') && name.bytes().all(|byte| byte.is_ascii_lowercase() || b"._".contains(&byte));
    is_name.then_some((name, says))
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(String, Value)>,
}

impl Fields {
    fn put(&mut self, field: &tracing::field::Field, value: Value) {
        self.others.push((field.name().to_owned(), value));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" { self.message = text } else { self.put(field, text.into()) }
    }

    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        if field.name() == "message" { value.clone_into(&mut self.message) } else { self.put(field, value.into()) }
    }

    fn record_i64(&mut self, field: &tracing::field::Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &tracing::field::Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &tracing::field::Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &tracing::field::Field, value: bool) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::{fmt::MakeWriter, layer::SubscriberExt as _};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Written {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_line_has_a_name_and_what_it_is_about() {
        let written = Written::default();
        let layer = tracing_subscriber::fmt::layer().event_format(JsonEvents).with_writer(written.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!(node = 7, ok = true, name = "a\nb", "peer.connected");
            tracing::error!(error = %"so", "segment.damaged: not \"whole\"");
            tracing::warn!("words without a name");
            tracing::info!(target: "hyper", "proto.http: no name of ours");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert_eq!(
            (&lines[0]["event"], &lines[0]["node"], &lines[0]["name"]),
            (&"peer.connected".into(), &7.into(), &"a\nb".into())
        );
        assert!(lines[0]["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')) && lines[0]["ok"] == true);
        assert_eq!((&lines[1]["event"], &lines[1]["says"]), (&"segment.damaged".into(), &"not \"whole\"".into()));
        assert_eq!((&lines[1]["level"], &lines[1]["error"]), (&"ERROR".into(), &"so".into()));
        assert_eq!((&lines[2]["event"], &lines[2]["says"]), (&"foreign".into(), &"words without a name".into()));
        assert_eq!((&lines[3]["event"], &lines[3]["target"]), (&"foreign".into(), &"hyper".into()));
    }
}
