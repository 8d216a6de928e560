//! A model of Redis: one stream, transactions, and the faults of a server.

use proxy_herd::feed::id::Id;

/// An entry of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    pub id: Id,
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Added {
    pub fn field(&self, name: &str) -> &[u8] {
        let found = self.fields.iter().find(|(field, _)| field == name.as_bytes());
        found.map_or(b"", |(_, value)| value)
    }
}

#[derive(Default)]
pub struct Server {
    /// The keys and bodies of accepted requests, if this is an HTTP collector.
    pub collected: Option<Vec<(String, Vec<u8>)>>,
    pub stream: Vec<Added>,
    pub last: Id,
    /// The number of entries at the beginning of `stream` that were trimmed.
    pub trimmed: usize,
    pub is_down: bool,
    pub is_loading: bool,
    pub is_full: bool,
    pub connections: Vec<Connection>,
}

/// A connection as the server sees it. It may outlive that of the client.
#[derive(Default)]
pub struct Connection {
    pub id: u64,
    pub input: Vec<u8>,
    pub replies: Vec<u8>,
    /// True if the server closes it after the replies.
    pub closes: bool,
    queue: Option<Vec<Vec<Vec<u8>>>>,
    is_aborted: bool,
}

impl Server {
    pub fn connect(&mut self, id: u64) {
        self.connections.push(Connection { id, ..Connection::default() });
    }

