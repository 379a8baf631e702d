//! `rhubarb chaos`: whether the guarantees hold while everything is killed, on this machine.
//!
//! On an application of its own, in a folder of its own, it enqueues tasks, starts agents and lets things go
//! wrong: agents and functions get SIGKILL, or SIGSTOP for longer than a lease; an emulator of AWS stands behind a
//! proxy that loses, repeats and delays requests, and is out of reach now and then. Then all is calm, and every
//! task must settle. What ran is judged by a journal that the functions themselves append to, against the rows as
//! they were seen during the run and at its end. A seed decides what goes wrong and when; the processes answer as
//! they will. However this command ends, its agents and functions end with it.

mod agents;
mod cloud;
mod faults;
mod function;
mod journal;
mod look;
mod producer;
mod stage;
mod verdict;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use futures::future::join_all;
use tokio::{sync::watch, time::Instant};

use self::{
    agents::Slot,
    faults::{Disturbed, disturb_functions},
    look::Watch,
    stage::Stage,
    verdict::{Report, Verdict},
};
use super::agent::Agent;
use crate::{
    exit::{CliError, Result},
    session::Session,
    signals::StopSignals,
};

/// Kill agents and functions at random, and see that no task is lost and none is committed twice
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  rhubarb chaos
  rhubarb chaos --minutes 1 --tasks 2000 --seed 7 --json
  rhubarb chaos --aws --endpoint-url http://127.0.0.1:4566

It works in a folder of its own and never touches the application of rhubarb.toml. With --aws it wants an emulator on
this machine; the queues, the table and the bucket of the stage that it makes there stay. The exit code is 0 if every
task succeeded, none was lost and none was committed twice; 1 if not, and then the folder stays for a look."
)]
pub(crate) struct Chaos {
    #[command(subcommand)]
    part: Option<Part>,
    /// For how long things go wrong
    #[arg(long, default_value_t = 5.0, value_name = "N", value_parser = minutes)]
    minutes: f64,
    /// In place of a time: until so many things have gone wrong
    #[arg(long, value_name = "N", conflicts_with = "minutes", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    faults: Option<u64>,
    /// How many tasks arrive meanwhile
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    tasks: u64,
    /// How many agents run, of four slots each
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    agents: u32,
    /// Decides what goes wrong and when [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
}

/// The processes that it starts.
#[derive(Debug, Subcommand)]
enum Part {
    /// An agent that dies with the process that started it
    #[command(hide = true, after_help = "Example: started by `rhubarb chaos` alone")]
    Agent(Box<Agent>),
    /// The function: notes in the journal what it runs
    #[command(hide = true, after_help = "Example: started by the agents of `rhubarb chaos` alone")]
    Function {
        /// The folder of the journal
        journal: PathBuf,
    },
}

fn minutes(text: &str) -> Result<f64, String> {
    let minutes: f64 = text.parse().map_err(|_| format!("`{text}` is no number of minutes"))?;
    (minutes > 0.0 && minutes <= 1440.0).then_some(minutes).ok_or_else(|| "from just over 0 to 1440".to_owned())
}

/// How long agents may drain at the end.
const DRAIN: Duration = Duration::from_secs(15);

impl Chaos {
    /// Runs it.
    pub(crate) async fn run(mut self, session: &Session) -> Result<()> {
        match self.part.take() {
            Some(Part::Agent(agent)) => return agents::run(*agent, session).await,
            Some(Part::Function { journal }) => return function::run(&journal).await,
            None => {}
        }
        let mut signals = StopSignals::listen()?;
        let seed = self.seed.unwrap_or_else(|| fastrand::u64(..));
        let stage = tokio::select! {
            stage = Stage::set(session, seed) => stage?,
            _ = signals.next() => return Err(CliError::Interrupted),
        };
        let played = tokio::select! {
            played = self.play(session, &stage) => played,
            _ = signals.next() => Err(CliError::Interrupted),
        };
        // What was started has been killed by now, and takes its functions along.
        stage.is_empty().await?;
        let verdict = match played {
            Ok(report) => {
                report.show(session)?;
                report.verdict()
            }
            Err(error) => Err(error),
        };
        match &verdict {
            Ok(()) | Err(CliError::Interrupted | CliError::Closed) => stage.clear()?,
            Err(_) => session.screen.note(format!("the folder stays: {}", stage.folder.display())),
        }
        verdict
    }

    async fn play(&self, session: &Session, stage: &Stage) -> Result<Report> {
        let began = Instant::now();
        let how_long = self.faults.map_or_else(
            || format!("for {} minutes", self.minutes),
            |faults| format!("until {faults} things have gone wrong"),
        );
        let over = stage.place();
        session.screen.note(format!(
            "{} tasks over {over}, {how_long}; seed {}; {}",
            self.tasks,
            stage.seed,
            stage.folder.display()
        ));
        let disturbed = Disturbed::default();
        let (calm, is_calm) = watch::channel(false);
        let seen = Watch::default();
        let slots = (0..self.agents).map(|number| Slot::new(number, stage, &disturbed).play(is_calm.clone()));
        let direct = async {
            let spread = self.faults.map_or_else(|| self.time().mul_f64(0.8), |_| Duration::ZERO);
            producer::produce(stage, self.tasks, spread, &seen).await?;
            self.last(began, &disturbed).await;
            session.screen.note(format!("calm after {:.0} s: {disturbed}", began.elapsed().as_secs_f64()));
            calm.send_replace(true);
            Ok(())
        };
        let (directed, agents, functions, cloud, looked) = tokio::join!(
            direct,
            join_all(slots),
            disturb_functions(stage, &disturbed, is_calm.clone()),
            stage.misbehave(&disturbed, is_calm.clone()),
            look::look(session, stage, &seen, &disturbed, is_calm.clone()),
        );
        directed.and(functions).and(cloud)?;
        let agents = agents.into_iter().collect::<Result<Vec<_>>>()?;
        looked?;
        let took = began.elapsed();
        join_all(agents.into_iter().map(|agent| agent.stop(DRAIN))).await;
        let verdict = Verdict::reach(stage, self.tasks, &seen).await?;
        Ok(Report::new(stage, took, &disturbed, verdict))
    }

    fn time(&self) -> Duration {
        Duration::from_secs_f64(self.minutes * 60.0)
    }

    /// Waits for the end of what was asked for.
    async fn last(&self, began: Instant, disturbed: &Disturbed) {
        match self.faults {
            None => tokio::time::sleep_until(began + self.time()).await,
            Some(faults) => disturbed.reach(faults).await,
        }
    }
}
