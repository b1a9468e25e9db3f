//! From what is stored to what readers see, and back.

pub(crate) mod json;
