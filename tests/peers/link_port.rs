//! The port for links only: what it serves, and how a link moves there from the port for clients.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use proxy_herd::herd::link::HANDSHAKE_TIMEOUT;

use crate::common::{DEADLINE, Herd, assert_bytes, eventually, refused};
use crate::peer::{Peer, hello, proof, with_fake_neighbor};
use crate::{PAIR, SECRET};

/// A record that is accepted only from a peer.
fn record(client: &str) -> Vec<u8> {
    format!("AT False +0.263873386 {client} +34.068930-118.445127 1621464827").into_bytes()
}

/// The address for links that the first line of node `A` names.
fn link_address(line: &[u8]) -> SocketAddr {
    let fields: Vec<&str> = str::from_utf8(line).unwrap().split(' ').collect();
    assert_eq!(fields[..2], ["HERD", "2"]);
    (Ipv4Addr::LOCALHOST, u16::from_str_radix(fields[11], 16).unwrap()).into()
}

/// Node `A`, linked by a connection that the neighbor `False` has dialed, and the address for links.
fn linked(secret: Option<&str>, extra: &str) -> (Herd, TcpListener, Peer, SocketAddr) {
    let (herd, listener) = with_fake_neighbor(secret, extra);
    let mut peer = Peer::dial(&herd);
    let address = link_address(&shake_hands(&mut peer, secret, 1));
    assert_ne!(address.port(), 0);
    assert_ne!(address.port(), herd.port("A"));
    (herd, listener, peer, address)
}

/// Completes a handshake that this end has begun. Returns the first line of the node.
fn shake_hands(peer: &mut Peer, secret: Option<&str>, nonce: u8) -> Vec<u8> {
    let hello = hello("False", "A", nonce, secret.is_some());
    peer.send(&[&hello]);
    let theirs = peer.line();
    if let Some(secret) = secret {
        peer.send(&[&proof(secret, "dialler", &hello, &theirs)]);
        assert_eq!(peer.line(), proof(secret, "listener", &hello, &theirs));
    }
    theirs
}

fn links(herd: &Herd) -> [u64; 2] {
    ["links_established_total", "links_lost_total"].map(|counter| herd.counter("A", counter))
}

fn wait_until_stored(herd: &Herd, client: &str) {
    eventually(&format!("{client} is stored"), DEADLINE, || herd.held("A", client));
}

/// Reads lines until one that begins with `word`.
fn line_with(peer: &mut Peer, word: &str) -> Vec<u8> {
    loop {
        let line = peer.line();
        if line.starts_with(word.as_bytes()) {
            return line;
        }
    }
}

/// With and without a secret: what the peer sends on the new connection comes after everything on the
/// old one, and the node sends on the new one after it has ended the old one.
#[test]
fn a_link_moves_when_its_dialer_dials_the_port_for_links() {
    for secret in [None, Some(SECRET)] {
        let (herd, _listener, mut old, address) = linked(secret, "");
        old.send(&[&record("first")]);
        let mut new = Peer::connect(address);
        shake_hands(&mut new, secret, 2);
        new.send(&[&record("second")]);
        old.send(&[&record("fence")]);
        wait_until_stored(&herd, "fence");
        assert_eq!(herd.held("A", "second"), None, "the new connection overtakes the old one");
        old.send(&[b"MOVED"]);
        let received = old.rest();
        assert!(received.ends_with(b"MOVED\n"), "{}", received.escape_ascii());
        wait_until_stored(&herd, "second");
        line_with(&mut new, "PING ");
        assert_eq!(links(&herd), [1, 0]);
        drop(new);
        herd.wait_for_log("A", &["closed, the link with False"]);
        eventually("the link is lost", DEADLINE, || (links(&herd) == [1, 1]).then_some(()));
    }
}

