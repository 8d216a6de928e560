//! The commands of a batch.
//!
//! A node writes one XADD for each update that it is given, so this is written for speed: what is the
//! same in all entries is written once, names of fields are constants, and the values of an update are
//! parts of its line, which is not parsed again if it has the usual form.

use super::entry::{Entry, Field, Value};
use super::id::Id;
use crate::protocol::time::parse_difference;
use crate::text::digits::{nine_digits, put_digits};

/// Entries in a batch.
pub const MAX_ENTRIES: u32 = 2000;

/// Bytes of a batch.
pub const MAX_BATCH: usize = 512 * 1024;

/// Parts of the XADD of an update without an option: command, key, id, and seven fields.
const UPDATE_PARTS: usize = 3 + 2 * 7;

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
    /// The beginning of the XADD of an update without the option, up to the second part of the id.
    head: Vec<u8>,
    /// The time in it, and how many digits the second part does not have.
    head_of: Option<(u64, usize)>,
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

    /// Appends the entry of an update as [`Writer::push`] does, from its line alone. Appends nothing and
    /// returns false if the line does not have the form that a node writes for a usual client.
    pub fn push_line(&mut self, out: &mut Vec<u8>, line: &[u8], id: Id, trims: bool) -> bool {
        if trims {
            return false; // one entry of a batch
        }
        let Some(update) = Update::parse(line) else { return false };
        let mut sequence = [b'0'; 20];
        let start = put_digits(&mut sequence, id.sequence).min(19);
        if self.head_of != Some((id.millis, start)) {
            let millis = id.millis.to_string();
            self.head.clear();
            push_length(&mut self.head, b'*', UPDATE_PARTS);
            self.head.extend_from_slice(&self.prefix);
            push_length(&mut self.head, b'$', millis.len() + 1 + sequence.len() - start);
            self.head.extend_from_slice(millis.as_bytes());
            self.head.push(b'-');
            self.head_of = Some((id.millis, start));
        }
        out.reserve(USUAL + line.len());
        out.extend_from_slice(&self.head);
        out.extend_from_slice(&sequence[start..]);
        push_field(out, b"\r\n$4\r\ntype\r\n$2\r\nat\r\n$4\r\nline\r\n$00\r\n", line);
        push_field(out, b"\r\n$6\r\nclient\r\n$00\r\n", update.client);
        push_field(out, b"\r\n$3\r\nlon\r\n$00\r\n", update.longitude);
        push_field(out, b"\r\n$3\r\nlat\r\n$00\r\n", update.latitude);
        out.extend_from_slice(b"\r\n$4\r\ntime\r\n$20\r\n");
        out.extend_from_slice(update.time);
        out.extend_from_slice(b"\r\n$8\r\nreceived\r\n$20\r\n");
        out.extend_from_slice(&update.received);
        out.extend_from_slice(b"\r\n");
        true
    }

    /// Ends a batch.
    pub fn end(&self, out: &mut Vec<u8>) {
        push_command(out, &[b"EXEC"]);
    }
}

/// The values of an update, as parts of its line.
struct Update<'a> {
    client: &'a [u8],
    longitude: &'a [u8],
    latitude: &'a [u8],
    time: &'a [u8; 20],
    received: [u8; 20],
}

impl<'a> Update<'a> {
    /// Returns the values of a line of the usual form: nine decimals, and numbers as JSON has them. The line
    /// is one that this node has written, so its fields are valid.
    #[inline]
    fn parse(line: &'a [u8]) -> Option<Self> {
        let field = |bytes: &'a [u8]| {
            let end = memchr::memchr(b' ', bytes)?;
            Some((&bytes[..end], &bytes[end + 1..]))
        };
        let (rest, time) = line.strip_prefix(b"AT ")?.split_last_chunk()?;
        let (_, rest) = field(rest.strip_suffix(b" ")?)?;
        let is_positive = *rest.first()? == b'+';
        // Less than a second, as nearly always.
        let usual = rest.split_first_chunk::<13>();
        let (difference, rest) =
            if let Some(([b'+' | b'-', b'0', b'.', decimals @ .., b' '], rest)) = usual {
                (nine_digits(decimals)?, rest)
            } else {
                let (difference, rest) = field(rest)?;
                (u64::try_from(parse_difference(difference)?.unsigned_abs()).ok()?, rest)
            };
        let (client, location) = field(rest)?;
        let nanos = nanos(time)?;
        let received =
            if is_positive { nanos.checked_add(difference) } else { nanos.checked_sub(difference) };
        let is_part = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
        let second = location.iter().skip(1).position(|byte| !is_part(byte))? + 1;
        let (latitude, longitude) = location.split_at(second);
        let is_usual = !client.is_empty() && longitude.iter().skip(1).all(is_part);
        is_usual.then_some(Self {
            client,
            longitude: number(longitude)?,
            latitude: number(latitude)?,
            time,
            received: seconds(received?)?,
        })
    }
}

/// Returns a signed decimal without its plus, or `None` if it is not a number of JSON as it stands.
#[inline]
fn number(signed: &[u8]) -> Option<&[u8]> {
    let (sign, digits) = signed.split_first()?;
    let is_usual = matches!(sign, b'+' | b'-')
        && matches!(digits, [b'1'..=b'9', ..] | [b'0'] | [b'0', b'.', ..])
        && digits.last().is_some_and(u8::is_ascii_digit);
    is_usual.then_some(if *sign == b'-' { signed } else { digits })
}

/// Returns the nanoseconds of a time in seconds with nine decimals, after 2001 and before 2286.
#[inline]
fn nanos(time: &[u8; 20]) -> Option<u64> {
    let [first @ b'1'..=b'9', seconds @ .., b'.', _, _, _, _, _, _, _, _, _] = time else {
        return None;
    };
    let decimals = nine_digits(time.last_chunk()?)?;
    let seconds = u64::from(first - b'0') * 1_000_000_000 + nine_digits(seconds)?;
    Some(seconds * 1_000_000_000 + decimals)
}

