//! The feed: its connection, its thread, and what the storage keeps for it.

use super::EventLoop;
use crate::time::Now;

impl EventLoop {
    /// Does what is due for the feed.
    pub(super) fn drive_feed(&mut self, now: &Now) {
        let (Some(driver), Some(store)) = (&mut self.feed, &mut self.node.store) else { return };
        if let Some(segment) = driver.drive(&store.storage, self.poll.registry(), now.instant) {
            store.storage.keep_from(segment);
        }
    }

    /// Has the place of the feed saved at the end of the node. Returns true once it is.
    pub(super) fn feed_is_saved(&mut self, now: &Now) -> bool {
        if let Some(driver) = &mut self.feed {
            driver.feed.handle_shutdown(now.instant);
        }
        self.drive_feed(now);
        self.feed.as_ref().is_none_or(|driver| driver.feed.is_idle())
    }
}
