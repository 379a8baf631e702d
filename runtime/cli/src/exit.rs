//! How a command ends: the exit codes, and what is said on standard error.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | the task failed, is not settled, or is not there |
//! | 2 | usage: what was asked for cannot be done |
//! | 64 | the configuration is wrong |
//! | 69 | the backend cannot be reached, or cannot write |
//! | 130 | ctrl-c |

use std::{error::Error, fmt, io, process::ExitCode};

use rhubarb_core::{backend::StoreError, config::Mistakes};

/// A command's result.
pub(crate) type Result<T, E = CliError> = std::result::Result<T, E>;

/// Why a command ends without having done what was asked.
#[derive(Debug)]
pub(crate) enum CliError {
    /// A task failed or was stopped, or there is nothing of it to show.
    Task(String),
    /// What was asked for cannot be done.
    Usage(String),
    /// The configuration, or the machine's set-up, is wrong.
    Configuration(String),
    /// The backend does not answer, or cannot write.
    Backend(String),
    /// Somebody pressed ctrl-c.
    Interrupted,
    /// Nobody reads standard output any more: `rhubarb tasks | head`.
    Closed,
}

impl CliError {
    /// The exit code.
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Closed => 0,
            Self::Task(_) => 1,
            Self::Usage(_) => 2,
            Self::Configuration(_) => 64,
            Self::Backend(_) => 69,
            Self::Interrupted => 130,
        })
    }

    /// What is said on standard error.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Task(text) | Self::Usage(text) | Self::Configuration(text) | Self::Backend(text) => Some(text),
            Self::Interrupted | Self::Closed => None,
        }
    }

    /// What goes wrong outside of any backend: a file, a program.
    pub(crate) fn io(what: impl fmt::Display, error: &io::Error) -> Self {
        Self::Configuration(format!("cannot {what}: {error}"))
    }
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        let text = chain(&error);
        match error {
            StoreError::Unreachable { .. } | StoreError::Broken { .. } | StoreError::NewerSchema { .. } => {
                Self::Backend(text)
            }
            StoreError::NoTask(_) => Self::Task(text),
            StoreError::NameTaken { .. } => Self::Configuration(text),
            _ => Self::Usage(text),
        }
    }
}

impl From<Mistakes> for CliError {
    fn from(mistakes: Mistakes) -> Self {
        Self::Configuration(mistakes.to_string())
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_with_its_cause() {
        let error = StoreError::unreachable("open the store", io::Error::other("disk gone"));
        assert_eq!(CliError::from(error).text(), Some("cannot open the store: disk gone"));
    }

    #[test]
    fn what_the_caller_got_wrong_is_usage_and_what_the_disk_did_is_not() {
        let code = |error: StoreError| format!("{:?}", CliError::from(error).code());
        assert_eq!(code(StoreError::Invalid("`timeout` is zero".into())), format!("{:?}", ExitCode::from(2)));
        let full = StoreError::Broken { what: "write".into(), fix: "free some space".into() };
        assert_eq!(code(full), format!("{:?}", ExitCode::from(69)));
    }
}
