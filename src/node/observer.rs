//! The message log shows the records that links receive and send.

use crate::herd::Observer;
use crate::herd::directory::Applied;
use crate::herd::observer::Sent;
use crate::message_log::MessageLog;

impl Observer for MessageLog {
    fn enabled(&self) -> bool {
        Self::enabled(self)
    }

    fn record_received(&mut self, peer: &[u8], line: &[u8], applied: Applied) {
        let note: &[u8] = if matches!(applied, Applied::Stored(_)) { b"" } else { b" (not news)" };
        self.line(&[peer, b" < ", line, note]);
    }

    fn record_sent(&mut self, peer: &[u8], line: &[u8], sent: Sent) {
        match sent {
            Sent::Flooded => self.line(&[peer, b" > ", line]),
            Sent::Repaired => self.line(&[peer, b" > ", line, b" (repair)"]),
        }
    }
}
