//! The execution of an IAMAT, from a client of the line protocol or from a device.

use super::Node;
use super::store::Gated;
use crate::herd::directory::Applied;
use crate::protocol::command::Iamat;
use crate::protocol::record::Record;
use crate::protocol::trim;
use crate::time::Now;

/// The connection that an IAMAT has arrived on.
#[derive(Clone, Copy)]
pub struct Source<'s> {
    /// Address and port of the other end, for the log.
    pub label: &'s [u8],
    /// A number derived from the address, the same for all its connections.
    pub address_key: u64,
}

/// The result of an IAMAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Updated {
    /// The directory has decided.
    Applied(Applied),
    /// The address of the connection has added too many new clients in this second.
    TooManyNewClients,
}

impl Node {
    /// Executes `iamat`, which is the command of `line`. Appends its AT line to `reply`, without LF.
    /// Also returns what the reply must wait for if it begins at `from` in the output.
    #[inline]
    pub fn update(
        &mut self,
        source: Source<'_>,
        line: &[u8],
        iamat: &Iamat<'_>,
        now: &Now,
        from: usize,
        reply: &mut Vec<u8>,
    ) -> (Updated, Option<Gated>) {
        let record = Record::emit(reply, &self.name, iamat, now.wall.nanos());
        let Source { label, address_key } = source;
        let refused = self.limits.new_clients_per_second_per_address.is_some_and(|most| {
            !self.new_clients.admit(&self.herd, &record, address_key, most, now)
        });
        let counters = &mut self.counters;
        counters.iamat += 1;
        let mut gated = None;
        let (updated, count, note): (_, _, &[u8]) = if refused {
            let note = b" (over a limit on clients, not stored)";
            (Updated::TooManyNewClients, &mut counters.newcomers_refused, note)
        } else {
            let applied = self.herd.apply_local_update(&record, now.wall);
            if let Some(store) = &mut self.store {
                let held = || self.herd.directory.slot(record.client);
                gated = store.append_update(applied, record.line, from, held);
                store.append_transitions(&self.name, self.herd.directory.fences());
            }
            let (count, note): (_, &[u8]) = match applied {
                Applied::Stored(_) => (&mut counters.iamat_stored, b""),
                Applied::Duplicate => (&mut counters.iamat_repeat, b" (repeat, not stored)"),
                Applied::Stale => (&mut counters.iamat_stale, b" (stale, not stored)"),
                Applied::OverCapacity => {
                    (&mut counters.iamat_over_cap, b" (over a limit on clients, not stored)")
                }
                // The receive time is this node's clock, and a line of a client is short enough.
                Applied::Expired | Applied::Ahead | Applied::TooLong => {
                    (&mut counters.iamat_expired, b" (expired, not stored)")
                }
            };
            (Updated::Applied(applied), count, note)
        };
        *count += 1;
        if self.message_log.enabled() {
            self.message_log.line(&[label, b" < ", trim(line)]);
            self.message_log.line(&[label, b" > ", record.line, note]);
        }
        (updated, gated)
    }
}
