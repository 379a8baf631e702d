//! The domain of Rhubarb, and nothing else: no runtime, no network, no clock, no randomness.
//!
//! Everything that decides lives here as functions of values, so that every edge is a one-line
//! test: the state table and the protocol's verbs ([`row`]), the retry policy ([`retry`]), what the
//! message body may look like ([`envelope`]), what a function is given and may answer
//! ([`contract`]), when schedules fire ([`schedule`]), the configuration ([`config`]). The seams to the outside are the traits in
//! [`backend`]; time and chance come in as arguments.

pub mod backend;
pub mod config;
pub mod contract;
pub mod enqueue;
pub mod envelope;
pub mod gpu;
pub mod ids;
pub mod limits;
pub mod outcome;
pub mod permit;
pub mod reaper;
pub mod retry;
pub mod routing;
pub mod row;
pub mod schedule;
pub mod table;
pub mod time;
pub mod trace;
pub mod turns;
