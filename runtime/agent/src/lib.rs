//! The agent: feeds the host by its own long polls.
//!
//! * [`agent`]: from its start to the three phases of its shutdown.
//! * [`programs`]: which executable a function is, and what environment it gets.
//!
//! * [`scheduler`]: fires schedules where the worker holds that role.
//!
//! * [`health`], [`page`]: whether it is well and takes work, and where that and the metrics are shown.
//!
//! * [`http`]: a small client for endpoints without encryption: those of ECS and EC2, and of a tracing system.
//!
//! Beside them run the receive loop (room first, then receive), the heartbeat and the sweep. An agent
//! that is killed leaves leases that end: whoever sweeps next brings its tasks back.

pub mod agent;
mod beat;
mod ecs;
mod feeder;
mod gauges;
pub mod gpu;
pub mod health;
pub mod http;
pub mod page;
pub mod programs;
pub mod scheduler;

pub use agent::{Agent, AgentError, AgentOptions, Stopper, Summary};
