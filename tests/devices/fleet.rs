//! A herd with a port for devices on each node.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;

use crate::common::certificates::{Certificate, create};
use crate::common::{At, Client, DEADLINE, Herd, eventually, free_port, seconds, show, wall_ns};
use crate::phone::Phone;

/// The token of the client `van1`. It contains the word `canary`, which no output may contain.
pub const VAN1: &str = "canary-0123456789-van1";

/// The token of the clients whose names begin with `fleet/`.
pub const FLEET: &str = "canary-0123456789-fleet";

/// A herd with a port for devices, and one for HTTP, on each node.
pub struct Fleet {
    pub herd: Herd,
    ports: BTreeMap<String, [u16; 2]>,
}

/// The section `devices` without its ports.
pub const TOKENS: &str = "tokens_file: tokens";

/// The same with HTTPS.
pub const TLS: &str =
    "tokens_file: tokens, tls: {certificate: tls/localhost.pem, key: tls/localhost.key}";

impl Fleet {
    /// Writes the configuration, the tokens and, for [`TLS`], the certificate. Starts no node.
    pub fn new(nodes: &[(&str, &[&str])], devices: &str, extra: &str) -> Self {
        let herd = Herd::new(nodes, "");
        let ports: BTreeMap<String, [u16; 2]> = nodes
            .iter()
            .map(|(name, _)| ((*name).to_owned(), [free_port(), free_port()]))
            .collect();
        let list = |at: usize| {
            let mut list = String::new();
            for (name, ports) in &ports {
                let _ = write!(list, "{name}: {}, ", ports[at]);
            }
            list
        };
        let config = fs::read_to_string(herd.config()).unwrap();
        let (of_devices, of_http) = (list(0), list(1));
        let sections = format!(
            "{config}\ndevices: {{ports: {{{of_devices}}}, {devices}}}\n\
             http: {{ports: {{{of_http}}}}}\n{extra}\n"
        );
        fs::write(herd.config(), sections).unwrap();
        let fleet = Self { herd, ports };
        if devices.contains("tls:") {
            let directory = fleet.herd.directory().join("tls");
            let authority = Certificate::authority(&directory, "ca");
            create(&[&authority, &fleet.certificate()]);
        }
        fs::write(fleet.tokens(), format!("# ours\n{VAN1} van1\n{FLEET} fleet/*\n")).unwrap();
        fleet
    }

    /// One running node, `Solo`.
    pub fn solo(devices: &str, extra: &str) -> Self {
        let mut fleet = Self::new(&[("Solo", &[])], devices, extra);
        fleet.start("Solo");
        fleet
    }

    /// The certificate of the port for devices.
    pub fn certificate(&self) -> Certificate {
        let directory = self.herd.directory().join("tls");
        Certificate::of_node(&directory, "localhost").with_usages("serverAuth")
    }

    pub fn tokens(&self) -> PathBuf {
        self.herd.directory().join("tokens")
    }

    pub fn ca(&self) -> PathBuf {
        self.herd.directory().join("tls/ca.pem")
    }

    /// Starts a node, and waits until devices can connect: it listens for them last.
    pub fn start(&mut self, node: &str) {
        self.herd.start(node);
        eventually("devices can connect", DEADLINE, || TcpStream::connect(self.address(node)).ok());
    }

    pub fn address(&self, node: &str) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[node][0]).into()
    }

    pub fn phone(&self, node: &str) -> Phone {
        Phone::connect(self.address(node))
    }

    pub fn phone_tls(&self, node: &str) -> Phone {
        Phone::connect_tls(self.address(node), &self.ca())
    }

    /// Location and time of a client that a node holds.
    pub fn held(&self, node: &str, client: &str) -> Option<String> {
        let line = self.herd.held(node, client)?;
        let own = String::from_utf8(At::parse(&line).own).unwrap();
        Some(own.strip_prefix(&format!("{client} ")).unwrap().to_owned())
    }

    /// Waits until a node holds this location and time of a client.
    pub fn wait_for(&self, node: &str, client: &str, expected: &str) {
        let mut last = None;
        eventually(&format!("{client} is at {expected} on {node}"), DEADLINE, || {
            last = self.held(node, client);
            (last.as_deref() == Some(expected)).then_some(())
        });
    }

    /// The body of the response to a request over HTTP.
    pub fn get(&self, node: &str, target: &str) -> String {
        let address = (Ipv4Addr::LOCALHOST, self.ports[node][1]).into();
        eventually("the node accepts", DEADLINE, || TcpStream::connect(address).ok());
        let request = format!("GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        let response = Client::connect(address).exchange(request.as_bytes());
        let response =
            String::from_utf8(response).unwrap_or_else(|it| panic!("{}", show(it.as_bytes())));
        response.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// The problems that a node reports.
    pub fn problems(&self, node: &str) -> Vec<String> {
        let overview: serde_json::Value =
            serde_json::from_str(&self.get(node, "/api/herd")).unwrap();
        serde_json::from_value(overview["problems"].clone()).unwrap()
    }

    /// The sum of the samples of a family of counters, or of whole numbers, whose labels contain `part`.
    pub fn metric(&self, node: &str, family: &str, part: &str) -> u64 {
        let metrics = self.get(node, "/metrics");
        let values = metrics.lines().filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            let name = name.strip_prefix("proxy_herd_")?.strip_prefix(family)?;
            name.contains(part).then(|| value.parse::<u64>().unwrap())
        });
        values.sum()
    }

    /// Sends SIGHUP and waits until the node has read all sets of files, `done` with success and
    /// `failed` without.
    pub fn hup(&self, node: &str, done: u64, failed: u64) {
        let count = |result: &str| self.metric(node, "reloads_total", result);
        let before = [count("done"), count("failed")];
        self.herd.signal(node, "HUP");
        let expected = [before[0] + done, before[1] + failed];
        eventually("the files have been read", DEADLINE, || {
            ([count("done"), count("failed")] == expected).then_some(())
        });
    }
}

/// The current time in seconds.
pub fn now() -> i64 {
    seconds(wall_ns()).split('.').next().unwrap().parse().unwrap()
}

/// A time in ISO 8601, in UTC.
pub fn iso(time: i64) -> String {
    let (days, second) = (time.div_euclid(86_400), time.rem_euclid(86_400));
    // The algorithm of Howard Hinnant, `civil_from_days`, for dates after 1970.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

#[test]
fn times_are_formatted_as_iso_8601() {
    assert_eq!(iso(1_795_824_000), "2026-11-28T00:00:00");
    assert_eq!(iso(951_827_696), "2000-02-29T12:34:56");
}