/// The node is the dialer: it marks its last line on the old connection, and holds the lines of the new
/// one until the peer has done the same.
#[test]
fn a_node_moves_a_link_that_it_has_dialed() {
    let (herd, listener) = with_fake_neighbor(None, "");
    let for_links = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for_links.set_nonblocking(true).unwrap();
    let port = format!("{:04x}", for_links.local_addr().unwrap().port());
    let answer = String::from_utf8(hello("False", "A", 1, false)).unwrap();
    let mut old = Peer::accept(&listener);
    old.line();
    old.send(&[answer.replace(" 0000 -", &format!(" {port} -")).as_bytes()]);
    let mut new = Peer::accept(&for_links);
    assert!(new.line().starts_with(b"HERD 2 A False "));
    new.send(&[answer.as_bytes(), &record("second")]);
    line_with(&mut old, "PING "); // the link works before it moves
    line_with(&mut old, "MOVED");
    old.send(&[&record("fence")]);
    wait_until_stored(&herd, "fence");
    assert_eq!(herd.held("A", "second"), None, "the new connection overtakes the old one");
    old.send(&[b"MOVED"]);
    assert_bytes(&old.rest(), b"");
    wait_until_stored(&herd, "second");
    herd.client("A").iamat("kiwi", "+34.07-118.45", "1");
    line_with(&mut new, "AT A ");
    assert_eq!(links(&herd), [1, 0]);
}

/// A link whose peer names a port on which no node answers stays where it is. Nothing is counted or
/// logged as a failure, and the port is not dialed again.
#[test]
fn a_link_stays_where_the_port_for_links_cannot_be_used() {
    for refuse in [true, false] {
        let (herd, listener) = with_fake_neighbor(None, "");
        let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        other.set_nonblocking(true).unwrap();
        let port = format!("{:04x}", other.local_addr().unwrap().port());
        let other = (!refuse).then_some(other);
        let answer = String::from_utf8(hello("False", "A", 1, false)).unwrap();
        let mut peer = Peer::accept(&listener);
        peer.line();
        peer.send(&[answer.replace(" 0000 -", &format!(" {port} -")).as_bytes()]);
        if let Some(other) = &other {
            let mut stranger = Peer::accept(other);
            stranger.line();
            stranger.send(&[b"? HERD 2"]);
            assert_bytes(&stranger.rest(), b"");
        }
        for _ in 0..3 {
            line_with(&mut peer, "PING ");
            peer.send(&[b"PING 1 -"]); // keeps the link up
        }
        peer.send(&[&record("fence")]);
        wait_until_stored(&herd, "fence");
        if let Some(other) = &other {
            assert!(other.accept().is_err(), "the port is dialed again");
        }
        assert_eq!(links(&herd), [1, 0]);
        assert_eq!(herd.counter("A", "dials_failed_total"), 0);
        assert_eq!(herd.counter("A", "handshakes_refused_total"), 0);
        let log = herd.log_lines("A");
        let warns = |line: &&String| line.contains("WARNING") && line.contains("False");
        assert_eq!(log.iter().find(warns), None);
    }
}

/// No command is executed or answered there.
#[test]
fn the_port_for_links_serves_handshakes_only() {
    let (herd, _listener, mut link, address) = linked(Some(SECRET), "");
    herd.client("A").iamat("kiwi", "+34.07-118.45", "1");
    let long = vec![b'x'; 5_000];
    for (count, first) in [
        &b"IAMAT evil +1+1 1"[..],
        b"WHATSAT kiwi 10 5",
        b"GET / HTTP/1.1",
        b"hello",
        &record("evil"),
        &long,
        b"HERD",
        &hello("Far", "A", 1, true),
        &hello("Unknown", "A", 1, true),
        &hello("False", "Far", 1, true),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = Peer::connect(address);
        client.send(&[first, b"IAMAT evil +1+1 1"]);
        assert_bytes(&client.rest(), b"");
        assert_eq!(herd.counter("A", "handshakes_refused_total"), count as u64 + 1);
    }
    // A peer without the secret gets as far as at the port for clients.
    let mut stranger = Peer::connect(address);
    stranger.send(&[&hello("False", "A", 1, true)]);
    stranger.line();
    stranger.send(&[b"PROOF 00", b"IAMAT evil +1+1 1"]);
    assert_bytes(&stranger.rest(), b"");
    herd.wait_for_log("A", &["False is not linked", "its proof is wrong"]);
    assert_eq!(herd.held("A", "evil"), None);
    link.send(&[&record("fence")]);
    wait_until_stored(&herd, "fence");
    assert_eq!(links(&herd), [1, 0]);
    assert_bytes(&herd.client("A").ask(b"hello"), &refused(b"hello"));
}

