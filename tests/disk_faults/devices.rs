//! Phones and trackers: a response waits for the disk like an AT line, and a device whose position cannot
//! be stored is to try again.

use super::*;

/// A node with `sync: always` and a port for devices.
struct Listening {
    machine: Machine,
    port: u16,
}

impl Listening {
    fn start() -> Self {
        let port = free_port();
        let section = format!("devices: {{ports: {{Solo: {port}}}}}");
        let machine = Machine::start("sync: always", &section);
        let listening = Self { machine, port };
        eventually("devices can connect", DEADLINE, || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
        });
        listening
    }

    fn phone(&self) -> Client {
        Client::connect((Ipv4Addr::LOCALHOST, self.port).into())
    }

    fn count(&self, result: &str) -> usize {
        let metrics = self.machine.get_http("/metrics");
        let sample = format!("device_requests_total{{dialect=\"osmand\",result=\"{result}\"}} ");
        let value = metrics.lines().find_map(|line| line.split_once(&sample)).unwrap().1;
        value.parse().unwrap()
    }
}

/// A position of a device.
fn position(id: &str) -> Vec<u8> {
    let body = format!("id={id}&lat=34.07&lon=-118.45&timestamp={}", wall_ns() / 1_000_000);
    let length = body.len();
    format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// A request without a position, which waits for nothing.
const HEARTBEAT: &[u8] = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 12\r\n\r\nid=v&batt=82";

#[test]
fn a_response_waits_until_the_position_is_on_the_disk() {
    let listening = Listening::start();
    let machine = &listening.machine;
    machine.set(Fault::Hold, SYNCS);
    let mut phone = listening.phone();
    // What comes before is sent, and what comes after waits.
    phone.send(&[HEARTBEAT, &position("kiwi"), HEARTBEAT].concat());
    assert!(phone.until(b"\r\n\r\n").starts_with(b"HTTP/1.1 200 "));
    machine.wait_for_sync();
    assert_silent(&phone);
    let mut again = listening.phone();
    again.send(&position("kiwi"));
    let mut other = listening.phone();
    other.send(HEARTBEAT);
    assert!(other.until(b"\r\n\r\n").starts_with(b"HTTP/1.1 200 "));
    assert_silent(&phone);
    assert_silent(&again);
    machine.set(Fault::Hold, NOTHING);
    for _ in 0..2 {
        assert!(phone.until(b"\r\n\r\n").starts_with(b"HTTP/1.1 200 "));
    }
    assert!(again.until(b"\r\n\r\n").starts_with(b"HTTP/1.1 200 "));
    assert!(machine.herd.held("Solo", "kiwi").is_some());
}

/// 4xx would make some apps delete the position, and 2xx all of them.
#[test]
fn a_position_that_cannot_be_stored_is_sent_again() {
    let listening = Listening::start();
    let machine = &listening.machine;
    // The snapshot that closes the hole does not come yet.
    machine.set(Fault::Hold, SNAPSHOTS);
    machine.set(Fault::SyncErrno, EIO);
    machine.set(Fault::SyncTimes, 1);
    let kiwi = position("kiwi");
    let mut phone = listening.phone();
    phone.send(&[HEARTBEAT, &kiwi, HEARTBEAT].concat());
    assert!(phone.until(b"\r\n\r\n").starts_with(b"HTTP/1.1 200 "));
    let refused = String::from_utf8(phone.rest()).unwrap();
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert_eq!(refused.matches("HTTP/1.1").count(), 1, "nothing behind it is answered: {refused}");
    assert!(refused.to_lowercase().contains("connection: close"), "{refused}");
    assert_eq!(machine.herd.counter("Solo", "updates_refused_total"), 1);
    // What the disk lacks is refused again at once; other positions are taken.
    let mut again = listening.phone();
    again.send(&kiwi);
    assert!(again.until(b"\r\n\r\n").starts_with(b"HTTP/1.1 503 "));
    let mut other = listening.phone();
    other.send(&position("fig"));
    assert!(other.until(b"\r\n\r\n").starts_with(b"HTTP/1.1 200 "));
    // Once the disk has everything, the position is confirmed.
    machine.set(Fault::Hold, NOTHING);
    eventually("the position is stored", DEADLINE, || {
        let mut phone = listening.phone();
        phone.send(&kiwi);
        phone.until(b"\r\n\r\n").starts_with(b"HTTP/1.1 200 ").then_some(())
    });
    assert!(listening.count("unavailable") >= 1);
}
