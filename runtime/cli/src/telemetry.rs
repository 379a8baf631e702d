//! Telemetry of the command: started before anything else, ended after it, within a bound.

use std::time::Duration;

use rhubarb_core::config::MetricsAddress;
use rhubarb_telemetry::{Telemetry, resource, settings::Settings};

use crate::{
    cli::Command,
    exit::{CliError, Result, chain},
    page,
    session::Session,
};

/// What the last spans and log lines have. A collector that is down costs a command no more.
const END: Duration = Duration::from_secs(2);

/// Starts what the environment asks for. A mistake in it is one of configuration, as any other.
pub(crate) fn start(session: &Session, command: &Command) -> Result<Telemetry> {
    let vars = &session.vars;
    let mut settings = Settings::read(vars).map_err(|error| CliError::Configuration(error.to_string()))?;
    settings.page = page::address(session, command) != MetricsAddress::Off;
    let service = match command {
        Command::Agent(_) | Command::Dev(_) | Command::Demo(_) => "rhubarb-agent",
        _ => "rhubarb",
    };
    let resource = resource::describe(&settings, vars, service);
    Telemetry::start(&settings, resource).map_err(|error| CliError::Configuration(chain(&error)))
}

/// Sends what waits, and ends.
pub(crate) async fn end(telemetry: Telemetry) {
    telemetry.end(END).await;
}