#[test]
fn silent_connections_to_the_port_for_links_are_closed_soon() {
    let (_herd, _listener, mut link, address) = linked(None, "");
    let start = Instant::now();
    let mut silent = Peer::connect(address);
    assert_bytes(&silent.rest(), b"");
    assert!(start.elapsed() >= Duration::from_secs(1), "closed too early");
    assert!(start.elapsed() < HANDSHAKE_TIMEOUT + DEADLINE / 2);
    // Many at once: the oldest make room, and a move succeeds in between.
    let crowd: Vec<_> = (0..200).map(|_| Peer::connect(address)).collect();
    let mut new = Peer::connect(address);
    shake_hands(&mut new, None, 2);
    link.send(&[b"MOVED"]);
    line_with(&mut new, "PING ");
    drop(crowd);
}

/// Another process of the same name, a second move, and a move after the link is lost.
#[test]
fn only_the_process_that_dialed_a_link_moves_it_and_once() {
    let (herd, _listener, mut link, address) = linked(None, "");
    let first = String::from_utf8(hello("False", "A", 2, false)).unwrap();
    let mut other = Peer::connect(address);
    other.send(&[first.replace("1234", "9999").as_bytes()]);
    assert!(other.line().starts_with(b"HERD 2 A False "));
    assert_bytes(&other.rest(), b"");
    let mut new = Peer::connect(address);
    shake_hands(&mut new, None, 3);
    let mut second = Peer::connect(address);
    shake_hands(&mut second, None, 4);
    assert_bytes(&second.rest(), b"");
    link.send(&[b"MOVED"]);
    line_with(&mut new, "PING ");
    assert_eq!(links(&herd), [1, 0]);
    drop((link, new));
    eventually("the link is lost", DEADLINE, || (links(&herd) == [1, 1]).then_some(()));
    let mut late = Peer::connect(address);
    shake_hands(&mut late, None, 5);
    assert_bytes(&late.rest(), b"");
    assert_eq!(links(&herd), [1, 1]);
}

/// A move that the peer begins and does not complete: the link stays, or is lost with its connection.
#[test]
fn an_unfinished_move_does_no_harm() {
    let (herd, _listener, mut link, address) = linked(None, "peers: {timeout_ms: 60000}");
    let mut new = Peer::connect(address);
    shake_hands(&mut new, None, 2);
    drop(new);
    herd.wait_for_log("A", &["closed, the link with False: it has moved"]);
    link.send(&[&record("fence")]);
    wait_until_stored(&herd, "fence");
    assert_eq!(links(&herd), [1, 0]);
    let mut new = Peer::connect(address);
    shake_hands(&mut new, None, 3);
    link.send(&[b"MOVED"]);
    line_with(&mut new, "PING ");
    assert_eq!(links(&herd), [1, 0]);
}

/// A connection that ends in an orderly way while the link moves may have lost lines: the link is lost,
/// and anti-entropy brings what was in transit.
#[test]
fn a_connection_that_is_cut_while_its_link_moves_ends_the_link() {
    let (herd, _listener, mut link, address) = linked(None, "");
    let mut new = Peer::connect(address);
    shake_hands(&mut new, None, 2);
    link.send(&[&record("fence")]);
    wait_until_stored(&herd, "fence");
    link.shut_down();
    eventually("the link is lost", DEADLINE, || (links(&herd) == [1, 1]).then_some(()));
    assert_bytes(&new.rest(), b"");
}

/// A neighbor that runs no port for links, here because the test is that neighbor, is not dialed twice,
/// and a node without neighbors opens no port.
#[test]
fn a_node_that_has_no_neighbor_on_this_machine_opens_no_port() {
    let mut herd = Herd::new(&PAIR, "hosts: {Right: 192.0.2.1}");
    herd.set_environment("HERD_SECRET", SECRET);
    herd.start("Left");
    let mut peer = Peer::connect(herd.address("Left"));
    peer.send(&[&hello("Right", "Left", 1, true)]);
    assert_eq!(link_address(&peer.line()).port(), 0);
}
