//! `--forget`: asks a running node to erase a client.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};

use super::peer_tls::PeerTlsConfig;
use super::{assemble, random};
use crate::config::Config;
use crate::herd::administrator::{Administrator, FORGET, FORGOTTEN, Standing, UNKNOWN};
use crate::herd::handshake::{Identity, MAX_HANDSHAKE_LINE, Nonce};
use crate::limits::Limits;

/// Time allowed for one node to answer: a healthy one does within milliseconds.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks the first of `nodes` that answers to erase `client`; nodes are indices in [`Config::nodes`].
/// Returns whether it held the client, and its index.
///
/// # Errors
///
/// One line with the reason, if no node has admitted the request.
pub fn forget(config: &Config, client: &[u8], nodes: &[usize]) -> Result<(usize, bool), String> {
    let most = config.limits.max_line - (FORGET.len() + b" ".len());
    if client.len() > most {
        return Err(format!("no client has a name of more than {most} bytes; see limits.max_line"));
    }
    let tls = credentials(config, nodes)?;
    let mut reasons = Vec::new();
    for &node in nodes {
        match ask(config, node, client, tls.as_ref()) {
            Ok(was_held) => return Ok((node, was_held)),
            Err(failure) => {
                reasons.push(format!("{} {}", config.nodes[node].name, failure.reason));
                if failure.may_have_happened {
                    break;
                }
            }
        }
    }
    Err(match &reasons[..] {
        [] => "the herd has no node that speaks this protocol".to_owned(),
        reasons => reasons.join("; "),
    })
}

/// The reason why a node has not answered, with the node as its subject.
struct Failure {
    reason: String,
    /// True if the node may have executed the command.
    may_have_happened: bool,
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self { reason, may_have_happened: false }
    }
}

/// Returns a certificate of any node whose key is on this machine, that of the first of `nodes` if
/// there is a choice.
fn credentials(config: &Config, nodes: &[usize]) -> Result<Option<PeerTlsConfig>, String> {
    let Some(files) = &config.peers.tls else { return Ok(None) };
    let all = nodes.iter().copied().chain(0..config.nodes.len());
    let mut failure = String::new();
    for node in all {
        let name = &config.nodes[node].name;
        match PeerTlsConfig::load(files, name) {
            Ok(loaded) => return Ok(Some(loaded)),
            Err(error) if failure.is_empty() => failure = error.to_string(),
            Err(_) => {}
        }
    }
    Err(format!("this machine has no certificate of a node: {failure}"))
}

fn ask(
    config: &Config,
    node: usize,
    client: &[u8],
    tls: Option<&PeerTlsConfig>,
) -> Result<bool, Failure> {
    let (host, port) = (&config.nodes[node].dial, config.nodes[node].port);
    let address = format!("{host}:{port}");
    let failed =
        |error: io::Error| Failure::from(format!("cannot be reached at {address}: {error}"));
    let deadline = Instant::now() + TIMEOUT;
    let stream = connect(&address, deadline).map_err(failed)?;
    let random = random().map_err(failed)?;
    let identity = &assemble::identity(config, node, &random);
    let mut nonce = Nonce::default();
    nonce.copy_from_slice(&random[..size_of::<Nonce>()]);
    let name = identity.name(identity.me);
    match tls {
        None => converse(Timed { stream, deadline }, identity, &nonce, client),
        Some(tls) => {
            let connection: ClientConnection = tls.connection(name).map_err(failed)?;
            let stream = StreamOwned::new(connection, Timed { stream, deadline });
            converse(stream, identity, &nonce, client)
        }
    }
}

/// Connects to the first address that accepts.
fn connect(address: &str, deadline: Instant) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    let mut failure = io::Error::other("the host has no address");
    for (tried, address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        match TcpStream::connect_timeout(address, remaining(deadline) / left) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Performs the handshake and gives the command. Returns whether the node held the client.
fn converse(
    stream: impl Read + Write,
    identity: &Identity,
    nonce: &Nonce,
    client: &[u8],
) -> Result<bool, Failure> {
    let mut stream = BufReader::new(stream);
    let mut failed = |error: io::Error| Failure::from(format!("does not answer: {error}"));
    let mut output = Vec::new();
    let mut administrator = Administrator::dial(identity, nonce, &mut output);
    loop {
        send(stream.get_mut(), &output).map_err(&mut failed)?;
        output.clear();
        let line = read_line(&mut stream, MAX_HANDSHAKE_LINE).map_err(&mut failed)?;
        match administrator.handle_line(identity, &line, &mut output) {
            Standing::Waiting => {}
            Standing::Admitted => break,
            Standing::Refused(reason) => {
                return Err(Failure::from(format!("does not take the command: {reason}")));
            }
        }
    }
    output.extend_from_slice(&[FORGET, b" ", client, b"\n"].concat());
    let unclear = |reason: String| Failure { reason, may_have_happened: true };
    let answer = send(stream.get_mut(), &output)
        .and_then(|()| read_line(&mut stream, Limits::default().max_output_buffer))
        .map_err(|error| {
            unclear(format!(
                "has not confirmed the command ({error}); it may have been executed, so repeat it"
            ))
        })?;
    if answer == [FORGOTTEN, client].join(&b' ') {
        Ok(true)
    } else if answer == [UNKNOWN, client].join(&b' ') {
        Ok(false)
    } else {
        Err(unclear(format!("answers {:?}", String::from_utf8_lossy(&answer))))
    }
}

fn send(stream: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)?;
    stream.flush()
}

/// Reads a line of at most `most` bytes, without LF.
fn read_line(stream: &mut BufReader<impl Read>, most: usize) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    stream.by_ref().take(most as u64).read_until(b'\n', &mut line)?;
    match line.pop() {
        Some(b'\n') => Ok(line),
        Some(_) => Err(io::Error::other("its line is incomplete")),
        None => Err(io::Error::other("it has closed the connection")),
    }
}

/// A blocking socket with a deadline.
struct Timed {
    stream: TcpStream,
    deadline: Instant,
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(remaining(self.deadline)))?;
        self.stream.read(buffer).map_err(in_words)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(remaining(self.deadline)))?;
        self.stream.write(bytes).map_err(in_words)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Names a timeout, which the system reports as "would block".
fn in_words(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => {
            io::Error::new(io::ErrorKind::TimedOut, "nothing was received in time")
        }
        _ => error,
    }
}

/// The time until `deadline`. A timeout of zero would be an error.
fn remaining(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}
