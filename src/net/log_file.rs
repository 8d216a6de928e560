//! The log of a node: one file for messages and diagnostics, buffered, rotated by size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::config::Logging;
use crate::counters::counters;
use crate::limits::{LOG_BUFFER, LOG_RETRY, Limits};
use crate::message_log::{Format, level_name, push_escaped};
use crate::protocol::time::Nanos;

/// The target of the messages in the log: what `RUST_LOG` can name to have them or not.
pub const MESSAGES: &str = "proxy_herd::messages";

/// The target of the counters, which are written whatever the level: somebody has asked for them.
pub const COUNTERS: &str = "proxy_herd::counters";

/// The wall clock in nanoseconds since the epoch.
#[must_use]
pub fn clock() -> Nanos {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_nanos() as Nanos,
        Err(before) => -(before.duration().as_nanos() as Nanos),
    }
}

/// A handle on the log, shared by the loop and the diagnostics of all threads.
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

struct LogFile {
    path: PathBuf,
    /// `None` while it cannot be written.
    file: Option<File>,
    size: u64,
    max_bytes: Option<u64>,
    keep: u32,
    buffer: Vec<u8>,
    /// Bytes that were lost since it could not be written.
    lost: u64,
    /// The file ends within a line: the rest of it was lost.
    torn: bool,
    /// Standard error has been told that the log cannot be written.
    told: bool,
    retry_at: Instant,
    /// Whether the file cannot be rotated, and that has been told.
    stuck: bool,
    /// Diagnostic lines that were suppressed and that no line tells of yet.
    suppressed: u64,
    stats: LogStats,
}

