//! The edges between the nodes, and the faults that can be injected into them.
//!
//! With network namespaces, each node has its own. Half of the edges are veth pairs between two
//! namespaces, which are cut with nftables, taken down with iproute2 and slowed with tc. The other
//! half run through relays in this process, which can also delay traffic on kernels without netem.
//! On loopback, all edges run through relays.

use std::fmt::{Display, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::common::{FIVE, Herd};
use super::relay::Wire;

/// A fault of an edge, which lasts until it is healed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Traffic is dropped silently in both directions.
    Cut,
    /// Traffic from the first (0) or second (1) end is dropped silently.
    OneWay(usize),
    /// The interface is down; on a relay, connections are reset and new ones are not accepted.
    Down,
    /// Traffic is delayed.
    Slow,
}

/// An edge of the topology: two indices into [`FIVE`] in ascending order.
pub struct Edge {
    pub ends: [usize; 2],
    path: Path,
}

enum Path {
    /// A veth pair; both interfaces have this name.
    Veth(String),
    Relay(Arc<Wire>),
}

/// The edges of [`FIVE`].
pub struct Network {
    pub edges: Vec<Edge>,
}

/// The edges of the default topology, without duplicates.
fn pairs() -> Vec<[usize; 2]> {
    let index = |name: &str| FIVE.iter().position(|node| node.0 == name).unwrap();
    let mut pairs: Vec<[usize; 2]> = FIVE
        .iter()
        .enumerate()
        .flat_map(|(a, (_, neighbors))| neighbors.iter().map(move |name| (a, index(name))))
        .map(|(a, b)| [a.min(b), a.max(b)])
        .collect();
    pairs.sort_unstable();
    pairs.dedup();
    pairs
}

impl Network {
    /// Runs all nodes on loopback, with a relay on every edge.
    pub fn on_loopback(herd: &mut Herd) -> Self {
        let relay = |a: usize, b: usize| Ipv4Addr::new(127, 0, 1 + a as u8, 1 + b as u8);
        let mut hosts = Hosts::default();
        let relayed = |ends| {
            let path = hosts.relay(ends, relay, |b| herd.address(FIVE[b].0));
            Edge { ends, path }
        };
        let edges = pairs().into_iter().map(relayed).collect();
        for (node, hosts) in hosts.0.iter().enumerate() {
            herd.set_host(FIVE[node].0, Ipv4Addr::LOCALHOST, &[], hosts);
        }
        Self { edges }
    }

    /// Runs each node in a namespace of its own, which is connected to this one for the clients.
    pub fn in_namespaces(herd: &mut Herd) -> Self {
        let (here, node) = (
            |i: usize| Ipv4Addr::new(10, 77, i as u8, 1),
            |i: usize| Ipv4Addr::new(10, 77, i as u8, 2),
        );
        ip("link set lo up");
        let mut hosts = Hosts::default();
        for (i, (name, _)) in FIVE.iter().enumerate() {
            ip(&format!("netns add {name}"));
            ip(&format!("-n {name} link set lo up"));
            ip(&format!("link add c{i} type veth peer name clients netns {name}"));
            ip(&format!("addr add {}/30 dev c{i}", here(i)));
            ip(&format!("link set c{i} up"));
            ip(&format!("-n {name} addr add {}/30 dev clients", node(i)));
            ip(&format!("-n {name} link set clients up"));
            nft(
                name,
                "table inet chaos {\n set cut { type ifname; }\n \
                 chain input { type filter hook input priority 0; iifname @cut drop; }\n}\n",
            );
            hosts.add(i, i, "{listen: 0.0.0.0, dial: 127.0.0.1}");
        }
        let mut edges = Vec::new();
        for (at, ends) in pairs().into_iter().enumerate() {
            let [a, b] = ends.map(|end| FIVE[end].0);
            let path = if at % 2 == 0 {
                let veth = format!("e{at}");
                ip(&format!("link add {veth} netns {a} type veth peer name {veth} netns {b}"));
                for (end, side) in [(0, 1), (1, 2)] {
                    let name = FIVE[ends[end]].0;
                    ip(&format!("-n {name} addr add 10.78.{at}.{side}/30 dev {veth}"));
                    ip(&format!("-n {name} link set {veth} up"));
                    hosts.add(ends[end], ends[1 - end], format_args!("10.78.{at}.{}", 3 - side));
                }
                Path::Veth(veth)
            } else {
                let target = |b: usize| (node(b), herd.port(FIVE[b].0)).into();
                hosts.relay(ends, |a, _| here(a), target)
            };
            edges.push(Edge { ends, path });
        }
        for (i, (name, _)) in FIVE.iter().enumerate() {
            herd.set_host(name, node(i), &["ip", "netns", "exec", name], &hosts.0[i]);
        }
        Self { edges }
    }
}

/// The `hosts` section of the configuration of each node.
struct Hosts([String; FIVE.len()]);

impl Default for Hosts {
    fn default() -> Self {
        Self(std::array::from_fn(|_| "hosts:\n".to_owned()))
    }
}

