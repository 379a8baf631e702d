//! Why the client could not do what was asked: the variants are the caller's choices.

use rhubarb_core::{backend::StoreError, ids::TaskId, outcome::Failure, row::State};

/// Why the client could not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// What was given breaks a rule; the text names the field and the fix.
    #[error("{0}")]
    Invalid(String),
    /// The id that the call names is another task's already.
    #[error("task {id} exists already and is {state}: leave the id out, or read that task")]
    AlreadyExists {
        /// The task.
        id: TaskId,
        /// Where it stands.
        state: State,
    },
    /// There is no such task, or its time to be kept has passed.
    #[error("there is no task {0}")]
    NoTask(TaskId),
    /// There is no row of such a task, and these queues keep none of those that wait, run or have succeeded.
    #[error(
        "there is no row of task {id}: it may be one of queue {queues}, which keeps none (`track`), so that nobody can say whether it waits, runs or is done. Write track = \"full\" where results are wanted"
    )]
    NoRow {
        /// The task.
        id: TaskId,
        /// The queues, with commas.
        queues: String,
    },
    /// The backend did not do it.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for ClientError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Invalid(text) => Self::Invalid(text),
            StoreError::NoTask(id) => Self::NoTask(id),
            error => Self::Store(error),
        }
    }
}

impl ClientError {
    /// True if the same call may succeed later: the backend was not reachable.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_transient())
    }
}

/// Why there is no output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// The task is not settled yet.
    #[error("task {id} is {state}: its output comes when it has succeeded")]
    NotSettled {
        /// The task.
        id: TaskId,
        /// Where it stands.
        state: State,
    },
    /// The task failed.
    #[error("task {id} failed: {failure}")]
    Failed {
        /// The task.
        id: TaskId,
        /// Why.
        failure: Failure,
    },
    /// The task was cancelled.
    #[error("task {0} was cancelled")]
    Cancelled(TaskId),
    /// No attempt began before its time to start had passed.
    #[error("task {0} expired before it could start")]
    Expired(TaskId),
    /// The output is not of the type that was asked for.
    #[error("the output of task {id} is not what was expected")]
    Type {
        /// The task.
        id: TaskId,
        /// What does not fit.
        source: serde_json::Error,
    },
    /// The task or its output could not be read.
    #[error(transparent)]
    Client(ClientError),
}

impl<E: Into<ClientError>> From<E> for OutputError {
    fn from(error: E) -> Self {
        Self::Client(error.into())
    }
}
