use super::*;
use crate::testing;

const LOOPBACK: Transport = Transport { loopback: true, certified: None };

fn identity(me: u16, secret: Option<&[u8]>) -> Identity {
    let neighbors: &[u16] = if me == 1 { &[0, 2] } else { &[1] };
    Identity {
        secret: secret.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret)),
        ..testing::identity(&["A", "B", "C"], me, neighbors)
    }
}

/// Runs a handshake from `a` to `b`. Returns the outcome of both and the bytes sent by `a`.
fn run(
    a: &Identity,
    b: &Identity,
    nonces: [u8; 2],
    transport: &Transport,
) -> (Progress, Progress, Vec<u8>) {
    let (mut wire, mut back) = (Vec::new(), Vec::new());
    let mut dialer = Handshake::dial(a, b.me, &[nonces[0]; 16], transport.clone(), &mut wire);
    let mut log = wire.clone();
    let accepted =
        Handshake::accept(b, wire.trim_ascii_end(), &[nonces[1]; 16], transport.clone(), &mut back);
    let Accepted::Peer(mut listener, mut at_b) = accepted else { panic!("taken for a client") };
    let mut at_a = Progress::Waiting;
    loop {
        let to_a = std::mem::take(&mut back);
        if to_a.is_empty() || at_a != Progress::Waiting {
            return (at_a, at_b, log);
        }
        let mut to_b = Vec::new();
        at_a = dialer.handle_line(a, to_a.trim_ascii_end(), &mut to_b);
        log.extend_from_slice(&to_b);
        if !to_b.is_empty() && at_b == Progress::Waiting {
            at_b = listener.handle_line(b, to_b.trim_ascii_end(), &mut back);
        }
    }
}

fn refused(progress: &Progress, why: &str) {
    let Progress::Refused(reason) = progress else { panic!("{progress:?}, not refused for {why}") };
    assert!(reason.contains(why), "{reason}");
}

#[test]
fn both_sides_link_with_and_without_a_secret() {
    for secret in [None, Some(&b"s3cret"[..])] {
        let (at_a, at_b, wire) = run(&identity(0, secret), &identity(1, secret), [1, 2], &LOOPBACK);
        assert_eq!(
            at_a,
            Progress::Established { peer: NodeId(1), boot: BootId(101), link_port: 0 }
        );
        assert_eq!(
            at_b,
            Progress::Established { peer: NodeId(0), boot: BootId(100), link_port: 0 }
        );
        assert!(!wire.windows(6).any(|w| w == b"s3cret"));
    }
}

#[test]
fn a_different_secret_is_refused() {
    let (at_a, at_b, _) =
        run(&identity(0, Some(b"one")), &identity(1, Some(b"two")), [1, 2], &LOOPBACK);
    refused(&at_b, "different secret");
    assert_eq!(at_a, Progress::Waiting, "the dialer receives no proof");
}

#[test]
fn both_sides_detect_a_missing_secret_and_different_settings() {
    let (at_a, at_b, _) = run(&identity(0, None), &identity(1, Some(b"x")), [1, 2], &LOOPBACK);
    refused(&at_a, "has a secret");
    refused(&at_b, "has a secret");
    let mut other = identity(1, None);
    other.rules.max_clients = 99;
    let (at_a, at_b, _) = run(&identity(0, None), &other, [1, 2], &LOOPBACK);
    refused(&at_a, "max_clients is 99, here it is 1000000");
    refused(&at_b, "max_clients is 1000000, here it is 99");
}

/// A node that was restarted after the others had taken over what it announces.
#[test]
fn announced_settings_link_with_nodes_that_have_taken_them_over() {
    let (mut late, mut early) = (identity(0, Some(b"x")), identity(1, Some(b"x")));
    early.rules.max_clients = 99;
    late.next = Some(early.rules);
    for (a, b) in [(&late, &early), (&early, &late)] {
        let (at_a, at_b, _) = run(a, b, [1, 2], &LOOPBACK);
        for progress in [at_a, at_b] {
            assert!(matches!(progress, Progress::Established { .. }), "{progress:?}");
        }
    }
    early.next = Some(late.rules);
    let (at_a, at_b, _) = run(&late, &early, [1, 2], &LOOPBACK);
    refused(&at_a, "announces the settings of the other");
    refused(&at_b, "announces the settings of the other");
    late.next.as_mut().unwrap().client_ttl = 5;
    early.next = None;
    let (at_a, at_b, _) = run(&late, &early, [1, 2], &LOOPBACK);
    refused(&at_a, "max_clients is 99, here it is 1000000");
    refused(&at_b, "max_clients is 1000000, here it is 99");
}

#[test]
fn rules_and_the_link_port_survive_the_line() {
    let mut a = identity(0, None);
    a.link_port = 0xbeef;
    a.next = Some(Rules { client_ttl: 7, max_clients: 9, ..a.rules });
    let line = hello(&a, NodeId(1), &[1; 16]);
    let parsed = Hello::parse(&line).unwrap();
    assert_eq!((parsed.offer.rules, parsed.link_port), (a.rules, 0xbeef));
    assert_eq!(parsed.offer.next, a.next);
    let (at_a, at_b, _) = run(&a, &identity(1, None), [1, 2], &LOOPBACK);
    assert_eq!(
        at_b,
        Progress::Established { peer: NodeId(0), boot: BootId(100), link_port: 0xbeef }
    );
    assert_eq!(at_a, Progress::Established { peer: NodeId(1), boot: BootId(101), link_port: 0 });
    let text = String::from_utf8(line).unwrap();
    for (good, bad) in [(",", ";"), (" beef", " 1beef"), (" open", " shut"), ("HERD 2", "HERD 1")] {
        assert!(Hello::parse(text.replace(good, bad).as_bytes()).is_none(), "{bad}");
    }
    a.names[0] = [b'x'; 64].into();
    a.names[1] = [b'y'; 64].into();
    assert!(hello(&a, NodeId(1), &[1; 16]).len() < MAX_HANDSHAKE_LINE);
}

