//! The dialogue with Redis on one connection.
//!
//! ```text
//! node                                       Redis
//! AUTH …, SELECT …, XINFO STREAM herd:A  →
//!                                         ←  OK, OK, … last-generated-id 1764327374000-4 …
//! MULTI, XADD …, XADD …, EXEC            →
//!                                         ←  OK, QUEUED, QUEUED, [id, id]
//! ```

use core::fmt;
use std::collections::VecDeque;

use super::id::Id;
use super::resp::{Malformed, Reader, Token};
use super::shown::shown;
use super::xadd::push_command;

/// Depth of arrays in a reply. That of XINFO is 3.
const MAX_DEPTH: usize = 8;

/// How to connect to Redis.
#[derive(Clone)]
pub struct Settings {
    /// The user, if it is not the default one.
    pub user: Option<Box<str>>,
    /// The password.
    pub password: Option<Box<[u8]>>,
    /// The number of the database.
    pub database: u32,
    /// The key of the stream.
    pub key: Box<[u8]>,
}

/// Omits the password.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("database", &self.database).finish_non_exhaustive()
    }
}

/// The last id of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Top {
    /// The id, which is [`Id::ZERO`] if there is no stream.
    pub id: Id,
    /// False if the last entry is certainly not of a node.
    pub is_ours: bool,
}

/// What a reply means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The last id of the stream.
    Top(Top),
    /// The batch is in the stream.
    Accepted,
    /// At least one id of the batch was not above the top of the stream.
    Behind,
    /// The server is alive.
    Pong,
}

/// The dialogue on one connection.
#[derive(Debug, Default)]
pub struct Session {
    reader: Reader,
    /// The replies that are expected.
    expected: VecDeque<Expected>,
    reply: Reply,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// The reply to a command of the greeting.
    Greeting,
    Info,
    Pong,
    /// The reply to MULTI, or to this many XADDs.
    Queued(usize),
    Exec,
}

/// The reply that is being read.
#[derive(Debug, Default)]
struct Reply {
    /// The number of elements left in each array.
    depth: Vec<usize>,
    /// The number of elements at depth 1 so far.
    elements: usize,
    /// The name of the value that follows, in a reply to XINFO.
    name: Name,
    last_id: Option<Id>,
    is_foreign: bool,
    /// The first error in it, and whether all errors are of ids that are too small.
    error: Option<String>,
    is_behind: bool,
    is_null: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Name {
    #[default]
    Other,
    LastId,
    LastEntry,
}

impl Session {
    /// Appends the greeting, the last reply to which is [`Outcome::Top`].
    pub fn greet(&mut self, settings: &Settings, out: &mut Vec<u8>) {
        if let Some(password) = &settings.password {
            match &settings.user {
                Some(user) => push_command(out, &[b"AUTH", user.as_bytes(), password]),
                None => push_command(out, &[b"AUTH", password]),
            }
            self.expected.push_back(Expected::Greeting);
        }
        if settings.database != 0 {
            push_command(out, &[b"SELECT", settings.database.to_string().as_bytes()]);
            self.expected.push_back(Expected::Greeting);
        }
        // Without these, the commands of a batch would be executed one by one.
        push_command(out, &[b"MULTI"]);
        push_command(out, &[b"EXEC"]);
        self.expected.extend([Expected::Greeting; 2]);
        self.ask(settings, out);
    }

    /// Appends the question for the last id of the stream.
    pub fn ask(&mut self, settings: &Settings, out: &mut Vec<u8>) {
        push_command(out, &[b"XINFO", b"STREAM", &settings.key]);
        self.expected.push_back(Expected::Info);
    }

    /// Appends a PING.
    pub fn ping(&mut self, out: &mut Vec<u8>) {
        push_command(out, &[b"PING"]);
        self.expected.push_back(Expected::Pong);
    }

    /// Takes note that a batch of `count` entries is sent.
    pub fn expect_batch(&mut self, count: usize) {
        self.expected.extend([Expected::Queued(count + 1), Expected::Exec]);
    }

