//! Places: who knows what is near. Pure.

pub mod answer;
pub mod document;
mod failure;
pub mod gazetteer;
mod google;
mod google_legacy;
pub mod http;
mod index;
mod json;
pub mod key;
pub mod limits;
pub mod offline;
mod overpass;
pub mod places_file;
pub mod provider;
pub mod question;
mod target;
pub mod upstream;

use core::time::Duration;

use offline::Offline;
pub use question::Question;
use upstream::Client;
pub use upstream::{Asked, Ticket};

/// Whoever is configured to know what is near.
pub enum Places {
    /// Places in memory.
    Offline(Offline),
    /// A provider that is asked over the network.
    Upstream(Box<Client>),
}

impl Places {
    /// Asks for at most `max_results` places. A document that is known at once is appended to
    /// `out`; otherwise `ticket` waits.
    pub fn ask(
        &mut self,
        ticket: Ticket,
        question: Question,
        max_results: u8,
        now: Duration,
        out: &mut Vec<u8>,
    ) -> Asked {
        match self {
            Self::Offline(places) => {
                // Nothing is within no distance: not even what is right here.
                let max = if question.radius_m > 0.0 { max_results.into() } else { 0 };
                places.answer(question.center, question.radius_m, max, out);
                Asked::Answered
            }
            Self::Upstream(client) => client.ask(ticket, question, max_results, now, out),
        }
    }

    /// The next answer that had to wait: its document is appended.
    pub fn poll_answer(&mut self, out: &mut Vec<u8>) -> Option<Ticket> {
        match self {
            Self::Offline(_) => None,
            Self::Upstream(client) => client.poll_answer(out),
        }
    }

    /// Nobody waits for the answer to this question any more.
    pub fn cancel(&mut self, ticket: Ticket) {
        match self {
            Self::Offline(_) => {}
            Self::Upstream(client) => client.cancel(ticket),
        }
    }

    /// The client of the provider, if one is asked over the network.
    pub fn upstream(&mut self) -> Option<&mut Client> {
        match self {
            Self::Offline(_) => None,
            Self::Upstream(client) => Some(client),
        }
    }
}
