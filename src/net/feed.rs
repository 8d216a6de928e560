//! The feed of a node: its connection, and the thread that reads the log for it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use mio::event::Event as Readiness;
use mio::{Registry, Waker};

use super::folder::Folder;
use super::regular_file;
use super::resolver::Resolver;
use super::upstream::{Owner, ServerTls, Upstream};
use super::word;
use crate::config::{Engine, Entries, FeedConfig, Secret};
use crate::feed::cutter::{Cutter, Source};
use crate::feed::entry::Filter;
use crate::feed::form::Form;
use crate::feed::worker::{Done, Files, Job, Worker};
use crate::feed::{Event, Feed, Settings, http, redis, xadd};
use crate::storage::{FileName, Storage};
use crate::time::Instant;

/// The file of the feed's memory, and its successor until it is complete.
const MEMO: &str = "FEED";
const NEW_MEMO: &str = "FEED.tmp";

/// Permissions of the file before the umask.
const MODE: u32 = 0o640;

/// What a feed needs before the loop exists.
pub struct Prepared {
    feed: Feed,
    worker: Worker,
    upstream: Upstream<Feed>,
    url: Box<str>,
}

impl Prepared {
    /// Prepares the feed of the node `name`.
    ///
    /// # Errors
    ///
    /// If `ca_file` cannot be read or contains no certificate.
    pub fn new(config: &FeedConfig, name: &str, random: &[u8; 32]) -> io::Result<Self> {
        let key = format!("{}:{name}", config.stream).into_bytes();
        let filter = match config.entries {
            Entries::All => Filter::All,
            Entries::Updates => Filter::Updates,
            Entries::Fences => Filter::Fences,
        };
        let (form, settings) = match &config.engine {
            Engine::Redis { user, database, .. } => {
                let form = Form::Redis(xadd::Writer::new(&key, config.max_entries));
                let settings = redis::Settings {
                    user: user.as_deref().map(Into::into),
                    password: config.password.as_ref().map(|password| password.expose().into()),
                    database: *database,
                    key: key.into(),
                };
                (form, Settings::Redis(settings))
            }
            Engine::Http { server, end } => {
                let token = config.password.as_ref().map(Secret::expose);
                let settings = http::Settings {
                    url: server.clone(),
                    end: end.as_str().into(),
                    token: token.map(|token| String::from_utf8_lossy(token).into()),
                    stream: key.into(),
                };
                (Form::json(), Settings::Http(settings))
            }
        };
        let server = config.engine.server().clone();
        let upstream = Upstream::new(Owner::Feed, server, || load_tls(config))?;
        Ok(Self {
            feed: Feed::new(settings, word(random, 16)),
            worker: Worker::new(Cutter::new(filter, form)),
            upstream,
            url: config.engine.to_string().into(),
        })
    }

    /// The TLS settings, if the connection uses TLS.
    #[must_use]
    pub const fn tls(&self) -> Option<&ServerTls> {
        self.upstream.tls()
    }
}

/// Loads the TLS settings of a feed.
///
/// # Errors
///
/// If `ca_file` cannot be read or contains no certificate.
pub fn load_tls(config: &FeedConfig) -> io::Result<ServerTls> {
    let protocol: &[u8] = match config.engine {
        Engine::Redis { .. } => b"",
        Engine::Http { .. } => b"http/1.1",
    };
    ServerTls::load("feed.ca_file", config.ca_file.as_deref(), protocol)
}

/// The feed of a node that runs.
pub struct FeedDriver {
    /// The state machine.
    pub feed: Feed,
    /// The URL of the engine, without a password.
    pub url: Box<str>,
    upstream: Upstream<Feed>,
    resolver: Resolver<()>,
    jobs: SyncSender<Job>,
    done: Receiver<Done>,
}