/// Returns a time in seconds with nine decimals, if it is after 2001 and before 2286.
#[inline]
fn seconds(nanos: u64) -> Option<[u8; 20]> {
    let (seconds, decimals) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    let mut text = [b'0'; 20];
    text[10] = b'.';
    put_digits(&mut text[11..], decimals);
    let has_ten = matches!(seconds, 1_000_000_000..=9_999_999_999);
    has_ten.then(|| {
        put_digits(&mut text[..10], seconds);
        text
    })
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

/// Appends `head`, which ends in a length of two digits, and a string of some other length.
#[inline]
fn push_field<const N: usize>(out: &mut Vec<u8>, head: &[u8; N], value: &[u8]) {
    let digit = |value: usize| b'0' + (value % 10) as u8;
    if let 10..100 = value.len() {
        let mut head = *head;
        head[N - 4] = digit(value.len() / 10);
        head[N - 3] = digit(value.len());
        out.extend_from_slice(&head);
    } else {
        out.extend_from_slice(&head[..N - "$00\r\n".len()]);
        push_length(out, b'$', value.len());
    }
    out.extend_from_slice(value);
}

#[inline]
fn push_bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    push_length(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

#[inline]
fn push_length(out: &mut Vec<u8>, kind: u8, length: usize) {
    let digit = |value: usize| b'0' + (value % 10) as u8;
    match length {
        0..10 => out.extend_from_slice(&[kind, digit(length), b'\r', b'\n']),
        10..100 => {
            out.extend_from_slice(&[kind, digit(length / 10), digit(length), b'\r', b'\n']);
        }
        _ => push_any_length(out, kind, length),
    }
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
    use proptest::prelude::*;

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

    /// The entry of an update as it is written from its parsed record.
    fn expected(line: &[u8], id: Id) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        Writer::new(b"herd:A", 7).push(&mut out, &Entry::of(Kind::UPDATE, line)?, id, false);
        Some(out)
    }

    #[test]
    fn usual_lines_are_written_without_being_parsed_again() {
        let mut writer = Writer::new(b"herd:A", 7);
        let id = Id { millis: 1_764_327_374_000, sequence: 36_028_797_018_965_001 };
        for (line, is_usual) in [
            ("AT A +0.263873386 kiwi +34.068930-118.445127 1621464827.959498503", true),
            ("AT A -0.263873386 k -4.068930+0.5 1621464827.000000000", true),
            ("AT A +123.263873386 k +0-0 9999999999.999999999", false),
            ("AT A +123.263873386 k +0-0.0 1621464827.959498503", true),
            ("AT A -1.263873386 k +10-20 1000000000.959498503", false),
            ("AT A +0.263873386 k +10-20 1621464827.95949850", false),
            ("AT A +0.263873386 k +10-20 01621464827.95949850", false),
            ("AT A +0.263873386 k +10-20/ 1621464827.959498503", false),
            ("AT A +0.263873386 k +10.-20 1621464827.959498503", false),
            ("AT A +0.263873386 k +010-20 1621464827.959498503", false),
            ("AT A +0.263873386 k +10-.5 1621464827.959498503", false),
            ("AT A +0.26387338 k +10-20 1621464827.959498503", true),
            ("AT A +0.000000000 k 1621464827.959498503", false),
            ("AT A +0.263873386  k +10-20 1621464827.959498503", false),
            ("AT A +0.263873386 k +10-20 1621464827.959498503 ", false),
            ("AT A +0.26387338x k +10-20 1621464827.959498503", false),
            ("AT A +0.263873386 k +10-20 162146482x.959498503", false),
            ("AT ", false),
            ("", false),
        ] {
            let mut out = Vec::new();
            assert_eq!(writer.push_line(&mut out, line.as_bytes(), id, false), is_usual, "{line}");
            if is_usual {
                assert_eq!(Some(out), expected(line.as_bytes(), id), "{line}");
            } else {
                assert!(out.is_empty());
            }
        }
        let mut out = Vec::new();
        let line = b"AT A +0.263873386 kiwi +34.068930-118.445127 1621464827.959498503";
        for id in [Id { millis: 0, sequence: 0 }, Id { millis: u64::MAX, sequence: u64::MAX }] {
            out.clear();
            assert!(writer.push_line(&mut out, line, id, false));
            assert_eq!(Some(&out), expected(line, id).as_ref());
        }
        assert!(!writer.push_line(&mut out, line, id, true), "the option is written elsewhere");
    }

    proptest! {
        /// For any record that a client can cause.
        #[test]
        fn a_line_is_written_as_its_record_is(
            client in "[!-~]{1,120}",
            difference in "[+-](0|[0-9]{1,12})\\.[0-9]{9}",
            location in "[+-](0|[0-9]{1,2})?\\.?[0-9]{0,9}[+-](0|[0-9]{1,3})?\\.?[0-9]{0,9}/?",
            time in "[0-9]{1,11}(\\.[0-9]{0,12})?",
            sequence: u64,
        ) {
            for time in [time, "1621464827.959498503".to_owned()] {
                let line = format!("AT A {difference} {client} {location} {time}");
                let id = Id { millis: 1_764_327_374_000, sequence };
                let Some(expected) = expected(line.as_bytes(), id) else { continue };
                let mut out = Vec::new();
                if Writer::new(b"herd:A", 0).push_line(&mut out, line.as_bytes(), id, false) {
                    prop_assert_eq!(out.escape_ascii().to_string(), expected.escape_ascii().to_string());
                }
            }
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
