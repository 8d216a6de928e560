//! The commands of a batch.
//!
//! A node writes one XADD for each update that it is given, so this is written for speed: what is the
//! same in all entries is written once, and names of fields are constants.

use super::entry::{Entry, Field, Value};
use super::id::Id;
use crate::text::digits::put_digits;

/// Entries in a batch.
pub const MAX_ENTRIES: u32 = 2000;

/// Bytes of a batch.
pub const MAX_BATCH: usize = 512 * 1024;

/// Bytes of an XADD without its line, if names are not longer than usual.
const USUAL: usize = 384;

/// The commands of a batch, written as it is cut.
#[derive(Debug, Default)]
pub struct Writer {
    /// The name of the command and the key, as they begin each XADD.
    prefix: Vec<u8>,
    /// The option that limits the length of the stream.
    limit: Vec<u8>,
    /// The number of parts of the option.
    limit_parts: usize,
    scratch: Vec<u8>,
}

impl Writer {
    /// A writer for the stream `key`.
    #[must_use]
    pub fn new(key: &[u8], max_entries: u64) -> Self {
        let mut writer = Self::default();
        push_bulk(&mut writer.prefix, b"XADD");
        push_bulk(&mut writer.prefix, key);
        if max_entries > 0 {
            writer.limit_parts = 3;
            for part in [&b"MAXLEN"[..], b"~", max_entries.to_string().as_bytes()] {
                push_bulk(&mut writer.limit, part);
            }
        }
        writer
    }

    /// Begins a batch.
    pub fn begin(&self, out: &mut Vec<u8>) {
        push_command(out, &[b"MULTI"]);
    }

    /// Appends an entry. `trims` is true for one entry of each batch at least.
    pub fn push(&mut self, out: &mut Vec<u8>, entry: &Entry<'_>, id: Id, trims: bool) {
        out.reserve(USUAL);
        let limit = if trims { self.limit_parts } else { 0 };
        push_length(out, b'*', 3 + limit + 2 * entry.field_count());
        out.extend_from_slice(&self.prefix);
        if trims {
            out.extend_from_slice(&self.limit);
        }
        self.scratch.clear();
        id.push(&mut self.scratch);
        push_bulk(out, &self.scratch);
        entry.fields(id, &mut self.scratch, |field, value| {
            out.extend_from_slice(name_of(field));
            let (Value::Text(value) | Value::Number(value)) = value;
            push_bulk(out, value);
        });
    }

    /// Ends a batch.
    pub fn end(&self, out: &mut Vec<u8>) {
        push_command(out, &[b"EXEC"]);
    }
}

/// Returns the name of a field as Redis reads it.
const fn name_of(field: Field) -> &'static [u8] {
    match field {
        Field::Type => b"$4\r\ntype\r\n",
        Field::Line => b"$4\r\nline\r\n",
        Field::Client => b"$6\r\nclient\r\n",
        Field::Lon => b"$3\r\nlon\r\n",
        Field::Lat => b"$3\r\nlat\r\n",
        Field::Time => b"$4\r\ntime\r\n",
        Field::Received => b"$8\r\nreceived\r\n",
        Field::Fence => b"$5\r\nfence\r\n",
        Field::Reason => b"$6\r\nreason\r\n",
        Field::From => b"$4\r\nfrom\r\n",
        Field::To => b"$2\r\nto\r\n",
        Field::Count => b"$5\r\ncount\r\n",
    }
}

/// Appends a command.
pub(super) fn push_command(out: &mut Vec<u8>, parts: &[&[u8]]) {
    push_length(out, b'*', parts.len());
    for part in parts {
        push_bulk(out, part);
    }
}

