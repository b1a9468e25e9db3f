//! Standard input as records: lines, JSON lines, CSV.
//!
//! A thread of its own reads, as reading blocks; records come over in chunks through a short channel. A chunk ends when
//! it is full or when nothing more has arrived, so that `tail -f | levada produce` sends every line at once.

use std::{
    cell::RefCell,
    io::{self, BufRead, BufReader, Read},
};

use anyhow::{Context, Result, bail};
use arrow_schema::DataType;
use levada_client::Schema;
use levada_compute::schema;
use levada_protocol::limits::BATCH_BYTES_MAX;
use serde::{Serialize, Serializer};
use serde_json::Value;
use tokio::sync::mpsc;

use super::{Format, field};

/// A record of the input.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InputRecord {
    /// Where it stands, from 1.
    pub(super) line: u64,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Vec<u8>,
    pub(super) timestamp_ms: Option<i64>,
}

/// Records that come together.
type Chunk = Result<Vec<InputRecord>>;

const CHUNK_RECORDS: usize = 512;
const CHUNK_BYTES: usize = 1 << 20;
const CHUNKS_WAITING: usize = 16;
const READ_BUFFER_BYTES: usize = 256 << 10;

/// How input becomes records.
#[derive(Debug)]
pub(super) struct Input {
    format: Format,
    key: Option<String>,
    timestamp: Option<String>,
    /// The names of a typed topic's columns whose values JSON does not quote.
    unquoted: Vec<String>,
}

impl Input {
    pub(super) fn new(
        format: Format,
        key: Option<String>,
        timestamp: Option<String>,
        schema: Option<&Schema>,
    ) -> Result<Self> {
        let mut unquoted = Vec::new();
        if let Some(schema) = schema {
            let schema = schema::parse_json(&schema.json).context("the topic's schema is unknown to this version")?;
            let bare = |data_type: &DataType| data_type.is_numeric() || *data_type == DataType::Boolean;
            unquoted.extend(schema.fields().iter().filter(|field| bare(field.data_type())).map(|f| f.name().clone()));
        }
        Ok(Self { format, key, timestamp, unquoted })
    }

    /// Reads standard input to its end.
    pub(super) fn read_stdin(self) -> mpsc::Receiver<Chunk> {
        let (chunks, received) = mpsc::channel(CHUNKS_WAITING);
        std::thread::spawn(move || {
            if let Err(error) = self.read(io::stdin().lock(), &chunks) {
                // Nobody waits for it any more: then nobody needs to hear.
                let _ = chunks.blocking_send(Err(error));
            }
        });
        received
    }

    /// Ends early, without an error, when nobody takes the records any more.
    fn read(&self, input: impl Read, chunks: &mpsc::Sender<Chunk>) -> Result<()> {
        let sink = RefCell::new(Sink { chunks, chunk: Vec::new(), bytes: 0 });
        let input = FlushFirst { input, sink: &sink };
        let read = match self.format {
            Format::Lines | Format::Jsonl => self.read_lines(input, &sink),
            Format::Csv => self.read_csv(input, &sink),
        };
        // What stands before an error is sent all the same.
        sink.borrow_mut().flush();
        read
    }

    fn read_lines(&self, input: impl Read, sink: &RefCell<Sink<'_>>) -> Result<()> {
        let mut input = BufReader::with_capacity(READ_BUFFER_BYTES, input);
        let bytes_max = u64::try_from(BATCH_BYTES_MAX).unwrap_or(u64::MAX);
        for line in 1.. {
            let mut value = Vec::new();
            let read = input.by_ref().take(bytes_max).read_until(b'\n', &mut value);
            if read.context("cannot read standard input")? == 0 {
                break;
            }
            if value.last() == Some(&b'\n') {
                value.pop();
            } else if value.len() == BATCH_BYTES_MAX {
                bail!("line {line} is longer than any record may be ({BATCH_BYTES_MAX} bytes)");
            }
            let blank = self.format == Format::Jsonl && value.trim_ascii().is_empty();
            if !blank && !sink.borrow_mut().push(self.line(line, value)?) {
                break;
            }
        }
        Ok(())
    }

    fn line(&self, line: u64, value: Vec<u8>) -> Result<InputRecord> {
        let (mut key, mut timestamp_ms) = (None, None);
        if self.format == Format::Jsonl {
            let wanted = [self.key.as_deref(), self.timestamp.as_deref()];
            let picked = field::pick(&value, wanted).with_context(|| format!("line {line} is no JSON object"))?;
            (key, timestamp_ms) = self.key_and_time(line, picked)?;
        }
        Ok(InputRecord { line, key, value, timestamp_ms })
    }

