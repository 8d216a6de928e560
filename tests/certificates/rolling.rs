//! Changes of the whole herd, node by node: links stay up, and no record is lost.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::common::{DEADLINE, eventually};
use crate::reload::hup;
use crate::{Secured, mint};

const TRIANGLE: [(&str, &[&str]); 3] = [("A", &["B", "C"]), ("B", &["C"]), ("C", &[])];

/// A herd whose clients report to every node before every step.
struct Rolling {
    secured: Secured,
    /// The AT line of each client.
    records: BTreeMap<String, Vec<u8>>,
}

impl Rolling {
    fn start() -> Self {
        let mut secured = Secured::new(&TRIANGLE);
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
    let mut rolling = Rolling::start();
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
    let mut rolling = Rolling::start();
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
