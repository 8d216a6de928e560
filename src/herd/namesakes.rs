//! Two processes with the name of one node, for example because it was started on two machines.
//!
//! Each of the two advertises links under the same name, and exceeds the sequence numbers of the other
//! ([`Contest`]). A node that restarts does so as well, a few times, until its link state is newer than
//! those of its former lives. The pause between two advertisements grows with each, so that two
//! processes do not keep the herd busy. A change of the links shortens it.
//!
//! A neighbor of such a node keeps the process with which it is linked as long as that process is
//! alive, and refuses the other ([`Rival`]): otherwise the link would change hands forever.

use core::time::Duration;

use super::link_states::LINKS_PAUSE;
use super::message::Version;
use crate::ids::BootId;
use crate::time::Instant;

/// Number of times that a node exceeds the link states of other processes before it reports them. A
/// node that has restarted needs one or two.
const RAISES: u32 = 5;

/// Maximum pause between two advertisements of a node whose name another process uses.
pub const CONTEST_MAX: Duration = Duration::from_secs(30);

/// Maximum pause between two advertisements if the links of such a node have changed. The other nodes must
/// learn of that soon, and one link state per second is little.
pub const CONTEST_CHANGE_MAX: Duration = Duration::from_secs(1);

/// Time without a sign of another process after which it is considered gone. Every sign follows the
/// last one after at most [`CONTEST_MAX`].
pub const CONTEST_OVER: Duration = Duration::from_secs(90);

/// Time since the last attempt of another process to link after which it is considered gone.
const RIVAL_OVER: Duration = Duration::from_mins(1);

/// Other processes that advertise links under this node's name.
#[derive(Default)]
pub struct Contest {
    /// The newest link state of another process that this node has not exceeded yet.
    claim: Option<Version>,
    /// The last process that this node has exceeded, and when.
    last: Option<(BootId, Instant)>,
    /// Number of times that this node has exceeded another process.
    raises: u32,
}

impl Contest {
    /// Records a link state of another process that is newer than that of this node.
    pub fn handle_claim(&mut self, version: Version) {
        self.claim = self.claim.max(Some(version));
    }

    /// Returns the sequence number that the next advertisement must exceed, which it does. The second
    /// value is the process that is to be reported, if it is time to do so.
    pub fn take_claim(&mut self, now: Instant) -> (Option<u64>, Option<BootId>) {
        let Some(Version { sequence, boot }) = self.claim.take() else { return (None, None) };
        if self.last.is_some_and(|(_, at)| at + CONTEST_OVER <= now) {
            self.raises = 0;
        }
        self.raises = self.raises.saturating_add(1);
        self.last = Some((boot, now));
        (Some(sequence), (self.raises == RAISES).then_some(boot))
    }

    /// Returns the minimum pause between two advertisements after a change of the links.
    #[must_use]
    pub fn pause_of_change(&self, now: Instant) -> Duration {
        self.pause(now).min(CONTEST_CHANGE_MAX)
    }

    /// Returns the minimum pause between two advertisements that exceed the other process.
    #[must_use]
    pub fn pause(&self, now: Instant) -> Duration {
        match self.last {
            Some((_, at)) if now < at + CONTEST_OVER => {
                let doublings = self.raises.saturating_sub(2).min(16);
                (LINKS_PAUSE * (1 << doublings)).min(CONTEST_MAX)
            }
            _ => LINKS_PAUSE,
        }
    }

    /// Returns the other process, if there is one.
    #[must_use]
    pub fn other(&self, now: Instant) -> Option<BootId> {
        let (boot, at) = self.last?;
        (self.raises >= RAISES && now < at + CONTEST_OVER).then_some(boot)
    }
}

/// A process that wants to link under the name of a neighbor that is linked already.
#[derive(Clone, Copy, Debug)]
pub struct Rival {
    boot: BootId,
    /// The last ping that had been sent to the linked process when this one was last refused.
    ping: u64,
    /// The linked process has answered a later one, so both are alive.
    answered: bool,
    /// Number of times that it was refused while both were alive.
    refusals: u32,
    last: Instant,
}

