//! The places of a table, row by row.

use memchr::memchr_iter;

use super::{Error, Fault, KIND, LATITUDE, LONGITUDE, List, NAME, VICINITY, point};

/// The character that separates columns: the one of which the first line holds most.
pub(super) fn separator(bytes: &[u8]) -> u8 {
    let first_line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let count = |separator: u8| memchr_iter(separator, first_line).count();
    // Of equally many the last wins, so a line without any is one of commas.
    [b'\t', b';', b','].into_iter().max_by_key(|&separator| count(separator)).unwrap_or(b',')
}

/// Reads a table whose columns are separated by `separator`.
pub(super) fn read(bytes: &[u8], separator: u8, list: &mut List) -> Result<(), Error> {
    let table_error = |error| table_error(bytes, &error);
    let mut reader = csv::ReaderBuilder::new().delimiter(separator).from_reader(bytes);
    let columns = Columns::of(reader.headers().map_err(table_error)?)?;
    let mut row = csv::StringRecord::new();
    while reader.read_record(&mut row).map_err(table_error)? {
        columns.place(&row, list).map_err(|(field, message)| {
            let line = line_at(bytes, row.position());
            Error { line, field: Some(field), message }
        })?;
    }
    Ok(())
}

/// The line of the row that was read from `position` on. The reader's own count is of the blank
/// lines before it.
fn line_at(bytes: &[u8], position: Option<&csv::Position>) -> u64 {
    let (before, row) =
        bytes.split_at(position.map_or(0, |at| at.byte() as usize).min(bytes.len()));
    let blank = row.iter().take_while(|byte| b"\r\n".contains(byte));
    let newlines = before.iter().chain(blank).filter(|&&byte| byte == b'\n').count();
    newlines as u64 + 1
}

fn table_error(bytes: &[u8], error: &csv::Error) -> Error {
    let message = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => format!(
            "the line has {len} columns, the first line {expected_len}; put a text that holds the \
             separator into double quotes"
        ),
        csv::ErrorKind::Utf8 { .. } => "the text is not UTF-8; save the file as UTF-8".to_owned(),
        _ => error.to_string(),
    };
    Error { line: line_at(bytes, error.position()), field: None, message }
}

/// Which column holds what.
struct Columns {
    name: usize,
    latitude: usize,
    longitude: usize,
    kind: Option<usize>,
    vicinity: Option<usize>,
}

impl Columns {
    fn of(header: &csv::StringRecord) -> Result<Self, Error> {
        let find = |spellings: &[&str]| {
            spellings.iter().find_map(|spelling| {
                header.iter().position(|column| column.trim().eq_ignore_ascii_case(spelling))
            })
        };
        let need = |spellings: &[&'static str]| {
            find(spellings).ok_or_else(|| {
                let columns: Vec<_> = header.iter().collect();
                let message = format!(
                    "there is no such column among {columns:?}; name the columns in the first \
                     line: name, latitude, longitude, kind"
                );
                Error { line: 1, field: Some(spellings[0]), message }
            })
        };
        Ok(Self {
            name: need(NAME)?,
            latitude: need(LATITUDE)?,
            longitude: need(LONGITUDE)?,
            kind: find(KIND),
            vicinity: find(VICINITY),
        })
    }

    fn place(&self, row: &csv::StringRecord, list: &mut List) -> Result<(), Fault> {
        let text = |column: usize| row.get(column).unwrap_or_default();
        let degrees = |field, column| {
            let text = text(column).trim();
            text.parse().map_err(|_| {
                let message = "is not a number; write degrees with a decimal point, like 34.06893";
                (field, format!("{text:?} {message}"))
            })
        };
        let lat = degrees("latitude", self.latitude)?;
        let point = point(lat, degrees("longitude", self.longitude)?)?;
        let optional = |column: Option<usize>| column.map_or("", text);
        list.push(point, text(self.name), optional(self.kind), optional(self.vicinity))
    }
}
