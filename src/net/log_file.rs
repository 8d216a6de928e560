//! The log file of a node: messages and diagnostics in one file, buffered, rotated by size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::config::LoggingConfig;
use crate::counters::counters;
use crate::limits::Limits;
use crate::net::limits::{LOG_BUFFER, LOG_RETRY};
use crate::net::regular_file::NONBLOCK;

/// A handle to the log file, shared by the loop and the diagnostics of all threads.
#[derive(Clone)]
pub struct Log(Arc<Mutex<LogFile>>);

counters! {
    /// Monotonic counters of the log since start-up.
    LogStats {
        log_lines_suppressed_total:
            "Diagnostic lines suppressed by the rate limit." {
            lines_suppressed
        }
        log_write_errors_total: "Failed attempts to write or open the log file." { write_errors }
        log_lost_bytes_total: "Bytes that could not be written to the log." { bytes_lost }
        log_rotations_total: "Rotations of the log file." { rotations }
    }
}

pub(super) struct LogFile {
    path: PathBuf,
    /// `None` after a write has failed, until the file has been reopened.
    file: Option<File>,
    /// True if the open file is the regular file of that name. A symbolic link, a FIFO or a device
    /// is not rotated: the operator has put it there to redirect the log.
    rotatable: bool,
    /// True if `file` has to be replaced by the file of that name, which could not be opened.
    outdated: bool,
    size: u64,
    max_bytes: Option<u64>,
    keep: u32,
    buffer: Vec<u8>,
    /// Bytes lost since the last note of a loss in the file.
    lost: u64,
    /// True if the file ends within a line whose rest was lost.
    torn: bool,
    /// True if the failure has been reported on standard error.
    reported: bool,
    retry_at: Instant,
    /// True if a failed rotation has been reported on standard error.
    stuck: bool,
    /// Diagnostic lines suppressed and not yet summed up in the log.
    pub(super) suppressed: u64,
    pub(super) stats: LogStats,
}

