//! Recognizes original servers among neighbors by the address from which they connect.
//!
//! An original server opens a connection for each record and does not identify itself, and the port
//! of that connection is arbitrary. If only one of them can connect from an address, it is the sender,
//! and is not sent its record back. On one machine, any process may connect from any address of the
//! machine: by default from the address that it dials.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use mio::net::TcpStream;

use super::EventLoop;
use super::links::Neighbor;
use crate::herd::LegacySender;
use crate::ids::LinkId;

impl EventLoop {
    /// The original server that may have opened a connection from `address`.
    pub(super) fn legacy_sender(
        &self,
        stream: &TcpStream,
        address: IpAddr,
    ) -> Option<LegacySender> {
        let links = (0..).map(LinkId).zip(self.node.herd.links()).zip(&self.neighbors);
        let legacy = links.filter(|((_, link), _)| link.is_legacy());
        let mut legacy = legacy.map(|((id, _), neighbor)| (id, neighbor)).peekable();
        legacy.peek()?; // without original servers, no system call
        let address = address.to_canonical();
        let own = stream.local_addr().is_ok_and(|own| own.ip().to_canonical() == address);
        sender(legacy, address, own || is_default_loopback(address), is_of_this_machine)
    }
}

/// The one of the original servers `legacy` that may have opened a connection from `address`. If
/// `any_process_here`, any process on this machine may have.
fn sender<'n>(
    legacy: impl Iterator<Item = (LinkId, &'n Neighbor)>,
    address: IpAddr,
    any_process_here: bool,
    is_here: impl Fn(IpAddr) -> bool,
) -> Option<LegacySender> {
    let (mut candidate, mut others) = (None, false);
    for (link, neighbor) in legacy {
        let may_be_it = any_process_here && neighbor.addresses().any(&is_here);
        if may_be_it || neighbor.is_at(address) {
            others |= candidate.replace(link).is_some();
        } else {
            // It may have this address too, as far as is known before its name has been looked up.
            others |= neighbor.addresses().next().is_none();
        }
    }
    candidate.map(|link| if others { LegacySender::Unknown } else { LegacySender::Neighbor(link) })
}

/// Returns true for the address of a process that dials a loopback address and chooses none itself.
fn is_default_loopback(address: IpAddr) -> bool {
    address == Ipv4Addr::LOCALHOST || address == Ipv6Addr::LOCALHOST
}

/// Returns true if a socket on this machine can have the address.
fn is_of_this_machine(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Host;

    const NONE: Option<LegacySender> = None;
    const UNKNOWN: Option<LegacySender> = Some(LegacySender::Unknown);

    const fn neighbor(at: usize) -> LegacySender {
        LegacySender::Neighbor(LinkId(at))
    }

    /// The sender of a connection from `from` to `to`, with original servers at `hosts`.
    fn sender_at(hosts: &[&str], from: &str, to: &str) -> Option<LegacySender> {
        let host = |host: &&str| match host.parse() {
            Ok(address) => Host::Address(address),
            Err(_) => Host::Name((*host).into()), // not looked up
        };
        let neighbors: Vec<_> =
            hosts.iter().map(host).map(|host| Neighbor::new(host, 1, false)).collect();
        let legacy = (0..).map(LinkId).zip(&neighbors);
        let [from, to] = [from, to].map(|text| text.parse::<IpAddr>().unwrap().to_canonical());
        sender(legacy, from, from == to || is_default_loopback(from), |it| it.is_loopback())
    }

    #[test]
    fn the_only_original_server_of_an_address_is_the_sender() {
        let hosts = ["192.0.2.1", "192.0.2.2", "::ffff:192.0.2.3"];
        for (at, from) in ["::ffff:192.0.2.1", "192.0.2.2", "192.0.2.3"].into_iter().enumerate() {
            assert_eq!(sender_at(&hosts, from, "198.51.100.1"), Some(neighbor(at)), "{from}");
        }
        assert_eq!(sender_at(&hosts, "192.0.2.4", "198.51.100.1"), NONE);
        assert_eq!(sender_at(&hosts, "127.0.0.1", "127.0.0.1"), NONE);
        assert_eq!(sender_at(&["127.0.0.1"], "127.0.0.1", "127.0.0.1"), Some(neighbor(0)));
    }

    #[test]
    fn several_original_servers_of_one_address_are_indistinguishable() {
        let hosts = ["192.0.2.1", "192.0.2.2", "::ffff:192.0.2.1"];
        assert_eq!(sender_at(&hosts, "192.0.2.1", "198.51.100.1"), UNKNOWN);
        assert_eq!(sender_at(&hosts, "192.0.2.2", "198.51.100.1"), Some(neighbor(1)));
    }

    /// Both forms of loopback are one machine. A process that chooses an address is at this address.
    #[test]
    fn every_original_server_on_this_machine_may_connect_from_its_default_addresses() {
        for hosts in [["127.0.0.1", "::1"], ["::1", "127.0.0.2"], ["127.0.0.2", "127.0.0.1"]] {
            for from in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
                assert_eq!(sender_at(&hosts, from, from), UNKNOWN, "{from} of {hosts:?}");
            }
        }
        assert_eq!(sender_at(&["::1"], "127.0.0.1", "127.0.0.1"), Some(neighbor(0)));
        assert_eq!(
            sender_at(&["127.0.0.2", "127.0.0.1"], "127.0.0.2", "127.0.0.1"),
            Some(neighbor(0))
        );
        assert_eq!(sender_at(&["127.0.0.1"], "127.0.0.2", "127.0.0.1"), NONE);
        // A process on this machine that dials another address of the machine.
        assert_eq!(sender_at(&["127.0.0.1"], "198.51.100.1", "198.51.100.1"), Some(neighbor(0)));
        assert_eq!(sender_at(&["127.0.0.1"], "198.51.100.2", "198.51.100.1"), NONE);
    }

    #[test]
    fn a_name_that_has_not_been_looked_up_may_have_any_address() {
        let hosts = ["seed.example", "192.0.2.1"];
        assert_eq!(sender_at(&hosts, "192.0.2.1", "198.51.100.1"), UNKNOWN);
        assert_eq!(sender_at(&hosts, "192.0.2.2", "198.51.100.1"), NONE, "not trusted");
    }
}
