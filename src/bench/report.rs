//! The report, as text and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::error::ErrorCounts;
use super::load::PhaseResult;
use super::plan::{Pacing, Plan};
use super::prober::PropagationResults;
use super::stats::histogram;
use super::wire::CommandKind;

/// The results in the units of the report. Field names are those of the JSON format.
#[derive(Serialize)]
pub struct Report {
    clients: u32,
    connections: usize,
    idle_connections: usize,
    pipeline: usize,
    /// Requests due per second in an open loop.
    rate: Option<f64>,
    whatsat_percent: u64,
    seconds: f64,
    /// Number of valid replies.
    requests: u64,
    errors: u64,
    /// Errors before and during the measurement, by kind.
    errors_by_kind: serde_json::Map<String, serde_json::Value>,
    requests_per_second: f64,
    /// CPU time of all servers per request.
    cpu_us_per_request: Option<f64>,
    rows: Vec<Row>,
    propagation: Option<Propagation>,
    #[serde(skip)]
    all: Histogram<u64>,
}

/// A row of the table.
#[derive(Serialize)]
struct Row {
    /// Name of the node; `None` for all nodes.
    node: Option<String>,
    /// The command; `None` for both.
    command: Option<&'static str>,
    requests: u64,
    errors: u64,
    requests_per_second: f64,
    latency_us: Latency,
    cpu_us_per_request: Option<f64>,
}

/// Latencies in microseconds; all zero without samples.
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
    /// Round-trip times of the polls: upper bounds on the error of the propagation times.
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

const IAMAT: usize = CommandKind::Iamat as usize;
const WHATSAT: usize = CommandKind::Whatsat as usize;

/// The rows of each node: a label, `None` for both commands, and the commands that it covers.
type Commands = &'static [(Option<&'static str>, &'static [usize])];

fn commands(whatsat_percent: u64) -> Commands {
    match whatsat_percent {
        0 => &[(Some("IAMAT"), &[IAMAT])],
        100 => &[(Some("WHATSAT"), &[WHATSAT])],
        _ => &[(Some("IAMAT"), &[IAMAT]), (Some("WHATSAT"), &[WHATSAT]), (None, &[IAMAT, WHATSAT])],
    }
}

/// Latencies and errors of `commands` on one server, or on all servers if `server` is `None`.
fn select(
    measured: &PhaseResult,
    server: Option<usize>,
    commands: &[usize],
) -> (Histogram<u64>, ErrorCounts) {
    let (mut latencies, mut errors) = (histogram(), ErrorCounts::default());
    for (index, stats) in measured.servers.iter().enumerate() {
        if server.is_none_or(|server| server == index) {
            for &command in commands {
                let _ = latencies.add(&stats.latencies[command]); // cannot fail: equal bounds
                errors.merge(&stats.errors[command]);
            }
        }
    }
    (latencies, errors)
}

/// The rows of the table: one group for each server and, if there are several, one for all.
fn rows(plan: &Plan, measured: &PhaseResult, cpu: &CpuTimes<'_>) -> Vec<Row> {
    let mut servers: Vec<Option<usize>> = (0..plan.servers.len()).map(Some).collect();
    if servers.len() > 1 {
        servers.push(None);
    }
    let commands = commands(plan.whatsat_percent);
    let mut rows = Vec::new();
    for server in servers {
        for &(label, covered) in commands {
            let (latencies, errors) = select(measured, server, covered);
            // CPU time cannot be divided between the commands.
            let covers_all = label.is_none() || commands.len() == 1;
            let cpu = cpu.of(server).filter(|_| covers_all);
            rows.push(Row {
                node: server.map(|server| plan.servers[server].name.clone()),
                command: label,
                requests: latencies.len(),
                errors: errors.total(),
                requests_per_second: latencies.len() as f64 / measured.elapsed.as_secs_f64(),
                latency_us: Latency::of(&latencies),
                cpu_us_per_request: per_request(cpu, latencies.len()),
            });
        }
    }
    rows
}

/// CPU time of each server during the measurement, if known.
struct CpuTimes<'a> {
    by_server: &'a [Option<Duration>],
    /// False with a prober, whose polls use CPU time but do not count as requests.
    is_attributable: bool,
}

impl CpuTimes<'_> {
    /// CPU time of one server, or of all servers if `server` is `None`.
    fn of(&self, server: Option<usize>) -> Option<Duration> {
        let time = match server {
            Some(server) => self.by_server.get(server).copied().flatten(),
            None => self.by_server.iter().copied().sum(),
        };
        time.filter(|_| self.is_attributable)
    }
}

/// CPU time per request in microseconds.
fn per_request(cpu: Option<Duration>, requests: u64) -> Option<f64> {
    cpu.filter(|_| requests > 0).map(|cpu| cpu.as_secs_f64() * 1e6 / requests as f64)
}

