//! Signals, as something to read.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::{flag, low_level};

/// What has been asked of the process since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// SIGTERM or SIGINT: end in good order.
    pub stop: bool,
    /// SIGHUP: open the log again.
    pub reopen_log: bool,
    /// SIGUSR1: write the counters to the log.
    pub report: bool,
}

/// A flag per signal, and a pipe that wakes the loop to look at the flags. SIGPIPE is ignored by
/// the Rust runtime: a closed socket is an error of the write.
pub struct Signals {
    stop: Arc<AtomicBool>,
    reopen_log: Arc<AtomicBool>,
    report: Arc<AtomicBool>,
    wake: UnixStream,
}

impl Signals {
    /// Takes over the signals and registers with `registry`.
    ///
    /// # Errors
    ///
    /// Where no descriptor is to be had for the pipe.
    pub fn register(registry: &Registry, token: Token) -> io::Result<Self> {
        let (wake, writer) = std::os::unix::net::UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let mut signals = Self {
            stop: Arc::default(),
            reopen_log: Arc::default(),
            report: Arc::default(),
            wake: UnixStream::from_std(wake),
        };
        for (signal, asked) in [
            (SIGTERM, &signals.stop),
            (SIGINT, &signals.stop),
            (SIGHUP, &signals.reopen_log),
            (SIGUSR1, &signals.report),
        ] {
            // The flag first: whoever wakes finds it set.
            flag::register(signal, Arc::clone(asked))?;
            low_level::pipe::register(signal, writer.try_clone()?)?;
        }
        // A log as large as files may be (ulimit -f) is an error of the write too, not the end.
        flag::register(SIGXFSZ, Arc::default())?;
        registry.register(&mut signals.wake, token, Interest::READABLE)?;
        Ok(signals)
    }

    /// What has been asked since the last call.
    pub fn take(&mut self) -> Asked {
        let mut sink = [0; 64];
        while self.wake.read(&mut sink).is_ok_and(|read| read > 0) {}
        let take = |flag: &AtomicBool| flag.swap(false, Ordering::Relaxed);
        Asked {
            stop: take(&self.stop),
            reopen_log: take(&self.reopen_log),
            report: take(&self.report),
        }
    }
}
