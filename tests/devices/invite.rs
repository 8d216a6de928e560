//! `--invite`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::fleet::{Fleet, TLS, TOKENS, now};
use crate::phone::form;

/// The output of `--invite` with these arguments.
fn invite(fleet: &Fleet, arguments: &[&str]) -> String {
    let output = fleet.herd.run(&[&["--invite"], arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty());
    String::from_utf8(output.stdout).unwrap()
}

/// The target of the URL in the output of `--invite`.
fn target_of<'o>(output: &'o str, origin: &str) -> &'o str {
    let url = output.lines().find_map(|line| line.strip_prefix("URL: ")).unwrap();
    url.strip_prefix(origin).unwrap_or_else(|| panic!("{url} is not at {origin}"))
}

#[test]
fn an_invited_device_is_admitted_after_sighup() {
    let fleet = Fleet::solo(TLS, "");
    let output = invite(&fleet, &["van7"]);
    let origin = format!("https://{}", fleet.address("Solo"));
    let target = target_of(&output, &origin);
    assert!(target.starts_with("/t/") && target.len() == 3 + 24, "{target}");
    let at = now();
    assert_eq!(fleet.phone_tls("Solo").ask(&form(target, "x", "1.5", "2.5", at)).status, 401);
    fleet.hup("Solo", 2, 0);
    assert_eq!(fleet.phone_tls("Solo").ask(&form(target, "x", "1.5", "2.5", at)).status, 200);
    assert_eq!(fleet.held("Solo", "van7"), Some(format!("+1.5+2.5 {at}")));
    for expected in
        ["█", "Traccar Client", "OwnTracks", "Overland", "GPSLogger", "OsmAnd", "SIGHUP"]
    {
        assert!(output.contains(expected), "{output}");
    }
    assert!(!output.contains('\x1b'), "colors are for terminals");
}

/// A code that a phone scans is of no use if it contains the loopback address.
#[test]
fn an_invitation_that_phones_cannot_reach_says_so() {
    for (listen, expected) in [
        ("", "For phones, set devices.listen"),
        ("listen: 0.0.0.0, ", "For phones, use the name or address of this machine"),
        ("listen: 192.0.2.7, ", ""),
    ] {
        let fleet = Fleet::new(&[("Solo", &[])], &format!("{listen}{TOKENS}"), "");
        let output = invite(&fleet, &["van7"]);
        assert!(output.contains(expected), "{output}");
        assert_eq!(output.contains("Only programs on this machine"), !expected.is_empty());
    }
}

#[test]
fn the_file_is_created_for_its_owner_and_tokens_are_added() {
    let fleet = Fleet::new(&[("Left", &["Right"]), ("Right", &[])], TOKENS, "");
    fs::remove_file(fleet.tokens()).unwrap();
    let first = invite(&fleet, &["van7", "Right"]);
    let first = target_of(&first, &format!("http://{}", fleet.address("Right"))).to_owned();
    assert_eq!(fs::metadata(fleet.tokens()).unwrap().permissions().mode() & 0o777, 0o600);
    let second = invite(&fleet, &["van7"]);
    assert!(second.contains("An earlier token remains valid for van7"), "{second}");
    let second = target_of(&second, &format!("http://{}", fleet.address("Left"))).to_owned();
    let third = invite(&fleet, &["fleet/*"]);
    assert!(third.contains("van1 becomes the client fleet/van1"), "{third}");
    let lines = fs::read_to_string(fleet.tokens()).unwrap();
    let clients: Vec<&str> = lines.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    assert_eq!(clients, ["van7", "van7", "fleet/*"]);
    for (line, target) in lines.lines().zip([first, second]) {
        assert_eq!(format!("/t/{}", line.split_once(' ').unwrap().0), target);
    }
    assert!(fleet.herd.run(&["--check"]).status.success());
}

#[test]
fn an_invitation_that_is_not_possible_is_explained() {
    let fleet = Fleet::new(&[("Solo", &[])], TOKENS, "");
    let before = fs::read(fleet.tokens()).unwrap();
    for (arguments, code, expected) in [
        (&["--invite"][..], 2, "Argument to option 'invite' missing"),
        (&["--invite", ""], 2, "the name of a client or its prefix is one field"),
        (&["--invite", "a b"], 2, "without white space"),
        (&["--invite", "van1", "Sollo"], 2, "there is no node `Sollo`; did you mean `Solo`?"),
        (&["--invite", "van1", "Solo", "Solo"], 2, "more than one node name"),
    ] {
        let output = fleet.herd.run(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(expected) && output.stdout.is_empty(), "{stderr}");
    }
    assert_eq!(fs::read(fleet.tokens()).unwrap(), before);
    for (devices, expected) in [
        ("", "devices.tokens_file is not set, so devices need no token"),
        ("tokens_file: absent/tokens", "tokens: cannot be written: No such file or directory"),
    ] {
        let fleet = Fleet::new(&[("Solo", &[])], devices, "");
        let output = fleet.herd.run(&["--invite", "van1"]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(expected) && stderr.lines().count() == 1, "{stderr}");
    }
}
