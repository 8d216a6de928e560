//! Bugs that the simulator must find. A simulator that finds nothing proves something only if it
//! would find what is there, so these can be planted, one at a time, and `tests/sim/planted.rs`
//! asks that each is caught.
//!
//! Without the feature `planted-bugs` none of this is in the program: [`planted`] is `false` when
//! it is compiled, and a build without debug assertions, as a release is, refuses the feature.

#[cfg(all(feature = "planted-bugs", not(debug_assertions)))]
compile_error!("planted-bugs is for the simulator: build with the profile dev or sim");

macro_rules! bugs {
    ($($(#[$what:meta])+ $bug:ident,)+) => {
        /// What can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $($(#[$what])+ $bug,)+
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$bug,)+];
        }
    };
}

bugs! {
    /// A flood leaves out one neighbour more than the sender.
    FloodMissesNeighbour,
    /// A flood goes back to the neighbour that it came from.
    FloodGoesBack,
    /// What anti-entropy brought is not told to the other neighbours.
    RepairStaysHere,
    /// Trees stay in use when the graph has changed.
    TreeOutlivesGraph,
    /// An older link state takes the place of a newer one.
    LinkSequenceIgnored,
    /// A node that starts again does not speak above what the herd remembers of it.
    FormerLifeStays,
    /// A new neighbour is not told how the rest of the herd is linked.
    LinkStatesUntold,
    /// Nobody compares when an edge is lost.
    LossWithoutResync,
    /// A record of the same time as the one that is held takes its place.
    EqualTimesAccepted,
    /// The last of several wanted records of a leaf is not sent.
    WantOneTooFew,
    /// The last child of a branch is not compared.
    DigestChildSkipped,
    /// A side that holds nothing of a branch does not ask for it.
    PullForgotten,
    /// What one neighbour has been asked for is never asked of another.
    FetchNeverOver,
    /// A client that goes stays in the sums.
    SumKeptOnRemoval,
    /// A slot that was sent counts as waiting for ever.
    QueueBitNotCleared,
    /// A waiting slot that changes again goes to the end of the queue.
    ChangeMovesToTail,
    /// A full directory evicts whoever came first.
    EvictionByArrival,
    /// A client in a slot that was another's before is never up for eviction.
    ReusedSlotNotEntered,
    /// Records expire by the client's clock, not by the receiving node's.
    ExpiryByClientTime,
    /// What has expired is taken from peers again.
    ExpiredTakenAgain,
    /// Of two links dialled at once each end keeps the one that it dialled.
    DialRaceKeepsNeither,
    /// Of two links dialled at once both stay open.
    DialRaceKeepsBoth,
    /// The end of a connection ends the link that has taken its place.
    OldConnectionEndsLink,
    /// The proof is over the two nonces in the wrong order.
    ProofOfWrongNonces,
    /// A line that a broken link cut short is taken for a whole one.
    HalfLineBelieved,
    /// A peer whose clock is behind is not warned about.
    ClockBehindUnnoticed,
}

#[cfg(feature = "planted-bugs")]
std::thread_local! {
    static PLANTED: core::cell::Cell<Option<Bug>> = const { core::cell::Cell::new(None) };
}

/// Whether `bug` is planted in this thread.
#[cfg(feature = "planted-bugs")]
#[must_use]
pub fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Nothing is.
#[cfg(not(feature = "planted-bugs"))]
#[must_use]
pub const fn planted(_: Bug) -> bool {
    false
}

/// Plants `bug` in this thread in place of what was planted before; `None`: the code as it is.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}
