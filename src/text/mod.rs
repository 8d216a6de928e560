//! Encodings of numbers, bytes and strings as text. Everything here appends to a buffer.

pub mod digits;
pub mod hex;
pub mod json;
pub mod percent;
