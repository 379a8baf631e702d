//! The `rhubarb` command: the composition root.
//!
//! It reads the command line, the environment and `rhubarb.toml`, opens the backend that they name, and
//! hands both on. It keeps nothing of its own: whatever a command is killed in the middle of, the
//! backend's guarantees hold.

mod ask;
mod build;
mod cli;
mod commands;
mod crew;
mod driver;
mod environment;
mod exit;
mod logging;
mod page;
mod project;
mod screen;
mod session;
mod signals;
mod telemetry;
mod values;
mod watch;

use std::process::ExitCode;

use clap::Parser as _;
use rhubarb_core::config::Vars as _;

use crate::{
    cli::{Cli, Command},
    environment::Environment,
    exit::{CliError, Result},
    logging::{LogChoice, LogFormat},
    screen::Screen,
    session::Session,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Command::GpuHelper(helper) => helper.run(),
        Command::GpuProbe(probe) => probe.run(),
        _ => work(cli),
    }
}

#[tokio::main]
async fn work(cli: Cli) -> ExitCode {
    let screen = match Screen::new(cli.global.json) {
        Ok(screen) => screen,
        Err(error) => return CliError::io("start the thread that writes the log", &error).code(),
    };
    let session = Session { screen, global: cli.global, vars: Environment::read() };
    let code = match run(&session, cli.command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(text) = error.text() {
                session.screen.note(format!("error: {}", screen::clean(text)));
            }
            error.code()
        }
    };
    session.screen.end();
    code
}

async fn run(session: &Session, command: Command) -> Result<()> {
    let choice = LogChoice {
        level: session.global.log_level.as_deref(),
        verbose: session.global.verbose,
        rust_log: session.vars.get("RUST_LOG"),
        fitting: match command {
            Command::Agent(_) | Command::Dev(_) => "info",
            _ => "warn",
        },
        format: session.global.log_format.unwrap_or_else(|| LogFormat::fitting(&session.vars)),
    };
    let telemetry = telemetry::start(session, &command)?;
    logging::start(&choice, &session.screen, &telemetry)?;
    let done = obey(session, command).await;
    telemetry::end(telemetry).await;
    done
}

async fn obey(session: &Session, command: Command) -> Result<()> {
    match command {
        Command::Demo(command) => command.run(session).await,
        Command::Dev(command) => command.run(session).await,
        Command::Agent(command) => command.run(session).await,
        Command::Enqueue(command) => command.run(session).await,
        Command::Tasks(command) => command.run(session).await,
        Command::Task(command) => command.run(session).await,
        Command::Trace(command) => command.run(session).await,
        Command::Result(command) => command.run(session).await,
        Command::Logs(command) => command.run(session).await,
        Command::Cancel(command) => command.run(session).await,
        Command::Dead(command) => command.run(session).await,
        Command::Queues(command) => command.run(session).await,
        Command::Workers(command) => command.run(session).await,
        Command::Gpus(command) => command.run(session).await,
        Command::Purge(command) => command.run(session).await,
        Command::Pause(command) => command.run(session).await,
        Command::Resume(command) => command.run(session).await,
        Command::Schedules(command) => command.run(session).await,
        Command::New(command) => command.run(session),
        Command::Check(command) => command.run(session),
        Command::Config(command) => command.run(session),
        Command::Health(command) => command.run(session),
        Command::Schema(command) => command.run(session),
        Command::Package(command) => command.run(session).await,
        Command::Deploy(command) => command.run(session),
        Command::Chaos(command) => command.run(session).await,
        Command::Completions(command) => command.run(session),
        // They have run in `main`, without any of this.
        Command::GpuHelper(_) | Command::GpuProbe(_) => Ok(()),
    }
}
