//! What an attempt came to: one closed enum, matched without a catch-all.

use std::{borrow::Cow, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{envelope::BlobRef, limits::ERROR_CHARS_MAX};

/// What an attempt came to, as the host tells it to the store.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The function did the task; what it gave, if anything.
    Succeeded(Option<Output>),
    /// The function could not do the task.
    Failed {
        /// What went wrong.
        failure: Failure,
        /// When to try again. `None` buries the task at once, whatever attempts are left.
        retry_in: Option<Duration>,
    },
    /// The function asked to be called again later. Spends no attempt.
    Snoozed(Duration),
    /// Cut off by us: shutdown, Spot, a batch that died. Spends no attempt, available at once.
    Interrupted {
        /// The next attempt runs in an invocation of its own, so that a death can be charged to it.
        alone: bool,
        /// Why, for the history.
        why: Cow<'static, str>,
    },
    /// Stopped because somebody asked for it.
    Cancelled,
    /// The message or its arguments cannot be read; no attempt will ever succeed.
    Poisoned(Failure),
}

impl Outcome {
    /// The outcome's word in history, logs and metrics.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Succeeded(_) => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Snoozed(_) => "snoozed",
            Self::Interrupted { .. } => "interrupted",
            Self::Cancelled => "cancelled",
            Self::Poisoned(_) => "poisoned",
        }
    }

    /// What went wrong, if something did.
    #[must_use]
    pub const fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed { failure, .. } | Self::Poisoned(failure) => Some(failure),
            Self::Succeeded(_) | Self::Snoozed(_) | Self::Interrupted { .. } | Self::Cancelled => None,
        }
    }
}

/// What a succeeded task gave: its JSON, or where it is kept when it is large.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// At most [`crate::limits::Limits::inline_bytes_max`] bytes of JSON.
    Inline(Box<RawValue>),
    /// A claim check.
    Blob(BlobRef),
}

/// Why an attempt or a task failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A short word to filter by: one of the constants here, or the function's own error type.
    pub kind: String,
    /// What went wrong, for people.
    pub message: String,
}

impl Failure {
    /// The attempt passed its hard time limit.
    pub const TIMEOUT: &'static str = "timeout";
    /// The function process died during the attempt.
    pub const CRASHED: &'static str = "crashed";
    /// The worker fell silent and no attempt was left.
    pub const WORKER_LOST: &'static str = "worker_lost";
    /// The function could not be started, or ended before it took work.
    pub const INIT: &'static str = "init";
    /// The message or its arguments cannot be read.
    pub const POISON: &'static str = "poison";
    /// The broker moved the message to the dead-letter queue: it was received too often, and nobody claimed the task.
    pub const MOVED_ASIDE: &'static str = "moved_aside";
    /// No function of the queue runs this kind of task.
    pub const UNKNOWN_TASK: &'static str = "unknown_task";
    /// The envelope's version is higher than this build reads.
    pub const NEWER_ENVELOPE: &'static str = "newer_envelope";
    /// The function answered something that breaks the contract.
    pub const BAD_ANSWER: &'static str = "bad_answer";
    /// Interrupted more often than [`crate::limits::INTERRUPTIONS_MAX`].
    pub const INTERRUPTED: &'static str = "interrupted_too_often";
    /// No attempt had begun when its time to start had passed, and the queue keeps no rows.
    pub const EXPIRED: &'static str = "expired";
    /// Snoozed more often than [`crate::limits::SNOOZES_MAX`].
    pub const SNOOZED: &'static str = "snoozed_too_often";
    /// The function reported the record in `batchItemFailures` without saying more.
    pub const REPORTED: &'static str = "reported";
    /// A device's memory ran out.
    pub const GPU_OUT_OF_MEMORY: &'static str = "gpu_out_of_memory";
    /// The handler panicked.
    pub const PANIC: &'static str = "panic";
    /// A claim-checked payload is missing or its hash is wrong.
    pub const BLOB: &'static str = "blob";

    /// A failure; a message over [`ERROR_CHARS_MAX`] is cut, and says so.
    #[must_use]
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        let mut message: String = message.into();
        if let Some((cut, _)) = message.char_indices().nth(ERROR_CHARS_MAX) {
            message.truncate(cut);
            message.push_str("… (cut)");
        }
        let mut kind: String = kind.into();
        if let Some((cut, _)) = kind.char_indices().nth(128) {
            kind.truncate(cut);
        }
        Self { kind, message }
    }

    /// True if its kind is this name, or a path that ends in it.
    #[must_use]
    pub fn is_of(&self, name: &str) -> bool {
        kind_fits(&self.kind, name)
    }
}

/// True if a kind of failure is this name, or a path that ends in it: `Timeout` fits `requests.Timeout`.
pub(crate) fn kind_fits(kind: &str, name: &str) -> bool {
    kind.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with("::") || rest.ends_with('.'))
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}
