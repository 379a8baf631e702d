//! Why a call of the context was not done: the variants are the handler's choices.

use http::StatusCode;
use serde::Deserialize;

use super::routes::Reply;
use crate::task_error::BoxError;

/// Why a call of the [`crate::Context`] was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// The function runs on plain Lambda, or a host is older than the call.
    #[error(
        "cannot {what}: the function runs without a Rhubarb host; put `rhubarb-lambda` before it, or run it under an agent"
    )]
    NoHost {
        /// What was to be done, as an infinitive.
        what: &'static str,
    },
    /// The task has a newer holder, or is settled: stop working on it.
    #[error("the lease is lost: the task has a newer holder or is settled")]
    LeaseLost,
    /// There is no such task or blob.
    #[error("{0}")]
    NotFound(String),
    /// The queue's configuration does not allow it; the text names what would.
    #[error("{0}")]
    NotAllowed(String),
    /// What was given breaks a rule or a limit; the text names the field and the fix.
    #[error("{0}")]
    Invalid(String),
    /// No state of this type was given with `Function::state` or `Function::setup`.
    #[error("the function has no state of type `{0}`: give it with `.state(value)` or `.setup(future)`")]
    NoState(&'static str),
    /// The backend is not reachable; trying again may help.
    #[error("cannot {what}: {message}")]
    Unavailable {
        /// What was to be done, as an infinitive.
        what: &'static str,
        /// What the host says.
        message: String,
    },
    /// The host is not reachable, or answers what cannot be read.
    #[error("cannot {what}")]
    Host {
        /// What was to be done, as an infinitive.
        what: &'static str,
        /// The cause.
        source: BoxError,
    },
}

/// The body of the host's refusals.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Refusal {
    #[serde(default)]
    pub(crate) error_type: String,
    #[serde(default)]
    pub(crate) error_message: String,
}

impl Refusal {
    /// Reads a refusal; what is none is quoted.
    pub(crate) fn read(reply: &Reply) -> Self {
        serde_json::from_slice(&reply.body).unwrap_or_else(|_| Self {
            error_type: String::new(),
            error_message: format!("{}: {:.200}", reply.status, String::from_utf8_lossy(&reply.body)),
        })
    }
}

impl ContextError {
    /// What a refusal means.
    pub(crate) fn of(what: &'static str, reply: &Reply) -> Self {
        let Refusal { error_type, error_message: message } = Refusal::read(reply);
        match reply.status {
            // An attempt that is not in flight in this process any more is as lost as one with a newer holder.
            _ if error_type == "LeaseLost" || error_type == "NotHeld" => Self::LeaseLost,
            StatusCode::NOT_FOUND => Self::NotFound(message),
            StatusCode::FORBIDDEN => Self::NotAllowed(message),
            status if status.is_client_error() => Self::Invalid(message),
            _ => Self::Unavailable { what, message },
        }
    }
}
