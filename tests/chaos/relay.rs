//! A link that can be slowed, stopped in either direction and broken: bytes pass through this
//! process. For edges whose delay the kernel cannot make, and where there are no namespaces.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// How soon a stopped or broken wire is noticed.
const PACE: Duration = Duration::from_millis(5);

/// Chunks on their way in one direction: what a slow wire holds is bounded, like a socket.
const IN_FLIGHT: usize = 64;

/// What happens to all connections of an edge, whoever dialled them.
#[derive(Default)]
pub struct Wire {
    /// Nothing arrives from the lesser end of the edge at the greater, or the other way.
    stopped: [AtomicBool; 2],
    delay_ms: AtomicU64,
    /// Connections of an earlier one are broken.
    generation: AtomicU64,
    ended: AtomicBool,
}

impl Wire {
    /// Stops what goes from the lesser end (0) or from the greater (1).
    pub fn stop(&self, from: usize) {
        self.stopped[from].store(true, Ordering::SeqCst);
    }

    /// Everything takes this long from now on.
    pub fn delay(&self, delay: Duration) {
        self.delay_ms.store(delay.as_millis() as u64, Ordering::SeqCst);
    }

    /// Breaks every connection there is.
    pub fn reset(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Passes everything on at once again.
    pub fn heal(&self) {
        self.delay(Duration::ZERO);
        for stopped in &self.stopped {
            stopped.store(false, Ordering::SeqCst);
        }
    }

    /// Ends the threads of its relays.
    pub fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.reset();
    }

    /// Takes connections at `at` and passes them on to `target`; `dialler` is the end of the edge
    /// that dials here.
    pub fn relay(self: &Arc<Self>, dialler: usize, at: SocketAddr, target: SocketAddr) {
        let listener = TcpListener::bind(at).unwrap_or_else(|error| panic!("{at}: {error}"));
        listener.set_nonblocking(true).unwrap();
        let wire = Arc::clone(self);
        thread::spawn(move || {
            while !wire.ended.load(Ordering::SeqCst) {
                let Ok((near, _)) = listener.accept() else {
                    thread::sleep(PACE);
                    continue;
                };
                let wire = Arc::clone(&wire);
                thread::spawn(move || wire.connect(dialler, near, target));
            }
        });
    }

    fn connect(self: Arc<Self>, dialler: usize, near: TcpStream, target: SocketAddr) {
        let generation = self.generation.load(Ordering::SeqCst);
        if !self.wait_while_stopped(dialler, generation) {
            return;
        }
        let Ok(far) = TcpStream::connect_timeout(&target, Duration::from_secs(1)) else { return };
        let pairs = near.try_clone().and_then(|near_too| Ok((near_too, far.try_clone()?)));
        let Ok((near_too, far_too)) = pairs else { return };
        self.pump(dialler, generation, near, far);
        self.pump(1 - dialler, generation, far_too, near_too);
    }

    /// Passes on what `source` says, in threads of its own.
    fn pump(
        self: &Arc<Self>,
        from: usize,
        generation: u64,
        source: TcpStream,
        mut sink: TcpStream,
    ) {
        let (sender, receiver) = sync_channel(IN_FLIGHT);
        let _ = sink.set_nodelay(true);
        let wire = Arc::clone(self);
        thread::spawn(move || {
            wire.take(generation, source, &sender);
        });
        let wire = Arc::clone(self);
        thread::spawn(move || {
            if wire.give(from, generation, &mut sink, &receiver).is_err() {
                let _ = sink.shutdown(Shutdown::Both); // whoever is at its ends, it is over
            }
        });
    }

    fn take(
        &self,
        generation: u64,
        mut source: TcpStream,
        sender: &SyncSender<(Instant, Vec<u8>)>,
    ) {
        let _ = source.set_nonblocking(false);
        let _ = source.set_read_timeout(Some(PACE * 4));
        let mut chunk = [0; 16 * 1024];
        while self.generation.load(Ordering::SeqCst) == generation {
            let read = match source.read(&mut chunk) {
                Ok(read) => read,
                Err(error) if is_timeout(&error) => continue,
                Err(_) => break,
            };
            let delay = Duration::from_millis(self.delay_ms.load(Ordering::SeqCst));
            if sender.send((Instant::now() + delay, chunk[..read].to_vec())).is_err() || read == 0 {
                return; // the end travels like everything else
            }
        }
        let _ = source.shutdown(Shutdown::Both);
    }

    fn give(
        &self,
        from: usize,
        generation: u64,
        sink: &mut TcpStream,
        receiver: &Receiver<(Instant, Vec<u8>)>,
    ) -> io::Result<()> {
        while let Ok((due, bytes)) = receiver.recv() {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if !self.wait_while_stopped(from, generation) {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            if bytes.is_empty() {
                return sink.shutdown(Shutdown::Write);
            }
            sink.write_all(&bytes)?;
        }
        Err(io::ErrorKind::ConnectionReset.into())
    }

    /// Returns whether the connection still stands then.
    fn wait_while_stopped(&self, from: usize, generation: u64) -> bool {
        while self.generation.load(Ordering::SeqCst) == generation {
            if !self.stopped[from].load(Ordering::SeqCst) {
                return true;
            }
            thread::sleep(PACE);
        }
        false
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}
