//! Responses to devices.

use super::dialect::Reply;
use crate::http::date::push_date;
use crate::http::response::{NO_STORE, Status, media};
use crate::text::digits::push_digits;
use crate::text::json::push_string;
use crate::time::Wall;

/// The interim response that asks for the body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Options of a response, which follow from the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Send no body: the method is HEAD.
    pub head_only: bool,
    /// Keep the connection open for the next request.
    pub keep_alive: bool,
}

impl Options {
    /// Options of a response after which the connection is closed.
    pub const CLOSE: Self = Self { head_only: false, keep_alive: false };

    /// Appends the response to a request that was executed.
    pub fn send_reply(self, out: &mut Vec<u8>, wall: Wall, reply: Reply) {
        let body: &[u8] = match reply {
            Reply::Empty => b"",
            Reply::Array => b"[]",
            Reply::Ok => b"{\"result\":\"ok\"}",
        };
        self.send(out, wall, Status::OK, "", body);
    }

    /// Appends an error response, whose body is `{"error": REASON}`. `fields` are further header
    /// fields with their CR LF.
    pub fn send_error(
        self,
        out: &mut Vec<u8>,
        wall: Wall,
        status: Status,
        fields: &str,
        reason: &str,
    ) {
        let mut body = b"{\"error\": ".to_vec();
        push_string(&mut body, reason);
        body.extend_from_slice(b"}\n");
        self.send(out, wall, status, fields, &body);
    }

    fn send(self, out: &mut Vec<u8>, wall: Wall, status: Status, fields: &str, body: &[u8]) {
        status.push_line(out);
        push_date(out, wall);
        if !body.is_empty() {
            out.extend_from_slice(b"Content-Type: ");
            out.extend_from_slice(media::JSON.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"Content-Length: ");
        push_digits(out, body.len() as u64, 1);
        out.extend_from_slice(b"\r\n");
        let connection = if self.keep_alive { "" } else { "Connection: close\r\n" };
        for field in [fields, NO_STORE, "X-Content-Type-Options: nosniff\r\n", connection, "\r\n"] {
            out.extend_from_slice(field.as_bytes());
        }
        if !self.head_only {
            out.extend_from_slice(body);
        }
    }
}
