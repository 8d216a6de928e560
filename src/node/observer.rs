//! The observers of a node: the message log shows the records that links receive and send, and the
//! storage keeps those that were new.

use super::store::Store;
use crate::herd::Observer;
use crate::herd::directory::Applied;
use crate::herd::observer::Sent;
use crate::message_log::MessageLog;
use crate::storage::Kind;

/// Both observers of the records that links receive.
pub(super) struct Observers<'n> {
    pub log: &'n mut MessageLog,
    pub store: Option<&'n mut Store>,
}

impl Observer for Observers<'_> {
    fn enabled(&self) -> bool {
        self.store.is_some() || self.log.enabled()
    }

    fn record_received(&mut self, peer: &[u8], line: &[u8], applied: Applied) {
        if self.log.enabled() {
            self.log.record_received(peer, line, applied);
        }
        if let (Some(store), Applied::Stored(slot)) = (&mut self.store, applied) {
            store.append(Kind::RECEIVED, slot, line);
        }
    }
}

impl Observer for MessageLog {
    fn enabled(&self) -> bool {
        Self::enabled(self)
    }

    fn record_received(&mut self, peer: &[u8], line: &[u8], applied: Applied) {
        let note: &[u8] = match applied {
            Applied::Stored(_) => b"",
            Applied::Expired => b" (expired, not stored)",
            Applied::Ahead => b" (more than a day ahead, not stored)",
            _ => b" (not news)",
        };
        self.line(&[peer, b" < ", line, note]);
    }

    fn record_sent(&mut self, peer: &[u8], line: &[u8], sent: Sent) {
        match sent {
            Sent::Flooded => self.line(&[peer, b" > ", line]),
            Sent::Repaired => self.line(&[peer, b" > ", line, b" (repair)"]),
        }
    }
}
