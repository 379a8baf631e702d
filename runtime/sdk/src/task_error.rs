//! Why a handler did not succeed, and what is to be done about it.
//!
//! Any error that leaves a handler by `?` is worth another attempt: most failures of heavy work are of
//! the outside world. What no attempt can mend is said with [`TaskError::fatal`].

use std::{any::type_name, error::Error, fmt, time::Duration};

use rhubarb_core::outcome::Failure;

use crate::context::ContextError;

/// An error as it may leave a handler.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Why a handler did not succeed: each variant is something else for the host to do.
///
/// `?` turns any error, `anyhow`'s too, into [`TaskError::Retry`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskError {
    /// Worth another attempt, if one is left.
    Retry {
        /// What went wrong.
        failure: Failure,
        /// When to try again; otherwise the queue's policy decides.
        after: Option<Duration>,
    },
    /// No further attempt will help: the task fails now.
    Fatal(Failure),
    /// Not now: come back this much later. Spends no attempt.
    Snooze(Duration),
    /// The handler stopped because it was told to.
    Cancelled,
    /// The task belongs to another holder now: what this attempt came to counts no more.
    LeaseLost,
}

impl TaskError {
    /// Fails this attempt; the queue's policy decides when the next one comes.
    pub fn retry<E: Into<BoxError>>(error: E) -> Self {
        Self::of(error.into(), type_name::<E>())
    }

    /// Fails this attempt; the next one comes `after` this time.
    pub fn retry_after<E: Into<BoxError>>(error: E, after: Duration) -> Self {
        Self::Retry { failure: failure(error.into().as_ref(), type_name::<E>()), after: Some(after) }
    }

    /// Fails the task for good, whatever attempts are left.
    pub fn fatal<E: Into<BoxError>>(error: E) -> Self {
        Self::Fatal(failure(error.into().as_ref(), type_name::<E>()))
    }

    /// Gives the task back, to be attempted again this much later. Spends no attempt.
    #[must_use]
    pub const fn snooze(delay: Duration) -> Self {
        Self::Snooze(delay)
    }

    /// Says that the handler stopped because it was told to ([`crate::Context::cancelled`]): the task is
    /// then cancelled, given back or timed out, whichever was the reason.
    #[must_use]
    pub const fn cancelled() -> Self {
        Self::Cancelled
    }

    /// Gives the failure a kind of its own: a short word to filter by.
    #[must_use]
    pub fn kind(mut self, kind: &str) -> Self {
        if let Self::Retry { failure, .. } | Self::Fatal(failure) = &mut self {
            *failure = Failure::new(kind, std::mem::take(&mut failure.message));
        }
        self
    }

    /// What went wrong, if something did.
    #[must_use]
    pub const fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Retry { failure, .. } | Self::Fatal(failure) => Some(failure),
            Self::Snooze(_) | Self::Cancelled | Self::LeaseLost => None,
        }
    }

    /// An error of the type with this name.
    fn of(error: BoxError, kind: &str) -> Self {
        match error.downcast_ref::<ContextError>() {
            Some(ContextError::LeaseLost) => Self::LeaseLost,
            _ => Self::Retry { failure: failure(error.as_ref(), kind), after: None },
        }
    }
}

impl<E: Into<BoxError>> From<E> for TaskError {
    fn from(error: E) -> Self {
        Self::of(error.into(), type_name::<E>())
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry { failure, .. } | Self::Fatal(failure) => f.write_str(&failure.message),
            Self::Snooze(delay) => write!(f, "come back in {delay:?}"),
            Self::Cancelled => f.write_str("stopped on request"),
            Self::LeaseLost => f.write_str("the task has a newer holder"),
        }
    }
}

fn failure(error: &(dyn Error + 'static), kind: &str) -> Failure {
    // These say nothing to filter by: they hide the error's own type, or are none.
    let kind = match kind {
        "&str" | "alloc::string::String" | "anyhow::Error" => "error",
        boxed if boxed.starts_with("alloc::boxed::Box<") => "error",
        kind => kind,
    };
    Failure::new(kind, with_causes(error))
}

/// The error and its causes, each said once.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    // A chain that is a circle must end too.
    for _ in 0..32 {
        let Some(cause) = source else { break };
        let said = cause.to_string();
        // Many errors repeat their cause in their own words.
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io() -> std::io::Error {
        std::io::Error::other("disk on fire")
    }

    fn question_mark() -> Result<(), TaskError> {
        Err(io())?;
        Ok(())
    }

    fn of_anyhow() -> Result<(), TaskError> {
        use anyhow::Context as _;
        Err(io()).context("cannot read the data set")?;
        Ok(())
    }

    #[test]
    fn an_error_that_leaves_by_question_mark_is_worth_another_attempt() {
        let TaskError::Retry { failure, after } = question_mark().unwrap_err() else { panic!() };
        assert_eq!((failure.kind.as_str(), failure.message.as_str()), ("std::io::error::Error", "disk on fire"));
        assert_eq!(after, None);
    }

    #[test]
    fn anyhows_errors_tell_their_causes() {
        let error = of_anyhow().unwrap_err();
        assert_eq!(error.failure().unwrap().message, "cannot read the data set: disk on fire");
        assert_eq!(error.failure().unwrap().kind, "error");
    }

    #[test]
    fn a_plain_text_is_an_error_too() {
        let error = TaskError::fatal("no such data set").kind("NoDataset");
        let TaskError::Fatal(failure) = &error else { panic!() };
        assert_eq!((failure.kind.as_str(), failure.message.as_str()), ("NoDataset", "no such data set"));
    }

    #[test]
    fn a_lost_lease_stays_a_lost_lease() {
        fn call() -> Result<(), TaskError> {
            Err(ContextError::LeaseLost)?;
            Ok(())
        }
        assert_eq!(call().unwrap_err(), TaskError::LeaseLost);
    }
}