impl Log {
    /// Opens `NAME.log`. Creates its directory if it does not exist.
    ///
    /// # Errors
    ///
    /// If the directory cannot be created or the file cannot be opened for appending.
    pub fn open(logging: &LoggingConfig, limits: &Limits, name: &str) -> io::Result<Self> {
        let path = logging.directory.join(format!("{name}.log"));
        let located = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!(
                    "cannot write the log {}: {error}; correct logging.directory",
                    path.display()
                ),
            )
        };
        fs::create_dir_all(&logging.directory).map_err(located)?;
        let (file, size, rotatable) = open(&path).map_err(located)?;
        Ok(Self(Arc::new(Mutex::new(LogFile {
            path,
            file: Some(file),
            rotatable,
            outdated: false,
            size,
            max_bytes: limits.log_max_bytes,
            keep: limits.log_keep,
            buffer: Vec::with_capacity(LOG_BUFFER),
            lost: 0,
            torn: false,
            reported: false,
            retry_at: Instant::now(),
            stuck: false,
            suppressed: 0,
            stats: LogStats::default(),
        }))))
    }

    /// Appends complete lines. They reach the file when the buffer is full or at [`Log::flush`].
    pub fn append(&self, lines: &[u8]) {
        let mut log = self.lock();
        if log.buffer.len() + lines.len() > LOG_BUFFER {
            log.flush();
        }
        if lines.len() > LOG_BUFFER {
            log.write(lines);
        } else {
            log.buffer.extend_from_slice(lines);
        }
    }

    /// Writes the buffer to the file.
    pub fn flush(&self) {
        self.lock().flush();
    }

    /// Returns true if something has to be written soon, or the file has to be opened again.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        let log = self.lock();
        !log.buffer.is_empty() || log.suppressed > 0 || log.is_failing()
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        self.lock().stats
    }

    /// Reopens the file by its name, after another process has moved it away.
    pub fn reopen(&self) {
        let mut log = self.lock();
        log.flush();
        log.reopen();
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, LogFile> {
        // A thread that panicked while it held the lock has left complete lines.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogFile {
    fn flush(&mut self) {
        self.retry();
        let buffer = std::mem::take(&mut self.buffer);
        self.write(&buffer);
        self.buffer = buffer;
        self.buffer.clear();
    }

    /// Never fails: if the file cannot be written, lines are lost. When it can be written again,
    /// the log states the number of lost bytes.
    fn write(&mut self, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        self.retry();
        if self.rotatable
            && self
                .max_bytes
                .is_some_and(|most| self.size > 0 && self.size + lines.len() as u64 > most)
            && Instant::now() >= self.retry_at
        {
            self.rotate();
        }
        let written = self.write_some(lines);
        self.reported &= self.outdated || written < lines.len();
        let lost = (lines.len() - written) as u64;
        self.lost += lost;
        self.stats.bytes_lost += lost;
    }

    /// Writes as much of `bytes` as the file takes. Returns the number of bytes written.
    fn write_some(&mut self, bytes: &[u8]) -> usize {
        let Some(file) = &mut self.file else { return 0 };
        let mut written = 0;
        let error = loop {
            match file.write(&bytes[written..]) {
                Ok(0) => break io::ErrorKind::WriteZero.into(),
                Ok(taken) => written += taken,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => break error,
            }
            if written == bytes.len() {
                self.size += written as u64;
                self.torn = false;
                return written;
            }
        };
        self.size += written as u64;
        self.torn |= written > 0;
        self.file = None;
        self.fail(&error);
        written
    }

    const fn is_failing(&self) -> bool {
        self.file.is_none() || self.outdated
    }

    /// Opens the file again if that is due after a failure.
    fn retry(&mut self) {
        if self.is_failing() && Instant::now() >= self.retry_at {
            self.reopen();
        }
    }

    fn reopen(&mut self) {
        match reader_of_fifo(&self.path).and_then(|_reader| open(&self.path)) {
            Ok((file, size, rotatable)) => {
                (self.file, self.size) = (Some(file), size);
                (self.rotatable, self.outdated) = (rotatable, false);
                if self.lost > 0 {
                    // The file that ended within a line may have been moved away.
                    let torn = if self.torn && size > 0 { "\n" } else { "" };
                    let note =
                        format!("{torn}… {} bytes of the log could not be written\n", self.lost);
                    if self.write_some(note.as_bytes()) == note.len() {
                        self.lost = 0;
                    }
                }
            }
            // A file that is still open takes lines wherever it has been moved to.
            Err(error) => {
                self.outdated = true;
                self.fail(&error);
            }
        }
    }

    /// Reports on standard error, once, that the log cannot be written.
    fn fail(&mut self, error: &io::Error) {
        self.stats.write_errors += 1;
        self.retry_at = Instant::now() + LOG_RETRY;
        if !std::mem::replace(&mut self.reported, true) {
            let _ = writeln!(
                io::stderr(),
                "proxy-herd: cannot write the log {}: {error}; the node continues without it and \
                 retries",
                self.path.display()
            );
        }
    }

    /// Renames `NAME.log` to `NAME.log.1`, that to `NAME.log.2` and so on, and deletes the oldest.
    /// If something else has taken its place, opens that instead.
    fn rotate(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| !found.is_file()) {
            return self.reopen();
        }
        let numbered = |n: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        let moved = if self.keep == 0 {
            fs::remove_file(&self.path)
        } else {
            for n in (1..self.keep).rev() {
                let _ = fs::rename(numbered(n), numbered(n + 1)); // it may not exist yet
            }
            fs::rename(&self.path, numbered(1))
        };
        match moved {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                self.stats.write_errors += 1;
                self.retry_at = Instant::now() + LOG_RETRY;
                if !std::mem::replace(&mut self.stuck, true) {
                    let _ = writeln!(
                        io::stderr(),
                        "proxy-herd: cannot rotate the log {}, which has reached \
                         limits.log_max_bytes: {error}; it keeps growing, and the node retries",
                        self.path.display()
                    );
                }
            }
            _ => {
                self.stuck = false;
                self.stats.rotations += 1;
                self.reopen();
            }
        }
    }
}

/// Returns an error if `path` is a FIFO without a reader: opening it would stop the event loop until
/// there is one. Otherwise returns a handle that must be kept while the FIFO is opened.
fn reader_of_fifo(path: &Path) -> io::Result<Option<File>> {
    let is_fifo = fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo());
    let open = || OpenOptions::new().write(true).custom_flags(NONBLOCK).open(path);
    is_fifo.then(open).transpose()
}

/// Opens a log for appending. Returns its size, and whether it may be rotated.
fn open(path: &Path) -> io::Result<(File, u64, bool)> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let size = file.metadata()?.len();
    let rotatable = fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
    Ok((file, size, rotatable))
}
