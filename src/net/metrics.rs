//! All counters and gauges of a node: `/metrics`, and the line that the log shows on SIGUSR1.

use core::fmt::Write as _;

use super::counters::Counters;
use super::feed::FeedDriver;
use super::log_file::{Log, LogStats};
use super::process::Process;
use super::prometheus::Writer;
use super::reload::Reload;
use crate::counters::{Reading, Row, Sample, read};
use crate::devices::{self, Devices};
use crate::feed;
use crate::fences::{self, Fences};
use crate::herd::link::{Established, Link};
use crate::herd::{self, Herd, directory};
use crate::histogram::Histogram;
use crate::http::{self, Server, Shell, events, overview};
use crate::node::{self, Node};
use crate::places::Places;
use crate::places::upstream::{Client, Stats};
use crate::storage;
use crate::time::{Instant, Now};

/// Metrics of the event loop.
pub struct LoopStats<'a> {
    /// Counters of the loop.
    pub counters: &'a Counters,
    /// Open connections of clients and browsers.
    pub clients: usize,
    /// The listener for devices, if the node has one.
    pub devices: Option<&'a Devices>,
    /// Durations of the turns.
    pub turns: &'a Histogram,
    /// The log, which has counters of its own.
    pub log: &'a Log,
    /// Files that are reloaded, and the certificates among them.
    pub reload: &'a Reload,
    /// The feed, if there is one.
    pub feed: Option<&'a FeedDriver>,
    /// The process, if it serves HTTP.
    pub process: Option<&'a Process>,
}

impl Shell for LoopStats<'_> {
    fn push_metrics(&self, node: &Node, http: &Server, now: &Now, out: &mut Vec<u8>) {
        let mut w = Writer::default();
        let name = String::from_utf8_lossy(node.name());
        let labels = [("version", env!("CARGO_PKG_VERSION")), ("node", &name)];
        w.gauge("build_info", "Always 1; the labels name the version and the node.")
            .sample(&labels, 1_u64);
        w.readings(&self.readings(node, http, now.instant));
        peers(&node.herd, &mut w);
        w.histogram(
            "places_wait_seconds",
            "Time that replies waited for places; replies that did not wait are not counted.",
            &node.places_wait,
        );
        w.histogram("loop_turn_seconds", "Durations of the turns of the event loop.", self.turns);
        certificates(self.reload, &mut w);
        if let Some(process) = self.process {
            process.push_metrics(&mut w);
        }
        out.extend_from_slice(&w.finish());
    }

    fn connections(&self) -> usize {
        self.clients
    }

    fn feed(&self, node: &Node) -> Option<overview::Feed> {
        let (FeedDriver { feed, .. }, store) = (self.feed?, node.store.as_ref()?);
        Some(overview::Feed {
            connected: feed.is_connected(),
            backlog: feed.backlog(&store.storage),
            last_error: feed.error().map(str::to_owned),
        })
    }

    fn problems(&self, node: &Node, now: &Now) -> Vec<String> {
        let mut problems = self.reload.problems(now);
        if let (Some(driver), Some(store)) = (self.feed, &node.store) {
            problems.extend(driver.problem(&store.storage));
        }
        problems
    }
}