    pub fn connection(&mut self, id: u64) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|it| it.id == id)
    }

    /// Executes the next command of a connection. Returns false if there is none that is complete.
    pub fn step(&mut self, at: usize) -> bool {
        if self.collected.is_some() {
            return self.step_http(at);
        }
        let connection = &mut self.connections[at];
        let Some((command, length)) = parse(&connection.input) else { return false };
        connection.input.drain(..length);
        let reply = self.execute(at, command);
        self.connections[at].replies.extend_from_slice(&reply);
        true
    }

    /// Handles the next request.
    fn step_http(&mut self, at: usize) -> bool {
        let connection = &mut self.connections[at];
        let input = &connection.input;
        let Some(end) = input.windows(4).position(|it| it == b"\r\n\r\n") else { return false };
        let head = String::from_utf8(input[..end].to_vec()).unwrap();
        assert!(head.starts_with("POST /in HTTP/1.1\r\n"), "{head}");
        let field = |name: &str| {
            let line = head.lines().find_map(|line| line.strip_prefix(name)).expect(name);
            line.to_owned()
        };
        let length: usize = field("Content-Length: ").parse().unwrap();
        let whole = end + 4 + length;
        if input.len() < whole || connection.closes {
            return false;
        }
        let (key, body) = (field("Idempotency-Key: "), input[end + 4..whole].to_vec());
        connection.input.drain(..whole);
        let collected = self.collected.as_mut().unwrap();
        let reply = if self.is_full {
            "HTTP/1.1 507 Full\r\nContent-Length: 0\r\n\r\n"
        } else if self.is_loading {
            "HTTP/1.1 503 Later\r\nRetry-After: 1\r\nContent-Length: 2\r\n\r\nno"
        } else {
            collected.push((key, body));
            match collected.len() % 5 {
                0 => {
                    connection.closes = true;
                    "HTTP/1.1 200 OK\r\n\r\nup to the end"
                }
                1 => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
                2 => {
                    connection.closes = true;
                    "HTTP/1.1 202 Accepted\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
                }
                _ => "HTTP/1.1 204 No Content\r\n\r\n",
            }
        };
        connection.replies.extend_from_slice(reply.as_bytes());
        true
    }

    fn execute(&mut self, at: usize, command: Vec<Vec<u8>>) -> Vec<u8> {
        let connection = &mut self.connections[at];
        // While it loads, a transaction may begin, and is aborted by its first command.
        if self.is_loading && !matches!(&command[0][..], b"MULTI" | b"EXEC" | b"PING") {
            connection.is_aborted = true;
            return b"-LOADING Redis is loading the dataset in memory\r\n".to_vec();
        }
        let adds = command[0] == b"XADD";
        if let Some(queue) = connection.queue.as_mut().filter(|_| command[0] != b"EXEC") {
            if adds && self.is_full {
                connection.is_aborted = true;
                return b"-OOM command not allowed when used memory > 'maxmemory'.\r\n".to_vec();
            }
            queue.push(command);
            return b"+QUEUED\r\n".to_vec();
        }
        match &command[0][..] {
            b"PING" => b"+PONG\r\n".to_vec(),
            b"MULTI" => {
                connection.queue = Some(Vec::new());
                connection.is_aborted = false;
                b"+OK\r\n".to_vec()
            }
            b"EXEC" => {
                let queue = connection.queue.take().expect("EXEC follows MULTI");
                if std::mem::take(&mut connection.is_aborted) {
                    return b"-EXECABORT Transaction discarded because of previous errors.\r\n"
                        .to_vec();
                }
                let mut reply = format!("*{}\r\n", queue.len()).into_bytes();
                for command in queue {
                    reply.extend(self.add(&command));
                }
                reply
            }
            b"XINFO" => self.info(),
            other => panic!("unknown command {}", other.escape_ascii()),
        }
    }

    fn add(&mut self, command: &[Vec<u8>]) -> Vec<u8> {
        assert_eq!(command[0], b"XADD");
        let at = if command[2] == b"MAXLEN" { 5 } else { 2 };
        let id = Id::parse(&command[at]).expect("an id");
        if id <= self.last {
            return b"-ERR The ID specified in XADD is equal or smaller than the target stream top \
                     item\r\n"
                .to_vec();
        }
        self.last = id;
        let fields = command[at + 1..].chunks(2).map(|pair| (pair[0].clone(), pair[1].clone()));
        self.stream.push(Added { id, fields: fields.collect() });
        let id = id.to_string();
        format!("${}\r\n{id}\r\n", id.len()).into_bytes()
    }

    /// Loses everything behind the first `length` entries.
    pub fn lose(&mut self, length: usize) {
        self.stream.truncate(length);
        self.trimmed = self.trimmed.min(length);
        self.last = self.stream.last().map_or(Id::ZERO, |added| added.id);
    }

    /// Adds an entry of another program.
    pub fn add_foreign(&mut self, id: Id) {
        self.last = id;
        self.stream.push(Added { id, fields: vec![(b"x".to_vec(), b"y".to_vec())] });
    }

    fn info(&self) -> Vec<u8> {
        let Self { stream, last, trimmed, .. } = self;
        if stream.is_empty() && *last == Id::ZERO {
            return b"-ERR no such key\r\n".to_vec();
        }
        let last = last.to_string();
        let mut reply =
            format!("*4\r\n$17\r\nlast-generated-id\r\n${}\r\n{last}\r\n", last.len()).into_bytes();
        reply.extend_from_slice(b"$10\r\nlast-entry\r\n");
        match stream.get(*trimmed..).and_then(<[Added]>::last) {
            Some(entry) => {
                let name = &entry.fields[0].0;
                reply.extend_from_slice(b"*2\r\n$3\r\n1-1\r\n*2\r\n");
                reply.extend(format!("${}\r\n", name.len()).into_bytes());
                reply.extend_from_slice(name);
                reply.extend_from_slice(b"\r\n$1\r\ny\r\n");
            }
            None => reply.extend_from_slice(b"*-1\r\n"),
        }
        reply
    }
}

/// Returns the first command in `input` and its length, if it is complete.
fn parse(input: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let line = |at: usize| {
        let end = at + input.get(at..)?.windows(2).position(|pair| pair == b"\r\n")?;
        let number = std::str::from_utf8(&input[at + 1..end]).unwrap().parse::<usize>().unwrap();
        Some((number, end + 2))
    };
    let (parts, mut at) = line(0)?;
    let mut command = Vec::new();
    for _ in 0..parts {
        let (length, start) = line(at)?;
        command.push(input.get(start..start + length)?.to_vec());
        at = start + length + 2;
        if at > input.len() {
            return None;
        }
    }
    Some((command, at))
}
