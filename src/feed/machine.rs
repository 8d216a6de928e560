//! The state machine: when to connect, what to ask, and what is delivered.

mod jobs;

use core::time::Duration;
use std::collections::VecDeque;

use jobs::{KEEP_FOR, MANY};

use super::batch::Batch;
use super::connection::Connection;
use super::memo::Memo;
use super::redis::{Outcome, Top};
use super::shown::shown;
use super::{Counters, Event, Settings, http, redis};
use crate::places::http::Eof;
use crate::storage::{Segment, Storage};
use crate::time::Instant;

/// Time after which an idle connection is tested.
const PING_AFTER: Duration = Duration::from_secs(30);

/// Longest time that a collector can demand before the next request.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

/// Time between changes of the memory on disk.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// Time between reads of the replies to a large batch.
const PAUSE: Duration = Duration::from_millis(4);

/// Batches in a row that may be behind the top of the stream before the connection is given up.
const MAX_BEHIND: u32 = 3;

/// Events that wait to be polled. Further ones are dropped.
const MAX_EVENTS: usize = 16;

/// The feed of one node.
pub struct Feed {
    engine: Engine,
    connection: Connection,
    stage: Stage,
    output: Vec<u8>,
    memo: Memo,
    /// What is on disk.
    saved: Memo,
    save_at: Instant,
    /// True if the memory could not be saved, which has been reported.
    cannot_save: bool,
    is_stopping: bool,
    is_loaded: bool,
    /// True once the place was decided in this process.
    has_resumed: bool,
    /// True while the thread has a job.
    is_busy: bool,
    /// The number of the last attempt; results of earlier ones are dropped.
    attempt: u64,
    ready: Option<Batch>,
    /// Memory for the next batch.
    room: Vec<u8>,
    /// The batch that an HTTP collector has not accepted, and that is sent again as it was.
    again: Option<Batch>,
    flight: Option<Batch>,
    behind: u32,
    /// The end of the log when a batch was last cut, if nothing is left before it.
    reached: Option<Segment>,
    /// True if batches have been cut up to `reached`.
    is_exhausted: bool,
    /// The time before which no batch is cut.
    cut_at: Instant,
    /// The segments of the cursor and the times since when.
    passed: VecDeque<(Instant, u64)>,
    error: Option<String>,
    /// True if the error is that the log cannot be read.
    is_read_error: bool,
    events: VecDeque<Event>,
    /// Counters of the feed.
    pub counters: Counters,
}

/// The engine, and the dialogue on the present connection.
enum Engine {
    Redis(redis::Settings, redis::Session),
    Http(http::Settings, http::Session),
}

/// The stage of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The greeting was sent, or the question for the last id.
    Asking,
    /// The last id is known.
    Asked(Top),
    /// An HTTP collector is connected for the first time.
    Connected,
    /// The thread decides where to continue.
    Resuming,
    /// Batches are sent.
    Sending,
}