    /// Handles the next bytes, which are consumed, up to the end of the first reply that means something.
    ///
    /// # Errors
    ///
    /// If the server has answered with an error, or does not speak RESP2: a sentence for people. The
    /// connection cannot be used any more.
    pub fn handle_input(
        &mut self,
        settings: &Settings,
        input: &mut &[u8],
    ) -> Result<Option<Outcome>, String> {
        loop {
            self.skip_successes(input);
            let token = match self.reader.next(input) {
                Ok(Some(token)) => token,
                Ok(None) => return Ok(None),
                Err(malformed) => return Err(describe(malformed)),
            };
            let Some(&expected) = self.expected.front() else {
                return Err(match token {
                    Token::Error(error) => explain(error, settings),
                    _ => "the server has sent a reply to nothing".to_owned(),
                });
            };
            if !self.reply.handle(token, expected, settings)? {
                continue;
            }
            let reply = core::mem::take(&mut self.reply);
            match self.expected.front_mut() {
                Some(Expected::Queued(left)) if *left > 1 => *left -= 1,
                _ => drop(self.expected.pop_front()),
            }
            if let Some(outcome) = reply.outcome(expected)? {
                return Ok(Some(outcome));
            }
        }
    }
}

impl Session {
    /// Skips replies, and elements of a reply, that mean nothing: those to the XADDs of a batch, two for
    /// each entry. Those that are not complete are left to the reader.
    fn skip_successes(&mut self, input: &mut &[u8]) {
        match (self.expected.front_mut(), self.reply.depth.as_mut_slice()) {
            (Some(Expected::Queued(left)), []) => {
                while *left > 1 && self.reader.skip_status(input, b"+QUEUED\r\n") {
                    *left -= 1;
                }
            }
            (Some(Expected::Exec), [left]) => {
                while *left > 1 && self.reader.skip_string(input) {
                    *left -= 1;
                }
            }
            _ => {}
        }
    }
}

impl Reply {
    /// Handles a token. Returns true if the reply is complete.
    fn handle(
        &mut self,
        token: Token<'_>,
        expected: Expected,
        settings: &Settings,
    ) -> Result<bool, String> {
        let depth = self.depth.len();
        if let Token::Error(error) = token {
            self.handle_error(error, settings);
        }
        self.is_null |= depth == 0 && token == Token::Null;
        if expected == Expected::Info {
            self.handle_info(token, depth);
        }
        if let Token::Array(length) = token
            && length > 0
        {
            if depth == MAX_DEPTH {
                return Err("a reply of the server is nested too deeply".to_owned());
            }
            self.depth.push(length);
            return Ok(false);
        }
        while let Some(left) = self.depth.last_mut() {
            *left -= 1;
            if *left > 0 {
                return Ok(false);
            }
            self.depth.pop();
        }
        Ok(true)
    }

    fn handle_info(&mut self, token: Token<'_>, depth: usize) {
        match (depth, token) {
            (1, Token::Bulk(text)) if self.elements.is_multiple_of(2) => {
                self.name = match text {
                    b"last-generated-id" => Name::LastId,
                    b"last-entry" => Name::LastEntry,
                    _ => Name::Other,
                };
            }
            (1, Token::Bulk(text)) if self.name == Name::LastId => self.last_id = Id::parse(text),
            // The first element of the list of fields, which follows the id of the entry.
            (3, Token::Bulk(text)) if self.name == Name::LastEntry => {
                self.is_foreign = text != b"type";
                self.name = Name::Other;
            }
            _ => {}
        }
        self.elements += usize::from(depth == 1);
    }

    fn handle_error(&mut self, error: &[u8], settings: &Settings) {
        let is_behind = is_behind(error);
        match &self.error {
            None => {
                self.error = Some(explain(error, settings));
                self.is_behind = is_behind;
            }
            Some(_) if self.is_behind && !is_behind => {
                self.error = Some(explain(error, settings));
                self.is_behind = false;
            }
            Some(_) => {}
        }
    }

