//! The HTTP side of a node: what people and their tools look at. Pure, and only reads.
//!
//! The shell keeps a [`HttpSession`] per connection and feeds it like a [`crate::node::HttpSession`]. Once a
//! turn it calls [`Server::begin_turn`], and [`Server::handle_timeout`] when [`Server::poll_timeout`] says so.

pub mod assets;
pub mod clients;
pub mod events;
pub mod feature;
pub mod overview;
pub mod position;
pub mod query;
pub mod request;
pub mod response;
mod session;
mod subscription;

use core::fmt::Write as _;
use core::time::Duration;

pub use session::HttpSession;

use crate::config::{Config, Http};
use crate::counters::counters;
use crate::endpoint::Host;
use crate::herd::Herd;
use crate::limits::{Limits, WEB_WORK_PER_TURN};
use crate::node::{Node, Now};
use events::Events;
use response::{Answer, Status};

/// What a session works with while it is called.
pub struct Scene<'a> {
    /// The node that is looked at.
    pub node: &'a mut Node,
    /// What all HTTP connections share.
    pub http: &'a mut Server,
    /// The loop around them.
    pub shell: &'a dyn Shell,
    /// What the clocks say.
    pub now: &'a Now,
}

/// What may be put together in one go.
struct Slice<'a> {
    /// Where it goes.
    out: &'a mut Vec<u8>,
    /// How long that may get, or a little more.
    most: usize,
    /// How many records may still be looked at.
    work: &'a mut usize,
}

impl Slice<'_> {
    /// Whether there is time for another record, and room.
    fn has_room(&self) -> bool {
        *self.work > 0 && self.out.len() < self.most
    }

    /// Half of the room there is left; the time is the same.
    fn half(&mut self) -> Slice<'_> {
        let room = self.most.saturating_sub(self.out.len());
        Slice { most: self.most - room / 2, out: self.out, work: self.work }
    }

    /// A record, or what costs as much, is looked at.
    fn spend(&mut self, work: usize) {
        *self.work = self.work.saturating_sub(work);
    }
}

/// What only the shell knows.
pub trait Shell {
    /// Appends `/metrics`.
    fn push_metrics(&self, node: &Node, http: &Server, now: &Now, out: &mut Vec<u8>);

    /// Connections of clients and browsers.
    fn connections(&self) -> usize;
}

/// What all HTTP connections share.
pub struct Server {
    settings: Settings,
    /// Who listens to what.
    pub events: Events,
    /// What has happened so far.
    pub counters: Counters,
    /// Connections open.
    pub connections: usize,
    /// Entity tags of the assets.
    tags: Vec<[String; 2]>,
    /// Records that may still be looked at in this turn.
    work: usize,
    /// Listings of clients under way.
    listings: usize,
}

counters! {
    /// Monotonic counters of the HTTP side since start-up.
    Counters {
        http_responses_total: "HTTP responses, by class of status." {
            responses_2xx (code = "2xx"): "Successful responses.",
            responses_3xx (code = "3xx"):
                "Responses without a body, because the browser has the current version.",
            responses_4xx (code = "4xx"): "Requests rejected as invalid or too large.",
            responses_5xx (code = "5xx"):
                "Requests rejected because the node is not ready or overloaded.",
        }
    }
}

impl Counters {
    /// Counts a response.
    const fn count(&mut self, status: Status) {
        let count = match status.code() {
            ..300 => &mut self.responses_2xx,
            300..400 => &mut self.responses_3xx,
            400..500 => &mut self.responses_4xx,
            500.. => &mut self.responses_5xx,
        };
        *count += 1;
    }
}

/// What the configuration says, as responses need it.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Fields that all responses have, each with CR LF.
    fields: String,
    /// Hosts by which a browser may come, besides those of the machine itself.
    hosts: Vec<Host>,
    /// Whether every address will do: the node listens on all that the machine has.
    any_address: bool,
    /// Output that waits for the socket, in bytes, before no more is put together.
    max_output: usize,
    provider: String,
    tiles: Option<overview::Tiles>,
}

impl Settings {
    /// The settings of a node with `limits`.
    #[must_use]
    pub fn new(config: &Config, limits: &Limits) -> Self {
        let mut settings = Self {
            max_output: limits.max_output_buffer,
            provider: config.places.provider.name().to_owned(),
            ..Self::default()
        };
        let Some(http) = &config.http else { return settings };
        settings.fields = fields(http);
        settings.hosts.clone_from(&http.hosts);
        settings.hosts.push(http.listen.clone());
        for node in &config.nodes {
            settings.hosts.extend([node.listen.clone(), node.dial.clone()]);
        }
        settings.any_address = http.listen.is_unspecified();
        settings.tiles = http.tiles.as_ref().map(|tiles| overview::Tiles {
            url: tiles.url.clone(),
            attribution: tiles.attribution.clone(),
        });
        settings
    }

