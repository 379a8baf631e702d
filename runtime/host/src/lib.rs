//! Runs functions: the pipeline around each delivery, the Runtime API server, process supervision.
//!
//! * [`runtime_api`]: the conversation between host and function process, and its HTTP server.
//! * [`process`]: one function process from its start to its reaping, and what it prints.
//! * [`functions`]: the functions of a worker and the pool of their processes.
//! * [`pipeline`]: open, keep, invoke, settle: one for every feeder.
//! * [`attempt`], [`keeper`], [`judge`]: one attempt in flight, its lease, what it came to.
//! * [`listener`]: what a feeder hears while the host works.
//! * [`routes`]: what a function may ask of its host.
//! * [`sweep`]: brings back what fell silent, rings what is due, adopts what the broker moved aside, forgets what is
//!   old.

mod adopt;
pub mod attempt;
pub mod functions;
pub mod judge;
pub mod keeper;
pub mod listener;
mod measure;
pub mod pipeline;
pub mod process;
pub mod routes;
pub mod runtime_api;
pub mod sweep;
