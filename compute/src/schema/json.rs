//! An Arrow schema as JSON, in a form that a person writes:
//!
//! ```json
//! {"fields": [
//!   {"name": "at", "type": "timestamp(ms, UTC)", "nullable": false},
//!   {"name": "price", "type": "decimal128(12, 2)"},
//!   {"name": "tags", "type": "list", "items": "utf8"},
//!   {"name": "shop", "type": "struct", "fields": [{"name": "id", "type": "int32"}]}
//! ]}
//! ```
//!
//! `nullable` is true unless it says false; `metadata` (text by text) may stand at a field and at the whole. The form
//! in which arrow-rs serializes a schema (`data_type` in place of `type`) is read too. What comes out is canonical: one
//! text for one schema, so that two schemas are the same if their texts are.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arrow_schema::{DataType, Field, Fields, Schema};
use levada_protocol::limits::{SCHEMA_BYTES_MAX, SCHEMA_FIELDS_MAX};
use serde::Serialize;
use serde_json::{Map, Value};

use super::types::{self, Written};

/// How deep lists and structs may nest.
const NESTING_MAX: usize = 16;
/// The longest name of a field.
const FIELD_NAME_BYTES_MAX: usize = 255;

/// What is wrong with a schema: words that name the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SchemaError(String);

impl SchemaError {
    fn at(path: &[String], why: impl std::fmt::Display) -> Self {
        if path.is_empty() {
            Self(format!("schema: {why}"))
        } else {
            Self(format!("field `{}`: {why}", path.join(".")))
        }
    }
}

type Result<T> = std::result::Result<T, SchemaError>;

/// Reads and checks a topic's schema.
///
/// # Errors
/// Words that name the field that is wrong.
pub fn parse(text: &str) -> Result<Schema> {
    let fail = |why: String| SchemaError::at(&[], why);
    if text.len() > SCHEMA_BYTES_MAX {
        return Err(fail(format!("{} bytes are more than the {SCHEMA_BYTES_MAX} allowed", text.len())));
    }
    let value: Value = serde_json::from_str(text).map_err(|error| fail(format!("not JSON: {error}")))?;
    let Value::Object(document) = value else {
        return Err(fail("an object with \"fields\" is expected".to_owned()));
    };
    let schema = if is_arrow_form(&document) {
        let schema: Schema =
            serde_json::from_value(Value::Object(document)).map_err(|error| fail(error.to_string()))?;
        Schema::new_with_metadata(fold(schema.fields(), &mut Vec::new())?, schema.metadata)
    } else {
        let mut document = Keys { path: &[], map: document };
        let fields = document.fields("fields")?.ok_or_else(|| fail("\"fields\" is missing".to_owned()))?;
        let metadata = document.metadata()?;
        document.end()?;
        Schema::new_with_metadata(read_fields(fields, &mut Vec::new())?, metadata)
    };
    check(&schema)?;
    Ok(schema)
}

/// The canonical text of a schema.
#[must_use]
pub fn write(schema: &Schema) -> String {
    #[derive(Serialize)]
    struct Document<'a> {
        fields: Vec<FieldText<'a>>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        metadata: BTreeMap<&'a str, &'a str>,
    }
    let document = Document { fields: field_texts(schema.fields()), metadata: sorted(&schema.metadata) };
    serde_json::to_string(&document).unwrap_or_default()
}

/// The form of arrow-rs names types under another key.
fn is_arrow_form(document: &Map<String, Value>) -> bool {
    document
        .get("fields")
        .and_then(Value::as_array)
        .and_then(|fields| fields.first())
        .is_some_and(|field| field.get("data_type").is_some())
}

fn read_fields(values: Vec<Value>, path: &mut Vec<String>) -> Result<Fields> {
    let mut fields = Vec::with_capacity(values.len());
    for (number, value) in values.into_iter().enumerate() {
        let Value::Object(map) = value else {
            return Err(SchemaError::at(path, format!("field number {number} is not an object")));
        };
        let name = match map.get("name") {
            Some(Value::String(name)) => name.clone(),
            _ => return Err(SchemaError::at(path, format!("field number {number} has no \"name\""))),
        };
        path.push(name.clone());
        let mut keys = Keys { path, map };
        keys.text("name")?;
        let described = keys.described()?;
        let field = described.field(name, path)?;
        path.pop();
        fields.push(field);
    }
    Ok(fields.into())
}

