//! A TCP relay that can delay traffic, stop it in either direction, and reset connections. Used
//! without namespaces, and for delays, which not every kernel can impose.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Interval at which changes of the wire are polled.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Capacity of a wire in chunks per direction, bounded like the buffers of a socket.
const IN_FLIGHT: usize = 64;

/// The state of an edge, which applies to its connections in both dialing directions.
#[derive(Default)]
pub struct Wire {
    /// True if traffic from the first or second end is stopped.
    stopped: [AtomicBool; 2],
    delay_ms: AtomicU64,
    /// Connections of an earlier generation are reset.
    generation: AtomicU64,
    ended: AtomicBool,
}

impl Wire {
    /// Stops traffic from the first (0) or second (1) end.
    pub fn stop(&self, from: usize) {
        self.stopped[from].store(true, Ordering::SeqCst);
    }

    /// Delays traffic from now on.
    pub fn delay(&self, delay: Duration) {
        self.delay_ms.store(delay.as_millis() as u64, Ordering::SeqCst);
    }

    /// Resets all current connections.
    pub fn reset(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Ends all delays and stops.
    pub fn heal(&self) {
        self.delay(Duration::ZERO);
        for stopped in &self.stopped {
            stopped.store(false, Ordering::SeqCst);
        }
    }

    /// Stops the relay threads.
    pub fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.reset();
    }

    /// Accepts connections on `address` and relays them to `target`. `dialer` is the end of the
    /// edge that dials `address`.
    pub fn relay(self: &Arc<Self>, dialer: usize, address: SocketAddr, target: SocketAddr) {
        let listener =
            TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        listener.set_nonblocking(true).unwrap();
        let wire = Arc::clone(self);
        thread::spawn(move || {
            while !wire.ended.load(Ordering::SeqCst) {
                let Ok((near, _)) = listener.accept() else {
                    thread::sleep(POLL_INTERVAL);
                    continue;
                };
                let wire = Arc::clone(&wire);
                thread::spawn(move || wire.connect(dialer, near, target));
            }
        });
    }

    fn connect(self: Arc<Self>, dialer: usize, near: TcpStream, target: SocketAddr) {
        let generation = self.generation.load(Ordering::SeqCst);
        if !self.wait_while_stopped(dialer, generation) {
            return;
        }
        let Ok(far) = TcpStream::connect_timeout(&target, Duration::from_secs(1)) else { return };
        let pairs = near.try_clone().and_then(|near_clone| Ok((near_clone, far.try_clone()?)));
        let Ok((near_clone, far_clone)) = pairs else { return };
        self.pump(dialer, generation, near, far);
        self.pump(1 - dialer, generation, far_clone, near_clone);
    }

    /// Starts the threads that relay from `source` to `sink`.
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
            wire.receive(generation, source, &sender);
        });
        let wire = Arc::clone(self);
        thread::spawn(move || {
            if wire.send(from, generation, &mut sink, &receiver).is_err() {
                let _ = sink.shutdown(Shutdown::Both);
            }
        });
    }

    fn receive(
        &self,
        generation: u64,
        mut source: TcpStream,
        sender: &SyncSender<(Instant, Vec<u8>)>,
    ) {
        let _ = source.set_nonblocking(false);
        let _ = source.set_read_timeout(Some(POLL_INTERVAL * 4));
        let mut chunk = [0; 16 * 1024];
        while self.generation.load(Ordering::SeqCst) == generation {
            let read = match source.read(&mut chunk) {
                Ok(read) => read,
                Err(error) if is_timeout(&error) => continue,
                Err(_) => break,
            };
            let delay = Duration::from_millis(self.delay_ms.load(Ordering::SeqCst));
            if sender.send((Instant::now() + delay, chunk[..read].to_vec())).is_err() || read == 0 {
                return; // the end of the stream is delayed like data
            }
        }
        let _ = source.shutdown(Shutdown::Both);
    }

    fn send(
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

    /// Waits until traffic flows. Returns false if the connection has been reset instead.
    fn wait_while_stopped(&self, from: usize, generation: u64) -> bool {
        while self.generation.load(Ordering::SeqCst) == generation {
            if !self.stopped[from].load(Ordering::SeqCst) {
                return true;
            }
            thread::sleep(POLL_INTERVAL);
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
