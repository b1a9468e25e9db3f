//! JSON objects and columns: how a row of a typed topic is written as text.
//!
//! | type | JSON |
//! |---|---|
//! | bool, integers, floats | as they are; floats that JSON lacks are `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | utf8 | a string |
//! | binary, `fixed_size_binary` | a string of standard base64 |
//! | date32, time | `"2024-02-29"`, `"12:34:56.789"`; or a number in the type's unit |
//! | timestamp with a zone | RFC 3339, such as `"2024-02-29T12:34:56.789Z"`; or a number in its unit |
//! | timestamp without | `"2024-02-29T12:34:56.789"`; or a number in its unit |
//! | decimal128 | `"12.34"`; a number if it is exact |
//! | list, struct | an array, an object |
//!
//! Reading is strict: nothing is rounded, cut or guessed. An unknown key, a missing one that may not be null, a number
//! that does not fit: each is an error that names the field.

mod column;
mod read;
mod scalar;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use read::{JsonRows, RowFault};
pub(crate) use write::JsonWriter;
