//! SIGHUP reloads certificates, keys and authorities.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::certificates::{Certificate, DAY, create, end_of};
use crate::common::{DEADLINE, assert_bytes, eventually};
use crate::{PAIR, Secured, certificate, mint};

/// A change to the files of a node.
type Damage<'a> = Box<dyn Fn() + 'a>;

/// Sends SIGHUP and waits until the node has read its files, with success or without.
pub fn hup(secured: &Secured, name: &str) -> bool {
    let count = |result: &str| {
        let sample = format!("proxy_herd_reloads_total{{result=\"{result}\"}}");
        secured.metric(name, &sample).unwrap()
    };
    let before = (count("done"), count("failed"));
    secured.herd.signal(name, "HUP");
    eventually("the files have been read", DEADLINE, || {
        let now = (count("done"), count("failed"));
        (now != before).then(|| {
            let changes = (now.0 - before.0, now.1 - before.1);
            assert!([(1.0, 0.0), (0.0, 1.0)].contains(&changes), "{changes:?}");
            changes.0 > 0.5
        })
    })
}

#[test]
fn renewed_certificates_come_into_use_without_closing_a_link() {
    let mut secured = Secured::new(&PAIR);
    secured.herd.start_all();
    secured.wait_until_linked(1);
    let (left, right) = (secured.directory.join("Left.pem"), secured.directory.join("Right.pem"));
    let ca = secured.directory.join("ca.pem");
    let old = certificate(&left);
    let links = |secured: &Secured, name| {
        ["links_established_total", "links_lost_total"].map(|it| secured.herd.counter(name, it))
    };
    let before = ["Left", "Right"].map(|name| links(&secured, name));
    assert_bytes(&secured.presented("Left", &ca, &right).unwrap(), &old);

    create(&[&Certificate::of_node(&secured.directory, "Left").valid(-3_600, 30 * DAY)]);
    assert_bytes(&secured.presented("Left", &ca, &right).unwrap(), &old);
    assert!(hup(&secured, "Left"));
    secured.herd.wait_for_log("Left", &["INFO - reloaded peers.tls"]);
    assert_bytes(&secured.presented("Left", &ca, &right).unwrap(), &certificate(&left));
    assert_eq!(secured.expiry("Left", &left), Some(end_of(&left) as f64));
    assert_eq!(secured.problems("Left"), [""; 0]);
    assert_eq!(["Left", "Right"].map(|name| links(&secured, name)), before);
}

/// Each file is bad in another way. The node keeps what it has, reports it, and recovers by the next
/// reload.
#[test]
fn bad_files_leave_the_previous_ones_in_use_and_are_reported() {
    let mut secured = Secured::new(&PAIR);
    secured.herd.start_all();
    secured.wait_until_linked(1);
    let directory = secured.directory.clone();
    let (left, key) = (directory.join("Left.pem"), directory.join("Left.key"));
    let (ca, right) = (directory.join("ca.pem"), directory.join("Right.pem"));
    let good = [&left, &key, &ca].map(|path| fs::read(path).unwrap());
    let trusted = directory.join("trusted.pem");
    fs::copy(&ca, &trusted).unwrap();
    let of_node = || Certificate::of_node(&directory, "Left");
    let copy = |from: &Path, to: &Path| assert!(fs::copy(from, to).is_ok());
    let half = |path: &Path| fs::write(path, &fs::read(path).unwrap()[..200]).unwrap();
    let others = directory.join("others");
    mint(&others, &["Left"]);
    let lost = secured.herd.counter("Left", "links_lost_total");
    let cases: Vec<(Damage<'_>, &str)> = vec![
        (Box::new(|| fs::remove_file(&left).unwrap()), "Left.pem: cannot be read"),
        (Box::new(|| fs::remove_file(&key).unwrap()), "Left.key: cannot be read"),
        (Box::new(|| half(&left)), "Left.pem: is damaged"),
        (Box::new(|| half(&key)), "Left.key: contains a private key that is incomplete"),
        (Box::new(|| half(&ca)), "ca.pem: is damaged"),
        (Box::new(|| copy(&directory.join("Right.key"), &key)), "does not belong to the key"),
        (Box::new(|| drop(of_node().valid(-9 * DAY, -DAY).create())), "Left.pem: expired on"),
        (Box::new(|| drop(of_node().with_usages("serverAuth").create())), "clientAuth"),
        (
            Box::new(|| drop(of_node().with_extensions("subjectAltName=DNS:x\n").create())),
            "is for x, not for Left",
        ),
        (Box::new(|| copy(&others.join("ca.pem"), &ca)), "was not issued by"),
        (
            Box::new(|| {
                fs::remove_file(&left).unwrap();
                let made = Command::new("mkfifo").arg(&left).status().unwrap();
                assert!(made.success());
            }),
            "is not a regular file",
        ),
    ];
    for (number, (damage, reason)) in cases.iter().enumerate() {
        damage();
        assert!(!hup(&secured, "Left"), "{reason}");
        let warnings = eventually("the log is written", DEADLINE, || {
            let lines = secured.logged("Left", "WARNING - cannot reload peers.tls: peers.tls.");
            (lines.len() > number).then_some(lines)
        });
        assert_eq!(warnings.len(), number + 1, "{warnings:?}");
        let warning = &warnings[number];
        assert!(warning.contains(reason), "{warning}");
        assert!(warning.ends_with("; the previous files remain in use"), "{warning}");
        let [problem] = secured.problems("Left").try_into().unwrap();
        assert!(warning.ends_with(&problem), "{problem}");
        assert!(secured.presented("Left", &trusted, &right).is_ok());
        assert_eq!(secured.expiry("Left", &ca), Some(end_of(&trusted) as f64));

        let _ = fs::remove_file(&left); // it may be a FIFO
        for (path, bytes) in [&left, &key, &ca].into_iter().zip(&good) {
            fs::write(path, bytes).unwrap();
        }
        assert!(hup(&secured, "Left"));
        assert_eq!(secured.problems("Left"), [""; 0]);
    }
    assert_eq!(secured.herd.counter("Left", "links_lost_total"), lost);
}

/// A node that has started with a certificate that its neighbors reject is repaired without a restart.
#[test]
fn a_reload_repairs_links_in_both_directions() {
    for name in ["Left", "Right"] {
        // Left dials and accepts; so does Right.
        let mut secured = Secured::new(&PAIR);
        let wrong = Certificate::of_node(&secured.directory, name);
        wrong.with_extensions("subjectAltName=DNS:Other\n").create();
        secured.herd.start_all();
        secured.herd.wait_for_log(name, &["WARNING", "is for Other, not for"]);
        assert_eq!(secured.herd.counter(name, "links_established_total"), 0);
        Certificate::of_node(&secured.directory, name).create();
        assert!(hup(&secured, name));
        secured.wait_until_linked(1);
        assert_eq!(secured.problems(name), [""; 0]);
    }
}

/// The log is reopened by the same signal, in any state of the files.
#[test]
fn a_reload_that_fails_still_reopens_the_log() {
    let mut secured = Secured::new(&PAIR);
    secured.herd.start("Left");
    let (log, moved) = (secured.herd.log_path("Left"), secured.herd.directory().join("moved"));
    fs::rename(&log, &moved).unwrap();
    fs::remove_file(secured.directory.join("Left.key")).unwrap();
    assert!(!hup(&secured, "Left"));
    secured.herd.wait_for_log("Left", &["cannot reload peers.tls"]);
    assert!(!fs::read_to_string(&moved).unwrap().contains("cannot reload"));
}
