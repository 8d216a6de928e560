//! The positions of clients, for queries of what is near. Kept only while there are such queries.

use super::limits::{POSITIONS_BATCH, POSITIONS_INTERVAL, POSITIONS_LINGER, POSITIONS_PER_TURN};
use crate::geo::Point;
use crate::herd::directory::Directory;
use crate::herd::{Follower, Herd};
use crate::ids::Slot;
use crate::spatial::Index;
use crate::time::Instant;

/// An index of the positions of all clients.
///
/// The first query begins it: the herd records from then on which slots change, and the slots that
/// are in use are entered. An update then costs an entry in a conflating queue, which is emptied in
/// slices: at the end of a turn if it is long, and otherwise from time to time. The index is dropped
/// [`POSITIONS_LINGER`] after the last query.
#[derive(Default)]
pub struct Positions {
    index: Index,
    /// The next slot to enter, and the end of those that were in use at the beginning.
    entered: u32,
    end: u32,
    used_at: Instant,
    update_at: Instant,
}

impl Positions {
    /// Returns the index, in which [`Positions::update`] has entered what a query needs.
    pub(super) const fn index(&self) -> &Index {
        &self.index
    }

    /// Takes note of a query. Returns the number of changes to enter before it sees every update that
    /// was applied before it.
    pub(super) fn begin_query(&mut self, herd: &mut Herd, now: Instant) -> usize {
        if !herd.is_followed(Follower::Positions) {
            herd.follow(Follower::Positions);
            self.index.clear();
            (self.entered, self.end) = (0, herd.directory.slots());
        }
        self.used_at = now;
        herd.changed(Follower::Positions)
    }

    /// Enters slots and `changes`, one per unit of `work`. Returns whether all have been entered.
    pub(super) fn update(
        &mut self,
        herd: &mut Herd,
        changes: &mut usize,
        work: &mut usize,
    ) -> bool {
        let first = self.entered;
        self.entered += (self.end - first).min(u32::try_from(*work).unwrap_or(u32::MAX));
        *work -= (self.entered - first) as usize;
        let directory = &herd.directory;
        self.index.set((first..self.entered).map(|slot| located(Slot(slot), directory)));
        let limit = (*changes).min(*work);
        let mut count = 0;
        self.index.set(core::iter::from_fn(|| {
            let slot =
                if count < limit { herd.poll_changed(Follower::Positions)? } else { return None };
            count += 1;
            Some(located(slot, &herd.directory))
        }));
        *work -= count;
        // If there are fewer, the others were entered for another query.
        *changes = if count < limit { 0 } else { *changes - count };
        self.entered == self.end && *changes == 0
    }

    /// Returns the next time at which [`Positions::handle_timeout`] must be called.
    pub(super) fn poll_timeout(&self, herd: &Herd) -> Option<Instant> {
        let has_changes = herd.changed(Follower::Positions) > 0;
        let update = has_changes.then_some(self.update_at);
        let end = herd.is_followed(Follower::Positions).then(|| self.used_at + POSITIONS_LINGER);
        [update, end].into_iter().flatten().min()
    }

    /// Enters some changes, so that a query need not wait for them, or drops an index that is not
    /// used.
    pub(super) fn handle_timeout(&mut self, herd: &mut Herd, now: Instant) {
        if !herd.is_followed(Follower::Positions) {
            return;
        }
        if self.used_at + POSITIONS_LINGER <= now {
            herd.unfollow(Follower::Positions);
            self.index.clear();
        } else {
            let mut changes = herd.changed(Follower::Positions);
            if changes < POSITIONS_BATCH && now < self.update_at {
                return;
            }
            let mut work = POSITIONS_PER_TURN;
            let is_complete = self.update(herd, &mut changes, &mut work);
            self.update_at = if is_complete { now + POSITIONS_INTERVAL } else { now };
        }
    }
}

/// Returns a slot with the location of its client. A slot that was freed and is not used again is not a
/// change: it keeps its position, which queries skip.
fn located(slot: Slot, directory: &Directory) -> (Slot, Option<Point>) {
    (slot, directory.degrees(slot).map(point))
}

/// Returns latitude and longitude as a point.
pub(super) const fn point((lat, lng): (f64, f64)) -> Point {
    Point { lat, lng }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::protocol::record::Record;
    use crate::testing;
    use crate::time::Wall;

    #[test]
    fn many_changes_are_entered_at_once_and_few_after_a_while() {
        let mut herd = testing::herd(testing::identity(&["A"], 0, &[]));
        let mut positions = Positions::default();
        let at = |milliseconds| Instant::START + Duration::from_millis(milliseconds);
        assert_eq!(positions.begin_query(&mut herd, at(0)), 0);
        positions.handle_timeout(&mut herd, at(0));
        let move_some = |herd: &mut Herd, clients: usize, second: usize| {
            for client in 0..clients {
                let line =
                    format!("AT A +0.000000000 c{client} +1.5-1.{client} {second}.000000000");
                let record = Record::parse(line.as_bytes()).unwrap();
                herd.apply_local_update(&record, Wall(record.received));
            }
        };
        move_some(&mut herd, POSITIONS_BATCH - 1, 1);
        positions.handle_timeout(&mut herd, at(1));
        assert_eq!(herd.changed(Follower::Positions), POSITIONS_BATCH - 1);
        assert_eq!(positions.poll_timeout(&herd), Some(at(20)));
        positions.handle_timeout(&mut herd, at(20));
        assert_eq!(positions.index.len(), POSITIONS_BATCH - 1);
        move_some(&mut herd, POSITIONS_BATCH, 2);
        positions.handle_timeout(&mut herd, at(21));
        assert_eq!(herd.changed(Follower::Positions), 0);
        assert_eq!(positions.index.len(), POSITIONS_BATCH);
    }
}
