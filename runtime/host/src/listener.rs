//! What a feeder hears while the host works, beside what the store keeps.
//!
//! An agent needs none of it. On Lambda the feeder must answer which messages may be deleted, and the log of
//! the place is what the host writes to its standard output. What is heard is kept nowhere.

use rhubarb_core::{
    backend::{Finish, StoreError},
    ids::{FunctionName, TaskId},
    row::Settled,
};

/// Hears what a host does. Called from the middle of the work: it must not block.
pub trait Listener: Send + Sync {
    /// A settlement is over: written, or refused for good.
    fn settled(&self, finish: &Finish, answer: &Result<Settled, StoreError>);

    /// A function printed a line. `tasks` are those in flight in its process: none between invocations.
    fn printed(&self, function: &FunctionName, tasks: &[TaskId], line: &str);
}
