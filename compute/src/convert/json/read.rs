//! From JSON objects to columns: one pass over the text, straight into the columns.

use std::fmt;

use arrow_array::ArrayRef;
use arrow_cast::base64::{BASE64_STANDARD, Engine};
use arrow_schema::{DataType, Fields};
use levada_protocol::limits::BATCH_DECOMPRESSED_BYTES_MAX;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{
    column::{Column, Columns, Values},
    scalar::{self, Fixed, expected, shown},
};

/// Why a row does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RowFault {
    /// Where in the row: names joined by dots. Empty for the row as a whole.
    pub(crate) field: String,
    /// Words.
    pub(crate) why: String,
}

/// Rows that become columns.
#[derive(Debug)]
pub(crate) struct JsonRows {
    columns: Columns,
    rows: usize,
    /// How many bytes the columns may still take: a few letters can stand for a long list of nulls.
    budget: usize,
}

impl JsonRows {
    /// No rows yet.
    pub(crate) fn new(fields: &Fields) -> Self {
        Self { columns: Columns::new(fields), rows: 0, budget: BATCH_DECOMPRESSED_BYTES_MAX }
    }

    /// Adds a row. After an error the columns are of no use.
    ///
    /// # Errors
    /// The text is not a JSON object of the fields.
    pub(crate) fn push(&mut self, json: &[u8]) -> Result<(), RowFault> {
        let mut place = Place { path: Vec::new(), fault: None, budget: self.budget };
        let mut text = serde_json::Deserializer::from_slice(json);
        let row = Row { columns: &mut self.columns, rows: self.rows, place: &mut place };
        let read = text.deserialize_any(row).and_then(|()| text.end());
        self.rows += 1;
        self.budget = place.budget;
        read.map_err(|error| {
            place.fault.unwrap_or_else(|| RowFault { field: String::new(), why: format!("not a JSON object: {error}") })
        })
    }

    /// The columns.
    ///
    /// # Errors
    /// A field that Arrow refuses, which none of the values put could cause.
    pub(crate) fn finish(self) -> Result<Vec<ArrayRef>, RowFault> {
        self.columns
            .all
            .into_iter()
            .map(|column| {
                let field = column.field.name().clone();
                column.finish().map_err(|why| RowFault { field, why })
            })
            .collect()
    }
}

/// Where in the row the reading is, and what went wrong there.
struct Place {
    path: Vec<String>,
    fault: Option<RowFault>,
    budget: usize,
}

impl Place {
    /// serde's own errors cannot carry the path.
    fn fail<E: serde::de::Error>(&mut self, why: impl Into<String>) -> E {
        self.fault = Some(RowFault { field: self.path.join("."), why: why.into() });
        E::custom("")
    }

    fn charge<E: serde::de::Error>(&mut self, bytes: usize) -> Result<(), E> {
        match self.budget.checked_sub(bytes) {
            Some(left) => self.budget = left,
            None => return Err(self.fail("the batch unfolds to more than is allowed; send fewer rows in one")),
        }
        Ok(())
    }
}

/// A row, or a struct: an object whose keys are columns.
struct Row<'a> {
    columns: &'a mut Columns,
    /// How many rows there were before.
    rows: usize,
    place: &'a mut Place,
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { columns, rows, place } = self;
        while let Some(position) = map.next_key_seed(Key { columns, place })? {
            let Some(column) = columns.all.get_mut(position) else { return Err(A::Error::custom("")) };
            place.path.push(column.field.name().clone());
            if column.len() > rows {
                return Err(place.fail("is there twice"));
            }
            map.next_value_seed(Cell { column, place })?;
            place.path.pop();
        }
        for column in columns.all.iter_mut().filter(|column| column.len() == rows) {
            if !column.field.is_nullable() {
                place.path.push(column.field.name().clone());
                return Err(place.fail("is missing, and may not be null"));
            }
            place.charge(column.null_bytes)?;
            column.put_null();
        }
        Ok(())
    }
}

/// The position of the column that a key names.
struct Key<'a> {
    columns: &'a Columns,
    place: &'a mut Place,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<usize, D::Error> {
        key.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<usize, E> {
        self.columns.position(name).ok_or_else(|| {
            self.place.path.push(shown(name));
            self.place.fail("the schema has no such field")
        })
    }
}

