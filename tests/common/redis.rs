//! A Redis server of Debian's package `redis-server`, and a client of a few lines.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{DEADLINE, eventually, free_port};

/// A server, killed when it is dropped.
pub struct Redis {
    pub port: u16,
    directory: PathBuf,
    options: Vec<String>,
    child: Option<Child>,
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Text(Vec<u8>),
    Error(String),
    Number(i64),
    List(Vec<Reply>),
    Null,
}

/// An entry of a stream.
#[derive(Clone, Debug)]
pub struct Entry {
    pub id: String,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    pub fn get(&self, name: &str) -> &[u8] {
        let found = self.fields.iter().find(|(field, _)| field == name.as_bytes());
        found.map_or(b"", |(_, value)| value)
    }

    pub fn names(&self) -> Vec<String> {
        self.fields.iter().map(|(name, _)| String::from_utf8(name.clone()).unwrap()).collect()
    }
}

impl Redis {
    /// Starts a server that stores its data in `directory` like one in production, or returns `None` if
    /// the program is not installed.
    pub fn start(directory: &Path, options: &[&str]) -> Option<Self> {
        if Command::new("redis-server").arg("--version").output().is_err() {
            println!("NOT TESTED: redis-server is not installed");
            return None;
        }
        let directory = directory.join("redis");
        fs::create_dir_all(&directory).unwrap();
        let options = options.iter().map(|&option| option.to_owned()).collect();
        let mut redis = Self { port: free_port(), directory, options, child: None };
        redis.restart();
        Some(redis)
    }

    pub fn restart(&mut self) {
        let log = fs::File::create(self.directory.join("log")).unwrap();
        let child = Command::new("redis-server")
            .current_dir(&self.directory)
            .args(["--save", "", "--appendonly", "yes", "--port", &self.port.to_string()])
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let port = self.port;
        eventually("redis-server answers", DEADLINE, || {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            stream.write_all(b"PING\r\n").ok()?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).ok()?;
            (line.starts_with("+PONG") || line.starts_with("-NOAUTH")).then_some(())
        });
    }

    /// Kills the server with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn command(&self, parts: &[&[u8]]) -> Reply {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut bytes = format!("*{}\r\n", parts.len()).into_bytes();
        for part in parts {
            bytes.extend(format!("${}\r\n", part.len()).into_bytes());
            bytes.extend_from_slice(part);
            bytes.extend_from_slice(b"\r\n");
        }
        stream.write_all(&bytes).unwrap();
        read(&mut BufReader::new(stream))
    }

    /// All entries of a stream.
    pub fn entries(&self, key: &str) -> Vec<Entry> {
        let Reply::List(list) = self.command(&[b"XRANGE", key.as_bytes(), b"-", b"+"]) else {
            return Vec::new();
        };
        list.into_iter().map(entry).collect()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn entry(reply: Reply) -> Entry {
    let Reply::List(parts) = reply else { panic!("{reply:?}") };
    let [Reply::Text(id), Reply::List(fields)] = &parts[..] else { panic!("{parts:?}") };
    let text = |reply: &Reply| match reply {
        Reply::Text(text) => text.clone(),
        other => panic!("{other:?}"),
    };
    let fields = fields.chunks(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect();
    Entry { id: String::from_utf8(id.clone()).unwrap(), fields }
}

fn read(stream: &mut BufReader<TcpStream>) -> Reply {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).unwrap();
    let line = line.strip_suffix(b"\r\n").expect("a complete line");
    let text = String::from_utf8_lossy(&line[1..]).into_owned();
    match line[0] {
        b'+' => Reply::Text(text.into_bytes()),
        b'-' => Reply::Error(text),
        b':' => Reply::Number(text.parse().unwrap()),
        _ if text == "-1" => Reply::Null,
        b'$' => {
            let mut bytes = vec![0; text.parse::<usize>().unwrap() + 2];
            stream.read_exact(&mut bytes).unwrap();
            bytes.truncate(bytes.len() - 2);
            Reply::Text(bytes)
        }
        _ => Reply::List((0..text.parse::<usize>().unwrap()).map(|_| read(stream)).collect()),
    }
}