    fn outcome(self, expected: Expected) -> Result<Option<Outcome>, String> {
        match (expected, self.error) {
            (Expected::Exec, Some(_)) if self.is_behind => Ok(Some(Outcome::Behind)),
            (Expected::Exec, None) if self.is_null => {
                Err("the server has not executed a transaction".to_owned())
            }
            (Expected::Exec, None) => Ok(Some(Outcome::Accepted)),
            (Expected::Info, Some(error)) if error == NO_STREAM => {
                Ok(Some(Outcome::Top(Top { id: Id::ZERO, is_ours: true })))
            }
            (_, Some(error)) => Err(error),
            (Expected::Info, None) => match self.last_id {
                Some(id) => Ok(Some(Outcome::Top(Top { id, is_ours: !self.is_foreign }))),
                None => Err("the server does not return the last id of a stream; use Redis 5 or \
                             later, or a compatible server"
                    .to_owned()),
            },
            (Expected::Pong, None) => Ok(Some(Outcome::Pong)),
            (Expected::Greeting | Expected::Queued(_), None) => Ok(None),
        }
    }
}

/// The explanation of the error for a stream that does not exist.
const NO_STREAM: &str = "there is no stream";

fn is_behind(error: &[u8]) -> bool {
    memchr::memmem::find(error, b"equal or smaller than the target stream top").is_some()
}

fn describe(malformed: Malformed) -> String {
    match malformed {
        Malformed::Type => {
            format!("{malformed}; correct the host, the port or the scheme of feed.url")
        }
        _ => malformed.to_string(),
    }
}

/// Returns an error of the server as a sentence with a fix.
fn explain(error: &[u8], settings: &Settings) -> String {
    let key = settings.key.escape_ascii();
    let code = error.split(|&byte| byte == b' ').next().unwrap_or_default();
    match code {
        b"NOAUTH" => "the server requires a password; set feed.password_file".to_owned(),
        b"WRONGPASS" => "the password is wrong; correct feed.password_file or feed.url".to_owned(),
        b"NOPERM" => format!(
            "the user may not use the stream {key}; permit AUTH, SELECT, PING, MULTI, EXEC, XADD and \
             XINFO on it"
        ),
        b"WRONGTYPE" => format!("the key {key} is not a stream; delete it, or change feed.stream"),
        b"OOM" => "the server has no memory left; raise its maxmemory, or lower feed.max_entries"
            .to_owned(),
        b"READONLY" => "the server is a replica, which accepts no writes; use the address of the \
                        primary in feed.url"
            .to_owned(),
        b"LOADING" => "the server is loading its data".to_owned(),
        b"MOVED" | b"ASK" => format!(
            "another node of the Redis cluster has the key {key}; use the address of that node in \
             feed.url: {}",
            shown(error, settings.password.as_deref())
        ),
        b"CLUSTERDOWN" => "the Redis cluster is down".to_owned(),
        b"MASTERDOWN" => "the server has lost its primary".to_owned(),
        b"MISCONF" => "the server cannot save its data, and refuses writes until it can".to_owned(),
        b"NOREPLICAS" => {
            "the server has too few replicas, and refuses writes until it has".to_owned()
        }
        _ if error == b"ERR no such key" => NO_STREAM.to_owned(),
        _ if error.starts_with(b"ERR invalid password")
            || memchr::memmem::find(error, b"without any password configured").is_some()
            || memchr::memmem::find(error, b"no password is set").is_some() =>
        {
            "the password is wrong, or the server has none; correct feed.password_file or feed.url"
                .to_owned()
        }
        _ if error.starts_with(b"ERR DB index") => {
            "the server has no such database; correct the number at the end of feed.url".to_owned()
        }
        _ if error.starts_with(b"ERR max number of clients") => {
            "the server has reached its maximum of clients".to_owned()
        }
        _ => format!("the server answers: {}", shown(error, settings.password.as_deref())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::redis::{outcomes, settings};

    const INFO: &[u8] = b"*8\r\n$6\r\nlength\r\n:1\r\n$17\r\nlast-generated-id\r\n$3\r\n7-9\r\n\
        $11\r\nfirst-entry\r\n*2\r\n$3\r\n7-9\r\n*2\r\n$1\r\nx\r\n$1\r\ny\r\n$10\r\nlast-entry\r\n\
        *2\r\n$3\r\n7-9\r\n*2\r\n$4\r\ntype\r\n$2\r\nat\r\n";
    const OK: &[u8] = b"+OK\r\n+OK\r\n+OK\r\n*0\r\n";

    #[test]
    fn every_split_of_the_replies_has_the_same_outcome() {
        let exec = b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n$3\r\n7-9\r\n$4\r\n7-10\r\n";
        let replies = [OK, INFO, exec].concat();
        let top = Top { id: Id { millis: 7, sequence: 9 }, is_ours: true };
        let expected = [Ok(Outcome::Top(top)), Ok(Outcome::Accepted)];
        for split in 0..=replies.len() {
            assert_eq!(outcomes(&[&replies[..split], &replies[split..]], 2), expected, "{split}");
        }
        let bytes: Vec<&[u8]> = replies.chunks(1).collect();
        assert_eq!(outcomes(&bytes, 2), expected);
    }

    #[test]
    fn the_entries_of_another_program_are_recognized() {
        let info = String::from_utf8(INFO.to_vec()).unwrap().replace("type", "temp");
        let found = outcomes(&[OK, info.as_bytes()], 2);
        let top = Top { id: Id { millis: 7, sequence: 9 }, is_ours: false };
        assert_eq!(found, [Ok(Outcome::Top(top))]);
        let found = outcomes(&[OK, b"-ERR no such key\r\n"], 2);
        assert_eq!(found, [Ok(Outcome::Top(Top { id: Id::ZERO, is_ours: true }))]);
    }

    #[test]
    fn an_id_that_is_too_small_is_no_failure_of_the_connection() {
        let small =
            "-ERR The ID specified in XADD is equal or smaller than the target stream top item";
        let queued = "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n";
        for second in [small, "$4\r\n7-10"] {
            let replies =
                [OK, INFO, format!("{queued}{small}\r\n{second}\r\n").as_bytes()].concat();
            assert_eq!(outcomes(&[&replies], 2)[1], Ok(Outcome::Behind), "{second}");
        }
        let replies =
            [OK, INFO, format!("{queued}{small}\r\n-OOM command not allowed\r\n").as_bytes()]
                .concat();
        assert!(outcomes(&[&replies], 2)[1].as_ref().is_err_and(|it| it.contains("maxmemory")));
    }

    #[test]
    fn errors_are_explained_and_never_contain_the_password() {
        for (reply, part) in [
            ("-NOAUTH Authentication required.", "feed.password_file"),
            ("-WRONGPASS invalid username-password pair", "the password is wrong"),
            ("-ERR Client sent AUTH, but no password is set", "the server has none"),
            ("-WRONGTYPE Operation against a key", "herd:A is not a stream"),
            ("-OOM command not allowed", "maxmemory"),
            ("-READONLY You can't write against a read only replica.", "primary"),
            ("-LOADING Redis is loading the dataset in memory", "loading"),
            ("-MOVED 3999 127.0.0.1:6381", "127.0.0.1:6381"),
            ("-ERR bad canary \u{1b}[2J", "answers: …"),
            ("-ERR bad \u{1b}[2J", "answers: ERR bad \\x1b[2J"),
            ("HTTP/1.1 400 Bad Request", "feed.url"),
        ] {
            let found = outcomes(&[OK, reply.as_bytes(), b"\r\n"], 1);
            let error = found[0].as_ref().unwrap_err();
            assert!(error.contains(part) && !error.contains("canary"), "{reply}: {error}");
        }
        let found = outcomes(&[OK, b"-ERR bad \x9canary\r\n"], 1);
        assert!(found[0].as_ref().is_err_and(|it| it.contains("answers: …")), "{found:?}");
        let aborted =
            "+OK\r\n-OOM command not allowed\r\n-EXECABORT Transaction discarded\r\n".as_bytes();
        let found = outcomes(&[OK, INFO, aborted], 1);
        assert!(found[1].as_ref().is_err_and(|it| it.contains("maxmemory")));
        assert!(!format!("{:?}", settings()).contains("canary"));
    }
}
