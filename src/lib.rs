//! A herd of GPS tracking nodes: the map of the house is in ARCHITECTURE.md.

pub mod bench;
pub mod cli;
pub mod config;
pub mod counters;
pub mod endpoint;
pub mod herd;
pub mod histogram;
pub mod http;
pub mod ids;
pub mod limits;
pub mod message_log;
pub mod net;
pub mod node;
pub mod places;
pub mod protocol;
pub mod rng;
pub mod testing;
pub mod text;
pub mod time;
