//! Changing the rules of the herd while it runs.
//!
//! Nodes link only if the same [`Rules`] are in force on both, so a node cannot simply start with
//! others. Instead every node announces the next rules and keeps those in force. Once a node knows
//! that all nodes of its configuration announce the same rules, it takes them over. It informs its
//! neighbors (`RULES`), which announce them too and so take them over at once. A node that was away
//! takes them over in the handshake.
//!
//! A node cannot know whether the announced rules were in force before it started. Until it knows of a
//! node that does not announce them, and for [`LENIENCE`] at most, its directory keeps what either rules
//! keep. Otherwise a herd whose nodes all restart at once could drop stored records that only the
//! announced rules keep.
//!
//! A node that has nothing to announce counts as one that announces the rules in force, so nodes
//! whose configuration has been completed do not hold up those that start with the previous one.

use core::time::Duration;

use super::Herd;
use super::directory::Rules;
use super::link_states::Ends;
use super::message::hex as number;
use super::{Event, ProtocolError};
use crate::ids::{LinkId, NodeId};
use crate::protocol::next_field;
use crate::protocol::time::Nanos;
use crate::time::Instant;

/// Time after the start of a node within which a herd that restarts as a whole is linked.
pub const LENIENCE: Duration = Duration::from_mins(1);

/// Interval at which a node that waits for announcements looks at those of all nodes.
pub const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The rules in force on a node, and those that it announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The rules in force.
    pub rules: Rules,
    /// The announced rules, if any. They stay announced after they have been taken over.
    pub next: Option<Rules>,
}

/// The relation of this node's offer to that of a neighbor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// The same rules are in force.
    Same,
    /// The neighbor has taken over what this node announces, which therefore takes it over too.
    TakeOver,
    /// This node has taken over what the neighbor announces.
    PeerTakesOver,
    /// Each announces the rules of the other, so that both would change.
    Crossed,
    /// The rules differ.
    Different,
}

impl Offer {
    /// The rules that the node will follow: those that it announces, or those in force.
    #[must_use]
    pub const fn target(&self) -> Rules {
        match self.next {
            Some(next) => next,
            None => self.rules,
        }
    }

    /// The rules of the directory of a node that has just started: both those in force and those that
    /// it announces keep a record.
    #[must_use]
    pub fn lenient(&self) -> Rules {
        let (rules, next) = (self.rules, self.target());
        let ttls = [rules.client_ttl, next.client_ttl];
        Rules {
            max_clients: rules.max_clients.max(next.max_clients),
            client_ttl: if ttls.contains(&0) { 0 } else { ttls[0].max(ttls[1]) },
            forget_keep: rules.forget_keep.max(next.forget_keep),
            ..rules
        }
    }

    /// Compares this node's offer with that of a neighbor.
    #[must_use]
    pub fn agreement(&self, theirs: &Self) -> Agreement {
        let mine = self.next == Some(theirs.rules);
        let peers = theirs.next == Some(self.rules);
        match (mine, peers) {
            _ if self.rules == theirs.rules => Agreement::Same,
            (true, true) => Agreement::Crossed,
            (true, false) => Agreement::TakeOver,
            (false, true) => Agreement::PeerTakesOver,
            (false, false) => Agreement::Different,
        }
    }
}

/// Parses rules: four fields and nothing else.
pub(super) fn parse_rules<'a>(mut fields: impl Iterator<Item = &'a [u8]>) -> Option<Rules> {
    let mut next = || number(fields.next()?);
    let rules = Rules {
        max_clock_offset: next()?.into(),
        max_clients: next()?.try_into().ok()?,
        client_ttl: next()?.into(),
        forget_keep: next()?.into(),
    };
    fields.next().is_none().then_some(rules)
}

/// Parses rules that are separated by spaces.
pub(super) fn parse_spaced_rules(mut rest: &[u8]) -> Option<Rules> {
    parse_rules(core::iter::from_fn(|| {
        let (field, tail) = next_field(rest)?;
        rest = tail;
        Some(field)
    }))
}

/// Appends rules, separated by `separator`.
pub(super) fn push_rules(out: &mut Vec<u8>, rules: &Rules, separator: char) {
    let nanos = |nanos: Nanos| u64::try_from(nanos).unwrap_or(u64::MAX);
    let Rules { max_clock_offset, max_clients, client_ttl, forget_keep } = *rules;
    let (offset, ttl, keep) = (nanos(max_clock_offset), nanos(client_ttl), nanos(forget_keep));
    // Writing to a Vec cannot fail.
    let _ = std::io::Write::write_fmt(
        out,
        format_args!("{offset:x}{separator}{max_clients:x}{separator}{ttl:x}{separator}{keep:x}"),
    );
}

