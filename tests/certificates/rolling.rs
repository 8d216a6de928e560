//! Changes of the whole herd, node by node: links stay up, and no record is lost.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::common::{DEADLINE, eventually};
use crate::peer::{Peer, hello};
use crate::reload::hup;
use crate::{Secured, mint, peers};

const TRIANGLE: [(&str, &[&str]); 3] = [("A", &["B", "C"]), ("B", &["C"]), ("C", &[])];

/// A herd whose clients report to every node before every step.
struct Rolling {
    secured: Secured,
    /// The AT line of each client.
    records: BTreeMap<String, Vec<u8>>,
}

impl Rolling {
    fn start(peers: Option<&str>) -> Self {
        let mut secured = Secured::new(&TRIANGLE);
        secured.herd.set_environment("HERD_SECRET", "correct horse battery staple");
        for name in secured.herd.names() {
            if let Some(peers) = peers {
                secured.configure(&name, peers);
            }
        }
        secured.herd.start_all();
        let rolling = Self { secured, records: BTreeMap::new() };
        rolling.secured.wait_until_linked(2);
        rolling
    }

    /// A new client reports to each node.
    fn report(&mut self) {
        for name in self.secured.herd.names() {
            let client = format!("client-{}", self.records.len());
            let line = self.secured.herd.client(&name).iamat(&client, "+1+1", "1");
            self.records.insert(client, line);
        }
    }

    /// Waits until every node is linked with both others and holds all records.
    fn settle(&self) {
        self.secured.wait_until_linked(2);
        for (client, line) in &self.records {
            self.secured.herd.wait_until_held(&self.secured.herd.names(), client, line);
        }
    }

    /// Restarts a node, which empties it. The two others are linked meanwhile.
    fn restart(&mut self, name: &str) {
        self.report();
        self.settle();
        self.secured.herd.signal(name, "TERM");
        assert!(self.secured.herd.wait(name, DEADLINE).success());
        let others: Vec<String> =
            self.secured.herd.names().into_iter().filter(|it| it != name).collect();
        for (one, other) in [(&others[0], &others[1]), (&others[1], &others[0])] {
            assert!(self.is_linked(one, other), "{one} is not linked with {other}");
        }
        self.secured.herd.start(name);
        self.settle();
    }

    /// Gives every node in turn this section `peers`.
    fn roll(&mut self, peers: &str) {
        for name in self.secured.herd.names() {
            self.secured.configure(&name, peers);
            self.restart(&name);
        }
        self.report();
        self.settle();
    }

    /// Returns true if a node accepts a handshake without TLS.
    fn accepts_plain(&self, name: &str, from: &str) -> bool {
        // Without the proof that would follow, the established link stays.
        let mut peer = Peer::connect(self.secured.herd.address(name));
        peer.send(&[&hello(from, name, 1, true)]);
        let answer = peer.line();
        assert!(
            answer.starts_with(b"HERD ") || answer.starts_with(b"REFUSED it does not speak TLS")
        );
        answer.starts_with(b"HERD ")
    }

    fn is_linked(&self, name: &str, peer: &str) -> bool {
        let overview: serde_json::Value =
            serde_json::from_str(&self.secured.get(name, "/api/herd")).unwrap();
        let links = overview["links"].as_array().unwrap();
        links.iter().any(|link| link["peer"] == peer && link["up"] == true)
    }
}

/// The steps of docs/operations.md: trust both authorities, replace the certificates, trust the new
/// authority only. After every step, each node in turn is linked by new handshakes.
#[test]
fn the_authority_is_replaced_without_a_partition() {
    let mut rolling = Rolling::start(None);
    let directory = rolling.secured.directory.clone();
    let new = directory.join("new");
    mint(&new, &["A", "B", "C"]);
    let (ca, old) = (directory.join("ca.pem"), directory.join("old.pem"));
    fs::copy(&ca, &old).unwrap();
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let both = read(&old) + &read(&new.join("ca.pem"));
    let names = ["A", "B", "C"];

    fs::write(&ca, both).unwrap();
    for name in names {
        assert!(hup(&rolling.secured, name), "{name}");
    }
    for name in names {
        for kind in ["pem", "key"] {
            let file = format!("{name}.{kind}");
            fs::copy(new.join(&file), directory.join(&file)).unwrap();
        }
        assert!(hup(&rolling.secured, name), "{name}");
        rolling.restart(name);
    }
    fs::copy(new.join("ca.pem"), &ca).unwrap();
    for name in names {
        assert!(hup(&rolling.secured, name), "{name}");
        rolling.restart(name);
    }
    for name in names {
        assert_eq!(rolling.secured.problems(name), [""; 0]);
        let trusted = rolling.secured.presented(name, &ca, &directory.join("B.pem"));
        assert!(trusted.is_ok(), "{trusted:?}");
        let trusted = rolling.secured.presented(name, &old, &directory.join("B.pem"));
        assert!(trusted.is_err(), "{name} still presents its old certificate");
    }
}

/// The control: without the first step, the nodes reject each other's certificates.
#[test]
fn a_certificate_of_a_new_authority_alone_is_not_accepted() {
    let mut rolling = Rolling::start(None);
    let directory = rolling.secured.directory.clone();
    let new = directory.join("new");
    mint(&new, &["A"]);
    for file in ["A.pem", "A.key", "ca.pem"] {
        fs::copy(new.join(file), directory.join(file)).unwrap();
    }
    assert!(hup(&rolling.secured, "A"));
    rolling.secured.herd.kill("A");
    rolling.secured.herd.start("A");
    rolling.secured.herd.wait_for_log("A", &["WARNING", "cannot reach B"]);
    eventually("A gives the reason", DEADLINE, || {
        let problems = rolling.secured.problems("A").join("\n");
        problems.contains("the link to B is down: ").then_some(())
    });
    assert!(rolling.is_linked("B", "C"));
}

/// The steps of docs/operations.md from links without TLS to TLS, and back.
#[test]
fn a_herd_changes_to_tls_and_back_node_by_node() {
    let mut rolling = Rolling::start(Some(""));
    let directory = rolling.secured.directory.clone();
    let tls = peers(&directory);
    let mixed = tls.replace("tls: {", "tls: {accept_plain: true, ");
    let accepted = |rolling: &Rolling| {
        [("A", "B"), ("B", "C"), ("C", "A")].map(|(name, from)| rolling.accepts_plain(name, from))
    };
    assert_eq!(accepted(&rolling), [true; 3]);
    rolling.roll(&mixed);
    assert_eq!(accepted(&rolling), [true; 3]);
    rolling.roll(&tls);
    assert_eq!(accepted(&rolling), [false; 3]);
    for name in ["A", "B", "C"] {
        let ca = directory.join("ca.pem");
        let presented = rolling.secured.presented(name, &ca, &directory.join("B.pem"));
        assert!(presented.is_ok(), "{presented:?}");
        assert_eq!(rolling.secured.problems(name), [""; 0]);
        assert_eq!(rolling.secured.logged(name, "accept_plain").len(), 1);
    }
    rolling.roll(&mixed);
    rolling.roll("");
    assert_eq!(accepted(&rolling), [true; 3]);
}
