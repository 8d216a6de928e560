//! The HTTP side of a node, for browsers and monitoring tools. Pure, and read-only.
//!
//! The shell keeps an [`HttpSession`] per connection and feeds it like a
//! [`LineSession`](crate::node::LineSession). It calls [`Server::begin_turn`] once per turn, and
//! [`Server::handle_timeout`] at the time that [`Server::poll_timeout`] returns.

pub mod assets;
mod body;
mod change;
pub mod clients;
pub mod date;
pub mod ending;
pub mod events;
pub mod feature;
mod fence_events;
mod fence_log;
mod fences;
mod filter;
mod labels;
pub mod limits;
mod near;
pub mod overview;
pub mod position;
mod positions;
pub mod query;
pub mod request;
pub mod response;
mod seats;
mod session;
pub mod settings;
mod subscriber;
mod subscription;

use core::fmt::Write as _;

pub use session::{BrowserInfo, HttpSession};

use crate::counters::counters;
use crate::endpoint::Host;
use crate::herd::Herd;
use crate::ids::ConnectionId;
use crate::node::Node;
use crate::places::offline::Damaged;
use crate::places::offline::ranks::RankedPlaces;
use crate::time::{Instant, Now, Wall};
use events::Events;
use limits::WORK_PER_TURN;
use positions::Positions;
use response::Status;
use seats::Seats;

/// State that a session works with while it is called.
pub struct Context<'a> {
    /// The node to report on.
    pub node: &'a mut Node,
    /// State shared by all HTTP connections.
    pub http: &'a mut Server,
    /// The event loop.
    pub shell: &'a dyn Shell,
    /// Current time.
    pub now: &'a Now,
}

/// Output buffer of one slice of a response, with the budget of that slice.
struct OutputSlice<'a> {
    out: &'a mut Vec<u8>,
    /// Length of `out` at which to stop; the last item may exceed it.
    soft_limit: usize,
    /// Records that may still be examined.
    work: &'a mut usize,
}

impl OutputSlice<'_> {
    /// Returns whether another record may be examined and appended.
    fn has_room(&self) -> bool {
        *self.work > 0 && self.out.len() < self.soft_limit
    }

    /// A slice with half of the space that is left and all of the work.
    fn half(&mut self) -> OutputSlice<'_> {
        let room = self.soft_limit.saturating_sub(self.out.len());
        OutputSlice { soft_limit: self.soft_limit - room / 2, out: self.out, work: self.work }
    }

    /// Spends the work of examining this many records.
    fn spend(&mut self, work: usize) {
        *self.work = self.work.saturating_sub(work);
    }
}

/// Information that only the event loop has.
pub trait Shell {
    /// Appends the body of `/metrics`.
    fn push_metrics(&self, node: &Node, http: &Server, now: &Now, out: &mut Vec<u8>);

    /// Number of open connections of clients and browsers.
    fn connections(&self) -> usize;

    /// The state of the feed of `node`, if it has one.
    fn feed(&self, node: &Node) -> Option<overview::Feed>;

    /// Problems of the shell, as sentences.
    fn problems(&self, node: &Node, now: &Now) -> Vec<String>;
}

/// State shared by all HTTP connections.
pub struct Server {
    settings: Settings,
    /// Security fields of all responses, each with CR LF.
    security_fields: String,
    /// The log of changes and its subscribers.
    pub events: Events,
    /// The positions of clients.
    positions: Positions,
    /// Monotonic counters since start-up.
    pub counters: Counters,
    /// Open connections.
    pub connections: usize,
    /// Entity tags of the assets, as they are and compressed.
    tags: Vec<[String; 2]>,
    /// The places with the names on the map, and the entity tag of their listings.
    labels: Result<(RankedPlaces, String), Damaged>,
    /// Records that may still be examined in this turn.
    work: usize,
    /// Wall clock at the beginning of this turn.
    wall: Wall,
    /// Listings of clients in progress.
    listings: Seats,
    /// Connections that have lost their seat to another one.
    evicted: Vec<ConnectionId>,
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

/// Configuration of a [`Server`].
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Hosts to accept in the `Host` field, in addition to `localhost` and loopback addresses.
    pub hosts: Vec<Host>,
    /// Accept every address in the `Host` field: the node listens on all addresses.
    pub any_address: bool,
    /// Origin of another site whose pages may read responses (CORS).
    pub cors_origin: Option<String>,
    /// Where clients and peers reach the node.
    pub address: overview::Address,
    /// Map tiles for the page.
    pub tiles: Option<overview::Tiles>,
    /// Origin of the tiles, for the Content-Security-Policy.
    pub tile_origin: Option<String>,
    /// Name of the places provider.
    pub provider: String,
    /// Unsent output, in bytes, at which no more requests are answered.
    pub max_output: usize,
}

