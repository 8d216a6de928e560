//! The log of the loop: messages, diagnostics and counters.

use super::EventLoop;
use crate::devices::Devices;
use crate::herd;
use crate::histogram::Histogram;
use crate::http::settings::Settings;
use crate::net::counters::Counters;
use crate::net::diagnostics::COUNTERS;
use crate::net::feed::FeedDriver;
use crate::net::limits::LOG_FLUSH;
use crate::net::log_file::Log;
use crate::net::metrics::LoopStats;
use crate::net::process::Process;
use crate::net::reload::Reload;
use crate::node::Event;
use crate::time::Instant;

/// Counters, measurements and log of the loop.
pub(super) struct Telemetry {
    pub counters: Counters,
    /// The durations of turns, without the wait for events.
    pub turns: Histogram,
    /// The start of the current turn, after the wait.
    pub woken: Option<Instant>,
    pub log: Log,
    /// The process, if its metrics are served.
    pub process: Option<Process>,
    /// The latest time to write the buffered lines.
    pub log_flush_at: Option<Instant>,
}

impl Telemetry {
    pub fn new(log: Log) -> Self {
        Self {
            counters: Counters::default(),
            turns: Histogram::default(),
            woken: None,
            log,
            process: None,
            log_flush_at: None,
        }
    }

    /// The statistics for `/metrics` and the counters line. `clients` are the open connections.
    pub const fn stats<'a>(
        &'a self,
        clients: usize,
        devices: Option<&'a Devices>,
        reload: &'a Reload,
        feed: Option<&'a FeedDriver>,
    ) -> LoopStats<'a> {
        let Self { counters, turns, log, process, .. } = self;
        let process = process.as_ref();
        LoopStats { counters, clients, devices, turns, log, reload, feed, process }
    }
}

impl EventLoop {
    /// Moves messages to the log file's buffer, and writes the buffer when it is due.
    pub(super) fn write_log(&mut self, now: Instant) {
        let Self { node, telemetry, .. } = self;
        let lines = node.message_log.lines();
        if !lines.is_empty() {
            telemetry.log.append(lines);
            node.message_log.clear();
        }
        match telemetry.log_flush_at {
            Some(at) if at <= now => {
                log::logger().flush();
                telemetry.log_flush_at = telemetry.log.is_dirty().then_some(now + LOG_FLUSH);
            }
            None if telemetry.log.is_dirty() => telemetry.log_flush_at = Some(now + LOG_FLUSH),
            _ => {}
        }
    }

    /// Logs all counters.
    pub(super) fn report(&self, now: Instant) {
        let (clients, feed) = (self.admissions.clients(), self.feed.as_ref());
        let devices = self.devices.as_ref().map(|devices| &devices.shared);
        let stats = self.telemetry.stats(clients, devices, &self.reload, feed);
        let report = stats.report(&self.node, &self.http, now);
        log::info!(target: COUNTERS, "counters: {report}");
    }
}

impl EventLoop {
    /// Logs the events of the herd since the last call.
    pub(super) fn log_herd_events(&mut self) {
        while let Some(event) = self.node.herd.poll_event() {
            let name = |link| self.node.herd.peer_name(link).escape_ascii();
            match event {
                herd::Event::ClockSkew { link, offset } => log::warn!(
                    "the clocks of {} and this node are {:.1} s apart, more than half of \
                     max_clock_offset; synchronize them: beyond max_clock_offset, updates are \
                     answered but not stored",
                    name(link),
                    offset as f64 / 1e9
                ),
                herd::Event::RulesTakenOver { before, rules } => log::warn!(
                    "the settings announced in limits.next are in force: {}; once all nodes \
                     have them, move them to their place in the configuration",
                    Settings::from(&before).changes(&Settings::from(&rules))
                ),
                herd::Event::NameTaken { boot } => log::warn!(
                    "another process, with boot id {:x}, is part of the herd under the name of this \
                     node (boot id {:x}); stop one of them",
                    boot.0,
                    self.node.herd.identity().boot.0
                ),
                herd::Event::PeerSilent { link, silence } => log::warn!(
                    "{} has been silent for {silence:?}; closing the link and redialing",
                    name(link)
                ),
            }
        }
    }
}

/// Logs an event of a session.
pub(super) fn log_event(event: &Event) {
    match event {
        Event::HandshakeStarted { .. }
        | Event::Linked { .. }
        | Event::HandshakeFailed { .. }
        | Event::NotMoved { .. } => {}
        Event::AdministratorRefused { label, reason } => {
            log::warn!("{}: refused as an administrator: {reason}", label.escape_ascii());
        }
        Event::NotANeighbor { label, reason } => {
            log::warn!("{}: {reason}; treated as a client", label.escape_ascii());
        }
        Event::UndeclaredLegacy { label, server } => {
            let (label, server) = (label.escape_ascii(), server.escape_ascii());
            log::warn!(
                "{label} sends updates of {server} in the manner of an original server; they are \
                 refused. If it is one, list it in peers.seed_compatible"
            );
        }
        Event::AlreadyLinked { label, peer } => {
            log::debug!("{}: {} is already linked", label.escape_ascii(), peer.escape_ascii());
        }
        Event::Namesake { label, peer, refused, linked } => {
            let (peer, label) = (peer.escape_ascii(), label.escape_ascii());
            log::warn!(
                "two processes are named {peer}: one with boot id {:x} is linked, and one with boot \
                 id {:x} at {label} is refused; stop one of them",
                linked.0,
                refused.0
            );
        }
        Event::LinkFailed { label, peer, reason } => {
            let (peer, label) = (peer.escape_ascii(), label.escape_ascii());
            log::warn!("{peer} ({label}): {reason}; link closed");
        }
        Event::PeerLineTooLong { label } => {
            log::warn!(
                "{}: a line from a peer is too long; connection closed",
                label.escape_ascii()
            );
        }
    }
}