#[test]
fn a_neighbor_of_another_release_is_refused_in_words_that_it_logs() {
    let b = identity(1, None);
    let first = b"HERD 1 A B 1 00000000000000000000000000000000 12a05f200 64 0 open";
    for (line, version) in [(&first[..], "1"), (b"HERD 03 A B", "03")] {
        let mut out = Vec::new();
        let accepted = Handshake::accept(&b, line, &[2; 16], LOOPBACK, &mut out);
        let Accepted::Peer(_, progress) = accepted else { panic!("taken for a client") };
        refused(&progress, &format!("it speaks version {version} of the link protocol, not 2"));
        let told = format!(
            "REFUSED this node speaks version 2 of the link protocol, not {version}; run the same release\n"
        );
        assert_eq!(String::from_utf8(out).unwrap(), told);
    }
    // What releases with version 1 and later ones answer.
    let a = identity(0, None);
    for (answer, why) in [
        (
            &b"? HERD 2 A B"[..],
            "If B runs an older release, upgrade it; if it is an original server",
        ),
        (b"HERD 3 B A", "it speaks version 3 of the link protocol, not 2"),
    ] {
        let mut dialer = Handshake::dial(&a, NodeId(1), &[1; 16], LOOPBACK, &mut Vec::new());
        refused(&dialer.handle_line(&a, answer, &mut Vec::new()), why);
    }
}

#[test]
fn a_replayed_handshake_is_refused() {
    let (a, b) = (identity(0, Some(b"x")), identity(1, Some(b"x")));
    let (_, _, recorded) = run(&a, &b, [1, 2], &LOOPBACK);
    let lines: Vec<&[u8]> = recorded.split(|&byte| byte == b'\n').collect();
    let mut back = Vec::new();
    let Accepted::Peer(mut listener, _) =
        Handshake::accept(&b, lines[0], &[3; 16], LOOPBACK, &mut back)
    else {
        panic!("taken for a client")
    };
    refused(&listener.handle_line(&b, lines[1], &mut Vec::new()), "proof is wrong");
}

#[test]
fn a_reflected_proof_is_refused() {
    // A dials an attacker that reflects its lines: the proof of a dialer is not valid for a
    // listener.
    let a = identity(0, Some(b"x"));
    let mut wire = Vec::new();
    let mut dialer = Handshake::dial(&a, NodeId(1), &[1; 16], LOOPBACK, &mut wire);
    let hello_of_b = hello(&identity(1, Some(b"x")), NodeId(0), &[1; 16]);
    let mut proof = Vec::new();
    assert_eq!(dialer.handle_line(&a, &hello_of_b, &mut proof), Progress::Waiting);
    refused(&dialer.handle_line(&a, proof.trim_ascii_end(), &mut Vec::new()), "proof is wrong");
}

#[test]
fn connections_of_other_nodes_are_treated_as_clients() {
    let (a, b) = (identity(0, None), identity(1, None));
    for (line, resembles_handshake) in [
        (b"IAMAT k +1-1 5".to_vec(), false),
        (b"HERD".to_vec(), false),
        (b"HERD 2 A B".to_vec(), false),
        (b"HERD x A B".to_vec(), false),
        (b"HERD 1 X B".to_vec(), true),
        (hello(&a, NodeId(2), &[1; 16]), true),
        (
            String::from_utf8(hello(&a, NodeId(1), &[1; 16]))
                .unwrap()
                .replace(" A ", " X ")
                .into_bytes(),
            true,
        ),
        (
            String::from_utf8(hello(&a, NodeId(1), &[1; 16]))
                .unwrap()
                .replace(" A ", " B ")
                .into_bytes(),
            true,
        ),
    ] {
        let mut out = Vec::new();
        match Handshake::accept(&b, &line, &[2; 16], LOOPBACK, &mut out) {
            Accepted::Client(why) => assert_eq!(why.is_some(), resembles_handshake, "{why:?}"),
            Accepted::Peer(..) => panic!("{}", String::from_utf8_lossy(&line)),
        }
        assert!(out.is_empty());
    }
}

#[test]
fn without_a_secret_or_tls_only_loopback_is_accepted() {
    let away = Transport { loopback: false, certified: None };
    let (at_a, at_b, _) = run(&identity(0, None), &identity(1, None), [1, 2], &away);
    refused(&at_a, "loopback only");
    refused(&at_b, "loopback only");
    let certified = Transport { loopback: false, certified: Some(vec![b"C".to_vec()]) };
    let (at_a, at_b, _) = run(&identity(0, None), &identity(1, None), [1, 2], &certified);
    refused(&at_b, "another name");
    refused(&at_a, "refused this node: its certificate is for another name");
    let certified =
        Transport { loopback: false, certified: Some(vec![b"A".to_vec(), b"B".to_vec()]) };
    let mut b = identity(1, None);
    b.tls = true;
    let (at_a, _, _) = run(&identity(0, None), &b, [1, 2], &certified);
    assert_eq!(at_a, Progress::Established { peer: NodeId(1), boot: BootId(101), link_port: 0 });
    let (at_a, at_b, _) = run(&identity(0, None), &b, [1, 2], &LOOPBACK);
    refused(&at_b, "does not speak TLS");
    refused(&at_a, "refused this node: it does not speak TLS");
}