impl LoopStats<'_> {
    /// Formats all counters and gauges for the log, as `name=value` separated by spaces.
    #[must_use]
    pub fn report(&self, node: &Node, http: &Server, now: Instant) -> String {
        let mut report = String::with_capacity(4096);
        for Reading { sample: Sample { family, labels, .. }, value } in
            self.readings(node, http, now)
        {
            let space = if report.is_empty() { "" } else { " " };
            // Writing to a String cannot fail.
            let _ = write!(report, "{space}{family}{labels}={value}");
        }
        report
    }

    /// Returns all counters, and the gauges that are a single number. Those of the places provider
    /// are left out if there is none.
    fn readings(&self, node: &Node, http: &Server, now: Instant) -> Vec<Reading> {
        let directory = &node.herd.directory;
        let mut readings = connections(self.clients, http, self.devices);
        readings.extend(read(Counters::TABLE, self.counters));
        readings.extend(read(node::Counters::TABLE, &node.counters));
        readings.extend(read(herd::Counters::TABLE, &node.herd.counters));
        for (name, help, value) in [
            ("clients", "Clients held.", directory.clients()),
            ("tombstones", "Clients whose removal is remembered.", directory.tombstones()),
        ] {
            readings.push(Sample::gauge(name, "", help).reading(value.into()));
        }
        readings.extend(read(directory::Counters::TABLE, &directory.counters));
        if let Some(fences) = directory.fences() {
            readings.extend(self::fences(fences));
        }
        if let Some(store) = &node.store {
            readings.extend(read(storage::Counters::TABLE, &store.storage.counters));
        }
        if let (Some(FeedDriver { feed, .. }), Some(store)) = (self.feed, &node.store) {
            readings.extend(read(feed::Counters::TABLE, &feed.counters));
            for (name, help, value) in [
                ("feed_connected", "1 while entries can be delivered, else 0.", {
                    u64::from(feed.is_connected())
                }),
                ("feed_waiting_entries", "Entries that are not delivered.", {
                    feed.backlog(&store.storage)
                }),
            ] {
                readings.push(Sample::gauge(name, "", help).reading(value));
            }
        }
        if let Places::Upstream(client) = &node.places {
            readings.extend(read(Stats::TABLE, client.stats()));
            readings.extend(places(client, now));
        }
        readings.extend(read(http::Counters::TABLE, &http.counters));
        readings.extend(read(events::Counters::TABLE, &http.events.counters));
        if let Some(devices) = self.devices {
            readings.extend(read(devices::counters::Counters::TABLE, &devices.counters));
        }
        readings.extend(read(LogStats::TABLE, &self.log.stats()));
        readings
    }
}

/// Returns the table of all counters, as Markdown, for docs/metrics.md.
#[must_use]
pub fn markdown() -> String {
    fn samples<S>(table: &'static [Row<S>]) -> impl Iterator<Item = Sample> {
        table.iter().map(|row| row.sample)
    }

    let mut table = String::from("| Counter | Counts |\n|---|---|\n");
    let all = samples(Counters::TABLE)
        .chain(samples(node::Counters::TABLE))
        .chain(samples(herd::Counters::TABLE))
        .chain(samples(directory::Counters::TABLE))
        .chain(samples(fences::Counters::TABLE))
        .chain(samples(storage::Counters::TABLE))
        .chain(samples(feed::Counters::TABLE))
        .chain(samples(Stats::TABLE))
        .chain(samples(http::Counters::TABLE))
        .chain(samples(events::Counters::TABLE))
        .chain(samples(devices::counters::Counters::TABLE))
        .chain(samples(LogStats::TABLE));
    for sample in all {
        let Sample { family, labels, .. } = sample;
        let _ = writeln!(table, "| `{family}{labels}` | {} |", sample.text());
    }
    table
}

fn connections(all: usize, http: &Server, devices: Option<&Devices>) -> Vec<Reading> {
    const HELP: &str = "Open connections, by protocol; those of peers are not counted.";
    let of_devices = devices.map_or(0, |devices| devices.connections);
    let clients = all.saturating_sub(http.connections + of_devices);
    let gauge =
        |labels, value: usize| Sample::gauge("connections", labels, HELP).reading(value as u64);
    let mut readings =
        vec![gauge("{kind=\"client\"}", clients), gauge("{kind=\"http\"}", http.connections)];
    if devices.is_some() {
        readings.push(gauge("{kind=\"device\"}", of_devices));
    }
    let subscribers = Sample::gauge("event_subscribers", "", "Connections subscribed to events.");
    readings.push(subscribers.reading(http.events.subscribers() as u64));
    readings
}