impl Settings {
    /// Returns whether requests to `authority`, a host with or without a port, are answered.
    ///
    /// This defends against DNS rebinding: a page of another site can make its own name resolve to
    /// this node, and could then read responses as if they were from its own origin. It cannot
    /// change the name that browsers send in the `Host` field.
    fn is_expected(&self, authority: &str) -> bool {
        let host = match authority.rfind(':') {
            Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
            _ => authority,
        };
        let Ok(host) = host.parse::<Host>() else { return false };
        let is_address = matches!(host, Host::Address(_));
        host.is_loopback() || self.hosts.contains(&host) || (self.any_address && is_address)
    }

    /// Returns whether pages of `origin` may read responses.
    fn may_read(&self, origin: &str) -> bool {
        self.cors_origin.as_deref().is_some_and(|allowed| allowed == "*" || allowed == origin)
    }
}

/// Returns the security fields of all responses. They allow scripts of the node only, nothing from
/// other origins except tiles, and no framing.
fn security_fields(settings: &Settings) -> String {
    let tiles = settings.tile_origin.as_ref().map_or(String::new(), |origin| format!(" {origin}"));
    // Public tile servers refuse requests without a referrer.
    let referrer = match settings.tile_origin {
        Some(_) => "strict-origin-when-cross-origin",
        None => "no-referrer",
    };
    let mut fields = format!(
        "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; \
         img-src 'self' data:{tiles}; font-src 'self'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'\r\n\
         X-Content-Type-Options: nosniff\r\n\
         Referrer-Policy: {referrer}\r\n"
    );
    // Writing to a String cannot fail.
    let _ = match &settings.cors_origin {
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
    /// Returns the HTTP side of a node. `boot` is the boot id of the process.
    #[must_use]
    pub fn new(settings: Settings, boot: u64) -> Self {
        Self {
            security_fields: security_fields(&settings),
            settings,
            events: Events::new(boot),
            positions: Positions::default(),
            counters: Counters::default(),
            connections: 0,
            tags: assets::tags(),
            labels: RankedPlaces::embedded().map(|places| (places, labels::tag(&places))),
            work: 0,
            wall: Wall::default(),
            listings: Seats::default(),
            evicted: Vec::new(),
        }
    }

    /// Begins a turn of the event loop with the budget for new requests: half of the work of the
    /// turn. `wall` is the date of its responses.
    pub const fn begin_turn(&mut self, wall: Wall) {
        self.work = WORK_PER_TURN / 2;
        self.wall = wall;
    }

    /// Adds the other half of the budget, for connections that wait since the previous turn.
    /// Without a share of their own, new requests could delay them indefinitely.
    pub const fn begin_queue(&mut self) {
        self.work += WORK_PER_TURN / 2;
    }

    /// Returns the connections that have lost their seat to another one. The shell closes them.
    pub fn take_evicted(&mut self) -> Vec<ConnectionId> {
        std::mem::take(&mut self.evicted)
    }

    /// The next time at which [`Server::handle_timeout`] must be called.
    #[must_use]
    pub fn poll_timeout(&self, herd: &Herd) -> Option<Instant> {
        let timeouts = [self.events.poll_timeout(herd), self.positions.poll_timeout(herd)];
        timeouts.into_iter().flatten().min()
    }

    /// Logs changes of the herd and sends heartbeats when they are due. Returns whether subscribers
    /// have something to send; the shell then serves [`Events::connections`].
    pub fn handle_timeout(&mut self, herd: &mut Herd, now: Instant) -> bool {
        // Separate from the budget of the turn: a listing must not delay the log.
        let mut work = WORK_PER_TURN;
        self.positions.handle_timeout(herd, now);
        self.events.handle_timeout(herd, now, &mut work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_to_other_hosts_are_rejected() {
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