/// A field, or a list's items, as far as the text itself goes.
struct Described {
    written: Written,
    nullable: bool,
    metadata: HashMap<String, String>,
    items: Option<Value>,
    fields: Option<Vec<Value>>,
}

impl Described {
    fn field(self, name: String, path: &mut Vec<String>) -> Result<Field> {
        if path.len() > NESTING_MAX {
            return Err(SchemaError::at(path, format!("nested more than {NESTING_MAX} deep")));
        }
        let unexpected = match self.written {
            Written::Struct => self.items.as_ref().map(|_| "items"),
            Written::List | Written::FixedSizeList(_) => self.fields.as_ref().map(|_| "fields"),
            Written::Whole(_) => {
                self.items.as_ref().map(|_| "items").or_else(|| self.fields.as_ref().map(|_| "fields"))
            }
        };
        if let Some(key) = unexpected {
            return Err(SchemaError::at(path, format!("\"{key}\" does not belong to its type")));
        }
        let data_type = match self.written {
            Written::Whole(data_type) => data_type,
            Written::List => DataType::List(Arc::new(read_items(self.items, path)?)),
            Written::FixedSizeList(size) => DataType::FixedSizeList(Arc::new(read_items(self.items, path)?), size),
            Written::Struct => {
                let fields = self.fields.ok_or_else(|| SchemaError::at(path, "a struct needs \"fields\""))?;
                DataType::Struct(read_fields(fields, path)?)
            }
        };
        Ok(Field::new(name, data_type, self.nullable).with_metadata(self.metadata))
    }
}

fn read_items(items: Option<Value>, path: &mut Vec<String>) -> Result<Field> {
    let map = match items {
        None => return Err(SchemaError::at(path, "a list needs \"items\", such as \"items\": \"utf8\"")),
        Some(Value::String(text)) => Map::from_iter([("type".to_owned(), Value::String(text))]),
        Some(Value::Object(map)) => map,
        Some(_) => return Err(SchemaError::at(path, "\"items\" is a type or an object with \"type\"")),
    };
    path.push("items".to_owned());
    let described = Keys { path, map }.described()?;
    let field = described.field(Field::LIST_FIELD_DEFAULT_NAME.to_owned(), path)?;
    path.pop();
    Ok(field)
}

/// An object whose keys are taken one by one; what is left over is refused by name.
struct Keys<'a> {
    path: &'a [String],
    map: Map<String, Value>,
}

impl Keys<'_> {
    fn fail<T>(&self, why: impl std::fmt::Display) -> Result<T> {
        Err(SchemaError::at(self.path, why))
    }

    fn text(&mut self, key: &str) -> Result<String> {
        match self.map.remove(key) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => self.fail(format!("\"{key}\" is not text")),
            None => self.fail(format!("\"{key}\" is missing")),
        }
    }

    fn fields(&mut self, key: &str) -> Result<Option<Vec<Value>>> {
        match self.map.remove(key) {
            None => Ok(None),
            Some(Value::Array(values)) => Ok(Some(values)),
            Some(_) => self.fail(format!("\"{key}\" is not a list of fields")),
        }
    }

    fn metadata(&mut self) -> Result<HashMap<String, String>> {
        let Some(value) = self.map.remove("metadata") else { return Ok(HashMap::new()) };
        serde_json::from_value(value).or_else(|_| self.fail("\"metadata\" is not an object of texts"))
    }

    fn described(mut self) -> Result<Described> {
        let text = self.text("type")?;
        let written = types::parse(&text).map_err(|why| SchemaError::at(self.path, why))?;
        let nullable = match self.map.remove("nullable") {
            None => true,
            Some(Value::Bool(nullable)) => nullable,
            Some(_) => return self.fail("\"nullable\" is true or false"),
        };
        let metadata = self.metadata()?;
        let items = self.map.remove("items");
        let fields = self.fields("fields")?;
        self.end()?;
        Ok(Described { written, nullable, metadata, items, fields })
    }

    fn end(self) -> Result<()> {
        match self.map.keys().next() {
            None => Ok(()),
            Some(key) => self.fail(format!("unknown key \"{key}\"")),
        }
    }
}

/// Types as they are stored, for a schema that was not written in our words.
fn fold(fields: &Fields, path: &mut Vec<String>) -> Result<Fields> {
    let mut folded = Vec::with_capacity(fields.len());
    for field in fields {
        path.push(field.name().clone());
        let data_type = types::fold(field.data_type()).map_err(|why| SchemaError::at(path, why))?;
        path.pop();
        folded.push(Field::new(field.name(), data_type, field.is_nullable()).with_metadata(field.metadata().clone()));
    }
    Ok(folded.into())
}

