//! Counters of the event loop. The core counts its own work.

use super::connection::Deadline;
use crate::counters::counters;

counters! {
    /// Monotonic counters of the event loop since start-up.
    Counters {
        connections_accepted_total: "Connections accepted." { accepted }
        connections_refused_total: "Connections refused because a limit was reached." { refused }
        connections_shed_total: "Connections accepted and closed at once for lack of descriptors." {
            shed
        }
        received_bytes_total: "Bytes received from clients, peers and browsers." { received_bytes }
        sent_bytes_total: "Bytes sent to clients, peers and browsers." { sent_bytes }
        connection_errors_total: "Connections ended by a socket error, such as a reset." {
            connection_errors
        }
        accept_errors_total: "Failures to accept for lack of descriptors or memory." { accept_errors }
        accept_pauses_total: "Pauses in accepting after a failure to accept." { accept_pauses }
        timeouts_total: "Connections closed at a deadline, by deadline." {
            line_timeouts (deadline = "line"): "Clients closed because a line took too long.",
            idle_timeouts (deadline = "idle"): "Clients closed because they were idle.",
            write_timeouts (deadline = "write"): "Clients closed because they did not read replies.",
            handshake_timeouts (deadline = "handshake"): "Connections closed in a slow handshake.",
        }
        stalls_total: "Pauses in reading from a client, by reason." {
            output_stalls (reason = "output"): "Pauses because of unsent reply bytes.",
            whatsat_stalls (reason = "whatsat"): "Pauses because of pending WHATSATs.",
        }
        reloads_total: "Sets of files that were read again at SIGHUP, by result." {
            reloads (result = "done"): "Sets of files that were read again and came into use.",
            reloads_failed (result = "failed"):
                "Sets of files that could not be used; the previous ones remained in use.",
        }
        updates_refused_total:
            "Clients closed because their update could not be made durable." { updates_refused }
        dials_failed_total: "Dials of a neighbor that failed." { dials_failed }
    }
}

impl Counters {
    /// Counts a connection that missed a deadline.
    pub const fn count_deadline(&mut self, deadline: Deadline) {
        let count = match deadline {
            Deadline::Line => &mut self.line_timeouts,
            Deadline::Idle => &mut self.idle_timeouts,
            Deadline::Write => &mut self.write_timeouts,
            Deadline::Handshake | Deadline::TlsHandshake => &mut self.handshake_timeouts,
            // Counted elsewhere: as a failed dial, as a refusal, or as the close that led to it.
            Deadline::Dial | Deadline::Probation | Deadline::Drain => return,
        };
        *count += 1;
    }
}
