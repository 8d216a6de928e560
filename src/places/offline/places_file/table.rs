//! Tables: comma-, semicolon- and tab-separated files.

use super::{Error, FieldError, KIND, LATITUDE, LONGITUDE, List, NAME, VICINITY, point};

/// Returns the separator of the columns: the one with which the first line names the most required
/// columns, or else has the most columns. Counting the separators of the line would also count those
/// in names of columns.
pub(super) fn separator(bytes: &[u8]) -> u8 {
    let fit = |&separator: &u8| {
        let mut reader = reader(bytes, separator);
        reader.headers().map_or((0, 0), |header| {
            let required = [NAME, LATITUDE, LONGITUDE];
            (required.iter().filter(|names| find(header, names).is_some()).count(), header.len())
        })
    };
    // The last of several maxima wins, so that the default is a comma.
    [b'\t', b';', b','].into_iter().max_by_key(fit).unwrap_or(b',')
}

fn reader(bytes: &[u8], separator: u8) -> csv::Reader<&[u8]> {
    csv::ReaderBuilder::new().delimiter(separator).from_reader(bytes)
}

/// Reads a table whose columns are separated by `separator`.
pub(super) fn read(bytes: &[u8], separator: u8, list: &mut List) -> Result<(), Error> {
    let table_error = |error| table_error(bytes, &error);
    let mut reader = reader(bytes, separator);
    let columns = Columns::of(reader.headers().map_err(table_error)?)?;
    let mut row = csv::StringRecord::new();
    while reader.read_record(&mut row).map_err(table_error)? {
        columns.place(&row, list).map_err(|FieldError { field, message }| {
            let line = line_at(bytes, row.position());
            Error { line, field: Some(field), message }
        })?;
    }
    Ok(())
}

/// Returns the line of the row at `position`. (The line of the reader is that of preceding blank
/// lines.)
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
            "the line has {len} columns, the first line {expected_len}; quote a text that contains \
             the separator"
        ),
        csv::ErrorKind::Utf8 { .. } => "the text is not UTF-8; save the file as UTF-8".to_owned(),
        _ => error.to_string(),
    };
    Error { line: line_at(bytes, error.position()), field: None, message }
}

/// Returns the index of the column with one of these names.
fn find(header: &csv::StringRecord, names: &[&str]) -> Option<usize> {
    names
        .iter()
        .find_map(|name| header.iter().position(|column| column.trim().eq_ignore_ascii_case(name)))
}

/// The indices of the columns.
struct Columns {
    name: usize,
    latitude: usize,
    longitude: usize,
    kind: Option<usize>,
    vicinity: Option<usize>,
}

impl Columns {
    fn of(header: &csv::StringRecord) -> Result<Self, Error> {
        let require = |names: &[&'static str]| {
            find(header, names).ok_or_else(|| {
                let columns: Vec<_> = header.iter().collect();
                let message = format!(
                    "there is no such column among {columns:?}; name the columns in the first \
                     line: name, latitude, longitude, kind"
                );
                Error { line: 1, field: Some(names[0]), message }
            })
        };
        Ok(Self {
            name: require(NAME)?,
            latitude: require(LATITUDE)?,
            longitude: require(LONGITUDE)?,
            kind: find(header, KIND),
            vicinity: find(header, VICINITY),
        })
    }

    fn place(&self, row: &csv::StringRecord, list: &mut List) -> Result<(), FieldError> {
        let text = |column: usize| row.get(column).unwrap_or_default();
        let degrees = |field, column| {
            let text = text(column).trim();
            text.parse().map_err(|_| {
                let message = "is not a number; use degrees with a decimal point, like 34.06893";
                FieldError::new(field, format!("{text:?} {message}"))
            })
        };
        let lat = degrees("latitude", self.latitude)?;
        let point = point(lat, degrees("longitude", self.longitude)?)?;
        let optional = |column: Option<usize>| column.map_or("", text);
        list.push(point, text(self.name), optional(self.kind), optional(self.vicinity))
    }
}
