//! The report, as text and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::fault::Faults;
use super::load::Outcome;
use super::plan::{Pace, Plan};
use super::propagation::Found;
use super::tally::histogram;

/// All that was found, in the units of the report.
#[derive(Serialize)]
pub struct Report {
    clients: u32,
    connections: usize,
    idle_connections: usize,
    pipeline: usize,
    /// Requests a second that were due; none in a closed loop.
    rate: Option<f64>,
    whatsat_percent: u64,
    seconds: f64,
    /// Right replies.
    requests: u64,
    errors: u64,
    /// Errors by their kind, before the measurement and while it ran.
    errors_by_kind: serde_json::Map<String, serde_json::Value>,
    requests_per_second: f64,
    /// Processor time of all servers together for each request.
    cpu_us_per_request: Option<f64>,
    rows: Vec<Row>,
    propagation: Option<Propagation>,
    #[serde(skip)]
    all: Histogram<u64>,
}

/// A line of the table.
#[derive(Serialize)]
struct Row {
    /// The node; none for all of them.
    node: Option<String>,
    /// The command; none for both.
    command: Option<&'static str>,
    requests: u64,
    errors: u64,
    requests_per_second: f64,
    latency_us: Latency,
    cpu_us_per_request: Option<f64>,
}

/// Latencies in microseconds; zeros when there were none.
#[derive(Serialize)]
struct Latency {
    average: f64,
    min: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

#[derive(Serialize)]
struct Propagation {
    pairs: Vec<Pair>,
    all: Latency,
    records_seen: u64,
    /// How long it takes to ask whether a record is there: what is told is at most that too long.
    resolution_us: Latency,
}

#[derive(Serialize)]
struct Pair {
    from: String,
    to: String,
    records_seen: u64,
    latency_us: Latency,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let us = |nanoseconds: u64| nanoseconds as f64 / 1e3;
        let at = |quantile| us(histogram.value_at_quantile(quantile));
        Self {
            average: if histogram.is_empty() { 0.0 } else { histogram.mean() / 1e3 },
            min: us(histogram.min()),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: us(histogram.max()),
        }
    }

    fn columns(&self) -> [f64; 7] {
        [self.average, self.min, self.p50, self.p90, self.p99, self.p999, self.max]
    }
}

const LATENCY_HEADER: &str =
    "   average       min       p50       p90       p99     p99.9       max";

impl Report {
    /// Puts together what came of `measured`, with the faults of what ran before it. `cpu` is the
    /// processor time of each server while it was measured, where it is known.
    pub fn new(
        plan: &Plan,
        before: &Faults,
        measured: &Outcome,
        cpu: &[Option<Duration>],
        found: Option<&Found>,
    ) -> Self {
        let seconds = measured.elapsed.as_secs_f64();
        let row = |node: Option<usize>, kinds: &[usize]| {
            let (mut latencies, mut faults) = (histogram(), Faults::default());
            for (place, server) in measured.servers.iter().enumerate() {
                if node.is_none_or(|node| node == place) {
                    for &kind in kinds {
                        // Both have the same bounds.
                        let _ = latencies.add(&server.latencies[kind]);
                        faults.merge(&server.faults[kind]);
                    }
                }
            }
            (latencies, faults)
        };
        let both = plan.whatsat_percent > 0 && plan.whatsat_percent < 100;
        let kinds: &[(Option<&str>, &[usize])] = match plan.whatsat_percent {
            0 => &[(Some("IAMAT"), &[0])],
            100 => &[(Some("WHATSAT"), &[1])],
            _ => &[(Some("IAMAT"), &[0]), (Some("WHATSAT"), &[1]), (None, &[0, 1])],
        };
        // Polls of a prober are work that no request of the load stands for.
        let cpu_known = found.is_none();
        let total_cpu = cpu.iter().copied().collect::<Option<Vec<_>>>();
        let total_cpu = total_cpu.map(|all| all.iter().sum::<Duration>());
        let mut nodes: Vec<Option<usize>> = (0..plan.servers.len()).map(Some).collect();
        if nodes.len() > 1 {
            nodes.push(None);
        }
        let mut rows = Vec::new();
        for node in nodes {
            for (command, kinds) in kinds {
                let (latencies, faults) = row(node, kinds);
                let used = match node {
                    Some(node) => cpu.get(node).copied().flatten(),
                    None => total_cpu,
                };
                let whole = command.is_none() || !both;
                let used = used.filter(|_| whole && cpu_known && !latencies.is_empty());
                rows.push(Row {
                    node: node.map(|node| plan.servers[node].name.clone()),
                    command: *command,
                    requests: latencies.len(),
                    errors: faults.total(),
                    requests_per_second: latencies.len() as f64 / seconds,
                    latency_us: Latency::of(&latencies),
                    cpu_us_per_request: used
                        .map(|used| used.as_secs_f64() * 1e6 / latencies.len() as f64),
                });
            }
        }
        let (all, mut faults) = row(None, &[0, 1]);
        faults.merge(before);
        if let Some(found) = found {
            faults.merge(&found.faults);
        }
        let used = total_cpu.filter(|_| cpu_known && !all.is_empty());
        Self {
            clients: plan.clients,
            connections: plan.connections,
            idle_connections: plan.idle,
            pipeline: plan.pipeline,
            rate: match plan.pace {
                Pace::Closed => None,
                Pace::Open(rate) => Some(rate),
            },
            whatsat_percent: plan.whatsat_percent,
            seconds,
            requests: all.len(),
            errors: faults.total(),
            errors_by_kind: faults.named().map(|(name, n)| (name.to_owned(), n.into())).collect(),
            requests_per_second: all.len() as f64 / seconds,
            cpu_us_per_request: used.map(|used| used.as_secs_f64() * 1e6 / all.len() as f64),
            rows,
            propagation: found.map(|found| Propagation::of(plan, found)),
            all,
        }
    }

