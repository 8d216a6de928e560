//! Files that a node reads again at SIGHUP.
//!
//! A set holds the files that must be replaced together, such as a certificate and its key: either all
//! of them come into use or none. Each set is read on a thread of its own, because a file may be on a
//! file system that hangs. The thread wakes the loop when it is done, as the resolver does.
//!
//! To add a set: a variant of [`Fresh`], a [`FileSet`] in `assemble.rs`, and an arm in
//! `EventLoop::install`.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;

use mio::Waker;

use super::certificates::{Dates, Watch};
use super::device_tls::DeviceTlsConfig;
use super::peer_tls::PeerTlsConfig;
use super::upstream::ServerTls;
use crate::devices::tokens::Tokens;
use crate::fences::FenceSet;
use crate::net::limits::RELOAD_PATIENCE;
use crate::time::{Instant, Now};

/// What has been read.
pub enum Fresh {
    /// Certificates, key and authorities of links.
    Links(Box<PeerTlsConfig>),
    /// Authorities of the places provider.
    Provider(ServerTls),
    /// Certificate and key of the listener for devices.
    Devices(Box<DeviceTlsConfig>),
    /// Tokens of devices.
    Tokens(Box<Tokens>),
    /// The fences.
    Fences(Arc<FenceSet>),
    /// The authorities for the engine of the feed.
    Feed(ServerTls),
}

impl Fresh {
    /// The dates of the certificates.
    fn dates(&self) -> Vec<Dates> {
        match self {
            Self::Links(tls) => tls.credentials.files().map(|file| file.dates.clone()).into(),
            Self::Provider(tls) | Self::Feed(tls) => tls.dates().cloned().into_iter().collect(),
            Self::Devices(tls) => vec![tls.certificate.dates.clone()],
            Self::Tokens(_) | Self::Fences(_) => Vec::new(),
        }
    }
}

/// Files that are read together.
pub struct FileSet {
    /// The name in messages, such as `peers.tls`.
    pub name: &'static str,
    /// Reads and validates the files, on any thread.
    pub load: Load,
    /// The problem with the files that the node has started with.
    pub flaw: Option<String>,
}

/// Reads and validates the files of a set.
pub type Load = Arc<dyn Fn() -> io::Result<Fresh> + Send + Sync>;

/// The sets of a node.
pub struct Reload {
    waker: Arc<Waker>,
    sets: Vec<Set>,
    /// The certificates in use.
    pub certificates: Watch,
}

struct Set {
    name: &'static str,
    load: Load,
    /// The problem of `/api/herd`, until a reload succeeds.
    failure: Option<String>,
    reader: Reader,
    /// Requests that have not been answered.
    pending: usize,
    /// The time of the first of these.
    since: Instant,
    /// True if the log says that it takes long.
    reported: bool,
}

/// The thread of a set.
enum Reader {
    /// It has not been started: there was no request.
    None,
    Running(Thread),
    /// It could not be started.
    Failed(io::Error),
}

/// The channels to a thread. Neither holds more than one message: a request that waits will be served
/// after every change that the next one could be about.
struct Thread {
    requests: SyncSender<()>,
    answers: Receiver<io::Result<Fresh>>,
}

impl Reload {
    /// A node without files to reload. The threads wake the loop with `waker`.
    #[must_use]
    pub fn new(waker: Arc<Waker>) -> Self {
        Self { waker, sets: Vec::new(), certificates: Watch::default() }
    }

    /// Adds a set, of which `certificates` are in use.
    pub fn add(&mut self, set: FileSet, certificates: Vec<Dates>) {
        let FileSet { name, load, flaw: failure } = set;
        self.certificates.replace(name, certificates);
        let (reader, since) = (Reader::None, Instant::START);
        self.sets.push(Set { name, load, failure, reader, pending: 0, since, reported: false });
    }

    /// Begins to read all sets. [`Reload::poll`] returns the results.
    pub fn request(&mut self, now: Instant) {
        for set in &mut self.sets {
            set.request(&self.waker, now);
        }
    }