    fn read_csv(&self, input: impl Read, sink: &RefCell<Sink<'_>>) -> Result<()> {
        let mut reader = csv::ReaderBuilder::new().buffer_capacity(READ_BUFFER_BYTES).from_reader(input);
        let names = reader.headers().context("the CSV has no header")?.clone();
        for wanted in [&self.key, &self.timestamp].into_iter().flatten() {
            if !names.iter().any(|name| name == wanted) {
                bail!("the CSV's header has no field {wanted:?}");
            }
        }
        let mut row = csv::StringRecord::new();
        while reader.read_record(&mut row).context("cannot read the CSV")? {
            let line = row.position().map_or(0, csv::Position::line);
            if !sink.borrow_mut().push(self.row(line, &names, &row)?) {
                break;
            }
        }
        Ok(())
    }

    /// A row as a JSON object: text, but what a typed topic has as numbers and booleans as these, or null if empty.
    fn row(&self, line: u64, names: &csv::StringRecord, row: &csv::StringRecord) -> Result<InputRecord> {
        let mut object = Object(Vec::with_capacity(names.len()));
        for (name, cell) in names.iter().zip(row) {
            let bare = self.unquoted.iter().any(|unquoted| unquoted == name);
            let value = match (bare, cell.trim()) {
                (true, "") => Value::Null,
                // What is no number after all is refused at the topic's door, with words that name field and row.
                (true, text) => serde_json::from_str(text).unwrap_or_else(|_| Value::String(cell.to_owned())),
                (false, _) => Value::String(cell.to_owned()),
            };
            object.0.push((name, value));
        }
        let pick = |wanted: &Option<String>| {
            let field = object.0.iter().find(|(name, _)| Some(*name) == wanted.as_deref());
            field.map(|(_, value)| value.clone())
        };
        let (key, timestamp_ms) = self.key_and_time(line, [pick(&self.key), pick(&self.timestamp)])?;
        Ok(InputRecord { line, key, value: serde_json::to_vec(&object)?, timestamp_ms })
    }

    fn key_and_time(&self, line: u64, [key, time]: [Option<Value>; 2]) -> Result<(Option<Vec<u8>>, Option<i64>)> {
        let missing = |name: &str| format!("line {line} has no field {name:?}");
        let key = match &self.key {
            Some(name) => field::key_bytes(key.with_context(|| missing(name))?),
            None => None,
        };
        let time = match &self.timestamp {
            Some(name) => {
                let time = field::milliseconds(&time.with_context(|| missing(name))?);
                Some(time.map_err(|why| anyhow::anyhow!("line {line}, field {name:?}: {why}"))?)
            }
            None => None,
        };
        Ok((key, time))
    }
}

/// Gathers records into chunks.
struct Sink<'a> {
    chunks: &'a mpsc::Sender<Chunk>,
    chunk: Vec<InputRecord>,
    bytes: usize,
}

impl Sink<'_> {
    /// Whether more are wanted.
    fn push(&mut self, record: InputRecord) -> bool {
        self.bytes += record.value.len();
        self.chunk.push(record);
        (self.chunk.len() < CHUNK_RECORDS && self.bytes < CHUNK_BYTES) || self.flush()
    }

    /// Whether more are wanted.
    fn flush(&mut self) -> bool {
        self.bytes = 0;
        let full = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_RECORDS));
        full.is_empty() || self.chunks.blocking_send(Ok(full)).is_ok()
    }
}

/// Input that may pause: what was gathered goes out before more is asked for.
struct FlushFirst<'a, R> {
    input: R,
    sink: &'a RefCell<Sink<'a>>,
}

impl<R: Read> Read for FlushFirst<'_, R> {
    /// The end, when nobody takes the records any more.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.sink.borrow_mut().flush() { self.input.read(buffer) } else { Ok(0) }
    }
}

