//! Herds in memory, for what is tested or measured without sockets: no secret, no TLS, and the
//! settings of a configuration that says nothing.

#![allow(dead_code, reason = "each test uses its own part of this helper")]

use std::time::Duration;

use proxy_herd::herd::directory::{Keys, Rules};
use proxy_herd::herd::handshake::Identity;
use proxy_herd::herd::routes::NodeId;
use proxy_herd::herd::{Herd, Timing};
use proxy_herd::limits::{Limits, PeerLimits};
use proxy_herd::protocol::time::SECOND;

/// Of both hashes: nothing here is random. That of the index is as good as if it were: under a lesser
/// one the clients of a shard look alike to it.
pub const KEYS: Keys =
    Keys { index: (0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344), digest: (3, 4) };

/// Node `me` of those with these names.
pub fn identity(names: &[impl AsRef<[u8]>], me: NodeId, neighbours: &[NodeId]) -> Identity {
    Identity {
        names: names.iter().map(|name| name.as_ref().into()).collect(),
        me,
        neighbours: neighbours.to_vec(),
        rules: Rules {
            max_clock_offset: 5 * SECOND,
            max_clients: Limits::default().max_clients as u32,
            client_ttl: 0,
        },
        secret: None,
        tls: false,
        boot: 100 + u64::from(me),
    }
}

/// What this node knows of the herd before anything has happened.
pub fn herd(identity: Identity) -> Herd {
    let limits = PeerLimits::default();
    let timing = Timing {
        keepalive: limits.keepalive,
        timeout: limits.timeout,
        redial_max: limits.redial_max,
        antientropy_interval: limits.antientropy_interval,
    };
    Herd::new(identity, &[], timing, KEYS, Duration::ZERO)
}