    /// The next result, with the name of its set.
    pub fn poll(&mut self, now: Instant) -> Option<(&'static str, Result<Fresh, String>)> {
        let (set, answer) = self.sets.iter_mut().find_map(|set| {
            let answer = set.poll(now)?;
            Some((set, answer))
        })?;
        let result = answer.map_err(|error| error.to_string());
        set.failure = result.as_ref().err().map(|why| {
            format!("cannot reload {}: {why}; the previous files remain in use", set.name)
        });
        if let Ok(fresh) = &result {
            self.certificates.replace(set.name, fresh.dates());
        }
        Some((set.name, result))
    }

    /// The next time to call [`Reload::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let late = self.sets.iter().filter(|set| !set.reported).filter_map(Set::late_at).min();
        [late, self.certificates.poll_timeout()].into_iter().flatten().min()
    }

    /// Returns the warnings that are due.
    pub fn handle_timeout(&mut self, now: &Now) -> Vec<String> {
        let mut warnings = self.certificates.handle_timeout(now);
        for set in self.sets.iter_mut().filter(|set| !set.reported) {
            let late = set.lateness(now.instant);
            set.reported = late.is_some();
            warnings.extend(late);
        }
        warnings
    }

    /// Describes the files that could not be reloaded, and the certificates that have expired or will
    /// soon.
    #[must_use]
    pub fn problems(&self, now: &Now) -> Vec<String> {
        let failures = self.sets.iter().filter_map(|set| set.failure.clone());
        let late = self.sets.iter().filter_map(|set| set.lateness(now.instant));
        failures.chain(late).chain(self.certificates.problems(now.wall)).collect()
    }
}

impl Set {
    /// Asks the thread to read the files. If it is reading them already, it will do so once more.
    fn request(&mut self, waker: &Arc<Waker>, now: Instant) {
        if !matches!(self.reader, Reader::Running(_)) {
            self.reader = match Thread::start(&self.load, waker) {
                Ok(thread) => Reader::Running(thread),
                Err(error) => Reader::Failed(error),
            };
        }
        let is_accepted = match &self.reader {
            Reader::Running(thread) => thread.requests.try_send(()).is_ok(),
            Reader::Failed(_) => self.pending == 0,
            Reader::None => false,
        };
        if self.pending == 0 {
            self.since = now;
        }
        self.pending += usize::from(is_accepted);
    }

    fn poll(&mut self, now: Instant) -> Option<io::Result<Fresh>> {
        if self.pending == 0 {
            return None;
        }
        let answer = match std::mem::replace(&mut self.reader, Reader::None) {
            Reader::None => return None,
            Reader::Failed(error) => Err(error),
            Reader::Running(thread) => match thread.answers.try_recv() {
                Err(TryRecvError::Disconnected) => {
                    self.pending = 1;
                    Err(io::Error::other("the thread that reads the files has ended"))
                }
                answer => {
                    self.reader = Reader::Running(thread);
                    answer.ok()?
                }
            },
        };
        self.pending -= 1;
        (self.since, self.reported) = (now, false);
        Some(answer)
    }

    /// The time at which reading takes long.
    fn late_at(&self) -> Option<Instant> {
        (self.pending > 0).then(|| self.since + RELOAD_PATIENCE)
    }

    /// The problem that reading takes long.
    fn lateness(&self, now: Instant) -> Option<String> {
        self.late_at().filter(|&at| at <= now).map(|_| {
            let patience = RELOAD_PATIENCE.as_secs();
            format!(
                "reading the files of {} again takes longer than {patience} s; check their file system",
                self.name
            )
        })
    }
}

