//! Why a function cannot start or go on.
//!
//! `main` may return it: Rust then prints its `Debug` form, which therefore reads as its text does.

use std::fmt;

use rhubarb_core::ids::InvalidName;

use crate::task_error::{BoxError, with_causes};

/// Why a function cannot start or go on. It is reported to the host before the process ends. Its
/// `Debug` form, which a program prints whose `main` returns it, is its text and its causes.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody serves it the Runtime API.
    #[error(
        "this program is a Rhubarb function, and no host has started it (the variable `{variable}` is missing): start it with `rhubarb dev` or `rhubarb agent` in its project's folder, or deploy it to Lambda"
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

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&with_causes(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_whose_main_returns_it_explains_itself() {
        let error = Error::NotHosted { variable: "AWS_LAMBDA_RUNTIME_API" };
        let shown = format!("{error:?}");
        assert!(shown.starts_with("this program is a Rhubarb function"), "{shown}");
        assert!(shown.contains("`rhubarb dev` or `rhubarb agent`"), "{shown}");
    }

    #[test]
    fn its_causes_are_said_too() {
        let error = Error::Setup(std::io::Error::other("no licence").into());
        assert_eq!(format!("{error:?}"), "cannot set up the function: no licence");
    }
}