impl Log {
    /// Opens `NAME.log`, and its directory where there is none.
    ///
    /// # Errors
    ///
    /// Where it cannot be written: a node that starts says so at once.
    pub fn open(logging: &Logging, limits: &Limits, name: &str) -> io::Result<Self> {
        let path = logging.directory.join(format!("{name}.log"));
        let located = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!(
                    "the log {} cannot be written: {error}; correct logging.directory",
                    path.display()
                ),
            )
        };
        fs::create_dir_all(&logging.directory).map_err(located)?;
        let (file, size) = open(&path).map_err(located)?;
        Ok(Self(Arc::new(Mutex::new(LogFile {
            path,
            file: Some(file),
            size,
            max_bytes: limits.log_max_bytes,
            keep: limits.log_keep,
            buffer: Vec::with_capacity(LOG_BUFFER),
            lost: 0,
            torn: false,
            told: false,
            retry_at: Instant::now(),
            stuck: false,
            suppressed: 0,
            stats: LogStats::default(),
        }))))
    }

    /// Adds whole lines. They reach the file when the buffer is full or at [`Log::flush`].
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

    /// Writes what is buffered.
    pub fn flush(&self) {
        self.lock().flush();
    }

    /// Whether there is something that has to be written soon.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        let log = self.lock();
        !log.buffer.is_empty() || log.suppressed > 0
    }

    /// What the log had to do without so far.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        self.lock().stats
    }

    /// Opens the file by its name again: somebody has moved it away.
    pub fn reopen(&self) {
        let mut log = self.lock();
        log.flush();
        log.reopen();
    }

    fn lock(&self) -> MutexGuard<'_, LogFile> {
        // A thread that panicked while it held the log has left it whole, line by line.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogFile {
    fn flush(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        self.write(&buffer);
        self.buffer = buffer;
        self.buffer.clear();
    }

    /// Never fails: a log that cannot be written loses lines, and says so when it can be written
    /// again.
    fn write(&mut self, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        if self.file.is_none() && Instant::now() >= self.retry_at {
            self.reopen();
        }
        if self.max_bytes.is_some_and(|most| self.size > 0 && self.size + lines.len() as u64 > most)
            && Instant::now() >= self.retry_at
        {
            self.rotate();
        }
        let written = self.write_some(lines);
        self.told &= written < lines.len();
        let lost = (lines.len() - written) as u64;
        self.lost += lost;
        self.stats.bytes_lost += lost;
    }

    /// Writes as much of `bytes` as goes, and returns how much that was.
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

    fn reopen(&mut self) {
        match open(&self.path) {
            Ok((file, size)) => {
                (self.file, self.size) = (Some(file), size);
                if self.lost > 0 {
                    // The file that ends within a line may have been moved away.
                    let torn = if self.torn && size > 0 { "\n" } else { "" };
                    let note =
                        format!("{torn}… {} bytes of the log could not be written\n", self.lost);
                    if self.write_some(note.as_bytes()) == note.len() {
                        self.lost = 0;
                    }
                }
            }
            // A file that is open still takes lines, wherever it has been moved to.
            Err(error) => self.fail(&error),
        }
    }

    /// The log cannot be written, which it cannot say itself; once is enough.
    fn fail(&mut self, error: &io::Error) {
        self.stats.write_errors += 1;
        self.retry_at = Instant::now() + LOG_RETRY;
        if !std::mem::replace(&mut self.told, true) {
            let _ = writeln!(
                io::stderr(),
                "proxy-herd: the log {} cannot be written: {error}; the node goes on without it \
                 and tries again",
                self.path.display()
            );
        }
    }

    /// `NAME.log` becomes `NAME.log.1`, that becomes `NAME.log.2`, and the oldest goes.
    fn rotate(&mut self) {
        let numbered = |n: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        let moved = if self.keep == 0 {
            fs::remove_file(&self.path)
        } else {
            for n in (1..self.keep).rev() {
                let _ = fs::rename(numbered(n), numbered(n + 1)); // there may be none yet
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
                        "proxy-herd: the log {} has reached limits.log_max_bytes and cannot be \
                         moved: {error}; it goes on growing, and the node tries again",
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

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

/// Diagnostics: what the `log` macros say, filtered by `env_logger`, into the log of the node.
pub struct Diagnostics {
    filter: env_logger::Logger,
    log: Log,
    format: Format,
    name: String,
    rates: Mutex<Rates>,
    max_per_second: u32,
}

/// How often each place in the code has spoken in this second.
struct Rates {
    second: Instant,
    said: Vec<(u32, &'static str, u32)>,
}

impl Diagnostics {
    /// Makes the diagnostics of this process those of the node `name`. Returns whether messages
    /// are to be logged.
    pub fn install(log: &Log, logging: &Logging, limits: &Limits, name: &str) -> bool {
        let filter = env_logger::Builder::new()
            .filter_level(logging.level)
            .filter_module(COUNTERS, log::LevelFilter::Info)
            .parse_env("RUST_LOG")
            .build();
        let max_level = filter.filter();
        let diagnostics = Self {
            filter,
            log: log.clone(),
            format: logging.format.clone(),
            name: name.to_owned(),
            rates: Mutex::new(Rates { second: Instant::now(), said: Vec::new() }),
            max_per_second: limits.max_log_lines_per_second,
        };
        let messages = log::Log::enabled(
            &diagnostics.filter,
            &log::Metadata::builder().level(log::Level::Info).target(MESSAGES).build(),
        );
        if log::set_boxed_logger(Box::new(diagnostics)).is_ok() {
            log::set_max_level(max_level);
        }
        messages
    }

    /// Begins another second where one has passed, and tells what was suppressed in it.
    fn tick(&self) {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        if rates.second.elapsed() < Duration::from_secs(1) {
            return;
        }
        rates.second = Instant::now();
        rates.said.clear();
        drop(rates);
        let suppressed = std::mem::take(&mut self.log.lock().suppressed);
        if suppressed > 0 {
            self.write(log::Level::Warn, &format!("{suppressed} diagnostic lines were suppressed"));
        }
    }

    /// Whether this place in the code has said enough for this second.
    fn has_said_enough(&self, record: &log::Record<'_>) -> bool {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let here = (record.line().unwrap_or(0), record.module_path_static().unwrap_or(""));
        let at = rates.said.iter().position(|(line, module, _)| (*line, *module) == here);
        let at = at.unwrap_or_else(|| {
            rates.said.push((here.0, here.1, 0));
            rates.said.len() - 1
        });
        rates.said[at].2 += 1;
        rates.said[at].2 > self.max_per_second
    }

    fn write(&self, level: log::Level, message: &str) {
        let (mut line, mut behind) = (Vec::new(), Vec::new());
        self.format.render(&self.name, level_name(level), clock(), &mut line, &mut behind);
        push_escaped(&mut line, message.as_bytes());
        line.extend_from_slice(&behind);
        line.push(b'\n');
        self.log.append(&line);
    }
}

impl log::Log for Diagnostics {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        self.filter.enabled(metadata)
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.filter.matches(record) {
            return;
        }
        self.tick();
        // What somebody has asked for is not left out.
        if record.target() != COUNTERS && self.has_said_enough(record) {
            let mut log = self.log.lock();
            log.suppressed += 1;
            log.stats.lines_suppressed += 1;
        } else {
            self.write(record.level(), &record.args().to_string());
        }
    }

    fn flush(&self) {
        self.tick();
        self.log.flush();
    }
}