#[inline]
fn push_bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    push_length(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

#[inline]
fn push_length(out: &mut Vec<u8>, kind: u8, length: usize) {
    // Nearly all have two digits.
    if let 10..100 = length {
        let digit = |value: usize| b'0' + (value % 10) as u8;
        return out.extend_from_slice(&[kind, digit(length / 10), digit(length), b'\r', b'\n']);
    }
    push_any_length(out, kind, length);
}

fn push_any_length(out: &mut Vec<u8>, kind: u8, length: usize) {
    let mut line = [0; 23];
    let start = match put_digits(&mut line[1..21], length as u64) {
        20 => {
            line[20] = b'0';
            20
        }
        start => start + 1,
    };
    line[start - 1] = kind;
    line[21..].copy_from_slice(b"\r\n");
    out.extend_from_slice(&line[start - 1..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Kind;

    #[test]
    fn numbers_and_strings_are_written_as_redis_reads_them() {
        let mut out = Vec::new();
        push_command(&mut out, &[b"A", b"", &[b'x'; 12]]);
        assert_eq!(out, b"*3\r\n$1\r\nA\r\n$0\r\n\r\n$12\r\nxxxxxxxxxxxx\r\n");
        for length in [0, 9, 10, 42, 99, 100, 65535, 1 << 20] {
            let (mut fast, mut expected) = (Vec::new(), Vec::new());
            push_length(&mut fast, b'$', length);
            push_any_length(&mut expected, b'$', length);
            assert_eq!(fast, expected);
            assert_eq!(fast, format!("${length}\r\n").as_bytes());
        }
        for field in [
            Field::Type,
            Field::Line,
            Field::Client,
            Field::Lon,
            Field::Lat,
            Field::Time,
            Field::Received,
            Field::Fence,
            Field::Reason,
            Field::From,
            Field::To,
            Field::Count,
        ] {
            let mut name = Vec::new();
            push_bulk(&mut name, field.name().as_bytes());
            assert_eq!(name, name_of(field));
        }
    }

    #[test]
    fn a_batch_is_a_transaction() {
        let line = b"AT A +0.500000000 k\xffwi +1.5-2 1621464827.5";
        let entry = Entry::of(Kind::UPDATE, line).unwrap();
        let (mut writer, mut out) = (Writer::new(b"herd:A", 1000), Vec::new());
        writer.begin(&mut out);
        writer.push(&mut out, &entry, Id { millis: 7, sequence: 8 }, true);
        writer.push(&mut out, &entry, Id { millis: 7, sequence: 9 }, false);
        writer.end(&mut out);
        let xadd = |head: &str, id: &str| {
            format!(
                "{head}{id}\\r\\n$4\\r\\ntype\\r\\n$2\\r\\nat\\r\\n$4\\r\\nline\\r\\n$42\\r\\nAT A \
                 +0.500000000 k\\xffwi +1.5-2 1621464827.5\\r\\n$6\\r\\nclient\\r\\n$4\\r\\nk\\xffwi\
                 \\r\\n$3\\r\\nlon\\r\\n$2\\r\\n-2\\r\\n$3\\r\\nlat\\r\\n$3\\r\\n1.5\\r\\n$4\\r\\ntime\
                 \\r\\n$20\\r\\n1621464827.500000000\\r\\n$8\\r\\nreceived\\r\\n$20\\r\\n\
                 1621464828.000000000\\r\\n"
            )
        };
        let first = "*20\\r\\n$4\\r\\nXADD\\r\\n$6\\r\\nherd:A\\r\\n$6\\r\\nMAXLEN\\r\\n$1\\r\\n~\\r\\n\
                     $4\\r\\n1000\\r\\n$3\\r\\n";
        let second = "*17\\r\\n$4\\r\\nXADD\\r\\n$6\\r\\nherd:A\\r\\n$3\\r\\n";
        let expected = format!(
            "*1\\r\\n$5\\r\\nMULTI\\r\\n{}{}*1\\r\\n$4\\r\\nEXEC\\r\\n",
            xadd(first, "7-8"),
            xadd(second, "7-9")
        );
        assert_eq!(out.escape_ascii().to_string(), expected);
    }
}