impl Feed {
    /// A feed that begins once the thread has loaded its memory. `seed` varies the pauses.
    #[must_use]
    pub fn new(settings: Settings, seed: u64) -> Self {
        let engine = match settings {
            Settings::Redis(settings) => Engine::Redis(settings, redis::Session::default()),
            Settings::Http(settings) => Engine::Http(settings, http::Session::default()),
        };
        Self {
            engine,
            connection: Connection::new(seed),
            stage: Stage::Asking,
            output: Vec::new(),
            memo: Memo::default(),
            saved: Memo::default(),
            save_at: Instant::START,
            cannot_save: false,
            is_stopping: false,
            is_loaded: false,
            has_resumed: false,
            is_busy: false,
            attempt: 0,
            ready: None,
            room: Vec::new(),
            again: None,
            flight: None,
            behind: 0,
            reached: None,
            is_exhausted: false,
            cut_at: Instant::START,
            passed: VecDeque::new(),
            error: None,
            is_read_error: false,
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Returns whether entries are being delivered, or could be.
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        match self.engine {
            Engine::Redis(..) => {
                self.connection.established().is_some() && matches!(self.stage, Stage::Sending)
            }
            // A connection that was idle may have been closed.
            Engine::Http(..) => self.has_resumed && self.error.is_none(),
        }
    }

    /// Returns whether everything in the log has been delivered.
    #[must_use]
    pub fn has_caught_up(&self, storage: &Storage) -> bool {
        self.is_connected()
            && self.is_exhausted
            && self.reached == storage.log_end()
            && self.ready.is_none()
            && self.again.is_none()
            && self.flight.is_none()
    }

    /// Returns the number of entries in the log that are not delivered.
    #[must_use]
    pub const fn backlog(&self, storage: &Storage) -> u64 {
        let waiting = storage.ordinal().wrapping_sub(self.memo.cursor.ordinal());
        if waiting > u32::MAX / 2 { 0 } else { waiting as u64 }
    }

    /// Returns the reason why entries are not being delivered, if there is one.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Returns the number of a connection to establish.
    pub const fn poll_connect(&mut self) -> Option<u64> {
        self.connection.poll_connect()
    }

    /// Returns a connection to close.
    pub const fn poll_close(&mut self) -> Option<u64> {
        self.connection.poll_close()
    }

    /// Appends bytes to send. Returns the connection.
    pub fn poll_output(&mut self, out: &mut Vec<u8>) -> Option<u64> {
        let id = self.connection.established()?;
        if self.output.is_empty() {
            return None;
        }
        if out.is_empty() {
            core::mem::swap(out, &mut self.output);
        } else {
            out.append(&mut self.output);
        }
        Some(id)
    }

    /// Returns the time for which it is not worth reading what arrives: the replies to a large batch come in
    /// many pieces, and nothing waits for them, unless the feed is catching up.
    #[must_use]
    pub fn pause(&self) -> Option<Duration> {
        let is_large = |batch: &Batch| batch.entries >= MANY && !batch.has_more;
        let is_redis = matches!(self.engine, Engine::Redis(..));
        (is_redis && self.flight.as_ref().is_some_and(is_large)).then_some(PAUSE)
    }

    /// Handles a connection that is established.
    pub fn handle_connected(&mut self, id: u64, now: Instant) {
        if !self.connection.handle_connected(id) {
            return;
        }
        match &mut self.engine {
            Engine::Redis(settings, session) => {
                *session = redis::Session::default();
                session.greet(settings, &mut self.output);
                self.stage = Stage::Asking;
                self.connection.expect_reply(now);
            }
            Engine::Http(_, session) => {
                *session = http::Session::default();
                self.stage = if self.has_resumed { Stage::Sending } else { Stage::Connected };
                self.send(now);
            }
        }
    }

    /// Handles bytes from the engine.
    pub fn handle_input(&mut self, id: u64, mut input: &[u8], now: Instant) {
        if !self.connection.is_established(id) {
            return;
        }
        self.connection.handle_input(now);
        while self.connection.is_established(id) {
            match &mut self.engine {
                Engine::Redis(settings, session) => {
                    match session.handle_input(settings, &mut input) {
                        Ok(None) => return,
                        Ok(Some(outcome)) => self.handle_outcome(outcome, now),
                        Err(error) => self.fail(error, now),
                    }
                }
                Engine::Http(settings, session) => {
                    return match session.handle_input(settings, input) {
                        Ok(None) => {}
                        Ok(Some(is_reusable)) => self.handle_response(is_reusable, now),
                        Err(refusal) => self.handle_refusal(refusal, now),
                    };
                }
            }
        }
    }

    /// Handles the end of the stream.
    pub fn handle_eof(&mut self, id: u64, eof: Eof, now: Instant) {
        match &mut self.engine {
            Engine::Http(settings, session) if self.connection.is_established(id) => {
                let is_idle = self.flight.is_none();
                match session.handle_eof(settings, eof) {
                    Ok(()) if is_idle => self.connection.hang_up(now),
                    Ok(()) => self.handle_response(false, now),
                    Err(refusal) => self.handle_refusal(refusal, now),
                }
                self.connection.handle_closed();
            }
            _ => self.handle_failed(id, "the server has closed the connection", now),
        }
    }

    /// Handles a connection that has failed or was closed, for this reason.
    pub fn handle_failed(&mut self, id: u64, reason: &str, now: Instant) {
        if self.connection.is_current(id) {
            let secret = match &self.engine {
                Engine::Redis(settings, _) => settings.password.as_deref(),
                Engine::Http(settings, _) => settings.secret(),
            };
            // The error of a handshake repeats names in the certificate of the engine.
            let reason = shown(reason.as_bytes(), secret);
            self.fail(reason, now);
            self.connection.handle_closed();
        }
    }

    /// Handles the time of [`Feed::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(reason) = self.connection.overdue(now) {
            return self.fail(reason, now);
        }
        if self.wants_connection() {
            self.connection.establish(now);
        }
        if self.ping_at().is_some_and(|at| at <= now)
            && let Engine::Redis(_, session) = &mut self.engine
        {
            session.ping(&mut self.output);
            self.connection.expect_reply(now);
        }
    }

    /// Returns the time of the next [`Feed::handle_timeout`] or [`Feed::poll_job`].
    #[must_use]
    pub fn poll_timeout(&self, storage: &Storage) -> Option<Instant> {
        let connect_at = self.connection.due().filter(|_| self.wants_connection());
        let is_free = !self.is_busy;
        let cut_at = (is_free && self.wants_batch(storage)).then_some(self.cut_at);
        let save_at = (is_free && self.memo != self.saved).then_some(self.save_at);
        let is_started = is_free && matches!(self.stage, Stage::Connected | Stage::Asked(_));
        let start_at = is_started.then_some(Instant::START);
        let keep_at = self.passed.front().map(|(since, _)| *since + KEEP_FOR);
        [connect_at, self.connection.deadline(), self.ping_at(), cut_at, save_at, start_at, keep_at]
            .into_iter()
            .flatten()
            .min()
    }

    fn handle_outcome(&mut self, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Top(top) => {
                self.connection.handle_reply();
                self.stage = Stage::Asked(top);
                if self.memo.sent > top.id && !self.memo.is_new() {
                    self.push_event(Event::Older);
                }
            }
            Outcome::Accepted => {
                self.handle_accepted(now);
                self.send(now);
            }
            Outcome::Behind => {
                self.give_up_batches();
                self.behind += 1;
                if self.behind > MAX_BEHIND {
                    let error = "another program adds entries to the stream; change feed.stream";
                    return self.fail(error.to_owned(), now);
                }
                self.stage = Stage::Asking;
                if let Engine::Redis(settings, session) = &mut self.engine {
                    session.ask(settings, &mut self.output);
                    self.connection.expect_reply(now);
                }
            }
            Outcome::Pong => {
                self.connection.handle_reply();
                self.send(now);
            }
        }
    }

    /// Handles a response of an HTTP collector that accepts the batch.
    fn handle_response(&mut self, is_reusable: bool, now: Instant) {
        self.handle_accepted(now);
        (self.memo.batch, self.save_at) = (None, now);
        if self.error.take().is_some() {
            self.push_event(Event::Connected);
        }
        if is_reusable {
            self.send(now);
        } else {
            self.connection.hang_up(now);
        }
    }

    fn handle_refusal(&mut self, refusal: http::Refusal, now: Instant) {
        self.fail(refusal.reason, now);
        if let Some(after) = refusal.retry_after {
            self.connection.wait_until(now + after.min(MAX_RETRY_AFTER));
        }
    }

    /// Handles that the engine has accepted the batch in flight.
    fn handle_accepted(&mut self, now: Instant) {
        self.connection.handle_reply();
        let Some(batch) = self.flight.take() else { return };
        self.counters.delivered += u64::from(batch.entries);
        self.counters.dropped += batch.missing;
        if batch.missing > 0 {
            self.push_event(Event::Gap(batch.missing));
        }
        self.memo.sent = batch.last;
        self.pass(&batch, now);
        self.connection.handle_success();
        self.behind = 0;
    }

    /// Sends the next batch, if there is one and the last one has been answered.
    fn send(&mut self, now: Instant) {
        let is_up = self.connection.established().is_some() && self.stage == Stage::Sending;
        if !is_up || self.flight.is_some() || self.connection.is_waiting() {
            return;
        }
        match &mut self.engine {
            Engine::Redis(_, session) => {
                let Some(mut batch) = self.ready.take() else { return };
                session.expect_batch(batch.entries as usize);
                if self.output.is_empty() {
                    core::mem::swap(&mut self.output, &mut batch.bytes);
                } else {
                    self.output.append(&mut batch.bytes);
                }
                self.room = core::mem::take(&mut batch.bytes);
                self.flight = Some(batch);
            }
            Engine::Http(settings, session) => {
                let next = self.again.as_ref().or(self.ready.as_ref());
                let Some(batch) = next else { return };
                if self.again.is_none() && self.memo.batch != Some(batch.cursor) {
                    self.memo.batch = Some(batch.cursor);
                }
                if self.memo.batch != self.saved.batch {
                    return; // it is saved first
                }
                session.send(settings, batch, &mut self.output);
                self.flight = self.again.take().or_else(|| self.ready.take());
            }
        }
        self.connection.expect_reply(now);
    }

    /// Whether a connection is to be established. One to a collector is, once there is something to send.
    const fn wants_connection(&self) -> bool {
        let is_needed = match self.engine {
            Engine::Redis(..) => true,
            Engine::Http(..) => !self.has_resumed || self.again.is_some() || self.ready.is_some(),
        };
        self.is_loaded && is_needed && !self.is_stopping
    }

    fn ping_at(&self) -> Option<Instant> {
        let is_idle = matches!(self.engine, Engine::Redis(..))
            && self.is_connected()
            && self.flight.is_none()
            && !self.connection.is_waiting();
        is_idle.then(|| self.connection.heard() + PING_AFTER)
    }

    fn fail(&mut self, reason: String, now: Instant) {
        self.connection.fail(now);
        match self.engine {
            Engine::Redis(..) => self.give_up_batches(),
            Engine::Http(..) => {
                if let Some(batch) = self.flight.take() {
                    self.counters.retried += u64::from(batch.entries);
                    self.again = Some(batch);
                }
            }
        }
        self.output = Vec::new();
        self.stage = Stage::Asking;
        self.set_error(reason);
    }

    fn set_error(&mut self, reason: String) {
        if self.error.as_ref() != Some(&reason) {
            self.push_event(Event::Failed(reason.clone()));
        }
        self.error = Some(reason);
    }

    /// Drops the batches that are not accepted: they are cut again.
    fn give_up_batches(&mut self) {
        self.attempt += 1;
        self.ready = None;
        if let Some(batch) = self.flight.take() {
            self.counters.retried += u64::from(batch.entries);
        }
    }

    fn push_event(&mut self, event: Event) {
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::id::Id;
    use crate::feed::worker::Done;
    use crate::testing;

    const NOW: Instant = Instant::START;

    /// A feed that is connected, with a password or token of `canary`, and the number of its connection.
    fn connected(is_redis: bool) -> (Feed, u64) {
        let settings = if is_redis {
            Settings::Redis(testing::redis::settings())
        } else {
            Settings::Http(http::Settings {
                url: "http://a:8080/in".parse().unwrap(),
                end: "".into(),
                token: Some("canary".into()),
                stream: b"herd:A"[..].into(),
            })
        };
        let mut feed = Feed::new(settings, 0);
        feed.handle_job_done(Done::Loaded(Memo::default(), None), NOW);
        feed.handle_timeout(NOW);
        let id = feed.poll_connect().unwrap();
        feed.handle_connected(id, NOW);
        if !is_redis {
            feed.handle_job_done(Done::Started, NOW);
            let batch = Batch { bytes: b"{}\n".to_vec(), entries: 1, ..Batch::default() };
            feed.handle_job_done(Done::Cut(0, Ok(batch)), NOW);
            let memo = Memo { batch: Some(Id::ZERO), ..Memo::default() };
            feed.handle_job_done(Done::Saved(memo, Ok(())), NOW);
            assert!(feed.flight.is_some());
        }
        (feed, id)
    }

    /// An engine can repeat the secret wherever it chooses a text.
    #[test]
    fn no_output_contains_the_secret() {
        let check = |mut feed: Feed, what: &str| {
            let error = feed.error().unwrap().to_owned();
            assert!(!error.contains("canary"), "{what}: {error}");
            assert!(error.contains('…'), "{what}: {error}");
            while let Some(event) = feed.poll_event() {
                assert!(!format!("{event:?}").contains("canary"), "{what}: {event:?}");
            }
        };
        for is_redis in [false, true] {
            let (mut feed, id) = connected(is_redis);
            let tls = "TLS: certificate not valid for \"a\"; it is only valid for canary";
            feed.handle_failed(id, tls, NOW);
            check(feed, "a certificate");
        }
        for reply in ["-ERR canary\r\n", "-MOVED 1 canary:6379\r\n", "+OK\r\n-ERR \x1bcanary\r\n"] {
            let (mut feed, id) = connected(true);
            feed.handle_input(id, reply.as_bytes(), NOW);
            check(feed, reply);
        }
        for location in ["/canary", "http://b/?token=%63anary"] {
            let (mut feed, id) = connected(false);
            let head =
                format!("HTTP/1.1 302 F\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
            feed.handle_input(id, head.as_bytes(), NOW);
            check(feed, location);
        }
    }

    /// A batch of usual size needs no new memory, nor a copy before it is sent.
    #[test]
    fn the_memory_of_a_batch_serves_later_ones() {
        let (mut feed, _) = connected(true);
        feed.output.clear();
        feed.stage = Stage::Sending;
        feed.connection.handle_reply();
        let bytes = Vec::with_capacity(7000);
        let mut sent = Vec::new();
        feed.output = Vec::with_capacity(5000);
        let pointer = bytes.as_ptr();
        let mut batch = Batch { bytes, entries: 1, ..Batch::default() };
        batch.bytes.push(b'x');
        feed.handle_job_done(Done::Cut(0, Ok(batch)), NOW);
        feed.poll_output(&mut sent).unwrap();
        assert_eq!(sent.as_ptr(), pointer);
        assert_eq!(feed.room.capacity(), 5000);
    }

    /// The replies to a large batch are read in few pieces, but a feed that catches up waits for nothing.
    #[test]
    fn only_replies_to_a_large_batch_can_wait() {
        for (entries, has_more, pauses) in
            [(MANY, false, true), (MANY - 1, false, false), (MANY, true, false)]
        {
            let (mut feed, _) = connected(true);
            feed.stage = Stage::Sending;
            feed.connection.handle_reply();
            assert_eq!(feed.pause(), None);
            let bytes = b"x".to_vec();
            let batch = Batch { bytes, entries, has_more, ..Batch::default() };
            feed.handle_job_done(Done::Cut(0, Ok(batch)), NOW);
            assert_eq!(feed.pause().is_some(), pauses, "{entries} {has_more}");
        }
    }
}
