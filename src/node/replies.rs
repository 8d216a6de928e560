//! Replies in request order, whatever they wait for.

use std::collections::VecDeque;

use crate::places::Ticket;

/// Replies behind a WHATSAT that waits. Empty nearly always: then replies go straight out.
#[derive(Default)]
pub struct Replies {
    queue: VecDeque<Owed>,
    held: usize,
    waiting: usize,
}

enum Owed {
    /// Bytes that are ready, but not their turn.
    Ready(Vec<u8>),
    /// A WHATSAT that waits: its AT line and LF.
    Waiting(Ticket, Vec<u8>),
}

impl Replies {
    /// Bytes held back.
    pub const fn held(&self) -> usize {
        self.held
    }

    /// WHATSATs that wait.
    pub const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Where the next reply goes: to `out`, or behind the WHATSAT that waits. Whoever appends
    /// says so with [`Replies::appended`].
    pub fn sink<'o>(&'o mut self, out: &'o mut Vec<u8>) -> &'o mut Vec<u8> {
        if matches!(self.queue.back(), Some(Owed::Waiting(..))) {
            self.queue.push_back(Owed::Ready(Vec::new()));
        }
        match self.queue.back_mut() {
            Some(Owed::Ready(bytes)) => bytes,
            _ => out,
        }
    }

    /// `length` bytes have been appended to the sink.
    pub fn appended(&mut self, length: usize) {
        if !self.queue.is_empty() {
            self.held += length;
        }
    }

    /// The reply that begins with `at_line` waits for the document of `ticket`.
    pub fn wait(&mut self, ticket: Ticket, at_line: Vec<u8>) {
        self.held += at_line.len();
        self.waiting += 1;
        self.queue.push_back(Owed::Waiting(ticket, at_line));
    }

    /// Completes the reply that waits for `ticket`. Returns it.
    pub fn complete(&mut self, ticket: Ticket, document: &[u8]) -> Option<&[u8]> {
        let is_it =
            |owed: &&mut Owed| matches!(owed, Owed::Waiting(waiting, _) if *waiting == ticket);
        let owed = self.queue.iter_mut().find(is_it)?;
        if let Owed::Waiting(_, at_line) = owed {
            let mut reply = std::mem::take(at_line);
            reply.extend_from_slice(document);
            reply.extend_from_slice(b"\n\n");
            self.held += document.len() + 2;
            self.waiting -= 1;
            *owed = Owed::Ready(reply);
        }
        match owed {
            Owed::Ready(reply) => Some(reply),
            Owed::Waiting(..) => None,
        }
    }

    /// Moves to `out` what waits for nothing any more.
    pub fn release(&mut self, out: &mut Vec<u8>) {
        while let Some(Owed::Ready(bytes)) = self.queue.front() {
            self.held -= bytes.len();
            out.extend_from_slice(bytes);
            self.queue.pop_front();
        }
    }

    /// Forgets everything; what waited was for these tickets.
    pub fn cancel(&mut self) -> impl Iterator<Item = Ticket> {
        (self.held, self.waiting) = (0, 0);
        self.queue.drain(..).filter_map(|owed| match owed {
            Owed::Waiting(ticket, _) => Some(ticket),
            Owed::Ready(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_keep_their_order() {
        let (mut replies, mut out) = (Replies::default(), Vec::new());
        let say = |replies: &mut Replies, out: &mut Vec<u8>, text: &[u8]| {
            replies.sink(out).extend_from_slice(text);
            replies.appended(text.len());
        };
        say(&mut replies, &mut out, b"a;");
        replies.wait(Ticket(1), b"AT1;".to_vec());
        say(&mut replies, &mut out, b"b;");
        replies.wait(Ticket(2), b"AT2;".to_vec());
        say(&mut replies, &mut out, b"c;");
        assert_eq!((out.as_slice(), replies.waiting()), (&b"a;"[..], 2));
        assert_eq!(replies.complete(Ticket(2), b"two"), Some(&b"AT2;two\n\n"[..]));
        assert_eq!(replies.complete(Ticket(2), b"two"), None);
        replies.release(&mut out);
        assert_eq!(out, b"a;");
        replies.complete(Ticket(1), b"one");
        replies.release(&mut out);
        assert_eq!(out, b"a;AT1;one\n\nb;AT2;two\n\nc;");
        assert_eq!((replies.held(), replies.waiting()), (0, 0));
        say(&mut replies, &mut out, b"d;");
        assert!(out.ends_with(b"d;"));
    }
}
