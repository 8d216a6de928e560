//! Signals as readiness events.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::{flag, low_level};

/// The requests made by signals since the last call of [`Signals::take`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// SIGTERM or SIGINT: shut down gracefully.
    pub stop: bool,
    /// SIGHUP: reopen the log and reload files.
    pub reload: bool,
    /// SIGUSR1: log the counters.
    pub report: bool,
}

/// A flag per signal, and a pipe that wakes the loop to read the flags. The Rust runtime ignores
/// SIGPIPE, so a write to a closed socket returns an error.
pub struct Signals {
    stop: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
    report: Arc<AtomicBool>,
    wake: UnixStream,
}

impl Signals {
    /// Installs the signal handlers and registers the pipe with `registry`.
    ///
    /// # Errors
    ///
    /// If no descriptor is left for the pipe.
    pub fn register(registry: &Registry, token: Token) -> io::Result<Self> {
        let (wake, writer) = std::os::unix::net::UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let mut signals = Self {
            stop: Arc::default(),
            reload: Arc::default(),
            report: Arc::default(),
            wake: UnixStream::from_std(wake),
        };
        for (signal, asked) in [
            (SIGTERM, &signals.stop),
            (SIGINT, &signals.stop),
            (SIGHUP, &signals.reload),
            (SIGUSR1, &signals.report),
        ] {
            // The flag first, so that it is set when the loop wakes.
            flag::register(signal, Arc::clone(asked))?;
            low_level::pipe::register(signal, writer.try_clone()?)?;
        }
        // At the limit on file size (ulimit -f), a write returns an error instead of ending the node.
        flag::register(SIGXFSZ, Arc::default())?;
        registry.register(&mut signals.wake, token, Interest::READABLE)?;
        Ok(signals)
    }

    /// Returns and clears the requests.
    pub fn take(&mut self) -> Asked {
        let mut sink = [0; 64];
        while self.wake.read(&mut sink).is_ok_and(|read| read > 0) {}
        let take = |flag: &AtomicBool| flag.swap(false, Ordering::Relaxed);
        Asked { stop: take(&self.stop), reload: take(&self.reload), report: take(&self.report) }
    }
}