/// What holds for every schema however it was written.
fn check(schema: &Schema) -> Result<()> {
    if let Some(field) = schema.fields().iter().find(|field| field.name().starts_with('_')) {
        return Err(SchemaError::at(
            &[field.name().clone()],
            "names that start with `_` are reserved for the columns that every topic has",
        ));
    }
    let mut count = 0;
    check_fields(schema.fields(), &mut Vec::new(), &mut count)?;
    let bytes = write(schema).len();
    if bytes > SCHEMA_BYTES_MAX {
        return Err(SchemaError::at(&[], format!("{bytes} bytes are more than the {SCHEMA_BYTES_MAX} allowed")));
    }
    Ok(())
}

fn check_fields(fields: &Fields, path: &mut Vec<String>, count: &mut usize) -> Result<()> {
    if fields.is_empty() {
        return Err(SchemaError::at(path, "no fields"));
    }
    *count += fields.len();
    if *count > SCHEMA_FIELDS_MAX {
        return Err(SchemaError::at(&[], format!("more than {SCHEMA_FIELDS_MAX} fields")));
    }
    let mut names = std::collections::HashSet::with_capacity(fields.len());
    for field in fields {
        let name = field.name();
        path.push(name.clone());
        if name.is_empty() || name.len() > FIELD_NAME_BYTES_MAX || name.chars().any(char::is_control) {
            let why = format!("a name is 1 to {FIELD_NAME_BYTES_MAX} bytes without control characters");
            return Err(SchemaError::at(path, why));
        }
        if !names.insert(name.as_str()) {
            return Err(SchemaError::at(path, "is there twice"));
        }
        check_children(field.data_type(), path, count)?;
        path.pop();
    }
    Ok(())
}

fn check_children(data_type: &DataType, path: &mut Vec<String>, count: &mut usize) -> Result<()> {
    if path.len() > NESTING_MAX {
        return Err(SchemaError::at(path, format!("nested more than {NESTING_MAX} deep")));
    }
    match data_type {
        DataType::Struct(fields) => check_fields(fields, path, count),
        DataType::List(item) | DataType::FixedSizeList(item, _) => {
            *count += 1;
            path.push("items".to_owned());
            check_children(item.data_type(), path, count)?;
            path.pop();
            Ok(())
        }
        _ => Ok(()),
    }
}

#[derive(Serialize)]
struct FieldText<'a> {
    name: &'a str,
    #[serde(flatten)]
    rest: TypeText<'a>,
}

#[derive(Serialize)]
struct TypeText<'a> {
    #[serde(rename = "type")]
    data_type: String,
    nullable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<Box<TypeText<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fields: Option<Vec<FieldText<'a>>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<&'a str, &'a str>,
}

fn field_texts(fields: &Fields) -> Vec<FieldText<'_>> {
    fields.iter().map(|field| FieldText { name: field.name(), rest: type_text(field) }).collect()
}

fn type_text(field: &Field) -> TypeText<'_> {
    let (items, fields) = match field.data_type() {
        DataType::List(item) | DataType::FixedSizeList(item, _) => (Some(Box::new(type_text(item))), None),
        DataType::Struct(fields) => (None, Some(field_texts(fields))),
        _ => (None, None),
    };
    let data_type = types::write(field.data_type());
    TypeText { data_type, nullable: field.is_nullable(), items, fields, metadata: sorted(field.metadata()) }
}

