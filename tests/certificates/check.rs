//! `--check`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::Herd;
use crate::common::certificates::{AUTHORITY, Certificate, DAY, create};
use crate::{PAIR, check, mint, peers};

/// A herd of two nodes with good certificates, and the directory of these.
fn pair() -> (Herd, PathBuf) {
    let herd = Herd::new(&PAIR, "");
    let directory = herd.directory().join("certificates");
    mint(&directory, &["Left", "Right"]);
    configure(&herd, &peers(&directory));
    (herd, directory)
}

fn configure(herd: &Herd, extra: &str) {
    let config = fs::read_to_string(herd.config()).unwrap();
    let config = config.split("peers:").next().unwrap();
    fs::write(herd.config(), format!("{config}{extra}\n")).unwrap();
}

/// Asserts that `--check` fails with one line that names the setting, the file and each of `parts`.
fn assert_rejected(herd: &Herd, setting: &str, file: &Path, parts: &[&str]) {
    let (code, _, error) = check(herd);
    assert_eq!((code, error.lines().count()), (Some(1), 1), "{error}");
    let beginning = format!("proxy-herd: {setting} {}: ", file.display());
    assert!(error.starts_with(&beginning), "{error}");
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
}

fn append(to: &Path, from: &Path) {
    let text = fs::read_to_string(to).unwrap() + &fs::read_to_string(from).unwrap();
    fs::write(to, text).unwrap();
}

#[test]
fn good_certificates_pass_whatever_the_form_of_the_files() {
    let (herd, directory) = pair();
    assert_eq!(check(&herd), (Some(0), Vec::new(), String::new()));
    // Line ends of DOS, comments, and a second authority.
    let others = directory.join("others");
    Certificate::authority(&others, "ca").create();
    append(&directory.join("ca.pem"), &others.join("ca.pem"));
    for file in ["Left.pem", "Left.key", "ca.pem"] {
        let text = fs::read_to_string(directory.join(file)).unwrap();
        let text = format!("# {file}\n{text}").replace('\n', "\r\n");
        fs::write(directory.join(file), text).unwrap();
    }
    // No extended key usage permits all of them (RFC 5280, section 4.2.1.12).
    let plain = Certificate::of_node(&directory, "Right");
    plain.with_extensions("subjectAltName=DNS:other,DNS:Right\n").create();
    assert_eq!(check(&herd), (Some(0), Vec::new(), String::new()));
}

#[test]
fn an_unusable_certificate_is_rejected_with_the_reason_and_the_fix() {
    let (herd, directory) = pair();
    let left = |certificate: Certificate| (certificate, "Left.pem");
    let of_node = || Certificate::of_node(&directory, "Left");
    let others = directory.join("others");
    Certificate::authority(&others, "ca").create();
    for ((certificate, file), parts) in [
        (left(of_node().valid(-9 * DAY, -DAY)), &["expired on 20", " UTC; renew it"][..]),
        (left(of_node().valid(DAY, 9 * DAY)), &["is not valid before 20", "correct the clock"]),
        (
            left(of_node().with_extensions("subjectAltName=DNS:Leif,IP:127.0.0.1\n")),
            &["is for Leif, 127.0.0.1, not for Left; create one", "name DNS:Left"],
        ),
        (
            left(of_node().with_extensions("basicConstraints=CA:FALSE\n")),
            &["has no subject alternative name; create one", "DNS:Left"],
        ),
        (left(of_node().with_usages("serverAuth")), &["lacks", "clientAuth; create one with both"]),
        (left(of_node().with_usages("clientAuth")), &["lacks", "serverAuth; create one with both"]),
        (left(of_node().with_usages("codeSigning")), &["lacks the extended key usage serverAuth"]),
        (
            left(of_node().issued_by(&others, "ca")),
            &["was not issued by an authority in", "ca.pem"],
        ),
        (
            left(of_node().with_extensions(&format!("{AUTHORITY}subjectAltName=DNS:Left\n"))),
            &["certificate of an authority"],
        ),
    ] {
        certificate.create();
        assert_rejected(&herd, "peers.tls.certificate", &directory.join(file), parts);
    }
    mint(&directory, &["Left", "Right"]);
    fs::copy(directory.join("Right.key"), directory.join("Left.key")).unwrap();
    let file = directory.join("Left.pem");
    assert_rejected(&herd, "peers.tls.certificate", &file, &["does not belong to the key"]);
}

#[test]
fn a_damaged_file_is_rejected() {
    let (herd, directory) = pair();
    let (certificate, ca) = (directory.join("Left.pem"), directory.join("ca.pem"));
    let good = fs::read_to_string(&certificate).unwrap();
    let body = good.lines().nth(1).unwrap();
    for damaged in [
        good[..good.len() / 2].to_owned(),
        good.replace(body, &body.replace('M', "%")),
        good.replace(body, &"A".repeat(body.len())),
        format!("{good}{}", good.replace(body, &"A".repeat(body.len()))),
    ] {
        fs::write(&certificate, damaged).unwrap();
        assert_rejected(&herd, "peers.tls.certificate", &certificate, &["is damaged"]);
    }
    fs::write(&certificate, good).unwrap();
    fs::write(&ca, vec![b'x'; (1 << 20) + 1]).unwrap();
    assert_rejected(&herd, "peers.tls.ca", &ca, &["is larger than 1048576 bytes"]);
    fs::remove_file(&ca).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &ca).unwrap();
    assert_rejected(&herd, "peers.tls.ca", &ca, &["is not a regular file; name a PEM file"]);
}

