//! Replies of one connection in request order, regardless of what they wait for.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};

use crate::places::Ticket;

/// Replies queued after a WHATSAT that waits for places. Nearly always empty; replies then go
/// straight to the output.
#[derive(Default)]
pub struct Replies {
    queue: VecDeque<Pending>,
    held: usize,
    waiting: usize,
}

enum Pending {
    /// Complete, but an earlier reply is not.
    Ready(Vec<u8>),
    /// A WHATSAT that waits for the document of its ticket: its AT line and LF.
    Waiting(Ticket, Vec<u8>),
}

/// The buffer that the next reply is appended to. Bytes that are held back are counted when the
/// sink is dropped.
pub struct Sink<'r> {
    buffer: &'r mut Vec<u8>,
    start: usize,
    /// The count of bytes held back, if the buffer is in the queue.
    held: Option<&'r mut usize>,
}

impl Replies {
    /// Bytes held back.
    pub const fn held(&self) -> usize {
        self.held
    }

    /// WHATSATs that wait for places.
    pub const fn waiting(&self) -> usize {
        self.waiting
    }

    /// The buffer for the next reply: `out`, or the queue if an earlier reply waits.
    pub fn sink<'r>(&'r mut self, out: &'r mut Vec<u8>) -> Sink<'r> {
        if matches!(self.queue.back(), Some(Pending::Waiting(..))) {
            self.queue.push_back(Pending::Ready(Vec::new()));
        }
        match self.queue.back_mut() {
            Some(Pending::Ready(buffer)) => {
                Sink { start: buffer.len(), buffer, held: Some(&mut self.held) }
            }
            _ => Sink { start: out.len(), buffer: out, held: None },
        }
    }

    /// Queues a reply that begins with `at_line` and waits for the document of `ticket`.
    pub fn wait(&mut self, ticket: Ticket, at_line: Vec<u8>) {
        self.held += at_line.len();
        self.waiting += 1;
        self.queue.push_back(Pending::Waiting(ticket, at_line));
    }

    /// Completes the reply that waits for `ticket` and returns it.
    pub fn complete(&mut self, ticket: Ticket, document: &[u8]) -> Option<&[u8]> {
        let waits = |pending: &&mut Pending| matches!(pending, Pending::Waiting(waiting, _) if *waiting == ticket);
        let pending = self.queue.iter_mut().find(waits)?;
        if let Pending::Waiting(_, at_line) = pending {
            let mut reply = std::mem::take(at_line);
            reply.extend_from_slice(document);
            reply.extend_from_slice(b"\n\n");
            self.held += document.len() + 2;
            self.waiting -= 1;
            *pending = Pending::Ready(reply);
        }
        match pending {
            Pending::Ready(reply) => Some(reply),
            Pending::Waiting(..) => None,
        }
    }

    /// Moves the replies that no longer wait to `out`.
    pub fn release(&mut self, out: &mut Vec<u8>) {
        while let Some(Pending::Ready(bytes)) = self.queue.front() {
            self.held -= bytes.len();
            out.extend_from_slice(bytes);
            self.queue.pop_front();
        }
    }

    /// Drops all replies. Returns the tickets of those that waited for places.
    pub fn cancel(&mut self) -> impl Iterator<Item = Ticket> {
        (self.held, self.waiting) = (0, 0);
        self.queue.drain(..).filter_map(|pending| match pending {
            Pending::Waiting(ticket, _) => Some(ticket),
            Pending::Ready(_) => None,
        })
    }
}

impl Sink<'_> {
    /// The reply as far as it has been appended.
    pub fn reply(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Takes the reply back out of the buffer.
    pub fn take(&mut self) -> Vec<u8> {
        self.buffer.split_off(self.start)
    }
}

impl Deref for Sink<'_> {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        self.buffer
    }
}

impl DerefMut for Sink<'_> {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        self.buffer
    }
}

impl Drop for Sink<'_> {
    fn drop(&mut self) {
        if let Some(held) = &mut self.held {
            **held += self.buffer.len() - self.start;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_keep_their_order() {
        let (mut replies, mut out) = (Replies::default(), Vec::new());
        let reply = |replies: &mut Replies, out: &mut Vec<u8>, text: &[u8]| {
            replies.sink(out).extend_from_slice(text);
        };
        reply(&mut replies, &mut out, b"a;");
        replies.wait(Ticket(1), b"AT1;".to_vec());
        reply(&mut replies, &mut out, b"b;");
        replies.wait(Ticket(2), b"AT2;".to_vec());
        reply(&mut replies, &mut out, b"c;");
        assert_eq!((out.as_slice(), replies.waiting(), replies.held()), (&b"a;"[..], 2, 12));
        assert_eq!(replies.complete(Ticket(2), b"two"), Some(&b"AT2;two\n\n"[..]));
        assert_eq!(replies.complete(Ticket(2), b"two"), None);
        replies.release(&mut out);
        assert_eq!(out, b"a;");
        replies.complete(Ticket(1), b"one");
        replies.release(&mut out);
        assert_eq!(out, b"a;AT1;one\n\nb;AT2;two\n\nc;");
        assert_eq!((replies.held(), replies.waiting()), (0, 0));
        reply(&mut replies, &mut out, b"d;");
        assert!(out.ends_with(b"d;"));
    }

    #[test]
    fn no_reply_overtakes_however_long_the_queue_is() {
        let (mut replies, mut out) = (Replies::default(), Vec::new());
        replies.wait(Ticket(1), b"AT;".to_vec());
        for _ in 0..100 {
            replies.sink(&mut out).extend_from_slice(&[b'x'; 1000]);
        }
        assert_eq!((out.len(), replies.held()), (0, 100_003));
        replies.complete(Ticket(1), b"places");
        replies.release(&mut out);
        assert!(out.starts_with(b"AT;places\n\nxx"));
    }

    #[test]
    fn a_reply_can_be_taken_back() {
        let (mut replies, mut out) = (Replies::default(), b"first;".to_vec());
        let mut sink = replies.sink(&mut out);
        sink.extend_from_slice(b"AT;");
        assert_eq!(sink.reply(), b"AT;");
        let at_line = sink.take();
        drop(sink);
        assert_eq!(
            (at_line.as_slice(), out.as_slice(), replies.held()),
            (&b"AT;"[..], &b"first;"[..], 0)
        );
    }
}
