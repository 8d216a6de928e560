//! The requests of the apps, one file each, with the responses and records that they must cause.
//!
//! A file in tests/devices/corpus has a title, the settings that differ from the default, and then
//! requests and results in turn. A request begins after a line `>>>`: head, empty line, body. CR LF and
//! a Content-Length of `*` are filled in, and a body is sent in chunks of N bytes if the
//! Transfer-Encoding is `chunked/N`. `%%XX` stands for any byte. After `<<<` come the status and the
//! body of the response, the records that were reported (`=` if stored, `~` if not), and the counters
//! (`+`).
//!
//! `DEVICES_BLESS=1` replaces the results by the actual ones; read them before you commit them.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use proxy_herd::devices::NullIsland;

use crate::harness::{Listener, settings, tokens};

/// One file.
pub struct Case {
    pub path: PathBuf,
    pub title: String,
    pub settings: Vec<String>,
    /// Each request as it is sent, as it is written, and its results.
    pub requests: Vec<(Vec<u8>, String, Vec<String>)>,
}

impl Case {
    /// Returns all cases.
    pub fn all() -> Vec<Self> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/devices/corpus");
        let mut paths: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.into_iter().map(Self::read).collect()
    }

    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).unwrap();
        let mut parts = text.split(">>>\n");
        let mut lines = parts.next().unwrap().lines();
        let title = lines.next().unwrap().to_owned();
        let settings = lines.map(str::to_owned).collect();
        let requests = parts.map(|part| {
            let (request, results) = part.split_once("<<<\n").unwrap_or((part, ""));
            (wire(request), request.to_owned(), results.lines().map(str::to_owned).collect())
        });
        Self { title, settings, requests: requests.collect(), path }
    }

    /// A listener with the settings of the case.
    pub fn listener(&self) -> Listener {
        let mut with = settings();
        for setting in &self.settings {
            match setting.split_once('=') {
                None if setting == "tokens" => with.tokens = Some(tokens()),
                Some(("max_accuracy_m", value)) => with.max_accuracy_m = value.parse().ok(),
                Some(("max_body", value)) => with.max_body = value.parse().unwrap(),
                Some(("null_island", "keep")) => with.null_island = NullIsland::Keep,
                _ => panic!("{}: {setting}", self.path.display()),
            }
        }
        Listener::new(with)
    }

    /// All requests in one piece.
    pub fn stream(&self) -> Vec<u8> {
        self.requests.iter().flat_map(|(bytes, ..)| bytes.clone()).collect()
    }

    /// The same requests as an input of the fuzz target `devices`, whose first byte selects settings.
    fn fuzz_input(&self) -> Vec<u8> {
        let has = |setting: &str| self.settings.iter().any(|it| it.starts_with(setting));
        let bits = ["tokens", "max_accuracy_m=50", "null_island=keep", "max_body=100"];
        let bits = bits.iter().enumerate().map(|(at, setting)| u8::from(has(setting)) << at);
        let mut input = vec![bits.sum()];
        input.extend(self.stream());
        input
    }

    fn fuzz_path(&self) -> PathBuf {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/devices");
        folder.join(self.path.file_name().unwrap())
    }

    fn bless(&self, results: &[Vec<String>]) {
        let mut text = format!("{}\n", self.title);
        for setting in &self.settings {
            writeln!(text, "{setting}").unwrap();
        }
        for ((_, request, _), results) in self.requests.iter().zip(results) {
            write!(text, ">>>\n{request}<<<\n").unwrap();
            for result in results {
                writeln!(text, "{result}").unwrap();
            }
        }
        fs::write(&self.path, text).unwrap();
        fs::write(self.fuzz_path(), self.fuzz_input()).unwrap();
    }
}

