//! Takes the measurements of docs/scaling.md and writes its tables and plots.
//!
//! `cargo run --release --example scaling` takes a few minutes and a few gigabytes of memory. Graphs
//! and updates come from fixed seeds and time is virtual, so the figures are reproducible; only the
//! CPU time and memory of the routes depend on the machine.
//!
//! Usage: `scaling [SECTION…]`, where SECTION is `routes`, `growth`, `density`, `quiet`, `failures`,
//! `restart`, `delays` or `plans`; all sections by default.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that fails ends the program"
)]

mod chart;
mod experiments;
mod graphs;
mod world;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use plotters::prelude::IntoLogRange;

use chart::Chart;
use experiments::{Cost, DELAY, Failure};
use graphs::Family;
use proxy_herd::testing::topology::Shape;
use world::{Count, MILLISECOND};

const SIZES: [usize; 5] = [10, 30, 100, 300, 1000];

/// Largest full mesh whose start is simulated.
const LARGEST_MESH: usize = 100;

const FAMILIES: [Family; 8] = [
    Family::Plain(Shape::Line),
    Family::Plain(Shape::Ring),
    Family::Plain(Shape::Star),
    Family::Plain(Shape::Tree),
    Family::SmallWorld,
    Family::Regular(4),
    Family::Regular(8),
    MESH,
];

const MESH: Family = Family::Plain(Shape::Mesh);

fn sizes(family: Family) -> impl Iterator<Item = usize> {
    SIZES.into_iter().filter(move |&nodes| family != MESH || nodes <= LARGEST_MESH)
}

/// Measures one section of the report and updates its tables and plots.
type Section = fn(&mut Report);

fn main() {
    let sections: [(&str, Section); 8] = [
        ("routes", routes), // first, because it measures the growth of resident memory
        ("growth", growth),
        ("density", density),
        ("quiet", quiet),
        ("failures", failures),
        ("restart", restart),
        ("delays", delays),
        ("plans", plans),
    ];
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    for (name, measure) in sections {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            let mut report = Report::open();
            measure(&mut report);
            report.save();
        }
    }
}

fn growth(report: &mut Report) {
    let mut herds = vec![(Family::Plain(Shape::Five), 5)];
    for family in FAMILIES {
        herds.extend(sizes(family).map(|nodes| (family, nodes)));
    }
    let costs = costs(&herds);
    updates(report, &costs);
    spread(report, &costs);
    link_states(report, &costs);
}

/// Measures herds in parallel, one per CPU.
fn costs(herds: &[(Family, usize)]) -> Vec<Cost> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&(family, nodes)) = herds.get(at) else { break };
                    let cost = experiments::cost(family, nodes);
                    eprintln!("{family}, {nodes} nodes: done");
                    done.lock().unwrap().push((at, cost));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|(at, _)| *at);
    for (_, cost) in &done {
        assert_eq!(cost.trees, trees(cost), "{}, {} nodes", cost.family, cost.nodes);
        assert_eq!(cost.flooding, flooding(cost), "{}, {} nodes", cost.family, cost.nodes);
    }
    done.into_iter().map(|(_, cost)| cost).collect()
}

/// Messages per update with plain flooding: each node sends to every neighbor except the one from
/// which the update first arrived.
fn flooding(cost: &Cost) -> u64 {
    (2 * cost.edges - (cost.nodes - 1)) as u64
}

/// Messages per update along a tree.
fn trees(cost: &Cost) -> u64 {
    cost.nodes as u64 - 1
}

