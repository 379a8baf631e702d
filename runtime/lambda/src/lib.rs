//! Feeds the host from AWS Lambda: the program that a function's zip holds as its `bootstrap`.
//!
//! Lambda receives from the queue and hands over batches; the function beside this program is its child and
//! is served by the host as anywhere else. A batch comes in by the real Runtime API, is claimed, run and
//! settled, and the answer names the messages that must come back. Between invocations everything stands
//! still, so nothing is left to a timer: what an invocation begins, it settles or hands back before its
//! deadline. What a killed sandbox leaves behind, leases and the queue's visibility bring back.
//!
//! * [`plan`]: what is served, read from `rhubarb.toml` and the environment before anything starts.
//! * [`programs`]: the function's executable and its environment.
//! * [`event`]: what Lambda hands over.
//! * [`feeder`]: one invocation, from the event to the answer.
//! * [`bootstrap`]: from the start of the process to the loop over the Runtime API.

pub mod bootstrap;
mod ear;
pub mod event;
pub mod feeder;
mod lines;
mod logging;
pub mod plan;
pub mod programs;
mod telemetry;

pub use bootstrap::{BoxError, run};
pub use feeder::Feeder;
pub use plan::{InitError, Plan};
