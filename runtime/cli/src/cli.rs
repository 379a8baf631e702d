//! What the command line looks like: the options that every command has, and the commands.

use std::{fmt::Debug, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use rhubarb_core::config::Overrides;

use crate::{
    commands, driver,
    exit::{CliError, Result},
    logging::LogFormat,
};

/// Runs functions as tasks of queues, on this machine or on AWS.
#[derive(Debug, Parser)]
#[command(name = "rhubarb", version, after_help = EXAMPLES, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  rhubarb demo                      run the example application and see what happens
  rhubarb new function hello        write a function of your own
  rhubarb dev                       run all workers of rhubarb.toml until ctrl-c
  rhubarb enqueue hello --args '{\"name\":\"you\"}' --wait
  rhubarb tasks --state failed --since 1h

Exit codes: 0 done, 1 the task failed, 2 usage, 64 configuration, 69 the backend cannot be reached, 130 ctrl-c.";

/// Options that every command has.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// The configuration file [default: rhubarb.toml in this folder or above]
    #[arg(long, global = true, env = "RHUBARB_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print JSON: one document, or for a list one a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Where queues and tasks are kept: local or aws; beats RHUBARB_BACKEND and the file
    #[arg(long, global = true, value_name = "BACKEND")]
    pub(crate) backend: Option<String>,
    /// The same as --backend aws
    #[arg(long, global = true, conflicts_with = "backend")]
    pub(crate) aws: bool,
    /// Where AWS is, where it is not AWS itself: an emulator; beats AWS_ENDPOINT_URL
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) endpoint_url: Option<String>,
    /// The folder of the embedded backend; beats RHUBARB_DIR and the file
    #[arg(long, global = true, value_name = "FOLDER")]
    pub(crate) dir: Option<PathBuf>,
    /// The stage, which keeps installations apart; beats RHUBARB_STAGE and the file
    #[arg(long, global = true)]
    pub(crate) stage: Option<String>,
    /// What to log: error, warn, info, debug, trace, or directives as in RUST_LOG
    #[arg(long, global = true, env = "RHUBARB_LOG_LEVEL", value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// In which form to log: json in a container, human elsewhere
    #[arg(long, global = true, env = "RHUBARB_LOG_FORMAT", value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
    /// Log more: -v info, -vv debug, -vvv trace
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

impl Global {
    /// What these options say in place of the file. A folder given here starts at the current one, as
    /// every path on a command line does.
    pub(crate) fn overrides(&self) -> Result<Overrides> {
        let dir = self.dir.as_ref().map(|dir| {
            let absolute = std::path::absolute(dir).map_err(|error| CliError::Usage(format!("--dir: {error}")))?;
            absolute.into_os_string().into_string().map_err(|_| CliError::Usage("--dir: the path is no UTF-8".into()))
        });
        let mut overrides = Overrides::default();
        overrides.stage.clone_from(&self.stage);
        overrides.backend = if self.aws { Some("aws".into()) } else { self.backend.clone() };
        overrides.dir = dir.transpose()?;
        Ok(overrides)
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Demo(commands::demo::Demo),
    Dev(commands::dev::Dev),
    Agent(commands::agent::Agent),
    Enqueue(commands::enqueue::Enqueue),
    Tasks(commands::tasks::Tasks),
    Task(commands::task::Task),
    Trace(commands::trace::Trace),
    Result(commands::result::ResultOf),
    Logs(commands::logs::Logs),
    Cancel(commands::cancel::Cancel),
    Dead(commands::dead::Dead),
    Queues(commands::queues::Queues),
    Workers(commands::workers::Workers),
    Gpus(commands::gpus::Gpus),
    Purge(commands::purge::Purge),
    Pause(commands::pause::Pause),
    Resume(commands::pause::Resume),
    Schedules(commands::schedules::Schedules),
    New(commands::new::New),
    Check(commands::check::Check),
    Config(commands::config::Reference),
    Health(commands::health::Health),
    Schema(commands::schema::Schema),
    Package(commands::package::Package),
    Deploy(commands::deploy::Deploy),
    Chaos(commands::chaos::Chaos),
    Completions(commands::completions::Completions),
    GpuHelper(driver::GpuHelper),
    GpuProbe(driver::GpuProbe),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_with_itself() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_examples() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.starts_with("Example"), "{} has no examples", command.get_name());
        }
    }

    #[test]
    fn a_folder_on_the_command_line_starts_at_the_current_one() {
        let cli = Cli::try_parse_from(["rhubarb", "--dir", "state", "queues", "--aws"]).unwrap();
        let overrides = cli.global.overrides().unwrap();
        assert_eq!(overrides.dir.map(PathBuf::from), std::path::absolute("state").ok());
        assert_eq!(overrides.backend.as_deref(), Some("aws"));
    }
}
