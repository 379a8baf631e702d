//! Why a function process did not start.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{ExitStatus, ProcessSpec};
use crate::runtime_api::FunctionError;

/// Why a function process is not ready for work. Nothing of it is left running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The command is empty.
    #[error("function `{function}` has no command; set `package` or `command`")]
    NoCommand {
        /// The function.
        function: String,
    },
    /// The folder to run in cannot be entered.
    #[error("function `{function}` cannot run in {path}; is it a folder?")]
    WorkingDir {
        /// The function.
        function: String,
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The program cannot be executed.
    #[error("function `{function}` cannot be started: {program}: {source}{hint}")]
    Spawn {
        /// The function.
        function: String,
        /// The program, as the command names it.
        program: PathBuf,
        /// What to do about it.
        hint: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// There is no loopback port, no pipe or no thread for it.
    #[error("cannot prepare the start of function `{function}`")]
    Prepare {
        /// The function.
        function: String,
        /// What the system said.
        source: io::Error,
    },
    /// The process ended before it asked for work.
    #[error("function `{function}` {status} before it asked for work{}", last_line(output_tail))]
    Exited {
        /// The function.
        function: String,
        /// How it ended.
        status: ExitStatus,
        /// The last of what it printed.
        output_tail: String,
    },
    /// The function reported by `init/error` that it cannot start.
    #[error("function `{function}` cannot start: {}: {}", error.error_type, error.message)]
    Init {
        /// The function.
        function: String,
        /// What it reported.
        error: FunctionError,
        /// The last of what it printed.
        output_tail: String,
    },
    /// The process did not ask for work in time.
    #[error("function `{function}` did not ask for work within {after:?}{}", last_line(output_tail))]
    TimedOut {
        /// The function.
        function: String,
        /// How long it had.
        after: Duration,
        /// The last of what it printed.
        output_tail: String,
    },
}

impl StartError {
    /// The last of what the process printed, raw; empty if it never ran.
    pub fn output_tail(&self) -> &str {
        match self {
            Self::Exited { output_tail, .. } | Self::Init { output_tail, .. } | Self::TimedOut { output_tail, .. } => {
                output_tail
            }
            Self::NoCommand { .. } | Self::WorkingDir { .. } | Self::Spawn { .. } | Self::Prepare { .. } => "",
        }
    }

    /// Sorts out why a spawn failed: the system says "not found" of the folder, of the program and of
    /// a script's interpreter alike.
    pub(super) fn of_spawn(spec: &ProcessSpec, source: io::Error) -> Self {
        let function = spec.function.clone();
        if let Some(path) = spec.working_dir.clone()
            && !path.is_dir()
        {
            return Self::WorkingDir { function, path, source };
        }
        let program = spec.command.first().map(PathBuf::from).unwrap_or_default();
        let hint = match source.kind() {
            io::ErrorKind::NotFound if is_file(spec, &program) => "; the file is there, so its interpreter is missing",
            io::ErrorKind::NotFound => "; build the function, or mend its `command`",
            io::ErrorKind::PermissionDenied => "; make it executable (chmod +x)",
            _ => "",
        };
        Self::Spawn { function, program, hint, source }
    }
}

fn is_file(spec: &ProcessSpec, program: &Path) -> bool {
    match &spec.working_dir {
        Some(dir) => dir.join(program).is_file(),
        None => program.is_file(),
    }
}

fn last_line(output_tail: &str) -> String {
    let line = output_tail.lines().rev().find(|line| !line.trim().is_empty());
    line.map(|line| format!("; its last output: {}", super::sanitize(line))).unwrap_or_default()
}