impl Hosts {
    /// Configures node `a` to reach node `b` at `host`.
    fn add(&mut self, a: usize, b: usize, host: impl Display) {
        let _ = writeln!(self.0[a], "  {}: {host}", FIVE[b].0);
    }

    /// Starts the relays of an edge. `address(a, b)` is the address at which `a` reaches `b`, and
    /// `target(b)` is the real address of `b`. The relay listens on the same port as the target.
    fn relay(
        &mut self,
        ends: [usize; 2],
        address: impl Fn(usize, usize) -> Ipv4Addr,
        target: impl Fn(usize) -> SocketAddr,
    ) -> Path {
        let wire = Arc::new(Wire::default());
        for dialer in [0, 1] {
            let (a, b) = (ends[dialer], ends[1 - dialer]);
            wire.relay(dialer, (address(a, b), target(b).port()).into(), target(b));
            self.add(a, b, address(a, b));
        }
        Path::Relay(wire)
    }
}

impl Edge {
    pub fn name(&self) -> String {
        let [a, b] = self.ends.map(|end| FIVE[end].0);
        format!("{a}-{b}")
    }

    /// Injects `fault`, which lasts until [`Edge::heal`].
    pub fn afflict(&self, fault: Fault) {
        match (&self.path, fault) {
            (Path::Veth(veth), Fault::Cut) => {
                self.drop_at(0, veth);
                self.drop_at(1, veth);
            }
            (Path::Veth(veth), Fault::OneWay(from)) => self.drop_at(1 - from, veth),
            (Path::Veth(veth), Fault::Down) => {
                ip(&format!("-n {} link set {veth} down", FIVE[self.ends[0]].0));
            }
            (Path::Veth(veth), Fault::Slow) => {
                for end in self.ends {
                    let tbf = "root tbf rate 200kbit burst 8kb latency 400ms";
                    tc(FIVE[end].0, &format!("qdisc replace dev {veth} {tbf}"));
                }
            }
            (Path::Relay(wire), Fault::OneWay(from)) => wire.stop(from),
            (Path::Relay(wire), Fault::Slow) => wire.delay(Duration::from_millis(150)),
            (Path::Relay(wire), Fault::Cut | Fault::Down) => {
                wire.stop(0);
                wire.stop(1);
                if fault == Fault::Down {
                    wire.reset();
                }
            }
        }
    }

    pub fn heal(&self, fault: Fault) {
        match (&self.path, fault) {
            (Path::Relay(wire), _) => wire.heal(),
            (Path::Veth(_), Fault::Cut | Fault::OneWay(_)) => {
                for end in self.ends {
                    nft(FIVE[end].0, "flush set inet chaos cut\n");
                }
            }
            (Path::Veth(veth), Fault::Down) => {
                ip(&format!("-n {} link set {veth} up", FIVE[self.ends[0]].0));
            }
            (Path::Veth(veth), Fault::Slow) => {
                for end in self.ends {
                    tc(FIVE[end].0, &format!("qdisc delete dev {veth} root"));
                }
            }
        }
    }

    /// Drops the packets that arrive at this end of the veth pair.
    fn drop_at(&self, end: usize, veth: &str) {
        nft(FIVE[self.ends[end]].0, &format!("add element inet chaos cut {{ \"{veth}\" }}\n"));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for edge in &self.edges {
            if let Path::Relay(wire) = &edge.path {
                wire.end();
            }
        }
    }
}

fn ip(arguments: &str) {
    run("ip", arguments);
}

fn tc(namespace: &str, arguments: &str) {
    run("ip", &format!("netns exec {namespace} tc {arguments}"));
}

fn nft(namespace: &str, rules: &str) {
    use std::io::Write as _;
    let mut nft = Command::new("ip");
    nft.args(["netns", "exec", namespace, "nft", "-f", "-"]).stdin(Stdio::piped());
    let mut nft = nft.spawn().unwrap();
    nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "nft in {namespace}: {rules}");
}

fn run(program: &str, arguments: &str) {
    let output = Command::new(program).args(arguments.split(' ')).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {stderr}");
}

/// Checks that namespaces, veth, nftables and tc's tbf are available. It modifies the current
/// namespaces and therefore must run in new ones.
///
/// # Errors
///
/// The command that failed, and why.
pub fn probe() -> Result<(), String> {
    let commands = [
        "ip netns add probe",
        "ip link add probe0 type veth peer name probe1 netns probe",
        "ip netns exec probe nft add table inet probe",
        "ip netns exec probe tc qdisc replace dev probe1 root tbf rate 1mbit burst 8kb latency 1ms",
        "ip netns delete probe",
    ];
    for command in commands {
        let mut words = command.split(' ');
        let output = Command::new(words.next().unwrap()).args(words).output();
        let output = output.map_err(|error| format!("{command}: {error}"))?;
        if !output.status.success() {
            return Err(format!("{command}: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
    }
    Ok(())
}
