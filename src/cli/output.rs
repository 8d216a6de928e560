//! Output, errors and exit statuses, shared with the benchmark.

use std::fmt;
use std::io::{self, Write as _};

/// Exit status of an error: the configuration is invalid, the port is in use.
pub const EXIT_FAILURE: u8 = 1;

/// Exit status of an invalid command line.
pub const EXIT_USAGE: u8 = 2;

/// An error that ends the program.
pub struct CommandError {
    /// [`EXIT_FAILURE`] or [`EXIT_USAGE`].
    pub exit_code: u8,
    /// The message for standard error, without the name of the program.
    pub message: String,
}

impl CommandError {
    /// An error other than an invalid command line.
    pub fn failure(message: impl fmt::Display) -> Self {
        Self { exit_code: EXIT_FAILURE, message: message.to_string() }
    }

    /// An invalid command line of `program`: the problem, the usage and a hint.
    pub fn usage(problem: impl fmt::Display, usage: &str, program: &str) -> Self {
        let message = format!("{problem}\n{usage}\nTry '{program} --help' for more information.");
        Self { exit_code: EXIT_USAGE, message }
    }
}

/// Writes to standard output. A closed pipe is not an error: a reader such as `head` may exit early.
///
/// # Errors
///
/// The output cannot be written, for example to a full disk.
pub fn print(text: &str) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CommandError::failure(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes a message of `program` to standard error. A failure to do so cannot be reported anywhere.
pub fn print_error(program: &str, message: &str) {
    let _ = writeln!(io::stderr().lock(), "{program}: {message}");
}

/// Formats rows as left-aligned columns, two spaces apart. A row may have fewer cells than others.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut table = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        table.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        table.push('\n');
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_longest_cell() {
        let rows = [&["Name", "Port"][..], &["Ñandú"], &["A", "1", "x"]];
        let rows = rows.map(|row| row.iter().map(|&cell| cell.to_owned()).collect());
        assert_eq!(table(&rows), "Name   Port\nÑandú\nA      1     x\n");
        assert_eq!(table(&[]), "");
    }
}
