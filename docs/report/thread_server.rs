//! A node with one thread per connection, for comparison, without places and peers. It uses the parser
//! and the record format of proxy-herd, so that only the concurrency model and the storage differ.
//!
//! Usage: `thread_server NAME ADDRESS:PORT`

use std::collections::HashMap;
use std::env;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use proxy_herd::protocol::command::Command;
use proxy_herd::protocol::record::Record;
use proxy_herd::protocol::reply::push_unknown;
use proxy_herd::protocol::time::{Nanos, SECOND};
use proxy_herd::protocol::{fields, trim};

/// The newest AT line of each client.
type Records = RwLock<HashMap<Vec<u8>, Vec<u8>>>;

const MAX_LINE: u64 = 4096;

const NO_PLACES: &[u8] = b"\n{\n  \"html_attributions\": [],\n  \"results\": [],\n  \
    \"status\": \"ZERO_RESULTS\"\n}\n\n";

fn main() -> io::Result<()> {
    let mut arguments = env::args().skip(1);
    let (Some(name), Some(address)) = (arguments.next(), arguments.next()) else {
        return Err(io::Error::other("usage: thread_server NAME ADDRESS:PORT"));
    };
    let name: Arc<[u8]> = name.into_bytes().into();
    let records = Arc::new(Records::default());
    for socket in TcpListener::bind(address)?.incoming() {
        let (socket, name, records) = (socket?, Arc::clone(&name), Arc::clone(&records));
        // The thread ends with its connection; errors are not reported.
        thread::Builder::new().spawn(move || serve(&socket, &name, &records))?;
    }
    Ok(())
}

fn serve(socket: &TcpStream, name: &[u8], records: &Records) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut input = BufReader::with_capacity(16 * 1024, socket);
    let (mut line, mut out) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        let mut bounded = io::Read::take(&mut input, MAX_LINE);
        if bounded.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        answer(&line, name, records, &mut out);
        // Replies to pipelined requests are sent together.
        if input.buffer().is_empty() {
            let mut socket = socket;
            socket.write_all(&out)?;
            out.clear();
        }
    }
}

fn answer(line: &[u8], name: &[u8], records: &Records, out: &mut Vec<u8>) {
    match Command::parse(line) {
        Command::Iamat(iamat) => {
            let start = out.len();
            Record::emit(out, name, &iamat, now());
            if let Some(new) = Record::parse(&out[start..]) {
                store(records, &new);
            }
            out.push(b'\n');
        }
        Command::Whatsat(query) => {
            let records = records.read().unwrap_or_else(PoisonError::into_inner);
            match records.get(query.client) {
                Some(record) => {
                    out.extend_from_slice(record);
                    out.extend_from_slice(NO_PLACES);
                }
                None => push_unknown(out, trim(line)),
            }
        }
        Command::Unknown if fields::<0>(line).is_some() => {}
        Command::Unknown => push_unknown(out, trim(line)),
    }
}

fn store(records: &Records, new: &Record<'_>) {
    let mut records = records.write().unwrap_or_else(PoisonError::into_inner);
    match records.get_mut(new.client) {
        Some(held) => {
            let newer = Record::parse(held).is_none_or(|held| new.cmp(&held, 5 * SECOND).is_gt());
            if newer {
                held.clear();
                held.extend_from_slice(new.line);
            }
        }
        None => drop(records.insert(new.client.to_vec(), new.line.to_vec())),
    }
}

fn now() -> Nanos {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_nanos() as Nanos)
}
