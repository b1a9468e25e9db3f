//! A history as a file: a line of JSON for each event, compressed with zstd.
//!
//! ```json
//! {"index":7,"time_ns":1200,"process":3,"node":2,"type":"ok","of":5,"f":"send","value":{"key":1,"value":9,"offset":4}}
//! ```
//!
//! A file whose writer was ended in the middle is readable up to its last [`Writer::flush`].

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Event, Index, Key, Offset, Op, Phase, Process, Value};

/// zstd's fastest level that is worth it.
const LEVEL: i32 = 1;

/// A history that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A line is no event.
    #[error("{path}, line {line}: {error}")]
    Line {
        /// Of which file.
        path: PathBuf,
        /// Which, from 1.
        line: u64,
        /// Why.
        error: serde_json::Error,
    },
    /// An event does not follow the one before.
    #[error("{path}, line {line}: the event has index {found} where {expected} follows")]
    Gap {
        /// Of which file.
        path: PathBuf,
        /// Which, from 1.
        line: u64,
        /// The index that follows.
        expected: Index,
        /// The one that stands there.
        found: Index,
    },
}

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    index: Index,
    time_ns: u64,
    process: Process,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<u64>,
    #[serde(rename = "type")]
    phase: Phase,
    of: Index,
    f: &'a str,
    #[serde(borrow)]
    value: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The fields of all operations. Which belong to one, its name says.
#[derive(Default, Serialize, Deserialize)]
struct Fields {
    key: Key,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<Offset>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Offset>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    records: Vec<(Offset, Value)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    columns: Vec<(Offset, Value)>,
}

impl Fields {
    fn of(op: &Op) -> Self {
        let key = op.key();
        match op {
            Op::Send { value, offset, .. } => Self { key, value: Some(*value), offset: *offset, ..Self::default() },
            Op::Poll { from, records, .. } => {
                Self { key, from: Some(*from), records: records.clone(), ..Self::default() }
            }
            Op::End { offset, .. } => Self { key, offset: *offset, ..Self::default() },
            Op::Final { range, records, .. } => {
                let (from, offset) = range.as_ref().map(|range| (range.start, range.end)).unzip();
                Self { key, from, offset, records: records.clone(), ..Self::default() }
            }
            Op::Snapshot { from, columns, rows, .. } => {
                Self { key, from: Some(*from), records: rows.clone(), columns: columns.clone(), ..Self::default() }
            }
            Op::Read { value, .. } => Self { key, value: *value, ..Self::default() },
            Op::Write { value, .. } => Self { key, value: Some(*value), ..Self::default() },
            Op::Cas { expected, value, .. } => {
                Self { key, expected: *expected, value: Some(*value), ..Self::default() }
            }
        }
    }

    fn op(self, name: &str) -> Result<Op, serde_json::Error> {
        let Self { key, value, expected, offset, from, records, columns } = self;
        let needed = |field: Option<u64>, what: &str| {
            field.ok_or_else(|| serde::de::Error::custom(format!("a {name} without its {what}")))
        };
        Ok(match name {
            "send" => Op::Send { key, value: needed(value, "value")?, offset },
            "poll" => Op::Poll { key, from: needed(from, "from")?, records },
            "end" => Op::End { key, offset },
            "final" => Op::Final { key, range: from.zip(offset).map(|(start, end)| start..end), records },
            "snapshot" => Op::Snapshot { key, from: needed(from, "from")?, columns, rows: records },
            "read" => Op::Read { key, value },
            "write" => Op::Write { key, value: needed(value, "value")? },
            "cas" => Op::Cas { key, expected, value: needed(value, "value")? },
            _ => return Err(serde::de::Error::custom(format!("there is no operation {name}"))),
        })
    }
}

/// Writes a history while it happens.
pub struct Writer {
    path: PathBuf,
    file: zstd::Encoder<'static, File>,
}

impl Writer {
    /// Begins a file.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let made = File::create(path).and_then(|file| zstd::Encoder::new(file, LEVEL));
        let file = made.map_err(|error| Error::Io { path: path.to_owned(), error })?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Appends an event.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn append(&mut self, event: &Event) -> Result<(), Error> {
        let mut write = || -> io::Result<()> {
            let value = serde_json::value::to_raw_value(&Fields::of(&event.op))?;
            let line = Line {
                index: event.index,
                time_ns: event.time_ns,
                process: event.process,
                node: event.node,
                phase: event.phase,
                of: event.invocation,
                f: event.op.name(),
                value: &value,
                error: event.error.clone(),
            };
            serde_json::to_writer(&mut self.file, &line)?;
            self.file.write_all(b"\n")
        };
        write().map_err(|error| Error::Io { path: self.path.clone(), error })
    }