fn fences(fences: &Fences) -> impl Iterator<Item = Reading> {
    let gauges = [
        ("fences", "Fences.", fences.set().fences().len()),
        ("fence_clients", "Clients inside at least one fence.", fences.clients_inside()),
    ];
    let reading = |(family, help, value)| Sample::gauge(family, "", help).reading(value as u64);
    let counters = read(fences::Counters::TABLE, &fences.transitions().counters);
    gauges.into_iter().map(reading).chain(counters)
}

fn places(client: &Client, now: Instant) -> impl Iterator<Item = Reading> {
    let gauges = client.gauges(now);
    [
        ("places_breaker_open", "1 while the circuit breaker is open, else 0.", {
            usize::from(gauges.breaker_open)
        }),
        ("places_waiting", "Questions that wait for an answer.", gauges.waiting),
        ("places_queued", "Distinct questions that wait for a connection.", gauges.queued),
        ("places_in_flight", "Requests sent and not yet answered.", gauges.in_flight),
        ("places_connections", "Connections to the provider.", gauges.connections),
        ("places_cached", "Answers in the cache.", gauges.cached),
        ("places_cached_bytes", "Size of the cache.", gauges.cached_bytes),
    ]
    .into_iter()
    .map(|(family, help, value)| Sample::gauge(family, "", help).reading(value as u64))
}

fn peers(herd: &Herd, w: &mut Writer) {
    w.gauge("peer_up", "1 if the link to a neighbor is established, else 0.");
    each_peer(herd, |peer, link| {
        w.sample(&[("peer", peer)], link.up.is_some());
    });
    w.gauge("peer_round_trip_seconds", "Round-trip time of the last ping that was answered.");
    each_peer(herd, |peer, link| {
        if let Some(trip) = link.up.as_ref().and_then(Established::round_trip) {
            w.sample(&[("peer", peer)], trip.as_secs_f64());
        }
    });
    w.gauge("peer_backlog_records", "Records that wait to be sent to a neighbor.");
    each_peer(herd, |peer, link| {
        w.sample(&[("peer", peer)], link.up.as_ref().map_or(0, Established::backlog));
    });
    w.gauge("peer_digests_equal", "1 if the last digest comparison found equal records, else 0.");
    each_peer(herd, |peer, link| {
        if let Some(equal) = link.up.as_ref().and_then(|up| up.anti_entropy.is_equal()) {
            w.sample(&[("peer", peer)], equal);
        }
    });
}

fn each_peer(herd: &Herd, mut each: impl FnMut(&str, &Link)) {
    for link in herd.links() {
        each(&String::from_utf8_lossy(herd.identity().name(link.peer)), link);
    }
}

fn certificates(reload: &Reload, w: &mut Writer) {
    w.gauge(
        "certificate_expiry_timestamp_seconds",
        "Time at which the first certificate of a file in use expires, since the Unix epoch.",
    );
    for (file, expiry) in reload.certificates.expiries() {
        w.sample(&[("file", &file)], expiry as f64);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// The samples of the table that docs/metrics.md shows.
    fn samples() -> Vec<String> {
        let table = markdown();
        let names = table.lines().filter_map(|line| line.split('`').nth(1));
        names.map(str::to_owned).collect()
    }

    #[test]
    fn no_two_counters_have_the_same_name() {
        let samples = samples();
        let distinct: BTreeSet<&String> = samples.iter().collect();
        assert_eq!(distinct.len(), samples.len());
        assert!(samples.len() > 60);
    }

    #[test]
    fn a_family_has_one_help_text() {
        let mut help: BTreeMap<&str, &str> = BTreeMap::new();
        let of_herd = herd::Counters::TABLE.iter().map(|row| row.sample);
        for sample in node::Counters::TABLE.iter().map(|row| row.sample).chain(of_herd) {
            let known = *help.entry(sample.family).or_insert(sample.help);
            assert_eq!(known, sample.help, "{}", sample.family);
        }
    }

    #[test]
    fn the_counters_of_a_provider_are_explained() {
        let explained = include_str!("../../docs/places.md");
        for Row { sample: Sample { family, .. }, .. } in Stats::TABLE {
            assert!(explained.contains(&format!("`{family}")), "{family} is not in docs/places.md");
        }
    }
}
