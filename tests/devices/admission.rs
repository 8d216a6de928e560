//! Tokens: reload, secrecy, and files with errors.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::common::certificates::{DAY, end_of};
use crate::common::{DEADLINE, assert_bytes, eventually, show};
use crate::fleet::{Fleet, TLS, TOKENS, VAN1, now};
use crate::phone::{form, get, post, presented};

const NEW: &str = "canary-0123456789-new";

#[test]
fn sighup_adds_and_revokes_tokens_on_open_connections() {
    let fleet = Fleet::solo(TOKENS, "");
    let (mut phone, at) = (fleet.phone("Solo"), now());
    let [old, new] = [VAN1, NEW].map(|token| format!("/t/{token}"));
    assert_eq!(phone.ask(&form(&old, "x", "1.5", "2.5", at - 9)).status, 200);
    assert_eq!(fleet.phone("Solo").ask(&form(&new, "x", "1.5", "2.5", at - 8)).status, 401);
    fs::write(fleet.tokens(), format!("{NEW} van9\n")).unwrap();
    fleet.hup("Solo", 1, 0);
    fleet.herd.wait_for_log("Solo", &["INFO - reloaded devices.tokens_file"]);
    assert_eq!(fleet.phone("Solo").ask(&form(&new, "x", "1.5", "2.5", at)).status, 200);
    assert_eq!(fleet.held("Solo", "van9"), Some(format!("+1.5+2.5 {at}")));
    assert_eq!(phone.ask(&form(&old, "x", "3.5", "2.5", at)).status, 401);
    assert_eq!(fleet.held("Solo", "van1"), Some(format!("+1.5+2.5 {}", at - 9)));
}

#[test]
fn a_bad_file_leaves_the_previous_tokens_in_use_and_is_reported() {
    let fleet = Fleet::solo(TOKENS, "");
    let good = fs::read(fleet.tokens()).unwrap();
    for (bad, reason) in [
        (Some("# ours\ncanary-without-a-client\n"), "tokens:2: "),
        (Some("canary-0 van1\n"), "tokens:1: "),
        (None, "tokens: cannot be read: "),
    ] {
        match bad {
            Some(text) => fs::write(fleet.tokens(), text).unwrap(),
            None => fs::remove_file(fleet.tokens()).unwrap(),
        }
        fleet.hup("Solo", 0, 1);
        let [problem] = fleet.problems("Solo").try_into().unwrap();
        assert!(problem.starts_with("cannot reload devices.tokens_file: "), "{problem}");
        assert!(problem.contains(reason) && !problem.contains("canary"), "{problem}");
        let request = form(&format!("/t/{VAN1}"), "x", "1.5", "2.5", now());
        assert_eq!(fleet.phone("Solo").ask(&request).status, 200);
        fs::write(fleet.tokens(), &good).unwrap();
        fleet.hup("Solo", 1, 0);
        assert_eq!(fleet.problems("Solo"), [""; 0]);
    }
}

/// Certificate and key are replaced together, or not at all.
#[test]
fn sighup_replaces_the_certificate() {
    let fleet = Fleet::solo(TLS, "");
    let request = || form(&format!("/t/{VAN1}"), "x", "1.5", "2.5", now());
    let mut kept = fleet.phone_tls("Solo");
    assert_eq!(kept.ask(&request()).status, 200);
    let presented = || presented(fleet.address("Solo"), &fleet.ca());
    let old = presented();
    fleet.certificate().valid(-3_600, 30 * 86_400).create();
    assert_bytes(&presented(), &old);
    fleet.hup("Solo", 2, 0);
    let new = presented();
    assert!(new != old, "the certificate is not replaced");
    assert_eq!(fleet.phone_tls("Solo").ask(&request()).status, 200);
    let path = fleet.herd.directory().join("tls/localhost.pem");
    let metrics = fleet.get("Solo", "/metrics");
    let expiry = format!("timestamp_seconds{{file=\"tls/localhost.pem\"}} {}\n", end_of(&path));
    assert!(metrics.contains(&expiry), "{metrics}");
    for (bad, reason) in [
        (fleet.certificate().valid(-9 * 86_400, -86_400), "expired on"),
        (fleet.certificate().with_usages("clientAuth"), "lacks the extended key usage serverAuth"),
    ] {
        bad.create();
        fleet.hup("Solo", 1, 1);
        let [problem] = fleet.problems("Solo").try_into().unwrap();
        assert!(problem.contains(reason), "{problem}");
        assert_bytes(&presented(), &new);
    }
    assert_eq!(kept.ask(&request()).status, 200);
}