    /// Whether anything was wrong.
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// As JSON, ended by LF.
    pub fn json(&self) -> String {
        // Nothing in it can fail to be JSON: keys are text, numbers are finite.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let pace = match self.rate {
            Some(rate) => format!("open loop, {rate} requests a second"),
            None => "closed loop".to_owned(),
        };
        let _ = writeln!(
            text,
            "{} clients on {} connections, {} in flight on each, {pace}, {} % WHATSAT, {:.2} s\n",
            self.clients, self.connections, self.pipeline, self.whatsat_percent, self.seconds
        );
        let latency = Latency::of(&self.all);
        let _ = writeln!(text, "Requests             {}", self.requests);
        let _ = writeln!(text, "Errors               {}{}", self.errors, self.kinds_of_errors());
        let _ = writeln!(text, "Requests a second    {:.0}", self.requests_per_second);
        let _ = writeln!(text, "Average latency      {:.1} µs", latency.average);
        let _ = writeln!(text, "Least and greatest   {:.1} µs, {:.1} µs", latency.min, latency.max);
        if let Some(cpu) = self.cpu_us_per_request {
            let _ = writeln!(text, "Server CPU           {cpu:.3} µs a request");
        }
        text.push_str(&self.table());
        text.push_str(&bars(&self.all));
        if let Some(propagation) = &self.propagation {
            propagation.text(&mut text);
        }
        text
    }

    fn kinds_of_errors(&self) -> String {
        let kinds = self.errors_by_kind.iter().map(|(name, count)| format!("{count} {name}"));
        let kinds = kinds.collect::<Vec<_>>().join(", ");
        if kinds.is_empty() { kinds } else { format!(" ({kinds})") }
    }

    fn table(&self) -> String {
        let name = |row: &Row| row.node.clone().unwrap_or_else(|| "all".to_owned());
        let width = self.rows.iter().map(|row| name(row).chars().count()).max().unwrap_or(0).max(4);
        let mut text = format!(
            "\n{:width$}  {:8}{:>10}{:>8}{:>10}{LATENCY_HEADER}   CPU µs\n",
            "node", "command", "requests", "errors", "a second"
        );
        for row in &self.rows {
            let command = row.command.unwrap_or("both");
            let _ = write!(
                text,
                "{:width$}  {command:8}{:10}{:8}{:10.0}",
                name(row),
                row.requests,
                row.errors,
                row.requests_per_second
            );
            push_latency(&mut text, &row.latency_us);
            let _ = match row.cpu_us_per_request {
                Some(cpu) => writeln!(text, "{cpu:9.3}"),
                None => writeln!(text, "        -"),
            };
        }
        text.push_str("Latencies are in microseconds.\n");
        text
    }
}

impl Propagation {
    fn of(plan: &Plan, found: &Found) -> Self {
        let mut all = histogram();
        let mut pairs = Vec::new();
        for (from, row) in found.pairs.iter().enumerate() {
            for (to, latencies) in row.iter().enumerate().filter(|(to, _)| *to != from) {
                let _ = all.add(latencies); // both have the same bounds
                pairs.push(Pair {
                    from: plan.servers[from].name.clone(),
                    to: plan.servers[to].name.clone(),
                    records_seen: latencies.len(),
                    latency_us: Latency::of(latencies),
                });
            }
        }
        Self {
            pairs,
            records_seen: all.len(),
            all: Latency::of(&all),
            resolution_us: Latency::of(&found.polls),
        }
    }

    fn text(&self, text: &mut String) {
        let names = self.pairs.iter().map(|pair| pair.from.chars().count());
        let width = names.max().unwrap_or(0).max(4);
        let _ = writeln!(
            text,
            "\nPropagation: from the AT line on one node until the record is seen on the other\n\
             {:width$}  {:width$}{:>10}{LATENCY_HEADER}",
            "from", "to", "records"
        );
        for Pair { from, to, records_seen, latency_us } in &self.pairs {
            let _ = write!(text, "{from:width$}  {to:width$}{records_seen:10}");
            push_latency(text, latency_us);
            text.push('\n');
        }
        let _ = write!(text, "{:width$}  {:width$}{:10}", "all", "", self.records_seen);
        push_latency(text, &self.all);
        let _ = writeln!(
            text,
            "\nSeen by asking again and again; a question took {:.1} µs (median), {:.1} µs (p99), \
             and so much too long these are at the most.",
            self.resolution_us.p50, self.resolution_us.p99
        );
    }
}

fn push_latency(text: &mut String, latency: &Latency) {
    for value in latency.columns() {
        let _ = write!(text, "{value:10.1}");
    }
}

/// How latencies are spread: a bar for each doubling.
fn bars(all: &Histogram<u64>) -> String {
    const WIDTH: u64 = 50;
    if all.is_empty() {
        return String::new();
    }
    let mut counts: Vec<(u64, u64)> = Vec::new();
    for value in all.iter_recorded() {
        let up_to = value.value_iterated_to().next_power_of_two();
        match counts.last_mut() {
            Some((last, count)) if *last == up_to => *count += value.count_since_last_iteration(),
            _ => counts.push((up_to, value.count_since_last_iteration())),
        }
    }
    let most = counts.iter().map(|(_, count)| *count).max().unwrap_or(1);
    let mut text = "\n  up to µs   requests\n".to_owned();
    for (up_to, count) in counts {
        let bar = "#".repeat((count * WIDTH).div_ceil(most) as usize);
        let _ = writeln!(text, "{:10.1} {count:10} {bar}", up_to as f64 / 1e3);
    }
    text
}
