//! Diagnostics: the `log` macros of all threads, filtered, rate limited, into the log file.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::clock::wall;
use super::log_file::Log;
use crate::config::LoggingConfig;
use crate::limits::Limits;
use crate::message_log::{Format, level_name, push_escaped};

/// The target of messages, for `RUST_LOG`.
pub const MESSAGES: &str = "proxy_herd::messages";

/// The target of the counters, which are logged at any level: a signal has asked for them.
pub const COUNTERS: &str = "proxy_herd::counters";

/// The logger of the process. `env_logger` filters.
pub struct Diagnostics {
    filter: env_logger::Logger,
    log: Log,
    format: Format,
    name: String,
    rates: Mutex<Rates>,
    max_per_second: u32,
}

/// The number of lines that each call site has logged in this second.
struct Rates {
    second: Instant,
    /// By line and module.
    sites: Vec<(u32, &'static str, u32)>,
}

impl Diagnostics {
    /// Installs the logger for the node `name`. Returns true if messages are logged.
    pub fn install(log: &Log, logging: &LoggingConfig, limits: &Limits, name: &str) -> bool {
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
            rates: Mutex::new(Rates { second: Instant::now(), sites: Vec::new() }),
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

    /// Starts the next second if one has passed, and logs how many lines were suppressed in it.
    fn tick(&self) {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        if rates.second.elapsed() < Duration::from_secs(1) {
            return;
        }
        rates.second = Instant::now();
        rates.sites.clear();
        drop(rates);
        let suppressed = std::mem::take(&mut self.log.lock().suppressed);
        if suppressed > 0 {
            self.write(log::Level::Warn, &format!("{suppressed} diagnostic lines were suppressed"));
        }
    }

    /// Counts a line. Returns true if its call site is over the limit for this second.
    fn count_and_limit(&self, record: &log::Record<'_>) -> bool {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let here = (record.line().unwrap_or(0), record.module_path_static().unwrap_or(""));
        let at = rates.sites.iter().position(|(line, module, _)| (*line, *module) == here);
        let at = at.unwrap_or_else(|| {
            rates.sites.push((here.0, here.1, 0));
            rates.sites.len() - 1
        });
        rates.sites[at].2 += 1;
        rates.sites[at].2 > self.max_per_second
    }

    fn write(&self, level: log::Level, message: &str) {
        let (mut line, mut suffix) = (Vec::new(), Vec::new());
        self.format.render(&self.name, level_name(level), wall().nanos(), &mut line, &mut suffix);
        push_escaped(&mut line, message.as_bytes());
        line.extend_from_slice(&suffix);
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
        // The counters are an answer to a signal and never suppressed.
        if record.target() != COUNTERS && self.count_and_limit(record) {
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
