//! Name resolution on threads of its own: the system's resolver blocks.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;

use mio::Waker;

use crate::endpoint::Host;
use crate::net::limits::LOOKUPS_EACH;

/// The result of a look-up.
pub struct Answer<K> {
    /// The key that the caller gave.
    pub key: K,
    /// The addresses in the resolver's order, or its error.
    pub addresses: io::Result<Vec<SocketAddr>>,
}

/// The channels to a resolver thread.
struct Thread<K> {
    questions: SyncSender<(K, String, u16)>,
    answers: Receiver<Answer<K>>,
}

/// A thread that calls the system's resolver. It is started for the first name.
pub struct Resolver<K> {
    waker: Arc<Waker>,
    /// Most look-ups that can be queued.
    most: usize,
    thread: Option<Thread<K>>,
}

impl<K: Send + 'static> Resolver<K> {
    /// A resolver for this number of `callers`. It wakes the loop when it has an answer.
    #[must_use]
    pub const fn new(waker: Arc<Waker>, callers: usize) -> Self {
        Self { waker, most: LOOKUPS_EACH * callers, thread: None }
    }

    /// Returns the address of `host` if it is one. Otherwise starts a look-up, whose result
    /// [`Resolver::poll`] will return.
    ///
    /// # Errors
    ///
    /// If too many names are being looked up, or no thread can be started.
    pub fn resolve(&mut self, key: K, host: &Host, port: u16) -> io::Result<Option<SocketAddr>> {
        let name = match host {
            Host::Address(address) => return Ok(Some(SocketAddr::new(*address, port))),
            Host::Name(name) => name.clone(),
        };
        self.thread()?.questions.try_send((key, name, port)).map(|()| None).map_err(|error| {
            match error {
                TrySendError::Full(_) => io::Error::other("too many names are being looked up"),
                TrySendError::Disconnected(_) => io::Error::other("the resolver has ended"),
            }
        })
    }

    /// The next result.
    pub fn poll(&mut self) -> Option<Answer<K>> {
        self.thread.as_ref()?.answers.try_recv().ok()
    }

    fn thread(&mut self) -> io::Result<&Thread<K>> {
        if self.thread.is_none() {
            let (questions, asked) = sync_channel::<(K, String, u16)>(self.most);
            let (answer, answers) = sync_channel(self.most);
            let waker = Arc::clone(&self.waker);
            thread::Builder::new().name("resolver".to_owned()).spawn(move || {
                for (key, name, port) in asked {
                    let addresses = (name.as_str(), port).to_socket_addrs().map(Iterator::collect);
                    // The loop has ended.
                    if answer.send(Answer { key, addresses }).is_err() || waker.wake().is_err() {
                        return;
                    }
                }
            })?;
            self.thread = Some(Thread { questions, answers });
        }
        self.thread.as_ref().ok_or_else(|| io::Error::other("no resolver"))
    }
}