impl Herd {
    /// The rules in force on this node, and those that it announces.
    #[must_use]
    pub const fn offer(&self) -> Offer {
        Offer { rules: self.identity.rules, next: self.identity.next }
    }

    /// Returns the announced rules until they are taken over.
    #[must_use]
    pub fn pending_rules(&self) -> Option<Rules> {
        self.identity.next.filter(|next| *next != self.identity.rules)
    }

    /// Names of the nodes that do not announce the rules that this node announces, as far as it knows:
    /// nodes of its configuration, and others that are linked with the herd. Original servers have no
    /// rules.
    #[must_use]
    pub fn missing_announcements(&self) -> Vec<&[u8]> {
        let announcement = self.identity.announcement();
        let is_unknown = |&node: &NodeId| {
            node != self.identity.me
                && !self.legacy_nodes.contains(&node)
                && self.routes.next(self.identity.name(node)).is_none()
        };
        let nodes = (0..self.identity.names.len() as u16).map(NodeId);
        let unknown = nodes.filter(is_unknown).map(|node| self.identity.name(node));
        let mut missing: Vec<&[u8]> =
            unknown.chain(self.routes.dissenters(&announcement)).collect();

        missing.sort_unstable();
        missing
    }

    /// Handles the announcement in the new link state of a node.
    pub(super) fn handle_announcement(&mut self, theirs: &[u8]) {
        if self.identity.next.is_none() {
            return;
        }
        if self.identity.announcement() == theirs {
            self.take_over_if_unanimous();
        } else {
            self.end_lenience();
        }
    }

    /// Takes the announced rules over if all nodes announce them.
    pub(super) fn take_over_if_unanimous(&mut self) {
        if self.pending_rules().is_some() && self.missing_announcements().is_empty() {
            self.take_over();
        }
    }

    /// Handles the offer in the handshake of a neighbor whose link has just come up. This node may have
    /// taken rules over during the handshake, so the neighbor is informed of them.
    pub fn handle_offer(&mut self, link: LinkId, theirs: &Offer) {
        if self.offer().agreement(theirs) == Agreement::TakeOver {
            self.take_over();
        } else if self.identity.next == Some(self.identity.rules)
            && let Some(up) = self.links[link.index()].herd_peer()
        {
            up.rules_due = true;
        }
    }

    /// Handles the rules that a neighbor has taken over.
    pub(super) fn handle_rules(&mut self, theirs: Rules) -> Result<(), ProtocolError> {
        let offer = self.offer();
        if offer.rules == theirs {
            Ok(())
        } else if offer.next == Some(theirs) {
            self.take_over();
            Ok(())
        } else {
            Err(ProtocolError::OtherRules)
        }
    }

    /// Ends lenience, and looks at the announcements: the link state of a node that has been removed is
    /// forgotten after a while.
    pub(super) fn handle_announcements_timeout(&mut self, now: Instant) {
        if self.lenient_until.is_some_and(|until| until <= now) {
            self.end_lenience();
        }
        if self.pending_rules().is_some() && self.recheck_at <= now {
            self.recheck_at = now + RECHECK_INTERVAL;
            self.take_over_if_unanimous();
        }
    }

    /// From now on, the directory keeps what the rules in force keep.
    pub(super) fn end_lenience(&mut self) {
        if self.lenient_until.take().is_some() {
            self.directory.set_rules(self.identity.rules);
        }
    }