    /// Whether a request may be for `authority`, a host with a port or without.
    ///
    /// A page of another site can have its own name lead here (DNS rebinding), and would then read
    /// what the node says as if it were its own. It cannot choose the name that its visitors' browsers
    /// send.
    fn is_expected(&self, authority: &str) -> bool {
        let host = match authority.rfind(':') {
            Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
            _ => authority,
        };
        let Ok(host) = host.parse::<Host>() else { return false };
        let is_address = matches!(host, Host::Address(_));
        host.is_loopback() || self.hosts.contains(&host) || (self.any_address && is_address)
    }
}

/// The security fields of all responses. Nothing runs but scripts from here, nothing is loaded from
/// elsewhere but tiles, and nobody frames the page.
fn fields(http: &Http) -> String {
    let tiles = http.tiles.as_ref().map_or(String::new(), |tiles| format!(" {}", tiles.origin));
    let mut fields = format!(
        "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; \
         img-src 'self' data:{tiles}; font-src 'self'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'\r\n\
         X-Content-Type-Options: nosniff\r\n\
         Referrer-Policy: no-referrer\r\n"
    );
    // Writing to a String cannot fail.
    let _ = match &http.cors_origin {
        Some(origin) => write!(
            fields,
            "Access-Control-Allow-Origin: {origin}\r\n\
             Cross-Origin-Resource-Policy: cross-origin\r\n"
        ),
        None => write!(fields, "Cross-Origin-Resource-Policy: same-origin\r\n"),
    };
    fields
}

impl Server {
    /// The HTTP side of a node in this life, by its `boot`.
    #[must_use]
    pub fn new(settings: Settings, boot: u64) -> Self {
        Self {
            settings,
            events: Events::new(boot),
            counters: Counters::default(),
            connections: 0,
            tags: assets::tags(),
            work: 0,
            listings: 0,
        }
    }

    /// A new turn of the loop: there is time again to look at records, and half of it is for what
    /// has just come.
    pub const fn begin_turn(&mut self) {
        self.work = WEB_WORK_PER_TURN / 2;
    }

    /// What has just come is served: those who wait since the turn before have the rest of the time,
    /// or new requests could keep them waiting for ever.
    pub const fn begin_queue(&mut self) {
        self.work += WEB_WORK_PER_TURN / 2;
    }

    /// The response to a connection that is not served, and that nothing was read from.
    #[must_use]
    pub fn refusal(&mut self, why: &str) -> Vec<u8> {
        let mut out = Vec::new();
        Answer::refusal().error(&mut out, self, Status::UNAVAILABLE, why);
        out
    }

    /// When [`Server::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self, herd: &Herd) -> Option<Duration> {
        self.events.poll_timeout(herd)
    }

    /// Does what is due. Returns whether there is something for those who listen to the events: the
    /// shell then serves [`Events::connections`].
    pub fn handle_timeout(&mut self, herd: &mut Herd, now: Duration) -> bool {
        // Not that of this turn: a listing must not keep changes from being taken over.
        let mut work = WEB_WORK_PER_TURN;
        self.events.handle_timeout(herd, now, &mut work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_a_request_may_be_for() {
        let host = |text: &str| text.parse::<Host>().unwrap();
        let settings = Settings {
            hosts: vec![host("herd.example"), host("10.0.0.7"), host("2001:db8::7")],
            ..Settings::default()
        };
        for authority in [
            "localhost",
            "LOCALHOST:8099",
            "map.localhost",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]",
            "[::1]:8099",
            "herd.example:80",
            "Herd.Example.",
            "10.0.0.7",
            "[2001:db8::7]:8099",
        ] {
            assert!(settings.is_expected(authority), "{authority}");
        }
        for authority in [
            "",
            ":8099",
            "evil.example",
            "localhost.evil.example",
            "evil.example:8099",
            "10.0.0.8",
            "localhost@evil.example",
            "127.0.0.1.evil.example",
            "[::2]:1",
            "[::1",
        ] {
            assert!(!settings.is_expected(authority), "{authority}");
        }
        let everywhere = Settings { any_address: true, ..settings };
        assert!(everywhere.is_expected("10.0.0.8:8099") && !everywhere.is_expected("evil.example"));
    }
}
