//! Moving the places client along, and its answers to those who wait.

use crate::net::connection::Stage;
use crate::node::Now;
use crate::places::Ticket;
use mio::Token;

use super::{EventLoop, key, send};

impl EventLoop {
    /// Moves the places client along, and hands out what it has for clients.
    pub(super) fn ask_places(&mut self, now: &Now) {
        let Self { poll, node, upstream, places_resolver: resolver, .. } = self;
        if let (Some(upstream), Some(client)) = (upstream, node.places.upstream()) {
            let registry = poll.registry();
            while let Some(answer) = resolver.poll() {
                upstream.resolved(answer.addresses, registry, client, now.elapsed);
            }
            client.handle_timeout(now.elapsed);
            upstream.handle_timeout(registry, client, now.elapsed);
            upstream
                .poll(registry, client, now.elapsed, |host, port| resolver.resolve((), host, port));
        }
        while let Some((id, ticket)) = self.node.poll_answer(now.elapsed) {
            self.answer(Token(id as usize), ticket, now);
        }
    }

    /// Hands the document that the node holds to the connection it is for, which goes on in the next
    /// turn: many answers at once must not be many shares of this one.
    pub(super) fn answer(&mut self, token: Token, ticket: Ticket, now: &Now) {
        let Self { connections, node, http, outbound, .. } = self;
        let connection = connections
            .get_mut(key(token).0)
            .filter(|connection| connection.generation == key(token).1);
        let Some(connection) = connection else { return };
        let Stage::Open(session) = &mut connection.stage else { return };
        session.answer(node, http, ticket, outbound);
        connection.active = now.elapsed;
        match send(connection, outbound, now) {
            Ok(()) => self.enqueue(token),
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
