//! Moving the places client along, and its answers to those who wait.

use crate::net::connection::Stage;
use crate::node::Now;
use crate::places::Ticket;
use mio::Token;

use super::{Asker, EventLoop, key, send};

impl EventLoop {
    /// Moves the places client along, and what it has for clients. What clients then ask may be
    /// answered at once or refused; a round that brings nothing ends it.
    pub(super) fn ask_places(&mut self, now: &Now) {
        loop {
            let Self { poll, node, upstream, resolver, .. } = self;
            if let (Some(upstream), Some(client)) = (upstream, node.places.upstream()) {
                let registry = poll.registry();
                client.handle_timeout(now.elapsed);
                upstream.handle_timeout(registry, client, now.elapsed);
                upstream.poll(registry, client, now.elapsed, |host, port| {
                    resolver.resolve(Asker::Places, host, port)
                });
            }
            if !self.hand_out_answers(now) {
                return;
            }
        }
    }

    /// Replies that waited for places, and those behind them. Returns whether there were any.
    pub(super) fn hand_out_answers(&mut self, now: &Now) -> bool {
        let mut answered = false;
        while let Some((id, ticket)) = self.node.poll_answer(now.elapsed) {
            answered = true;
            self.answer(Token(id as usize), ticket, now);
        }
        answered
    }

    /// Hands the document that the node holds to the connection it is for.
    pub(super) fn answer(&mut self, token: Token, ticket: Ticket, now: &Now) {
        let Self { connections, node, web, outbound, .. } = self;
        let connection = connections
            .get_mut(key(token).0)
            .filter(|connection| connection.generation == key(token).1);
        let Some(connection) = connection else { return };
        let Stage::Open(session) = &mut connection.stage else { return };
        session.answer(node, web, ticket, outbound);
        connection.active = now.elapsed;
        match send(connection, outbound, now) {
            Ok(()) => self.serve(token, now),
            Err(error) => self.close(token, now, &error.to_string()),
        }
    }

    /// Lets connections go on that waited until fewer WHATSATs wait.
    pub(super) fn feed_the_starved(&mut self) {
        if !self.node.has_room() {
            return;
        }
        while let Some(token) = self.starved.pop_front() {
            if let Some(connection) = self.get(token) {
                connection.starved = false;
                self.enqueue(token);
            }
        }
    }
}
