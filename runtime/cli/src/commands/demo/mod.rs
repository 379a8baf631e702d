//! `rhubarb demo`: the example application at work, in one process and on real data.
//!
//! Two workers run a small training platform over the embedded backend. First only short tasks arrive;
//! then two trainings run one after the other while short tasks keep arriving, and somebody asks for an
//! evaluation in the middle. What is shown at the end is computed from the tasks' own records. Ctrl-c
//! cancels what the demo has enqueued and drains; a kill leaves tasks that the next worker brings to
//! their end.

mod play;
mod report;
mod short;
mod view;

use std::{sync::Arc, time::Duration};

use clap::Args;
use rhubarb::Client;
use rhubarb_core::{
    config::{Backend, Config, When, WorkerConfig, show_duration},
    ids::{TaskName, WorkerName},
};

use self::{play::Play, report::Report};
use super::dev;
use crate::{
    build::{self, Profile},
    crew::Crew,
    exit::{CliError, Result},
    session::Session,
    signals::StopSignals,
};

/// Run the example application: trainings, evaluations, a picture of tissue, and many short tasks
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cargo run --release -- demo
  rhubarb demo --dir /tmp/demo --json
  rhubarb demo --aws --endpoint-url http://127.0.0.1:4566

The exit code is 0 if every task succeeded, both models are right about 95 % of the pictures that they have never
seen, and no short task waited longer than 10 s; 1 if not.")]
pub(crate) struct Demo {
    /// How often each training goes through its data
    #[arg(long, default_value_t = 40, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    epochs: u32,
    /// Take the binaries of the functions as they are
    #[arg(long)]
    no_build: bool,
    /// On AWS: feed the queues of class `lambda` too, where nothing runs Lambda
    #[arg(long)]
    feed_lambda: bool,
}

/// How much more often schedules fire: once a minute becomes once in five seconds.
const QUICKENED: u64 = 12;
/// The workers that the demo starts.
const WORKERS: [&str; 2] = ["training", "short"];
/// The tasks that it enqueues.
const TASKS: [&str; 7] = [
    "preprocess_dataset",
    "train_model",
    "run_evaluation",
    "quantify_tissue",
    "update_job_metrics",
    "cleanup_checkpoints",
    "scan_failed_jobs",
];

impl Demo {
    /// Runs it.
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let mut project = session.project()?;
        let workers = workers(&project.config)?;
        let workers = dev::served(&project, workers.iter(), self.feed_lambda)?;
        // What would keep it from starting is told before minutes of building.
        let backend = project.open(session.global.endpoint_url.as_deref()).await?;
        let _alone = project.lock("dev")?;
        if !self.no_build {
            project.config = Arc::new(build::functions(&project, Profile::Release, session).await?);
        }
        project.config = Arc::new(quickened(&project.config, session));
        let client = Client::new(Arc::clone(&backend), Arc::clone(&project.config));
        tell_leftovers(session, &client).await?;

        let mut signals = StopSignals::listen()?;
        let agents = tokio::select! {
            agents = dev::start(session, &project, &backend, workers, self.feed_lambda) => agents?,
            _ = signals.next() => return Err(CliError::Interrupted),
        };
        let crew = Crew::set_out(agents);
        let play = Play::new(&client, &session.screen, self.epochs);
        let played = tokio::select! {
            played = play.run() => played,
            _ = signals.next() => Err(CliError::Interrupted),
        };
        play.close();
        if played.is_err() {
            session.screen.note("stopping: what is not done is cancelled");
            client.cancel(&play.unsettled()).await;
        }
        let drained = crew.drain(&mut signals).await;
        backend.close().await;
        let report = Report::read(&client, &project.dir(), &play).await?;
        report.show(&session.screen)?;
        played.and(drained)?;
        report.verdict()
    }
}

/// The configuration with schedules that fire so much more often that the demo's minutes show them.
fn quickened(config: &Config, session: &Session) -> Config {
    let mut config = config.clone();
    let mut told = Vec::new();
    for schedule in config.schedules.values_mut().filter(|schedule| schedule.enabled) {
        let When::Rate(every) = &mut schedule.when else { continue };
        let seconds = (every.as_secs() / QUICKENED).max(1);
        // Whole minutes are EventBridge's where the template was deployed, by the rate that the template says.
        let is_eventbridges = config.app.backend == Backend::Aws && seconds.is_multiple_of(60);
        *every = Duration::from_secs(seconds - u64::from(is_eventbridges));
        told.push(format!("{} every {}", schedule.name, show_duration(*every)));
    }
    if !told.is_empty() {
        session
            .screen
            .note(format!("schedules fire {QUICKENED} times as often as rhubarb.toml says: {}", told.join(", ")));
    }
    config
}

fn workers(config: &Config) -> Result<Vec<WorkerConfig>> {
    let known = |name: &str| {
        let routed = TaskName::new(name).ok().filter(|task| config.tasks.contains_key(task));
        routed.ok_or_else(|| foreign(&format!("[tasks.{name}]")))
    };
    TASKS.iter().try_for_each(|name| known(name).map(drop))?;
    let worker = |name: &str| {
        let worker = WorkerName::new(name).ok().and_then(|name| config.workers.get(&name));
        worker.cloned().ok_or_else(|| foreign(&format!("[workers.{name}]")))
    };
    WORKERS.iter().map(|name| worker(name)).collect()
}

fn foreign(missing: &str) -> CliError {
    CliError::Configuration(format!(
        "the demo runs the example application of the rhubarb repository, and this rhubarb.toml has no {missing}: \
         go to a clone of the repository and say `cargo run --release -- demo`",
    ))
}

/// Tasks of an earlier run go on where they were: better said than wondered about.
async fn tell_leftovers(session: &Session, client: &Client) -> Result<()> {
    let queues = client.queues().await?;
    let left: u64 = queues.iter().map(|queue| queue.waiting + queue.delayed + queue.running).sum();
    if left > 0 {
        session.screen.note(format!(
            "{left} tasks from before are not done: they run along (`rhubarb purge --all` would cancel them)"
        ));
    }
    Ok(())
}
