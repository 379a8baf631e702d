//! What one run of the command works with: its options, the environment, the screen, and what follows
//! from them.

use std::{env, sync::Arc};

use rhubarb::{Client, ClientError, OutputError};

use crate::{
    cli::Global,
    environment::Environment,
    exit::{CliError, Result, chain},
    project::{self, Project},
    screen::Screen,
};

/// One run of the command.
#[derive(Debug)]
pub(crate) struct Session {
    /// The options that every command has.
    pub(crate) global: Global,
    /// The environment as it was at the start.
    pub(crate) vars: Environment,
    /// Where output goes.
    pub(crate) screen: Screen,
}

impl Session {
    /// The project of `--config`, or of the current folder.
    pub(crate) fn project(&self) -> Result<Project> {
        let file = match &self.global.config {
            Some(file) => file.clone(),
            None => project::find(&here()?)?,
        };
        Project::read(&file, &self.vars, &self.global.overrides()?)
    }

    /// A client of the project's backend.
    pub(crate) async fn client(&self) -> Result<Client> {
        let project = self.project()?;
        let backend = project.open(self.global.endpoint_url.as_deref()).await?;
        Ok(Client::new(backend, Arc::clone(&project.config)))
    }
}

/// The current folder.
pub(crate) fn here() -> Result<std::path::PathBuf> {
    env::current_dir().map_err(|error| CliError::io("find the current folder", &error))
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Store(error) => error.into(),
            ClientError::NoTask(_) | ClientError::NoRow { .. } => Self::Task(error.to_string()),
            other => Self::Usage(chain(&other)),
        }
    }
}

impl From<OutputError> for CliError {
    fn from(error: OutputError) -> Self {
        match error {
            OutputError::Client(error) => error.into(),
            OutputError::NotSettled { .. }
            | OutputError::Failed { .. }
            | OutputError::Cancelled(_)
            | OutputError::Expired(_) => Self::Task(error.to_string()),
            other => Self::Usage(chain(&other)),
        }
    }
}
