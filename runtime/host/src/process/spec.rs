//! What is needed to start a function process.

use std::env;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::Access;

use super::{INIT_TIMEOUT_DEFAULT, OUTPUT_BYTES_DEFAULT};

/// Lambda's own default, told to a function that has no limit.
const MEMORY_MIB_DEFAULT: u64 = 128;

/// How to start the processes of one function. One value serves any number of starts.
#[derive(Clone, Debug)]
pub struct ProcessSpec {
    /// The function's name, as the configuration has it.
    pub function: String,
    /// The program and its arguments. A program without a slash is looked up in the `PATH` of `env`.
    pub command: Vec<OsString>,
    /// Where the function runs; where the host runs if there is none.
    pub working_dir: Option<PathBuf>,
    /// The whole environment: nothing of the host's own is passed on. Lambda's variables are added
    /// where they are missing; the address of the Runtime API is always ours.
    pub env: Vec<(OsString, OsString)>,
    /// Invocations that one process may hold at once, at least one. More than one is told to the
    /// function by `AWS_LAMBDA_MAX_CONCURRENCY`.
    pub concurrency: usize,
    /// Above this much resident memory, in bytes, the process reports itself
    /// [`over_memory`](super::FunctionProcess::over_memory).
    pub memory_limit: Option<u64>,
    /// How long a process may take until its first `next`.
    pub init_timeout: Duration,
    /// What is kept of one invocation's output, in bytes.
    pub output_bytes_max: usize,
}

impl ProcessSpec {
    /// Describes a function with an empty environment, one invocation at a time and default limits.
    pub fn new(function: impl Into<String>, command: Vec<OsString>) -> Self {
        Self {
            function: function.into(),
            command,
            working_dir: None,
            env: Vec::new(),
            concurrency: 1,
            memory_limit: None,
            init_timeout: INIT_TIMEOUT_DEFAULT,
            output_bytes_max: OUTPUT_BYTES_DEFAULT,
        }
    }

    /// The command with its environment; none if there is no program. Its output is still unset.
    pub(super) fn command(&self, runtime_api: SocketAddr) -> Option<Command> {
        let (program, arguments) = self.command.split_first()?;
        let mut command = Command::new(self.resolve(program));
        command.args(arguments).stdin(Stdio::null()).env_clear();
        for (name, value) in self.lambda_env() {
            command.env(name, value);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.env("AWS_LAMBDA_RUNTIME_API", runtime_api.to_string());
        if let Some(dir) = &self.working_dir {
            command.current_dir(dir);
        }
        Some(command)
    }

    /// Looks up a program without a slash, so that the standard library has no reason to fork. One
    /// that is not found stays as it is; starting it says so.
    fn resolve(&self, program: &OsString) -> PathBuf {
        let program = Path::new(program);
        let path = self.env.iter().rev().find(|(name, _)| name == "PATH");
        let Some((_, path)) = path.filter(|_| program.components().count() == 1) else {
            return program.to_owned();
        };
        let candidates = env::split_paths(path).map(|dir| dir.join(program));
        let is_program = |path: &PathBuf| rustix::fs::access(path, Access::EXEC_OK).is_ok();
        candidates.filter(|path| path.is_file()).find(is_program).unwrap_or_else(|| program.to_owned())
    }

    /// The variables that Lambda sets and Runtime API clients insist on.
    fn lambda_env(&self) -> Vec<(&'static str, OsString)> {
        let memory_mib = self.memory_limit.map_or(MEMORY_MIB_DEFAULT, |bytes| bytes >> 20);
        let root = self.working_dir.clone().or_else(|| env::current_dir().ok());
        let mut variables = vec![
            ("AWS_LAMBDA_FUNCTION_NAME", self.function.clone().into()),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".into()),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", memory_mib.to_string().into()),
            ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".into()),
            ("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{}", self.function).into()),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "rhubarb".into()),
            ("_HANDLER", self.function.clone().into()),
        ];
        if let Some(root) = root {
            variables.push(("LAMBDA_TASK_ROOT", root.into_os_string()));
        }
        if self.concurrency > 1 {
            variables.push(("AWS_LAMBDA_MAX_CONCURRENCY", self.concurrency.to_string().into()));
        }
        variables
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn variable(spec: &ProcessSpec, name: &str) -> Option<String> {
        let command = spec.command((Ipv4Addr::LOCALHOST, 9001).into()).unwrap();
        let found = command.get_envs().find(|(key, _)| *key == name);
        found.and_then(|(_, value)| value).map(|value| value.to_string_lossy().into_owned())
    }

    fn spec() -> ProcessSpec {
        ProcessSpec::new("training", vec!["train".into()])
    }

    #[test]
    fn lambdas_variables_are_added() {
        let spec = ProcessSpec { memory_limit: Some(512 << 20), ..spec() };
        let variable = |name| variable(&spec, name).unwrap();
        assert_eq!(variable("AWS_LAMBDA_RUNTIME_API"), "127.0.0.1:9001");
        assert_eq!(variable("AWS_LAMBDA_FUNCTION_NAME"), "training");
        assert_eq!(variable("AWS_LAMBDA_FUNCTION_VERSION"), "$LATEST");
        assert_eq!(variable("AWS_LAMBDA_FUNCTION_MEMORY_SIZE"), "512");
        assert_eq!(variable("AWS_LAMBDA_LOG_GROUP_NAME"), "/aws/lambda/training");
        assert_eq!(variable("_HANDLER"), "training");
    }

    #[test]
    fn a_functions_own_variables_win_over_lambdas_but_not_the_address() {
        let env =
            vec![("_HANDLER".into(), "app.handler".into()), ("AWS_LAMBDA_RUNTIME_API".into(), "10.0.0.1:80".into())];
        let spec = ProcessSpec { env, ..spec() };
        assert_eq!(variable(&spec, "_HANDLER").unwrap(), "app.handler");
        assert_eq!(variable(&spec, "AWS_LAMBDA_RUNTIME_API").unwrap(), "127.0.0.1:9001");
    }

    #[test]
    fn only_a_function_with_concurrency_is_told_of_it() {
        assert_eq!(variable(&spec(), "AWS_LAMBDA_MAX_CONCURRENCY"), None);
        let spec = ProcessSpec { concurrency: 4, ..spec() };
        assert_eq!(variable(&spec, "AWS_LAMBDA_MAX_CONCURRENCY").unwrap(), "4");
    }

    #[test]
    fn a_bare_program_is_looked_up_in_the_path_of_the_function() {
        let found = |command: &str, path: &str| {
            let env = vec![("PATH".into(), path.into())];
            let spec = ProcessSpec { env, ..ProcessSpec::new("x", vec![command.into()]) };
            let command = spec.command((Ipv4Addr::LOCALHOST, 9001).into()).unwrap();
            command.get_program().to_string_lossy().into_owned()
        };
        assert_eq!(found("sh", "/nowhere:/bin"), "/bin/sh");
        assert_eq!(found("sh", "/nowhere"), "sh");
        assert_eq!(found("./sh", "/bin"), "./sh");
    }

    #[test]
    fn a_spec_without_a_program_has_no_command() {
        let spec = ProcessSpec::new("training", Vec::new());
        assert!(spec.command((Ipv4Addr::LOCALHOST, 9001).into()).is_none());
    }
}
