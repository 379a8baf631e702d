//! Why a function cannot start or go on.

use rhubarb_core::ids::InvalidName;

use crate::task_error::BoxError;

/// Why a function cannot start or go on. It is reported to the host before the process ends.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody serves it the Runtime API.
    #[error(
        "a function is started by a host, and the variable `{variable}` is missing: run `rhubarb dev` or deploy it"
    )]
    NotHosted {
        /// What a host would have set.
        variable: &'static str,
    },
    /// Two handlers for one task.
    #[error("two handlers are given for task `{task}`: keep one")]
    Duplicate {
        /// The task.
        task: &'static str,
    },
    /// No handler at all.
    #[error("the function has no handler: add one with `.on(handler)`")]
    NoHandler,
    /// A task's name breaks the rule of names.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// What must be there before the first task could not be set up.
    #[error("cannot set up the function")]
    Setup(#[source] BoxError),
    /// The host does not want this function.
    #[error("the host refused the function: {0}")]
    Refused(String),
    /// The Runtime API cannot be reached any more.
    #[error("cannot go on talking to the Runtime API")]
    Runtime(#[source] BoxError),
}