/// A JSON object whose fields keep the order of the header.
struct Object<'a>(Vec<(&'a str, Value)>);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The records before an error, and the error.
    fn read_all(input: &Input, text: &str) -> (Vec<InputRecord>, Result<()>) {
        let (chunks, mut received) = mpsc::channel(1024);
        let read = input.read(text.as_bytes(), &chunks);
        drop(chunks);
        let mut records = Vec::new();
        while let Some(chunk) = received.blocking_recv() {
            records.extend(chunk.unwrap());
        }
        (records, read)
    }

    fn read(input: &Input, text: &str) -> Result<Vec<InputRecord>> {
        let (records, read) = read_all(input, text);
        read.map(|()| records)
    }

    fn input(format: Format, key: Option<&str>, timestamp: Option<&str>) -> Input {
        Input::new(format, key.map(str::to_owned), timestamp.map(str::to_owned), None).unwrap()
    }

    fn texts(records: &[InputRecord]) -> Vec<(u64, Option<&str>, &str, Option<i64>)> {
        let text = |bytes: &'_ Vec<u8>| std::str::from_utf8(bytes).map(str::to_owned).unwrap().leak() as &str;
        records.iter().map(|r| (r.line, r.key.as_ref().map(text), text(&r.value), r.timestamp_ms)).collect()
    }

    #[test]
    fn lines_are_taken_as_they_are() {
        let records = read(&input(Format::Lines, None, None), "a\n\n b \r\nlast").unwrap();
        assert_eq!(
            texts(&records),
            [(1, None, "a", None), (2, None, "", None), (3, None, " b \r", None), (4, None, "last", None)]
        );
        let many = "x\n".repeat(2000);
        assert_eq!(read(&input(Format::Lines, None, None), &many).unwrap().len(), 2000);
    }

    /// Gives a piece at a time, and looks whether all that was given before has come out.
    struct Pausing<'a> {
        pieces: Vec<&'a str>,
        given: usize,
        received: &'a RefCell<mpsc::Receiver<Chunk>>,
    }

    impl Read for Pausing<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.given > 1 {
                let chunk = self.received.borrow_mut().try_recv().expect("it is out before more is asked for");
                assert_eq!(chunk.unwrap().len(), 1);
            }
            let piece = self.pieces.get(self.given).map_or(&b""[..], |piece| piece.as_bytes());
            self.given += 1;
            buffer[..piece.len()].copy_from_slice(piece);
            Ok(piece.len())
        }
    }

    #[test]
    fn what_has_come_goes_out_before_more_is_waited_for() {
        for (format, pieces) in [
            (Format::Lines, vec!["", "a\n", "b\n"]),
            (Format::Jsonl, vec!["", "{}\n", "{}\n"]),
            (Format::Csv, vec!["n\n", "1\n", "2\n"]),
        ] {
            let (chunks, received) = mpsc::channel(16);
            let received = RefCell::new(received);
            let given = usize::from(pieces[0].is_empty());
            input(format, None, None).read(Pausing { pieces, given, received: &received }, &chunks).unwrap();
        }
    }

    #[test]
    fn a_chunk_is_bounded_in_bytes_too() {
        let (chunks, mut received) = mpsc::channel(64);
        let text = format!("{}\n", "x".repeat(CHUNK_BYTES / 2)).repeat(9);
        input(Format::Lines, None, None).read(text.as_bytes(), &chunks).unwrap();
        drop(chunks);
        let mut records = 0;
        while let Some(chunk) = received.blocking_recv() {
            let chunk = chunk.unwrap();
            records += chunk.len();
            assert!(chunk.len() <= 2);
        }
        assert_eq!(records, 9);
    }

    #[test]
    fn json_lines_give_key_and_time() {
        let input = input(Format::Jsonl, Some("id"), Some("at"));
        let records = read(&input, "{\"id\":7,\"at\":5}\n\n{\"at\":\"1970-01-01T00:00:01Z\",\"id\":null}\n").unwrap();
        assert_eq!(
            texts(&records),
            [
                (1, Some("7"), "{\"id\":7,\"at\":5}", Some(5)),
                (3, None, "{\"at\":\"1970-01-01T00:00:01Z\",\"id\":null}", Some(1000))
            ]
        );
        for (wrong, says) in [
            ("{}", "line 1 has no field \"id\""),
            ("{\"id\":1,\"at\":\"x\"}", "line 1, field \"at\""),
            ("\n[]", "line 2 is no JSON object"),
        ] {
            let error = format!("{:#}", read(&input, wrong).unwrap_err());
            assert!(error.contains(says), "{error}");
        }
        let (before, read) = read_all(&input, "{\"id\":7,\"at\":5}\nwrong\n{\"id\":7,\"at\":5}");
        assert_eq!((before.len(), read.is_err()), (1, true));
    }

    #[test]
    fn rows_of_csv_become_objects_of_the_topics_types() {
        let schema = r#"{"fields":[{"name":"n","type":"int64"},{"name":"ok","type":"boolean"}]}"#;
        let schema = Schema { id: 1, json: schema.to_owned() };
        let typed = Input::new(Format::Csv, Some("s".to_owned()), None, Some(&schema)).unwrap();
        let text = "n,s,ok\n1,\"a,\nb\",true\n,2,\nx,3,false\n";
        let records = read(&typed, text).unwrap();
        assert_eq!(
            texts(&records),
            [
                (2, Some("a,\nb"), r#"{"n":1,"s":"a,\nb","ok":true}"#, None),
                (4, Some("2"), r#"{"n":null,"s":"2","ok":null}"#, None),
                (5, Some("3"), r#"{"n":"x","s":"3","ok":false}"#, None)
            ]
        );
        let untyped = input(Format::Csv, None, None);
        assert_eq!(texts(&read(&untyped, "n\n1\n").unwrap()), [(2, None, r#"{"n":"1"}"#, None)]);
        assert!(read(&input(Format::Csv, Some("z"), None), "n\n1\n").is_err());
        assert!(read(&untyped, "a,b\n1\n").is_err(), "a row with fewer fields than the header");
    }
}