fn updates(report: &mut Report, costs: &[Cost]) {
    let mut rows = Vec::new();
    for cost in costs.iter().filter(|cost| [5, 10, 100, 1000].contains(&cost.nodes)) {
        rows.push(vec![
            cost.family.to_string(),
            group(cost.nodes as f64),
            group(cost.edges as f64),
            group(cost.flooding as f64),
            group(cost.trees as f64),
            bytes(cost.flooding_bytes),
            bytes(cost.trees_bytes),
            format!("{:.1}", cost.hops),
            format!("{:.0}", cost.diameter),
            format!("{:.0} ms", cost.diameter * (DELAY / MILLISECOND) as f64),
        ]);
    }
    let head = "topology | nodes | edges | messages, flooding | messages, trees | bytes, flooding \
                | bytes, trees | hops, mean | hops, max. | last node at 5 ms per hop";
    report.table("updates", head, &rows);

    let line = |of: fn(&Cost) -> f64, family: Family| -> Vec<(f64, f64)> {
        let costs = costs.iter().filter(|cost| cost.family == family);
        costs.map(|cost| (cost.nodes as f64, of(cost))).collect()
    };
    let dense = [MESH, Family::Regular(8), Family::Regular(4)];
    let mut series: Vec<_> = dense
        .iter()
        .map(|&family| (format!("flooding: {family}"), line(|cost| cost.flooding as f64, family)))
        .collect();
    series.push(("trees: all topologies".to_owned(), line(|cost| cost.trees as f64, FAMILIES[0])));
    let title = "Messages per update";
    Chart { title, x: "nodes", y: "messages", series }.draw(
        &report.plot("messages"),
        (10.0..1000.0).log_scale(),
        (5.0..20_000.0).log_scale(),
    );
    let series = FAMILIES
        .iter()
        .map(|&family| (family.to_string(), line(|cost| cost.diameter, family)))
        .collect();
    let title = "Hops to the last node, from the worst origin";
    Chart { title, x: "nodes", y: "hops (time in link delays)", series }.draw(
        &report.plot("hops"),
        (10.0..1000.0).log_scale(),
        (0.8..2000.0).log_scale(),
    );
}

fn spread(report: &mut Report, costs: &[Cost]) {
    let rows: Vec<_> = costs
        .iter()
        .filter(|cost| [5, 30, 300].contains(&cost.nodes))
        .filter_map(|cost| {
            Some(vec![
                cost.family.to_string(),
                group(cost.nodes as f64),
                format!("{:.1}", cost.edge_peak?),
                format!("{:.1}", cost.node_peak?),
            ])
        })
        .collect();
    report.table("spread", "topology | nodes | busiest edge | busiest node", &rows);
}

/// Messages per update for 100 nodes and an increasing number of edges.
fn density(report: &mut Report) {
    let mut herds =
        [2, 3, 4, 6, 8, 16, 32, 64].map(|degree| (Family::Regular(degree), 100)).to_vec();
    herds.push((MESH, 100));
    let costs = costs(&herds);
    let line = |of: fn(&Cost) -> f64| costs.iter().map(|c| (c.edges as f64, of(c))).collect();
    let series = vec![
        ("flooding".to_owned(), line(|cost| cost.flooding as f64)),
        ("trees".to_owned(), line(|cost| cost.trees as f64)),
    ];
    Chart { title: "Messages per update, 100 nodes", x: "edges", y: "messages", series }.draw(
        &report.plot("density"),
        (100.0..10_000.0).log_scale(),
        (50.0..20_000.0).log_scale(),
    );
}

fn link_states(report: &mut Report, costs: &[Cost]) {
    let mut rows = Vec::new();
    for cost in costs.iter().filter(|cost| [5, 100, 1000].contains(&cost.nodes)) {
        let each = |count: Count| {
            let nodes = cost.nodes as f64;
            let (messages, size) = (count.messages as f64 / nodes, count.bytes as f64 / nodes);
            format!("{} / {}", group(messages.round()), bytes(size))
        };
        rows.push(vec![
            cost.family.to_string(),
            group(cost.nodes as f64),
            each(cost.start),
            each(cost.lost.links),
            each(cost.lost.syncs),
            each(cost.back.links),
        ]);
    }
    let head = "topology | nodes | start: link states | edge lost: link states \
                | edge lost: comparisons | edge restored: link states";
    report.table("links", head, &rows);
    let series = FAMILIES
        .iter()
        .map(|&family| {
            let costs = costs.iter().filter(|cost| cost.family == family);
            let each = costs.map(|c| (c.nodes as f64, c.start.bytes as f64 / c.nodes as f64));
            (family.to_string(), each.collect())
        })
        .collect();
    let title = "Link states sent until the herd has settled after start-up";
    Chart { title, x: "nodes", y: "bytes sent per node", series }.draw(
        &report.plot("links"),
        (10.0..1000.0).log_scale(),
        (100.0..1e9).log_scale(),
    );
}

fn quiet(report: &mut Report) {
    let families = [(Family::Plain(Shape::Five), 5), (Family::Regular(8), 100), (MESH, 100)];
    let rows: Vec<_> = families
        .map(|(family, nodes)| {
            let quiet = experiments::quiet(family, nodes);
            let link_seconds = (quiet.links as u64 * quiet.seconds) as f64;
            let node_seconds = (quiet.nodes as u64 * quiet.seconds) as f64;
            let (keepalives, checks) = (quiet.traffic.keepalives, quiet.traffic.checks);
            vec![
                family.to_string(),
                group(nodes as f64),
                format!("{:.1}", keepalives.messages as f64 / link_seconds),
                bytes(keepalives.bytes as f64 / link_seconds),
                format!("{:.1}", checks.messages as f64 / link_seconds * 10.0),
                bytes(checks.bytes as f64 / link_seconds * 10.0),
                bytes((keepalives.bytes + checks.bytes) as f64 / node_seconds),
            ]
        })
        .into();
    let head = "topology | nodes | keepalives per link and second | bytes \
                | comparisons per link and 10 s | bytes | total, bytes per node and second";
    report.table("quiet", head, &rows);
}

