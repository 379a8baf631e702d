//! What a backend may answer instead of doing what was asked: the variants are the caller's choices.

use std::{error::Error, sync::Arc};

use crate::{
    backend::BlobKey,
    ids::{QueueName, TaskId, WorkerId},
    row::Refused,
};

/// A backend's result.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Why a verb was not done.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Nothing is known about the outcome; trying again may help.
    #[error("cannot {what}")]
    Unreachable {
        /// What was tried, as an infinitive.
        what: String,
        /// The cause.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// Trying again will not help before somebody mends something: disk full, no permission.
    #[error("cannot {what}: {fix}")]
    Broken {
        /// What was tried, as an infinitive.
        what: String,
        /// What is wrong and how to mend it.
        fix: String,
    },
    /// A newer holder exists, or the task's state does not allow it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// There is no such task.
    #[error("there is no task {0}")]
    NoTask(TaskId),
    /// There is no such blob.
    #[error("there is no blob `{0}`")]
    NoBlob(BlobKey),
    /// The blob's content is not what its reference says.
    #[error("the blob `{key}` is damaged: its SHA-256 is {found}, not {expected}")]
    DamagedBlob {
        /// The key.
        key: String,
        /// What the reference says.
        expected: String,
        /// What the content has.
        found: String,
    },
    /// The queue does not exist.
    #[error("there is no queue `{0}`")]
    NoQueue(QueueName),
    /// A newer delivery of the message exists, or it was deleted.
    #[error("the receipt handle has expired: the message was delivered again or deleted")]
    ReceiptExpired,
    /// What was given breaks a limit or a rule; the text names the field and the fix.
    #[error("{0}")]
    Invalid(String),
    /// The idempotency key belongs to a task with other arguments.
    #[error(
        "the idempotency key `{key}` was used for task {first} with other arguments: use another key or the same arguments"
    )]
    KeyReused {
        /// The key.
        key: String,
        /// The task that has it.
        first: TaskId,
    },
    /// A live worker has this name.
    #[error("worker `{worker}` is alive on {host}, process {pid}: give this one another name with --name")]
    NameTaken {
        /// The name.
        worker: WorkerId,
        /// Where it runs.
        host: String,
        /// Its process.
        pid: u32,
    },
    /// The store was written by a newer build.
    #[error("the store has schema version {found}, this build reads up to {known}: update rhubarb")]
    NewerSchema {
        /// What the file says.
        found: u32,
        /// What this build knows.
        known: u32,
    },
}

impl StoreError {
    /// A failure that another try may mend.
    pub fn unreachable(what: impl Into<String>, source: impl Error + Send + Sync + 'static) -> Self {
        Self::Unreachable { what: what.into(), source: Arc::new(source) }
    }

    /// True if the caller may try the same again later.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}