/// Returns a request as it is sent.
fn wire(request: &str) -> Vec<u8> {
    let (head, body) = request.split_once("\n\n").unwrap();
    let body = unescape(body.strip_suffix('\n').unwrap_or(body));
    let mut sent = Vec::new();
    let mut chunk = None;
    for line in head.lines() {
        let mut line = line.to_owned();
        if let Some(size) = line.strip_prefix("Transfer-Encoding: chunked/") {
            chunk = Some(size.parse::<usize>().unwrap());
            line.truncate("Transfer-Encoding: chunked".len());
        }
        if line == "Content-Length: *" {
            line = format!("Content-Length: {}", body.len());
        }
        sent.extend_from_slice(line.as_bytes());
        sent.extend_from_slice(b"\r\n");
    }
    sent.extend_from_slice(b"\r\n");
    match chunk {
        None => sent.extend_from_slice(&body),
        Some(size) => {
            for chunk in body.chunks(size) {
                sent.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                sent.extend_from_slice(chunk);
                sent.extend_from_slice(b"\r\n");
            }
            sent.extend_from_slice(b"0\r\n\r\n");
        }
    }
    sent
}

fn unescape(text: &str) -> Vec<u8> {
    let mut parts = text.split("%%");
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(digits, 16).unwrap());
        bytes.extend_from_slice(rest.as_bytes());
    }
    bytes
}

/// Splits a stream of responses into status and body, such as `200 [] (json)`.
fn responses(mut sent: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    while !sent.is_empty() {
        let end = sent.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
        let head = str::from_utf8(&sent[..end]).unwrap();
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
        let status = head.strip_prefix("HTTP/1.1 ").unwrap()[..3].to_owned();
        let length: usize = field("Content-Length: ").map_or(0, |it| it.parse().unwrap());
        assert!(!head.to_ascii_lowercase().contains("access-control"), "CORS: {head}");
        let mut shown = status;
        if length > 0 {
            assert_eq!(field("Content-Type: "), Some("application/json"));
            let body = str::from_utf8(&sent[end..end + length]).unwrap();
            write!(shown, " {}", body.trim_end()).unwrap();
        }
        if let Some(value) = field("Connection: ") {
            write!(shown, " ({value})").unwrap();
        }
        found.push(shown);
        sent = &sent[end + length..];
    }
    found
}

#[test]
fn requests_have_their_results() {
    let bless = std::env::var_os("DEVICES_BLESS").is_some();
    let cases = Case::all();
    assert!(cases.len() >= 60, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let mut listener = case.listener();
        let mut connection = listener.connect();
        let mut all = Vec::new();
        for (bytes, ..) in &case.requests {
            let from = connection.sent.len();
            connection.receive(&mut listener, bytes, false);
            let mut results = responses(&connection.sent[from..]);
            results.extend(listener.take_reports());
            results.extend(listener.counters().into_iter().map(|it| format!("+ {it}")));
            all.push(results);
        }
        let expected: Vec<_> = case.requests.iter().map(|(.., results)| results.clone()).collect();
        if bless {
            case.bless(&all);
        } else if all != expected {
            wrong.push(format!("{}:\n  {expected:?}\n  {all:?}", case.path.display()));
        }
        assert!(!String::from_utf8(connection.sent).unwrap().contains("CANARY"), "{}", case.title);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_fuzzer_begins_with_the_same_requests() {
    for case in Case::all() {
        let path = case.fuzz_path();
        let held = fs::read(&path).unwrap_or_default();
        assert!(held == case.fuzz_input(), "{}: set DEVICES_BLESS=1", path.display());
    }
}

#[test]
fn results_do_not_depend_on_how_bytes_arrive() {
    for case in Case::all() {
        let stream = case.stream();
        let run = |pieces: &mut dyn Iterator<Item = &[u8]>| {
            let mut listener = case.listener();
            let mut connection = listener.connect();
            for piece in pieces {
                connection.receive(&mut listener, piece, false);
            }
            connection.receive(&mut listener, b"", true);
            let sent = String::from_utf8(connection.sent.clone()).unwrap();
            // The interim response is not sent if the body comes with the head.
            let sent = sent.replace("HTTP/1.1 100 Continue\r\n\r\n", "");
            (sent, listener.take_reports(), listener.counters())
        };
        let whole = run(&mut [&stream[..]].into_iter());
        assert_eq!(run(&mut stream.chunks(1)), whole, "{}", case.title);
        // Every split of a short stream; the whole suite has to end.
        for at in (0..stream.len()).step_by(1 + stream.len() / 400) {
            let (first, second) = stream.split_at(at);
            assert_eq!(run(&mut [first, second].into_iter()), whole, "{} at {at}", case.title);
        }
    }
}