fn failures(report: &mut Report) {
    let mut rows = Vec::new();
    let cases = [(Family::Plain(Shape::Five), 5), (Family::Regular(8), 100), (MESH, 50)];
    for (family, nodes) in cases {
        for (how, failure) in [("reset", Failure::Reset), ("silent", Failure::Silent)] {
            eprintln!("{family}, {nodes} nodes: edge failure, {how}");
            let failed = experiments::failure(family, nodes, 100, failure);
            let extra: u64 = failed.copies.iter().map(|&(_, copies)| copies).sum();
            let extra = extra as i64 - (failed.copies.len() * (nodes - 1)) as i64;
            rows.push(vec![
                family.to_string(),
                group(nodes as f64),
                how.to_owned(),
                group(extra as f64),
                format!("{:.1} s", failed.recovered),
                format!("{} ms", failed.usual / MILLISECOND),
                format!("{} of {}", failed.late, failed.copies.len()),
                format!("{} ms", failed.longest / MILLISECOND),
                failed.sync_records.to_string(),
                failed.repairs.to_string(),
            ]);
            if (family, nodes, failure) == (Family::Regular(8), 100, Failure::Reset) {
                let near = failed.copies.iter().filter(|(at, _)| (-0.5..2.0).contains(at));
                let points = near.step_by(2).map(|&(at, copies)| (at, copies as f64)).collect();
                Chart {
                    title: "An edge is reset under load: 100 nodes, random, degree 8",
                    x: "seconds since the failure",
                    y: "copies per update",
                    series: vec![("every second update".to_owned(), points)],
                }
                .draw(&report.plot("failure"), -0.5..2.0, 0.0..1000.0);
            }
        }
    }
    let head = "topology | nodes | failure | duplicates | trees in use again after \
                | last node, before | slower than that | last node, slowest \
                | records recovered on link loss | records recovered by regular checks";
    report.table("failures", head, &rows);
}

fn restart(report: &mut Report) {
    let families = [(Family::Plain(Shape::Five), 5), (Family::Regular(8), 50), (MESH, 50)];
    let rows: Vec<_> = families
        .into_iter()
        .map(|(family, nodes)| {
            let restart = experiments::restart(family, nodes, 20_000);
            let traffic = restart.traffic;
            let sum = [traffic.records, traffic.links, traffic.syncs, traffic.checks];
            let total = sum.iter().map(|count| count.bytes).sum::<u64>() as f64;
            vec![
                restart.family.to_string(),
                group(restart.nodes as f64),
                bytes(restart.data as f64),
                bytes(traffic.records.bytes as f64),
                bytes(traffic.syncs.bytes as f64),
                bytes(traffic.links.bytes as f64),
                bytes(total),
                format!("{:.1}", total / restart.data as f64),
                format!("{} ms", restart.complete / MILLISECOND),
            ]
        })
        .collect();
    let head = "topology | nodes | data | records forwarded | comparisons and the records fetched \
                | link states | total | total ÷ data | all records after";
    report.table("restart", head, &rows);
}

fn delays(report: &mut Report) {
    let rows: Vec<_> = [Family::SmallWorld, Family::Regular(4), Family::Regular(8)]
        .into_iter()
        .flat_map(|family| [100, 300].map(|nodes| experiments::latency(family, nodes, (1, 20))))
        .map(|it| {
            vec![
                it.family.to_string(),
                group(it.nodes as f64),
                format!("{:.0} ms", it.flooding),
                format!("{:.0} ms", it.trees),
            ]
        })
        .collect();
    report.table("delays", "topology | nodes | flooding | trees", &rows);
}