fn sorted(metadata: &HashMap<String, String>) -> BTreeMap<&str, &str> {
    metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOP: &str = r#"{"fields": [
        {"name": "at", "type": "timestamp(ms, UTC)", "nullable": false},
        {"name": "price", "type": "decimal128(12,2)", "metadata": {"unit": "EUR", "a": "b"}},
        {"name": "tags", "type": "list", "items": "string"},
        {"name": "embedding", "type": "fixed_size_list(3)", "items": {"type": "float32", "nullable": false}},
        {"name": "shop", "type": "struct", "fields": [{"name": "_id", "type": "int32"}]}
    ], "metadata": {"owner": "till"}}"#;

    #[test]
    fn the_canonical_text_is_pinned_and_stable() {
        let schema = parse(SHOP).unwrap();
        let text = write(&schema);
        assert_eq!(
            text,
            concat!(
                r#"{"fields":[{"name":"at","type":"timestamp(ms, UTC)","nullable":false},"#,
                r#"{"name":"price","type":"decimal128(12, 2)","nullable":true,"metadata":{"a":"b","unit":"EUR"}},"#,
                r#"{"name":"tags","type":"list","nullable":true,"items":{"type":"utf8","nullable":true}},"#,
                r#"{"name":"embedding","type":"fixed_size_list(3)","nullable":true,"#,
                r#""items":{"type":"float32","nullable":false}},"#,
                r#"{"name":"shop","type":"struct","nullable":true,"#,
                r#""fields":[{"name":"_id","type":"int32","nullable":true}]}],"#,
                r#""metadata":{"owner":"till"}}"#
            )
        );
        assert_eq!(parse(&text).unwrap(), schema);
        assert_eq!(write(&parse(&text).unwrap()), text);
    }

    #[test]
    fn the_form_of_arrow_rs_is_read_and_folds() {
        let item = Arc::new(Field::new_list_field(DataType::LargeUtf8, true));
        let arrow = Schema::new(vec![
            Field::new("a", DataType::Int64, false),
            Field::new("b", DataType::LargeList(item), true),
        ]);
        let read = parse(&serde_json::to_string(&arrow).unwrap()).unwrap();
        assert_eq!(
            write(&read),
            concat!(
                r#"{"fields":[{"name":"a","type":"int64","nullable":false},{"name":"b","type":"list","nullable":true,"#,
                r#""items":{"type":"utf8","nullable":true}}]}"#
            )
        );
    }

    #[test]
    fn what_is_wrong_names_its_field() {
        let field = |field: &str| format!(r#"{{"fields":[{{"name":"ok","type":"bool"}},{field}]}}"#);
        let deep = (0..40).fold(r#""utf8""#.to_owned(), |items, _| format!(r#"{{"type":"list","items":{items}}}"#));
        for (text, says) in [
            ("{".to_owned(), "schema: not JSON"),
            ("[]".to_owned(), "an object with \"fields\""),
            ("{}".to_owned(), "\"fields\" is missing"),
            (r#"{"fields":[]}"#.to_owned(), "no fields"),
            (r#"{"fields":[],"version":1}"#.to_owned(), "unknown key \"version\""),
            (field("3"), "field number 1 is not an object"),
            (field(r#"{"type":"utf8"}"#), "field number 1 has no \"name\""),
            (field(r#"{"name":"a"}"#), "field `a`: \"type\" is missing"),
            (field(r#"{"name":"a","type":"text"}"#), "field `a`: unknown type `text`"),
            (field(r#"{"name":"a","type":"utf8","nulable":true}"#), "field `a`: unknown key \"nulable\""),
            (field(r#"{"name":"a","type":"utf8","nullable":"no"}"#), "field `a`: \"nullable\" is true or false"),
            (field(r#"{"name":"a","type":"list"}"#), "field `a`: a list needs \"items\""),
            (field(r#"{"name":"a","type":"list","items":"x"}"#), "field `a.items`: unknown type `x`"),
            (field(r#"{"name":"a","type":"utf8","items":"utf8"}"#), "field `a`: \"items\" does not belong"),
            (field(r#"{"name":"a","type":"struct"}"#), "field `a`: a struct needs \"fields\""),
            (field(r#"{"name":"a","type":"struct","fields":[]}"#), "field `a`: no fields"),
            (field(r#"{"name":"a","type":"dictionary"}"#), "field `a`: dictionaries are not stored"),
            (field(r#"{"name":"_a","type":"utf8"}"#), "field `_a`: names that start with `_` are reserved"),
            (field(r#"{"name":"ok","type":"utf8"}"#), "field `ok`: is there twice"),
            (field(r#"{"name":"","type":"utf8"}"#), "field ``: a name is 1 to 255 bytes"),
            (field(r#"{"name":"a","type":"bool","metadata":{"k":1}}"#), "field `a`: \"metadata\" is not"),
            (field(&format!(r#"{{"name":"a","type":"list","items":{deep}}}"#)), "nested more than 16 deep"),
            (" ".repeat(SCHEMA_BYTES_MAX + 1), "bytes are more than"),
        ] {
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        let many: Vec<_> =
            (0..=SCHEMA_FIELDS_MAX).map(|number| format!(r#"{{"name":"c{number}","type":"int8"}}"#)).collect();
        let error = parse(&format!(r#"{{"fields":[{}]}}"#, many.join(","))).unwrap_err();
        assert_eq!(error.to_string(), format!("schema: more than {SCHEMA_FIELDS_MAX} fields"));
    }
}