/// The chain counts as a whole: it must lead to an authority, and all of it must be valid.
#[test]
fn intermediate_certificates_are_verified_too() {
    let (herd, directory) = pair();
    let between = Certificate::authority(&directory, "between").issued_by(&directory, "ca");
    between.create();
    let leaf = Certificate::of_node(&directory, "Left").issued_by(&directory, "between").create();
    assert_rejected(&herd, "peers.tls.certificate", &leaf, &["append intermediate certificates"]);
    append(&leaf, &directory.join("between.pem"));
    assert_eq!(check(&herd), (Some(0), Vec::new(), String::new()));

    for (dates, expected) in [
        ((-3_600, 5 * DAY), Ok(": certificate 2 of 2 expires on 20")),
        ((-9 * DAY, -DAY), Err("certificate 2 of 2 expired on 20")),
    ] {
        let between = Certificate::authority(&directory, "between").issued_by(&directory, "ca");
        let leaf = Certificate::of_node(&directory, "Left").issued_by(&directory, "between");
        let (begin, end) = dates;
        create(&[&between.valid(begin, end), &leaf]);
        let leaf = directory.join("Left.pem");
        append(&leaf, &directory.join("between.pem"));
        match expected {
            Err(part) => assert_rejected(&herd, "peers.tls.certificate", &leaf, &[part]),
            Ok(part) => {
                let (code, warnings, _) = check(&herd);
                assert_eq!((code, warnings.len()), (Some(0), 1), "{warnings:?}");
                assert!(warnings[0].contains(part) && warnings[0].contains("renew it"));
            }
        }
    }
}

#[test]
fn certificates_that_expire_within_14_days_cause_a_warning() {
    let (herd, directory) = pair();
    let of_node = |end| Certificate::of_node(&directory, "Left").valid(-3_600, end);
    for (end, expected) in [
        (14 * DAY + 600, None),
        (14 * DAY - 600, Some(", in 13 days; renew it")),
        (47 * 3_600 + 600, Some(", in 47 hours; renew it")),
        (1_230, Some(", in 20 minutes; renew it")),
    ] {
        of_node(end).create();
        let (code, warnings, error) = check(&herd);
        assert_eq!((code, warnings.len()), (Some(0), usize::from(expected.is_some())), "{error}");
        let path = directory.join("Left.pem");
        let start = format!("peers.tls.certificate {}: expires on 20", path.display());
        for (warning, expected) in warnings.iter().zip(expected) {
            assert!(warning.starts_with(&start) && warning.ends_with(expected), "{warning}");
        }
    }
}

/// An authority that issued nothing in use causes a warning only; so does one that expires soon.
#[test]
fn an_authority_that_has_expired_is_rejected_if_it_is_in_use() {
    let (herd, directory) = pair();
    let ca = directory.join("ca.pem");
    let expired = directory.join("expired");
    Certificate::authority(&expired, "ca").valid(-9 * DAY, -DAY).create();
    append(&ca, &expired.join("ca.pem"));
    let (code, warnings, error) = check(&herd);
    assert_eq!((code, warnings.len()), (Some(0), 1), "{warnings:?} {error}");
    let start = format!("peers.tls.ca {}: certificate 2 of 2 expired on 20", ca.display());
    assert!(warnings[0].starts_with(&start), "{warnings:?}");

    Certificate::of_node(&directory, "Left").issued_by(&expired, "ca").create();
    assert_rejected(&herd, "peers.tls.ca", &ca, &["expired on 20", "it issued ", "Left.pem"]);
}

/// The key may be readable by the node only, or exist only while it runs.
#[test]
fn a_certificate_is_verified_without_its_key() {
    let (herd, directory) = pair();
    let left = Certificate::of_node(&directory, "Left").valid(-9 * DAY, -DAY).create();
    fs::remove_file(directory.join("Left.key")).unwrap();
    assert_rejected(&herd, "peers.tls.certificate", &left, &["expired on "]);
    fs::remove_file(&left).unwrap();
    let (code, warnings, _) = check(&herd);
    assert_eq!((code, warnings.len()), (Some(0), 1));
    assert!(warnings[0].starts_with("Left cannot start on this machine: "), "{warnings:?}");
}

/// With one path for all nodes, each machine has a file of its own there.
#[test]
fn a_path_for_all_nodes_must_name_one_of_them() {
    let (herd, directory) = pair();
    configure(&herd, &peers(&directory).replace("{name}", "Left"));
    let (code, warnings, error) = check(&herd);
    assert_eq!((code, warnings.len()), (Some(0), 1), "{error}");
    assert!(warnings[0].contains("Left.pem: is for Left, not for Right"), "{warnings:?}");
    let other = Certificate::of_node(&directory, "Left").with_extensions("subjectAltName=DNS:x\n");
    let other = other.create();
    assert_rejected(&herd, "peers.tls.certificate", &other, &["is for x, not for Left"]);
}

#[test]
fn the_authorities_of_a_places_provider_are_covered() {
    let herd = Herd::new(&PAIR, "places: {provider: overpass, ca_file: ca.pem}");
    for (end, expected) in
        [(30 * DAY, None), (5 * DAY, Some("expires on 20")), (-DAY, Some("expired on 20"))]
    {
        Certificate::authority(herd.directory(), "ca").valid(-9 * DAY, end).create();
        let (code, warnings, error) = check(&herd);
        assert_eq!((code, warnings.len()), (Some(0), usize::from(expected.is_some())), "{error}");
        for (warning, expected) in warnings.iter().zip(expected) {
            let start = format!("places.ca_file ca.pem: {expected}");
            assert!(warning.starts_with(&start), "{warning}");
        }
    }
}