impl Thread {
    fn start(load: &Load, waker: &Arc<Waker>) -> io::Result<Self> {
        let (requests, requested) = sync_channel(1);
        let (answer, answers) = sync_channel(1);
        let (load, waker) = (Arc::clone(load), Arc::clone(waker));
        thread::Builder::new().name("reload".to_owned()).spawn(move || {
            for () in requested {
                // The loop has ended.
                if answer.send(load()).is_err() || waker.wake().is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { requests, answers })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::Sender;
    use std::time::Duration;

    use mio::{Events, Poll, Token};

    use super::*;

    /// A reload whose only set is read when the returned channel says so, with the result that comes
    /// over it, and the queue that the thread wakes.
    fn reload() -> (Reload, Sender<Option<&'static str>>, Poll) {
        let poll = Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
        let (result, results) = std::sync::mpsc::channel();
        let results = Mutex::new(results);
        let load = move || match results.lock().unwrap().recv().unwrap() {
            None => ServerTls::load("places.ca_file", None, b"").map(Fresh::Provider),
            Some("panic") => panic!("planted"),
            Some(why) => Err(io::Error::other(why)),
        };
        let mut reload = Reload::new(waker);
        reload.add(FileSet { name: "x", load: Arc::new(load), flaw: None }, Vec::new());
        (reload, result, poll)
    }

    fn at(seconds: u64) -> Now {
        Now { instant: Instant::at(Duration::from_secs(seconds)), wall: crate::time::Wall(0) }
    }

    /// Waits until the thread wakes the loop, and returns the result.
    fn wait(reload: &mut Reload, poll: &mut Poll) -> Result<(), String> {
        loop {
            if let Some((name, result)) = reload.poll(at(0).instant) {
                assert_eq!(name, "x");
                return result.map(|_| ());
            }
            let mut events = Events::with_capacity(1);
            poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
            assert!(!events.is_empty(), "the loop is not woken");
        }
    }

    #[test]
    fn a_failure_is_a_problem_until_a_reload_succeeds() {
        let (mut reload, result, mut poll) = reload();
        assert!(reload.poll(at(0).instant).is_none(), "nothing was requested");
        let problem = "cannot reload x: bad; the previous files remain in use";
        for (given, problems) in
            [(Some("bad"), &[problem][..]), (Some("bad"), &[problem]), (None, &[])]
        {
            reload.request(at(0).instant);
            result.send(given).unwrap();
            assert_eq!(wait(&mut reload, &mut poll).err().as_deref(), given);
            assert_eq!(reload.problems(&at(0)), problems);
        }
    }

    /// Files may change while they are read, so a request during that time is served afterwards. Any
    /// number of requests are served by one more.
    #[test]
    fn requests_during_a_reload_cause_exactly_one_more() {
        let (mut reload, result, mut poll) = reload();
        reload.request(at(0).instant);
        result.send(None).unwrap();
        wait(&mut reload, &mut poll).unwrap(); // the thread runs and waits for requests
        reload.request(at(0).instant);
        // Until the thread has taken the first request, there is no room for a second one.
        while reload.sets[0].pending < 2 {
            thread::yield_now();
            reload.request(at(0).instant);
        }
        for _ in 0..5 {
            reload.request(at(0).instant);
        }
        for _ in 0..2 {
            result.send(None).unwrap();
            wait(&mut reload, &mut poll).unwrap();
        }
        assert!(reload.poll(at(0).instant).is_none());
        assert_eq!((reload.sets[0].pending, reload.poll_timeout()), (0, None));
    }

    #[test]
    fn a_thread_that_hangs_is_reported_once() {
        let (mut reload, result, mut poll) = reload();
        reload.request(at(5).instant);
        let late = Instant::at(Duration::from_secs(5) + RELOAD_PATIENCE);
        assert_eq!(reload.poll_timeout(), Some(late));
        let late = Now { instant: late, ..at(0) };
        assert!(reload.handle_timeout(&at(5)).is_empty());
        let [warning] = reload.handle_timeout(&late).try_into().unwrap();
        assert_eq!(
            warning,
            "reading the files of x again takes longer than 10 s; check their file system"
        );
        assert_eq!(reload.problems(&late), [warning]);
        assert!(reload.handle_timeout(&late).is_empty());
        assert_eq!(reload.poll_timeout(), None);
        result.send(None).unwrap();
        wait(&mut reload, &mut poll).unwrap();
        assert!(reload.problems(&late).is_empty());
    }

    #[test]
    fn a_thread_that_has_panicked_is_started_again() {
        let (mut reload, result, mut poll) = reload();
        reload.request(at(0).instant);
        result.send(Some("panic")).unwrap();
        // The thread ends without waking the loop; the node notices at its next turn.
        let answer = loop {
            if let Some((_, answer)) = reload.poll(at(0).instant) {
                break answer;
            }
            thread::yield_now();
        };
        assert!(answer.is_err_and(|why| why.contains("has ended")));
        reload.sets[0].load =
            Arc::new(|| ServerTls::load("places.ca_file", None, b"").map(Fresh::Provider));
        reload.request(at(0).instant);
        wait(&mut reload, &mut poll).unwrap();
    }
}