    /// Brings the announced rules into force. The directory follows a little at a time. What neighbors
    /// kept by other rules in the meantime is compared once more.
    fn take_over(&mut self) {
        let Some(next) = self.pending_rules() else { return };
        let before = std::mem::replace(&mut self.identity.rules, next);
        self.lenient_until = None;
        self.directory.set_rules(next);
        for (_, up) in self.herd_peers() {
            up.rules_due = true;
        }
        self.resync.request(Ends::This);
        self.emit(Event::RulesTakenOver { before, rules: next });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULES: Rules =
        Rules { max_clock_offset: 5, max_clients: 10, client_ttl: 0, forget_keep: 7 };

    fn rules(max_clients: u32) -> Rules {
        Rules { max_clients, ..RULES }
    }

    fn offer(now: u32, next: Option<u32>) -> Offer {
        Offer { rules: rules(now), next: next.map(rules) }
    }

    #[test]
    fn nodes_agree_if_one_of_them_can_follow_the_other() {
        for (ours, theirs, expected) in [
            (offer(1, None), offer(1, None), Agreement::Same),
            (offer(1, Some(2)), offer(1, Some(3)), Agreement::Same),
            (offer(1, Some(2)), offer(2, None), Agreement::TakeOver),
            (offer(1, Some(2)), offer(2, Some(2)), Agreement::TakeOver),
            (offer(2, None), offer(1, Some(2)), Agreement::PeerTakesOver),
            (offer(1, Some(2)), offer(2, Some(1)), Agreement::Crossed),
            (offer(1, None), offer(2, None), Agreement::Different),
            (offer(1, Some(3)), offer(2, Some(3)), Agreement::Different),
        ] {
            assert_eq!(ours.agreement(&theirs), expected, "{ours:?} {theirs:?}");
        }
    }

    /// The neighbor has completed its configuration and announces nothing, so the handshake is all that it
    /// says about rules. C has not been heard of.
    #[test]
    fn a_node_that_was_away_takes_over_in_the_handshake() {
        use crate::herd::Origin;
        use crate::testing::{connected, herd, identity};

        let mut identity = identity(&["A", "B", "C"], 0, &[1]);
        let rules = identity.rules;
        let next = Rules { max_clients: rules.max_clients + 1, ..rules };
        identity.next = Some(next);
        let mut a = herd(identity);
        let link = a.handle_connected(connected(1, 1, 7, Origin::Dialed), Instant::START).unwrap();
        a.handle_offer(link, &Offer { rules, next: None });
        assert_eq!(a.identity().rules, rules);
        a.handle_offer(link, &Offer { rules: next, next: None });
        assert_eq!(a.identity().rules, next);
    }

    #[test]
    fn a_node_that_has_just_started_keeps_what_either_rules_keep() {
        let lenient = |now: (u32, i128), next: (u32, i128)| {
            let rules = |(max_clients, client_ttl)| Rules { max_clients, client_ttl, ..RULES };
            let offer = Offer { rules: rules(now), next: Some(rules(next)) };
            (offer.lenient().max_clients, offer.lenient().client_ttl)
        };
        assert_eq!(lenient((1, 5), (2, 6)), (2, 6));
        assert_eq!(lenient((2, 6), (1, 5)), (2, 6));
        assert_eq!(lenient((1, 0), (1, 5)), (1, 0));
        assert_eq!(lenient((1, 5), (1, 0)), (1, 0));
        assert_eq!(offer(1, None).lenient(), rules(1));
    }

    proptest! {
        /// Both ends come to the same conclusion, and are equal afterwards if they link.
        #[test]
        fn two_nodes_that_link_have_equal_rules(
            a in (0u32..3, proptest::option::of(0u32..3)),
            b in (0u32..3, proptest::option::of(0u32..3)),
        ) {
            let (a, b) = (offer(a.0, a.1), offer(b.0, b.1));
            let after = |mine: Offer, theirs: Offer| match mine.agreement(&theirs) {
                Agreement::Same | Agreement::PeerTakesOver => Some(mine.rules),
                Agreement::TakeOver => mine.next,
                Agreement::Crossed | Agreement::Different => None,
            };
            prop_assert_eq!(after(a, b), after(b, a));
        }

        #[test]
        fn rules_are_parsed_as_they_are_written(
            offset in any::<u64>(), max_clients in any::<u32>(), ttl in any::<u64>(),
        ) {
            let rules = Rules {
                max_clock_offset: offset.into(),
                max_clients,
                client_ttl: ttl.into(),
                forget_keep: 1,
            };
            let (mut commas, mut spaces) = (Vec::new(), Vec::new());
            push_rules(&mut commas, &rules, ',');
            push_rules(&mut spaces, &rules, ' ');
            prop_assert_eq!(parse_rules(commas.split(|&byte| byte == b',')), Some(rules));
            prop_assert_eq!(parse_spaced_rules(&spaces), Some(rules));
            for invalid in [&b"1,2,3"[..], b"1,2,3,4,5", b"1,,3,4", b"1,2,3,4g", b"1,fffffffff,3,4"] {
                prop_assert_eq!(parse_rules(invalid.split(|&byte| byte == b',')), None);
            }
        }
    }
}
