//! Places: driving the client of a provider, and passing its answers on.

use mio::Token;

use super::EventLoop;
use crate::net::connection::Stage;
use crate::net::token::{key, token_of};
use crate::node::Answer;
use crate::places::upstream::Event;
use crate::time::Now;

impl EventLoop {
    /// Drives the places client, and passes on its answers.
    pub(super) fn handle_places(&mut self, now: &Now) {
        let Self { poll, node, upstream, places_resolver: resolver, .. } = self;
        if let (Some(upstream), Some(client)) = (upstream, node.places.upstream()) {
            let registry = poll.registry();
            while let Some(answer) = resolver.poll() {
                upstream.resolved(answer.addresses, registry, client, now.instant);
            }
            client.handle_timeout(now.instant);
            upstream.handle_timeout(registry, client, now.instant);
            upstream
                .poll(registry, client, now.instant, |host, port| resolver.resolve((), host, port));
            while let Some(event) = client.poll_event() {
                log_event(&event);
            }
        }
        while let Some(answer) = self.node.poll_answer(now.instant) {
            self.handle_answer(&answer, now);
        }
    }

    /// Passes an answer to the connection that waits for it. Its session runs again in the next
    /// turn: many answers at once must not be as many shares of this one.
    pub(super) fn handle_answer(&mut self, answer: &Answer, now: &Now) {
        let token: Token = token_of(answer.connection);
        let Self { connections, node, http, batch, .. } = self;
        let connection = connections
            .get_mut(key(token).0)
            .filter(|connection| connection.generation == key(token).1);
        let Some(connection) = connection else { return };
        let Stage::Open(session) = &mut connection.stage else { return };
        let out = &mut batch.outbound;
        session.handle_answer(node, http, answer, out);
        connection.times.active = now.instant;
        let sent = connection.send(out, now.instant);
        out.clear();
        match sent {
            Ok(()) => self.enqueue(token),
            Err(error) => self.close(token, now, &error),
        }
    }

    /// Resumes the connections that waited until fewer WHATSATs wait.
    pub(super) fn resume_starved(&mut self) {
        if self.node.is_crowded() {
            return;
        }
        while let Some(token) = self.run.pop_starved() {
            if let Some(connection) = self.get(token) {
                connection.starved = false;
                self.enqueue(token);
            }
        }
    }
}

/// Logs that the provider has begun to fail, or has recovered.
fn log_event(event: &Event) {
    match event {
        Event::BreakerOpened { reason } => log::warn!(
            "the places provider keeps failing; the circuit breaker is open until a probe succeeds: \
             {reason}"
        ),
        Event::BreakerClosed => {
            log::info!("the places provider answers again; the circuit breaker is closed");
        }
    }
}