#[test]
fn a_node_does_not_start_with_a_bad_file_and_check_says_why() {
    let fleet = Fleet::new(&[("Solo", &[])], TOKENS, "");
    for (text, reason) in [
        ("canary-canary-canary\n", ":1: "),
        ("# x\n\ncanary van1\n", ":3: the token has fewer than 16 characters"),
    ] {
        fs::write(fleet.tokens(), text).unwrap();
        for arguments in [&["--check"][..], &["Solo"]] {
            let output = fleet.herd.run(arguments);
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{stderr}");
            let place = format!("devices.tokens_file tokens{reason}");
            assert!(stderr.contains(&place) && !stderr.contains("canary "), "{stderr}");
            assert!(!stderr.contains("canary-canary"), "{stderr}");
        }
    }
}

#[test]
fn check_warns_of_tokens_that_others_can_read() {
    let fleet = Fleet::new(&[("Solo", &[])], TOKENS, "");
    let check = |mode: u32| {
        fs::set_permissions(fleet.tokens(), fs::Permissions::from_mode(mode)).unwrap();
        let output = fleet.herd.run(&["--check"]);
        assert!(output.status.success());
        let summary = String::from_utf8(output.stdout).unwrap();
        assert!(summary.contains("Devices: Solo at http://127.0.0.1:"), "{summary}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(check(0o600), "");
    for mode in [0o640, 0o604] {
        let warning = "tokens can be read by other users of this machine; restrict it with";
        assert!(check(mode).contains(warning));
    }
    fs::write(fleet.tokens(), "# none\n").unwrap();
    assert!(check(0o600).contains("contains no token, so no device is admitted"));
}

/// A token, right or wrong, in every place and on every path through the node, is in no output.
#[test]
fn no_token_is_in_a_log_a_metric_or_a_response() {
    let extra = "limits: {line_timeout_s: 1}\nstorage: {directory: data}";
    let mut fleet = Fleet::new(&[("Solo", &[])], TOKENS, extra);
    let config = fs::read_to_string(fleet.herd.config()).unwrap();
    fs::write(fleet.herd.config(), config.replace("level: INFO", "level: DEBUG")).unwrap();
    fleet.start("Solo");
    let mut responses = Vec::new();
    let wrong = "canary-0123456789-wrong";
    let body = |at: i64| format!("id=van1&lat=1.5&lon=2.5&timestamp={at}");
    for token in [VAN1, wrong] {
        let at = now();
        let bearer = format!("Authorization: Bearer {token}");
        let basic = format!("Authorization: Basic {token}:");
        for request in [
            post(&format!("/t/{token}"), &[], &body(at)),
            post(&format!("/?token={token}"), &[], &body(at)),
            post("/", &[&bearer], &body(at)),
            post("/", &[&basic], &body(at)),
            get(&format!("/t/{token}?{}", body(at)), &[]),
            format!("POST /t/{token} HTTP/1.1\r\nContent-Length: x\r\n\r\n").into_bytes(),
            format!("POST /t/{token} HTTP/3.7\r\n\r\n").into_bytes(),
            format!("{token} / HTTP/1.1\r\n\r\n").into_bytes(),
            format!("POST /t/{token} HTTP/1.1\r\n{token}\r\n\r\n").into_bytes(),
            format!("POST /t/{token} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{token}\r\n")
                .into_bytes(),
        ] {
            let mut phone = fleet.phone("Solo");
            phone.send(&request);
            let response = phone.response();
            responses.push(format!("{response:?}"));
        }
        // It times out, unless it is refused before.
        let mut partial = fleet.phone("Solo");
        partial
            .send(format!("POST /t/{token} HTTP/1.1\r\nContent-Length: 9\r\n\r\nid=").as_bytes());
        responses.push(show(&partial.rest()));
        let mut lines = fleet.herd.client("Solo");
        lines.send(b"hi\n");
        lines.line();
    }
    fleet.hup("Solo", 1, 0);
    responses.push(fleet.get("Solo", "/metrics"));
    responses.push(fleet.get("Solo", "/api/herd"));
    fleet.herd.signal("Solo", "USR1");
    fleet.herd.wait_for_log("Solo", &["counters: "]);
    fleet.herd.signal("Solo", "TERM");
    assert!(fleet.herd.wait("Solo", DEADLINE).success());
    responses.push(fleet.herd.stderr("Solo"));
    for response in &responses {
        assert!(!response.contains("canary"), "{response}");
    }
    let mut folders = vec![fleet.herd.directory().to_owned()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path != fleet.tokens() {
                files += 1;
                let found = memchr::memmem::find(&fs::read(&path).unwrap(), b"canary");
                assert_eq!(found, None, "{}", path.display());
            }
        }
    }
    assert!(files >= 4, "the log, standard output and error, and the storage");
}

/// A page of a browser cannot report, even if it knows a token.
#[test]
fn a_web_page_changes_nothing() {
    let fleet = Fleet::solo("", "");
    for field in ["Origin: https://evil.example", "Sec-Fetch-Site: cross-site"] {
        let request = post("/", &[field], &format!("id=van1&lat=1.5&lon=2.5&timestamp={}", now()));
        let response = fleet.phone("Solo").ask(&request);
        assert_eq!(response.status, 403, "{field}");
        assert!(!response.head.contains("access-control"), "{}", response.head);
    }
    assert_eq!(fleet.held("Solo", "van1"), None);
}

/// After a minute, the address may try again; here, only that another address is not concerned.
#[test]
fn an_address_with_ten_failures_is_blocked_and_others_are_not() {
    let fleet = Fleet::solo(TOKENS, "");
    let mut phone = fleet.phone("Solo");
    let request = |token: &str| form(&format!("/t/{token}"), "x", "1.5", "2.5", now());
    for _ in 0..10 {
        assert_eq!(fleet.phone("Solo").ask(&request("canary-0123456789-wrong")).status, 401);
    }
    assert_eq!(fleet.phone("Solo").ask(&request("canary-0123456789-wrong")).status, 429);
    assert_eq!(phone.ask(&request(VAN1)).status, 429);
    assert_eq!(fleet.held("Solo", "van1"), None);
    let other = "127.0.0.2".parse().unwrap();
    let mut other = crate::common::Client::connect_from(other, fleet.address("Solo"));
    other.send(&request(VAN1));
    assert!(other.until(b"\r\n").starts_with(b"HTTP/1.1 200 "));
    eventually("van1 is known", DEADLINE, || fleet.held("Solo", "van1"));
}

/// A node with such a certificate starts nevertheless, as far as it can use it, and logs the reason.
#[test]
fn check_rejects_a_certificate_that_devices_will_reject() {
    let mut fleet = Fleet::new(&[("Solo", &[])], TLS, "");
    let check = || {
        let output = fleet.herd.run(&["--check"]);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let key = fleet.herd.directory().join("tls/localhost.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(fleet.tokens(), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(check(), (Some(0), String::new()));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o604)).unwrap();
    let (code, warning) = check();
    assert!(warning.contains("devices.tls.key tls/localhost.key can be read by every user"));
    assert_eq!(code, Some(0));
    fleet.certificate().valid(-3_600, 5 * DAY).create();
    let (code, warning) = check();
    assert!(warning.contains("devices.tls.certificate tls/localhost.pem: expires on"), "{warning}");
    assert_eq!(code, Some(0));
    let any = fleet.certificate().with_usages("anyExtendedKeyUsage");
    any.create();
    assert_eq!(check().0, Some(0));
    for (bad, reason) in [
        (fleet.certificate().with_usages("clientAuth"), "lacks the extended key usage serverAuth"),
        (fleet.certificate().valid(DAY, 2 * DAY), "is not valid before"),
        (fleet.certificate().valid(-9 * DAY, -DAY), "expired on"),
    ] {
        bad.create();
        let (code, error) = check();
        assert_eq!(code, Some(1), "{error}");
        let start = format!("proxy-herd: devices.tls.certificate tls/localhost.pem: {reason}");
        assert!(error.contains(&start), "{error}");
    }
    fs::copy(fleet.herd.directory().join("tls/ca.key"), &key).unwrap();
    assert!(check().1.contains("does not belong to the key tls/localhost.key"));
    fleet.certificate().valid(-9 * DAY, -DAY).create();
    fleet.start("Solo");
    fleet.herd.wait_for_log("Solo", &["WARNING - devices.tls.certificate", "expired on"]);
}
