//! A running node reports the expiry of the certificates that it uses.

use crate::common::certificates::{Certificate, DAY, end_of};
use crate::common::{DEADLINE, eventually};
use crate::{PAIR, Secured};

#[test]
fn the_expiry_of_every_file_is_a_metric() {
    let mut secured = Secured::new(&PAIR);
    let (left, ca) = (secured.directory.join("Left.pem"), secured.directory.join("ca.pem"));
    secured.herd.start("Left");
    for file in [&left, &ca] {
        assert_eq!(secured.expiry("Left", file), Some(end_of(file) as f64));
    }
    assert_eq!(secured.expiry("Left", &secured.directory.join("Right.pem")), None);
    assert_eq!(secured.logged("Left", "expire"), [""; 0]);
}

/// The warning comes when 14 days remain, and again when the certificate has expired: the node compares
/// the dates that it has read with the clock.
#[test]
fn a_node_warns_once_before_and_once_after_the_expiry() {
    let mut secured = Secured::new(&PAIR);
    let left = Certificate::of_node(&secured.directory, "Left").valid(-3_600, 20).create();
    secured.herd.start_all();
    secured.wait_until_linked(1);
    let name = left.display();
    let soon = format!("WARNING - peers.tls.certificate {name}: expires on 20");
    secured.herd.wait_for_log("Left", &[&soon, " seconds; renew it"]);
    let of = |secured: &Secured, when: &str| {
        let problems = secured.problems("Left");
        let problems = problems.iter().filter(|it| it.contains(&format!("{name}: {when} on 20")));
        problems.count()
    };
    assert_eq!(of(&secured, "expires"), 1);
    assert_eq!(of(&secured, "expired"), 0);
    let expired = format!("WARNING - peers.tls.certificate {name}: expired on 20");
    eventually("the certificate has expired", DEADLINE, || {
        (!secured.logged("Left", &expired).is_empty()).then_some(())
    });
    assert_eq!(of(&secured, "expires"), 0);
    assert_eq!(of(&secured, "expired"), 1);
    assert_eq!(secured.expiry("Left", &left), Some(end_of(&left) as f64));
    let status = secured.herd.run(&["--status", "Left"]);
    assert_eq!(status.status.code(), Some(1));
    let problems = String::from_utf8(status.stderr).unwrap();
    assert!(problems.contains("Left: peers.tls.certificate ") && problems.contains("expired on"));
    for part in [&soon, &expired] {
        assert_eq!(secured.logged("Left", part).len(), 1);
    }
    assert_eq!(secured.logged("Right", "expires on"), [""; 0]);
    secured.wait_until_linked(1); // an established link stays up
}

/// Nothing else wakes this node.
#[test]
fn an_idle_node_warns_as_well() {
    let mut secured = Secured::new(&[("Solo", &[])]);
    Certificate::of_node(&secured.directory, "Solo").valid(-3_600, 15).create();
    secured.herd.start("Solo");
    secured.herd.wait_for_log("Solo", &["WARNING", "expires on"]);
    eventually("the certificate has expired", DEADLINE, || {
        (!secured.logged("Solo", ": expired on").is_empty()).then_some(())
    });
}

/// A node whose neighbors reject its certificate serves its clients nevertheless.
#[test]
fn a_node_starts_with_an_unusable_certificate_and_reports_it() {
    for (certificate, reason) in [
        (|it: Certificate| it.valid(-9 * DAY, -DAY), "expired on 20"),
        (|it: Certificate| it.with_extensions("subjectAltName=DNS:Other\n"), "is for Other, not"),
        (|it: Certificate| it.with_usages("serverAuth"), "lacks the extended key usage clientAuth"),
    ] as [(fn(Certificate) -> Certificate, &str); 3]
    {
        let mut secured = Secured::new(&PAIR);
        certificate(Certificate::of_node(&secured.directory, "Left")).create();
        secured.herd.start("Left");
        secured.herd.client("Left").iamat("kiwi", "+1+1", "1");
        secured.herd.wait_for_log("Left", &["WARNING - peers.tls.certificate ", reason]);
        eventually("the problem is listed", DEADLINE, || {
            secured.problems("Left").iter().any(|it| it.contains(reason)).then_some(())
        });
        assert_eq!(secured.logged("Left", reason).len(), 1);
    }
}