impl Rival {
    /// The process `boot` was refused. `before` is what was known of it, and `ping` the last ping sent
    /// to the linked process.
    #[must_use]
    pub fn refused(before: Option<Self>, boot: BootId, ping: u64, now: Instant) -> Self {
        let before = before.filter(|rival| rival.boot == boot);
        let refusals = before.map_or(0, |rival| rival.refusals + u32::from(rival.answered));
        Self { boot, ping, answered: false, refusals, last: now }
    }

    /// The linked process has answered a ping.
    pub const fn handle_pong(&mut self, id: u64) {
        self.answered |= id > self.ping;
    }

    /// Returns whether this refusal is the first after which it is certain that there are two
    /// processes: the linked one has answered a ping after the other had been refused, and the other
    /// has come back.
    #[must_use]
    pub const fn is_discovered(&self) -> bool {
        self.refusals == 1 && !self.answered
    }

    /// Returns the other process, if there certainly is one.
    #[must_use]
    pub fn other(&self, now: Instant) -> Option<BootId> {
        (self.refusals > 0 && now < self.last + RIVAL_OVER).then_some(self.boot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(n: u64) -> Instant {
        Instant::at(Duration::from_secs(n))
    }

    fn claim(contest: &mut Contest, sequence: u64, now: Instant) -> (Option<u64>, Option<BootId>) {
        contest.handle_claim(Version { sequence, boot: BootId(9) });
        contest.take_claim(now)
    }

    #[test]
    fn a_restart_is_no_contest_and_two_processes_slow_down() {
        let mut contest = Contest::default();
        assert_eq!(contest.take_claim(second(0)), (None, None));
        contest.handle_claim(Version { sequence: 40, boot: BootId(9) });
        contest.handle_claim(Version { sequence: 39, boot: BootId(9) });
        assert_eq!(contest.take_claim(second(0)), (Some(40), None));
        assert_eq!(contest.pause(second(0)), LINKS_PAUSE);
        for sequence in 2..5 {
            assert_eq!(claim(&mut contest, sequence, second(0)), (Some(sequence), None));
        }
        assert_eq!(contest.other(second(0)), None);
        assert_eq!(claim(&mut contest, 50, second(1)), (Some(50), Some(BootId(9))));
        assert_eq!(contest.other(second(1)), Some(BootId(9)));
        let pauses = [0; 10].map(|_| {
            let pause = contest.pause(second(1));
            assert_eq!(claim(&mut contest, 60, second(1)).1, None, "reported once");
            pause.as_millis()
        });
        assert_eq!(pauses[..4], [800, 1600, 3200, 6400]);
        assert_eq!(pauses[9], CONTEST_MAX.as_millis());
        assert_eq!(contest.pause_of_change(second(1)), CONTEST_CHANGE_MAX);
        let over = second(1) + CONTEST_OVER;
        assert_eq!((contest.other(over), contest.pause(over)), (None, LINKS_PAUSE));
        assert_eq!(claim(&mut contest, 70, over), (Some(70), None), "a new contest");
        assert_eq!(contest.other(over), None);
    }

    #[test]
    fn a_rival_is_certain_once_both_processes_are_known_to_be_alive() {
        let mut rival = Rival::refused(None, BootId(9), 3, second(0));
        rival.handle_pong(3);
        rival = Rival::refused(Some(rival), BootId(9), 4, second(1));
        assert!(!rival.is_discovered() && rival.other(second(1)).is_none());
        rival.handle_pong(5);
        assert!(Rival::refused(Some(rival), BootId(8), 5, second(2)).other(second(2)).is_none());
        rival = Rival::refused(Some(rival), BootId(9), 5, second(2));
        assert!(rival.is_discovered());
        assert_eq!(rival.other(second(2)), Some(BootId(9)));
        rival.handle_pong(6);
        rival = Rival::refused(Some(rival), BootId(9), 6, second(3));
        assert!(!rival.is_discovered(), "reported once");
        assert_eq!(rival.other(second(62)), Some(BootId(9)));
        assert_eq!(rival.other(second(63)), None);
    }
}