impl FeedDriver {
    /// Starts the thread, which reads the log in `folder` and wakes the loop.
    ///
    /// # Errors
    ///
    /// If no thread can be started.
    pub fn start(prepared: Prepared, folder: Arc<Folder>, waker: &Arc<Waker>) -> io::Result<Self> {
        let Prepared { feed, mut worker, upstream, url } = prepared;
        let (jobs, queue) = sync_channel::<Job>(1);
        let (finished, done) = sync_channel(1);
        let resolver = Resolver::new(Arc::clone(waker), 1);
        let waker = Arc::clone(waker);
        thread::Builder::new().name("feed".to_owned()).spawn(move || {
            let mut log = Log { folder, open: None };
            for job in queue {
                let done = worker.execute(job, &mut log);
                // The loop has ended.
                if finished.send(done).is_err() || waker.wake().is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { feed, url, upstream, resolver, jobs, done })
    }

    /// Handles an event of the socket.
    pub fn handle_event(&mut self, event: &Readiness, registry: &Registry, now: Instant) {
        self.upstream.handle_event(event, registry, &mut self.feed, now);
    }

    /// Does everything that is due. Returns the first segment that the storage must keep, when it has
    /// changed.
    pub fn drive(&mut self, storage: &Storage, registry: &Registry, now: Instant) -> Option<u64> {
        let Self { feed, upstream, resolver, .. } = self;
        while let Ok(done) = self.done.try_recv() {
            feed.handle_job_done(done, now);
        }
        while let Some(answer) = resolver.poll() {
            upstream.resolved(answer.addresses, registry, feed, now);
        }
        feed.handle_timeout(now);
        upstream.handle_timeout(registry, feed, now);
        upstream.poll(registry, feed, now, |host, port| resolver.resolve((), host, port));
        if let Some(job) = feed.poll_job(storage, now) {
            // The channel has room, since there is one job at a time; the thread ends with the loop.
            let _ = self.jobs.send(job);
        }
        while let Some(event) = feed.poll_event() {
            log_event(&event, &self.url);
        }
        feed.poll_keep(now)
    }

    /// Returns true if a turn should follow at once.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.upstream.has_more()
    }

    /// The next time to call [`FeedDriver::drive`].
    #[must_use]
    pub fn poll_timeout(&self, storage: &Storage) -> Option<Instant> {
        let times = [self.feed.poll_timeout(storage), self.upstream.poll_timeout()];
        times.into_iter().flatten().min()
    }

    /// Replaces the TLS settings. A connection that exists keeps its own.
    pub fn set_tls(&mut self, tls: ServerTls) {
        self.upstream.set_tls(tls);
    }

    /// Returns the problem of the feed, as a sentence.
    #[must_use]
    pub fn problem(&self, storage: &Storage) -> Option<String> {
        let error = self.feed.error()?;
        let waiting = self.feed.backlog(storage);
        Some(format!("feed {}: {error}; {waiting} entries wait", self.url))
    }
}

/// The files of a feed.
struct Log {
    folder: Arc<Folder>,
    /// The segment that was read last.
    open: Option<(u64, File)>,
}

impl Source for Log {
    fn read(
        &mut self,
        segment: u64,
        offset: u64,
        most: usize,
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        if self.open.as_ref().is_none_or(|(number, _)| *number != segment) {
            self.open = Some((segment, self.folder.reader(FileName::Segment(segment))?));
        }
        let Some((_, file)) = &self.open else { return Ok(()) };
        let start = out.len();
        out.resize(start + most, 0);
        let mut read = 0;
        let result = loop {
            match file.read_at(&mut out[start + read..], offset + read as u64) {
                Ok(0) => break Ok(()),
                Ok(count) => read += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
            if read == most {
                break Ok(());
            }
        };
        out.truncate(start + read);
        result
    }
}

impl Files for Log {
    fn load(&mut self, most: usize) -> io::Result<Vec<u8>> {
        use std::io::Read as _;
        let mut text = Vec::new();
        match regular_file::open(&self.folder.path().join(MEMO)) {
            Ok(file) => file.take(most as u64).read_to_end(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        Ok(text)
    }

    fn save(&mut self, text: &[u8]) -> io::Result<()> {
        let (memo, new) = (self.folder.path().join(MEMO), self.folder.path().join(NEW_MEMO));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(MODE);
        let mut file = regular_file::open_with(&mut options, &new)?;
        file.write_all(text)?;
        file.sync_data()?;
        fs::rename(new, memo)
    }
}

fn log_event(event: &Event, url: &str) {
    match event {
        Event::Connected => log::info!("feed {url}: connected"),
        Event::Failed(reason) => {
            log::warn!("feed {url}: {reason}; entries wait, and the node retries");
        }
        Event::Older => log::warn!(
            "feed {url}: the engine has lost entries that it had accepted; those that are still held \
             are sent again"
        ),
        Event::Gap(count) => log::warn!(
            "feed {url}: {count} entries were lost before they could be delivered; a gap in the \
             stream says so"
        ),
        Event::Raised(id) => log::warn!(
            "feed {url}: the stream contains the id {id}, which another program has added, or this \
             node while its clock was ahead; the ids of the next entries are raised above it"
        ),
        Event::Forgotten(why) => log::warn!(
            "feed {url}: the file FEED in the folder of the storage cannot be used: {why}; the node \
             continues after the last entry in the stream"
        ),
        Event::NotSaved(why) => log::warn!(
            "feed {url}: the file FEED in the folder of the storage cannot be written: {why}"
        ),
    }
}
