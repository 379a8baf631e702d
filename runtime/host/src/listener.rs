//! What a feeder hears while the host works, beside what the store keeps.
//!
//! On Lambda the feeder must answer which messages may be deleted. What a function prints goes to the log of the
//! place as well, each line with its task and its trace. What is heard is kept nowhere.

use rhubarb_core::{
    backend::{Finish, StoreError},
    ids::{FunctionName, TaskId},
    row::Settled,
};

use crate::process::sanitize;

/// What a function prints is logged under this target, at level `info`.
pub const FUNCTION: &str = "function";

/// Hears what a host does. Called from the middle of the work: it must not block.
pub trait Listener: Send + Sync {
    /// A settlement is over: written, or refused for good.
    fn settled(&self, _finish: &Finish, _answer: &Result<Settled, StoreError>) {}

    /// A function printed a line. `tasks` are those in flight in its process: none between invocations. Where
    /// it is one, the line is told within that attempt's trace.
    fn printed(&self, function: &FunctionName, tasks: &[TaskId], line: &str) {
        let line = sanitize(line);
        let ids: Vec<String> = tasks.iter().map(TaskId::to_string).collect();
        match ids.as_slice() {
            [] => tracing::info!(target: FUNCTION, { function.name = %function }, "{line}"),
            ids => tracing::info!(target: FUNCTION, { function.name = %function, task.id = ids.join(",") }, "{line}"),
        }
    }
}

/// Writes what functions print to the log, and nothing else.
#[derive(Clone, Copy, Debug)]
pub struct ToLog;

impl Listener for ToLog {}

impl ToLog {
    /// True if anybody reads it: otherwise nobody need split what functions print into lines.
    #[must_use]
    pub fn is_read() -> bool {
        tracing::enabled!(target: FUNCTION, tracing::Level::INFO)
    }
}
