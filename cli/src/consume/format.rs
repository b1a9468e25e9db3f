//! Record batches on standard output, in the form asked for.

use std::io::Write;

use anyhow::{Context, Result};
use arrow_array::{Array, RecordBatch, cast::AsArray};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, Field, SchemaRef};
use clap::ValueEnum;

use super::json::{Rows, Style};
use crate::print::{self, Column, Out};

/// How records are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table for a person
    Table,
    /// Values as they are, an end of line behind each (untyped topics)
    Raw,
    /// One JSON object a record
    Jsonl,
    /// CSV with a header
    Csv,
    /// An Arrow IPC stream
    Arrow,
}

/// A cell of a table is cut to this many characters.
const CELL_CHARS_MAX: usize = 80;

/// Rows of a table are shown together, as many at most.
const TABLE_ROWS_MAX: usize = 1000;

/// Writes record batches in one form.
pub(super) struct Writer {
    form: Form,
    style: Style,
}

enum Form {
    Table { out: Out, columns: SchemaRef, rows: Vec<Vec<String>> },
    Raw { out: Out },
    Jsonl { out: Out, line: Vec<u8> },
    Csv(Box<csv::Writer<Out>>),
    Arrow(Box<StreamWriter<Out>>),
}

impl Writer {
    pub(super) fn new(format: Format, schema: &SchemaRef, is_typed: bool) -> Result<Self> {
        let out = print::out();
        let form = match format {
            Format::Table => Form::Table { out, columns: schema.clone(), rows: Vec::new() },
            Format::Raw => Form::Raw { out },
            Format::Jsonl => Form::Jsonl { out, line: Vec::new() },
            Format::Csv => {
                let mut writer = Box::new(csv::Writer::from_writer(out));
                writer.write_record(schema.fields().iter().map(|field| field.name())).map_err(csv_error)?;
                Form::Csv(writer)
            }
            Format::Arrow => Form::Arrow(Box::new(StreamWriter::try_new(out, schema).map_err(arrow_error)?)),
        };
        Ok(Self { form, style: Style::new(is_typed) })
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let Self { form, style } = self;
        let mut shown = Rows::new(batch, style).map_err(arrow_error)?;
        match form {
            Form::Table { out, columns, rows } => {
                for row in 0..batch.num_rows() {
                    rows.push(shown.cells(row).map(|cell| cut(&cell)).collect());
                }
                if rows.len() < TABLE_ROWS_MAX {
                    return Ok(());
                }
                write_table(out, columns, std::mem::take(rows)).map_err(print::write_error)
            }
            Form::Raw { out } => write_raw(out, batch),
            Form::Jsonl { out, line } => {
                for row in 0..batch.num_rows() {
                    line.clear();
                    shown.line(row, line).and_then(|()| out.write_all(line)).map_err(print::write_error)?;
                }
                Ok(())
            }
            Form::Csv(writer) => {
                (0..batch.num_rows()).try_for_each(|row| writer.write_record(shown.cells(row)).map_err(csv_error))
            }
            Form::Arrow(writer) => writer.write(batch).map_err(arrow_error),
        }
    }

    /// Everything written so far is to be seen.
    pub(super) fn flush(&mut self) -> Result<()> {
        match &mut self.form {
            Form::Table { out, columns, rows } => write_table(out, columns, std::mem::take(rows)),
            Form::Raw { out } | Form::Jsonl { out, .. } => out.flush(),
            Form::Csv(writer) => writer.flush(),
            Form::Arrow(writer) => writer.get_mut().flush(),
        }
        .map_err(print::write_error)
    }

    /// There is no more.
    pub(super) fn finish(mut self) -> Result<()> {
        if let Form::Arrow(writer) = &mut self.form {
            writer.finish().map_err(arrow_error)?;
        }
        self.flush()
    }
}

fn write_table(out: &mut Out, schema: &SchemaRef, rows: Vec<Vec<String>>) -> std::io::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let columns: Vec<Column<'_>> = schema.fields().iter().map(|field| column(field)).collect();
    writeln!(out, "{}", print::table(&columns, rows))?;
    out.flush()
}

fn column(field: &Field) -> Column<'_> {
    if field.data_type().is_numeric() { Column::Number(field.name()) } else { Column::Text(field.name()) }
}

/// One line of it, not too long.
fn cut(cell: &str) -> String {
    let mut shown: String = cell.chars().take(CELL_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if shown.len() < cell.len() {
        shown.push('…');
    }
    shown
}

fn write_raw(out: &mut Out, batch: &RecordBatch) -> Result<()> {
    let values = batch.column_by_name("value").and_then(|column| column.as_binary_opt::<i32>());
    let values = values.context("the server left out the column `value`")?;
    for row in (0..values.len()).filter(|row| values.is_valid(*row)) {
        out.write_all(values.value(row)).and_then(|()| out.write_all(b"\n")).map_err(print::write_error)?;
    }
    Ok(())
}

fn arrow_error(error: ArrowError) -> anyhow::Error {
    match error {
        ArrowError::IoError(_, error) => print::write_error(error),
        other => anyhow::Error::new(other).context("cannot write the records"),
    }
}

fn csv_error(error: csv::Error) -> anyhow::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => print::write_error(error),
        other => anyhow::anyhow!("cannot write the records: {other:?}"),
    }
}