/// One value for one column.
struct Cell<'a> {
    column: &'a mut Column,
    place: &'a mut Place,
}

impl Cell<'_> {
    fn put<E: serde::de::Error>(self, fixed: Result<Fixed, String>) -> Result<(), E> {
        self.place.charge(self.column.null_bytes)?;
        match (fixed, &mut self.column.values) {
            (Ok(fixed), Values::Fixed { bytes, .. }) => {
                bytes.extend_from_slice(fixed.as_slice());
                self.column.valid();
                Ok(())
            }
            (Ok(_), _) => self.unexpected("a number"),
            (Err(why), _) => Err(self.place.fail(why)),
        }
    }

    fn unexpected<E: serde::de::Error>(self, what: &str) -> Result<(), E> {
        let why = format!("{what}, where {} is expected", expected(self.column.field.data_type()));
        Err(self.place.fail(why))
    }

    fn binary<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        let Ok(value) = BASE64_STANDARD.decode(text) else {
            return Err(self.place.fail(format!("{:?} is not base64", shown(text))));
        };
        match &mut self.column.values {
            Values::Fixed { width, bytes } if value.len() == *width => {
                self.place.charge(*width)?;
                bytes.extend_from_slice(&value);
                self.column.valid();
                Ok(())
            }
            Values::Fixed { width, .. } => {
                let why = format!("{} bytes, where {width} are expected", value.len());
                Err(self.place.fail(why))
            }
            _ => self.bytes(&value),
        }
    }

    fn bytes<E: serde::de::Error>(self, value: &[u8]) -> Result<(), E> {
        self.place.charge(self.column.null_bytes + value.len())?;
        if self.column.put_bytes(value) { Ok(()) } else { Err(self.place.fail("the batch is too large")) }
    }
}

impl<'de> DeserializeSeed<'de> for Cell<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<(), D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Cell<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        if !self.column.field.is_nullable() {
            return Err(self.place.fail("null, and the schema says it never is"));
        }
        self.place.charge(self.column.null_bytes)?;
        self.column.put_null();
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        let Values::Bool(bits) = &mut self.column.values else { return self.unexpected("true or false") };
        bits.append(value);
        self.column.valid();
        Ok(())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        let fixed = scalar::from_integer(self.column.field.data_type(), value.into());
        self.put(fixed)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        let fixed = scalar::from_integer(self.column.field.data_type(), value.into());
        self.put(fixed)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        let fixed = scalar::from_float(self.column.field.data_type(), value);
        self.put(fixed)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        match self.column.field.data_type() {
            DataType::Utf8 => self.bytes(text.as_bytes()),
            DataType::Binary | DataType::FixedSizeBinary(_) => self.binary(text),
            DataType::Boolean | DataType::List(_) | DataType::FixedSizeList(..) | DataType::Struct(_) => {
                self.unexpected("text")
            }
            data_type => {
                let fixed = scalar::from_text(data_type, text);
                self.put(fixed)
            }
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        let Self { column, place } = self;
        place.charge(size_of::<i32>())?;
        let (item, size) = match &mut column.values {
            Values::List { item, .. } => (item, None),
            Values::FixedList { item, size } => (item, Some(*size)),
            _ => return Self { column, place }.unexpected("an array"),
        };
        let before = item.len();
        place.path.push("items".to_owned());
        while size.is_none_or(|size| item.len() - before < size) {
            if values.next_element_seed(Cell { column: item, place })?.is_none() {
                break;
            }
        }
        place.path.pop();
        if let Some(size) = size
            && (item.len() - before < size || values.next_element::<IgnoredAny>()?.is_some())
        {
            return Err(place.fail(format!("an array of exactly {size} is expected")));
        }
        let end = i32::try_from(item.len());
        if let Values::List { ends, .. } = &mut column.values {
            ends.push(end.map_err(|_| place.fail::<A::Error>("the batch is too large"))?);
        }
        column.valid();
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let Self { column, place } = self;
        let rows = column.len();
        match &mut column.values {
            Values::Struct(columns) => {
                Row { columns, rows, place }.visit_map(map)?;
                column.valid();
                Ok(())
            }
            _ => Self { column, place }.unexpected("an object"),
        }
    }
}
