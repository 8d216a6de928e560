//! Fixtures for tests, examples and fuzz targets: herds in memory, topologies, a disk, replies of Redis.
//!
//! Not part of any interface: everything here may change at any time. The module is always
//! compiled, since the linker drops what the programs do not use, whereas a Cargo feature would
//! build the library twice, once for the programs and once for their tests. Only test modules of
//! the library may use it; `tests/architecture.rs` enforces that.

pub mod disk;
pub mod redis;
pub mod topology;

use crate::herd::digest_key::{DigestKey, Seeds};
use crate::herd::directory::Rules;
use crate::herd::handshake::Identity;
use crate::herd::{Connected, Herd, Origin, Timing};
use crate::ids::{BootId, ConnectionId, NodeId};
use crate::limits::{Limits, PeerLimits};
use crate::protocol::time::SECOND;
use crate::time::Instant;

/// Fixed keys of both hashes, so that runs are reproducible. The index key is taken from the digits
/// of pi: with a small multiplier, the index hashes in a shard would share the high bits that the
/// hash table uses as tags.
pub const KEYS: Seeds = Seeds {
    index: (0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344),
    digest: DigestKey { born: 3, random: 4 },
};

/// Node `me` of the herd `names`, with default limits, without secret or TLS.
#[must_use]
pub fn identity(names: &[impl AsRef<[u8]>], me: u16, neighbors: &[u16]) -> Identity {
    Identity {
        names: names.iter().map(|name| name.as_ref().into()).collect(),
        me: NodeId(me),
        neighbors: neighbors.iter().map(|&node| NodeId(node)).collect(),
        rules: Rules {
            max_clock_offset: 5 * SECOND,
            max_clients: Limits::default().max_clients as u32,
            client_ttl: 0,
            forget_keep: 604_800 * SECOND,
        },
        next: None,
        link_port: 0,
        secret: None,
        tls: false,
        boot: BootId(100 + u64::from(me)),
    }
}

/// The herd state of a node that has just started, with default timing.
#[must_use]
pub fn herd(identity: Identity) -> Herd {
    Herd::new(identity, &[], timing(), KEYS, Instant::START)
}

/// A connection to `peer` whose handshake has succeeded.
#[must_use]
pub const fn connected(connection: u64, peer: u16, boot: u64, origin: Origin) -> Connected {
    let (connection, peer, boot) = (ConnectionId(connection), NodeId(peer), BootId(boot));
    Connected { connection, peer, boot, origin }
}

/// The default timing of links.
#[must_use]
pub fn timing() -> Timing {
    let limits = PeerLimits::default();
    Timing {
        keepalive: limits.keepalive,
        timeout: limits.timeout,
        redial_max: limits.redial_max,
        antientropy_interval: limits.antientropy_interval,
    }
}
