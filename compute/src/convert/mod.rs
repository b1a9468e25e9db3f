//! From what is stored to what readers see, and back.
//!
//! [`view`]: what one message to a reader holds. [`rows`]: records to the columns of an untyped topic. [`columns`]: stored columns to a reader's. [`json`] and
//! [`hidden`]: JSON objects to stored columns, and back.

pub(crate) mod columns;
pub(crate) mod hidden;
pub(crate) mod json;
pub(crate) mod rows;
pub(crate) mod view;
