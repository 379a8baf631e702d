//! `rhubarb dev`: all workers of `rhubarb.toml` in one process over one backend.

use std::sync::Arc;

use clap::Args;
use rhubarb_agent::{Agent, AgentOptions};
use rhubarb_core::{
    backend::Backend,
    config::{Config, MetricsAddress, WorkerConfig},
};

use super::agent::{told, unique_name};
use crate::{
    build::{self, Profile},
    crew::Crew,
    driver,
    exit::{CliError, Result},
    page,
    project::Project,
    session::Session,
    signals::StopSignals,
};

/// Build the functions and run all workers of rhubarb.toml until ctrl-c
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  rhubarb dev
  rhubarb dev --no-build --dir /tmp/scratch
  rhubarb dev --aws --endpoint-url http://127.0.0.1:4566

One `dev` runs per folder of the embedded backend. Further agents may join it: `rhubarb agent`.")]
pub(crate) struct Dev {
    /// Take the binaries of the functions as they are
    #[arg(long)]
    no_build: bool,
    /// Where to show metrics and health: IP:PORT, or off [default: 127.0.0.1:9464, or the next free port]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics: Option<MetricsAddress>,
    /// On AWS: feed the queues of class `lambda` too, where nothing runs Lambda
    #[arg(long)]
    feed_lambda: bool,
}

impl Dev {
    /// Runs the workers until a signal.
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let mut project = session.project()?;
        project.warn();
        // What would keep it from starting is told before minutes of building.
        let backend = project.open(session.global.endpoint_url.as_deref()).await?;
        let _alone = project.lock("dev")?;
        if !self.no_build {
            let built = build::functions(&project, Profile::own(), session).await?;
            project.config = Arc::new(built);
        }
        let mut signals = StopSignals::listen()?;
        let workers: Vec<WorkerConfig> = served(&project, project.config.workers.values(), self.feed_lambda)?;
        let starting = start(session, &project, &backend, workers, self.feed_lambda);
        let agents = tokio::select! {
            agents = starting => agents?,
            _ = signals.next() => return Err(CliError::Interrupted),
        };
        let _page = page::open(self.metrics.unwrap_or(project.config.app.metrics), &agents).await;
        let stopped = Crew::set_out(agents).until_stopped(&mut signals).await;
        backend.close().await;
        stopped
    }
}

/// What these workers serve over the project's backend; one with nothing left to serve is not started.
pub(crate) fn served<'a>(
    project: &Project,
    workers: impl Iterator<Item = &'a WorkerConfig>,
    feed_lambda: bool,
) -> Result<Vec<WorkerConfig>> {
    let mut served = Vec::new();
    let mut refusal = None;
    for worker in workers {
        match project.served(worker.clone(), feed_lambda) {
            Ok(worker) => served.push(worker),
            Err(error) => refusal = Some(error),
        }
    }
    refusal.filter(|_| served.is_empty()).map_or(Ok(served), Err)
}

/// Starts an agent for each of these workers.
pub(crate) async fn start(
    session: &Session,
    project: &Project,
    backend: &Arc<dyn Backend>,
    workers: Vec<WorkerConfig>,
    feed_lambda: bool,
) -> Result<Vec<Agent>> {
    let gpus = driver::source(session)?;
    let mut agents = Vec::with_capacity(workers.len());
    for worker in workers {
        let config: Arc<Config> = Arc::clone(&project.config);
        let options = AgentOptions {
            id: unique_name(worker.name.as_str()),
            worker,
            config,
            backend: Arc::clone(backend),
            root: project.root.clone(),
            vars: session.vars.all(),
            purge: false,
            scheduler_only: false,
            feed_lambda,
            gpus: Some(Arc::clone(&gpus)),
            spot_notices: None,
        };
        agents.push(Agent::start(options).await.map_err(told)?);
    }
    Ok(agents)
}