    /// What was appended so far can be read, whatever becomes of this process.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.file.flush().map_err(|error| Error::Io { path: self.path.clone(), error })
    }

    /// Ends the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(self) -> Result<(), Error> {
        let Self { path, file } = self;
        file.finish().map(drop).map_err(|error| Error::Io { path, error })
    }
}

/// Reads a history. One whose writer was ended in the middle ends with its last whole event.
///
/// # Errors
/// The file cannot be read, or is no history.
pub fn read(path: &Path) -> Result<Vec<Event>, Error> {
    let io = |error| Error::Io { path: path.to_owned(), error };
    let decoder = File::open(path).and_then(zstd::Decoder::new).map_err(io)?;
    let mut lines = BufReader::with_capacity(1 << 20, decoder);
    let (mut events, mut text, mut line) = (Vec::new(), Vec::new(), 0);
    loop {
        text.clear();
        match lines.read_until(b'\n', &mut text) {
            // Its writer was ended before the frame was.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(events),
            Err(error) => return Err(io(error)),
            Ok(_) if !text.ends_with(b"\n") => return Ok(events),
            Ok(_) => {}
        }
        line += 1;
        let event = parse(&text).map_err(|error| Error::Line { path: path.to_owned(), line, error })?;
        let expected = events.len() as Index;
        if event.index != expected {
            return Err(Error::Gap { path: path.to_owned(), line, expected, found: event.index });
        }
        events.push(event);
    }
}

fn parse(text: &[u8]) -> Result<Event, serde_json::Error> {
    let line: Line<'_> = serde_json::from_slice(text)?;
    let fields: Fields = serde_json::from_str(line.value.get())?;
    Ok(Event {
        index: line.index,
        time_ns: line.time_ns,
        process: line.process,
        node: line.node,
        phase: line.phase,
        invocation: line.of,
        op: fields.op(line.f)?,
        error: line.error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> Vec<Event> {
        let ops = [
            Op::Send { key: 1, value: 2, offset: Some(3) },
            Op::Poll { key: 1, from: 0, records: vec![(0, 5), (1, 6)] },
            Op::End { key: 1, offset: None },
            Op::Final { key: 2, range: Some(9..12), records: vec![(9, 9)] },
            Op::Final { key: 2, range: None, records: Vec::new() },
            Op::Snapshot { key: 0, from: 7, columns: vec![(7, 1)], rows: Vec::new() },
            Op::Read { key: 3, value: None },
            Op::Write { key: 3, value: u64::MAX },
            Op::Cas { key: 3, expected: Some(1), value: 0 },
        ];
        let event = |(index, op)| Event {
            index,
            time_ns: index * 1000,
            process: 4,
            node: (index % 2 == 0).then_some(1),
            phase: Phase::Info,
            invocation: index,
            op,
            error: (index == 3).then(|| "TIMEOUT: \"nobody\"".to_owned()),
        };
        (0..).zip(ops).map(event).collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl.zst");
        let mut writer = Writer::create(&path).unwrap();
        for event in events() {
            writer.append(&event).unwrap();
        }
        writer.finish().unwrap();
        assert_eq!(read(&path).unwrap(), events());
    }

    #[test]
    fn what_was_flushed_is_read_when_the_writer_never_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl.zst");
        let mut writer = Writer::create(&path).unwrap();
        for event in &events()[..3] {
            writer.append(event).unwrap();
        }
        writer.flush().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for event in &events()[3..] {
            writer.append(event).unwrap();
        }
        writer.finish().unwrap();
        // As long as it was when the process was ended.
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(read(&path).unwrap(), events()[..3]);
    }

    #[test]
    fn an_event_that_is_missing_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl.zst");
        let mut writer = Writer::create(&path).unwrap();
        for event in events().iter().filter(|event| event.index != 2) {
            writer.append(event).unwrap();
        }
        writer.finish().unwrap();
        assert!(matches!(read(&path), Err(Error::Gap { line: 3, expected: 2, found: 3, .. })));
    }
}