impl Report {
    /// Creates the report. `earlier_errors` occurred before the measurement and are included; `cpu` is
    /// the CPU time of each server during the measurement, if known.
    pub fn new(
        plan: &Plan,
        earlier_errors: &ErrorCounts,
        measured: &PhaseResult,
        cpu: &[Option<Duration>],
        propagation: Option<&PropagationResults>,
    ) -> Self {
        let cpu = CpuTimes { by_server: cpu, is_attributable: propagation.is_none() };
        let (all, mut errors) = select(measured, None, &[IAMAT, WHATSAT]);
        errors.merge(earlier_errors);
        if let Some(propagation) = propagation {
            errors.merge(&propagation.errors);
        }
        let seconds = measured.elapsed.as_secs_f64();
        Self {
            clients: plan.clients,
            connections: plan.connections,
            idle_connections: plan.idle,
            pipeline: plan.pipeline,
            rate: match plan.pacing {
                Pacing::ClosedLoop => None,
                Pacing::OpenLoop(rate) => Some(rate),
            },
            whatsat_percent: plan.whatsat_percent,
            seconds,
            requests: all.len(),
            errors: errors.total(),
            errors_by_kind: errors.named().map(|(name, n)| (name.to_owned(), n.into())).collect(),
            requests_per_second: all.len() as f64 / seconds,
            cpu_us_per_request: per_request(cpu.of(None), all.len()),
            rows: rows(plan, measured, &cpu),
            propagation: propagation.map(|results| Propagation::of(plan, results)),
            all,
        }
    }

    /// Returns whether any error occurred.
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// The report as JSON, terminated by LF.
    pub fn json(&self) -> String {
        // Serialization cannot fail: all keys are strings.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// The report as tables.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let pacing = match self.rate {
            Some(rate) => format!("open loop, {rate} req/s"),
            None => "closed loop".to_owned(),
        };
        let _ = writeln!(
            text,
            "{} clients on {} connections, {} in flight per connection, {pacing}, {} % WHATSAT, {:.2} s\n",
            self.clients, self.connections, self.pipeline, self.whatsat_percent, self.seconds
        );
        let latency = Latency::of(&self.all);
        let _ = writeln!(text, "Requests             {}", self.requests);
        let _ = writeln!(text, "Errors               {}{}", self.errors, self.error_kinds());
        let _ = writeln!(text, "Requests per second  {:.0}", self.requests_per_second);
        let _ = writeln!(text, "Average latency      {:.1} µs", latency.average);
        let _ = writeln!(text, "Min and max latency  {:.1} µs, {:.1} µs", latency.min, latency.max);
        if let Some(cpu) = self.cpu_us_per_request {
            let _ = writeln!(text, "Server CPU           {cpu:.3} µs per request");
        }
        text.push_str(&self.table());
        text.push_str(&bars(&self.all));
        if let Some(propagation) = &self.propagation {
            propagation.text(&mut text);
        }
        text
    }

    fn error_kinds(&self) -> String {
        let kinds = self.errors_by_kind.iter().map(|(name, count)| format!("{count} {name}"));
        let kinds = kinds.collect::<Vec<_>>().join(", ");
        if kinds.is_empty() { kinds } else { format!(" ({kinds})") }
    }

    fn table(&self) -> String {
        let name = |row: &Row| row.node.clone().unwrap_or_else(|| "all".to_owned());
        let width = self.rows.iter().map(|row| name(row).chars().count()).max().unwrap_or(0).max(4);
        let mut text = format!(
            "\n{:width$}  {:8}{:>10}{:>8}{:>10}{LATENCY_HEADER}   CPU µs\n",
            "node", "command", "requests", "errors", "req/s"
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
    fn of(plan: &Plan, results: &PropagationResults) -> Self {
        let mut all = histogram();
        let mut pairs = Vec::new();
        for (from, row) in results.pairs.iter().enumerate() {
            for (to, latencies) in row.iter().enumerate().filter(|(to, _)| *to != from) {
                let _ = all.add(latencies); // cannot fail: equal bounds
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
            resolution_us: Latency::of(&results.polls),
        }
    }

    fn text(&self, text: &mut String) {
        let names = self.pairs.iter().map(|pair| pair.from.chars().count());
        let width = names.max().unwrap_or(0).max(4);
        let _ = writeln!(
            text,
            "\nPropagation: from the AT line of the origin until another node shows the record\n\
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
            "\nDetected by polling; a poll took {:.1} µs (median), {:.1} µs (p99), so the figures \
             overestimate by at most that much.",
            self.resolution_us.p50, self.resolution_us.p99
        );
    }
}

fn push_latency(text: &mut String, latency: &Latency) {
    for value in latency.columns() {
        let _ = write!(text, "{value:10.1}");
    }
}

/// A histogram of latencies with one bar per power of two.
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
    let largest = counts.iter().map(|(_, count)| *count).max().unwrap_or(1);
    let mut text = "\n  up to µs   requests\n".to_owned();
    for (up_to, count) in counts {
        let bar = "#".repeat((count * WIDTH).div_ceil(largest) as usize);
        let _ = writeln!(text, "{:10.1} {count:10} {bar}", up_to as f64 / 1e3);
    }
    text
}