/// The traffic of herds of 5, 50 and 500 nodes.
fn plans(report: &mut Report) {
    let herds =
        [(Family::Plain(Shape::Five), 5), (Family::Regular(8), 50), (Family::Regular(8), 500)];
    let costs = costs(&herds);
    let rows: Vec<_> = costs
        .iter()
        .map(|cost| {
            let per_node = |count: u64| bytes(count as f64 / cost.nodes as f64);
            let quiet = experiments::quiet(cost.family, cost.nodes);
            let idle =
                (quiet.traffic.keepalives.bytes + quiet.traffic.checks.bytes) / quiet.seconds;
            let restart = experiments::restart(cost.family, cost.nodes, 2_000);
            let sum = restart.traffic;
            let total = sum.records.bytes + sum.links.bytes + sum.syncs.bytes + sum.checks.bytes;
            vec![
                format!("{}, {}", group(cost.nodes as f64), cost.family),
                bytes(cost.trees_bytes / cost.nodes as f64),
                format!("{:.1} / {:.0}", cost.hops, cost.diameter),
                per_node(idle),
                per_node(cost.start.bytes),
                per_node(cost.lost.links.bytes + cost.lost.syncs.bytes),
                format!(
                    "{} / {}",
                    bytes(total.saturating_sub(restart.data) as f64),
                    bytes(restart.data as f64)
                ),
            ]
        })
        .collect();
    let head = "herd | an update, per node | hops, mean / max. | idle, per node and second \
                | start: link states per node | an edge is lost, per node \
                | a node restarts: beyond its data / its data";
    report.table("plans", head, &rows);
}

fn routes(report: &mut Report) {
    // The larger one last: memory freed by the first measurement hides part of the second.
    let families = [Family::Plain(Shape::Line), MESH];
    let rows: Vec<_> = families
        .map(|family| {
            let cost = experiments::routes_cost(family, 1000);
            vec![
                cost.family.to_string(),
                group(cost.nodes as f64),
                format!("{:.1} ms", cost.settle.as_secs_f64() * 1e3),
                format!("{:.1} µs", cost.tree.as_secs_f64() * 1e6),
                bytes(cost.memory),
            ]
        })
        .into();
    let head = "topology | nodes | settling | per tree | memory of link states and trees";
    report.table("routes", head, &rows);
    assert_eq!(experiments::tree_messages(MESH, 1000), 999, "the full mesh of 1,000");
}

/// docs/scaling.md and its plots.
struct Report {
    path: PathBuf,
    text: String,
}

impl Report {
    fn open() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/scaling.md");
        let text = std::fs::read_to_string(&path).expect("docs/scaling.md is readable");
        Self { path, text }
    }

    fn plot(&self, name: &str) -> PathBuf {
        self.path.with_file_name(format!("scaling-{name}.svg"))
    }

    /// Replaces the table between the markers `<!-- name -->` and `<!-- end -->`.
    fn table(&mut self, name: &str, head: &str, rows: &[Vec<String>]) {
        let columns = head.split('|').count();
        let mut table = format!("| {head} |\n|---|{}\n", "---:|".repeat(columns - 1));
        for row in rows {
            assert_eq!(row.len(), columns);
            table.extend(["| ", &row.join(" | "), " |\n"]);
        }
        println!("{name}\n{table}");
        let begin = format!("<!-- {name} -->\n");
        let start = self.text.find(&begin).expect("docs/scaling.md has a marker for each table")
            + begin.len();
        let end =
            start + self.text[start..].find("<!-- end -->").expect("each table ends with a marker");
        self.text.replace_range(start..end, &format!("\n{table}"));
    }

    fn save(&self) {
        std::fs::write(&self.path, &self.text).expect("docs/ is writable");
    }
}

/// Formats a number with thousands separators.
fn group(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut grouped = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && digit != '-' && (digits.len() - at) % 3 == 0 && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Formats a number of bytes to three significant digits.
fn bytes(number: f64) -> String {
    match number {
        0.0..1e3 => format!("{number:.0} B"),
        1e3..1e4 => format!("{:.2} kB", number / 1e3),
        1e4..1e5 => format!("{:.1} kB", number / 1e3),
        1e5..1e6 => format!("{:.0} kB", number / 1e3),
        1e6..1e7 => format!("{:.2} MB", number / 1e6),
        1e7..1e8 => format!("{:.1} MB", number / 1e6),
        1e8..1e9 => format!("{:.0} MB", number / 1e6),
        _ => format!("{:.2} GB", number / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The two curves of the report: plain flooding and trees.
    #[test]
    fn a_dense_herd_floods_until_it_has_settled_and_then_sends_each_update_once_per_node() {
        for (family, nodes) in [(MESH, 24), (Family::Regular(8), 70)] {
            let cost = experiments::cost(family, nodes);
            assert_eq!(cost.trees, trees(&cost), "{family}");
            assert_eq!(cost.flooding, flooding(&cost), "{family}");
        }
    }
}
