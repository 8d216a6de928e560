//! Places: points of interest near a client. Pure.
//!
//! [`offline`] searches places in memory; [`upstream`] queries a provider over the network. Both
//! produce the same [`document`].

pub mod document;
pub mod http;
pub mod limits;
pub mod offline;
pub mod providers;
mod question;
pub mod upstream;

use offline::Offline;
pub use question::Question;
use upstream::Client;
pub use upstream::{Asked, Ticket};

use crate::time::Instant;

/// The configured source of places.
pub enum Places {
    /// Places in memory.
    Offline(Offline),
    /// A provider that is queried over the network.
    Upstream(Box<Client>),
}

impl Places {
    /// Asks for at most `max_results` places. A document that is available immediately is appended
    /// to `out`; otherwise `ticket` waits for [`poll_answer`](Self::poll_answer).
    pub fn ask(
        &mut self,
        ticket: Ticket,
        question: Question,
        max_results: u8,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Asked {
        match self {
            Self::Offline(places) => {
                // A circle without extent contains no place, not even one at its center.
                let max = if question.radius_m > 0.0 { max_results.into() } else { 0 };
                places.answer(question.center, question.radius_m, max, out);
                Asked::Answered
            }
            Self::Upstream(client) => client.ask(ticket, question, max_results, now, out),
        }
    }

    /// Appends the document of the next question that has been answered, and returns its ticket.
    pub fn poll_answer(&mut self, out: &mut Vec<u8>) -> Option<Ticket> {
        match self {
            Self::Offline(_) => None,
            Self::Upstream(client) => client.poll_answer(out),
        }
    }

    /// Cancels a question that waits for its answer.
    pub fn cancel(&mut self, ticket: Ticket) {
        match self {
            Self::Offline(_) => {}
            Self::Upstream(client) => client.cancel(ticket),
        }
    }

    /// The client of the provider, unless the places are in memory.
    pub fn upstream(&mut self) -> Option<&mut Client> {
        match self {
            Self::Offline(_) => None,
            Self::Upstream(client) => Some(client),
        }
    }
}
