//! The agents: each in a place of its own, killed and stopped there, and started again.

use std::{os::unix::process::CommandExt as _, process::Stdio, time::Duration};

use fastrand::Rng;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tokio::{process::Child, sync::watch, time::sleep};

use super::{
    faults::{Disturbed, Fault, between},
    stage::Stage,
};
use crate::{
    commands::agent::Agent,
    exit::{CliError, Result},
    session::Session,
};

/// An agent works so long before something happens to it, and is away so long.
const UP: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(6)];
const AWAY: [Duration; 2] = [Duration::ZERO, Duration::from_secs(2)];
/// One that ended by itself, because its backend is out of reach, is started again after this.
const ENDED: Duration = Duration::from_millis(500);

/// The process of an agent: as `rhubarb agent`, and it dies with the process that started it.
pub(super) async fn run(agent: Agent, session: &Session) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| CliError::io("ask for a death with the parent's", &error.into()))?;
    agent.run(session).await
}

/// A place for one agent at a time.
pub(super) struct Slot<'a> {
    stage: &'a Stage,
    disturbed: &'a Disturbed,
    random: Rng,
}

impl<'a> Slot<'a> {
    pub(super) fn new(number: u32, stage: &'a Stage, disturbed: &'a Disturbed) -> Self {
        Self { stage, disturbed, random: Rng::with_seed(stage.seed.wrapping_add(u64::from(number) + 1)) }
    }

    /// Starts an agent, and starts it again however it ends, until all is calm. Returns the one that works then.
    pub(super) async fn play(mut self, mut calm: watch::Receiver<bool>) -> Result<Running> {
        loop {
            let mut agent = Running::start(self.stage)?;
            let away = loop {
                let up = between(&mut self.random, UP);
                tokio::select! {
                    _ = calm.wait_for(|calm| *calm) => return self.works(agent).await,
                    ended = agent.0.wait() => {
                        ended.map_err(|error| CliError::io("wait for an agent", &error))?;
                        break ENDED;
                    }
                    () = sleep(up) => {}
                }
                if self.random.u8(0..10) < 6 {
                    agent.kill().await;
                    self.disturbed.note(Fault::AgentKilled);
                    break between(&mut self.random, AWAY);
                }
                let lease = self.stage.lease();
                let stopped = between(&mut self.random, [lease.mul_f64(1.1), lease * 3]);
                agent.signal(Signal::STOP);
                sleep(stopped).await;
                agent.signal(Signal::CONT);
                self.disturbed.note(Fault::AgentStopped);
            };
            sleep(away).await;
        }
    }

    /// An agent that works while all is calm, or one in its place.
    async fn works(&self, mut agent: Running) -> Result<Running> {
        // An outage that has just ended may still end it.
        match tokio::time::timeout(ENDED, agent.0.wait()).await {
            Err(_) => Ok(agent),
            Ok(_) => Running::start(self.stage),
        }
    }
}

/// A running agent; killed where it is dropped.
pub(super) struct Running(Child);

impl Running {
    fn start(stage: &Stage) -> Result<Self> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(stage.folder.join("agents.log"));
        let log = log.map_err(|error| CliError::io("write the agents' log", &error))?;
        let mut command = stage.agent();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        // A ctrl-c on the terminal is for this process alone, which ends the others.
        command.as_std_mut().process_group(0);
        command.spawn().map(Self).map_err(|error| CliError::io("start an agent", &error))
    }

    async fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill().await;
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
            // Not reaped yet, so the id is its own; it may have ended.
            let _ = kill_process(pid, signal);
        }
    }

    /// Lets it drain, at most so long.
    pub(super) async fn stop(mut self, within: Duration) {
        self.signal(Signal::TERM);
        if tokio::time::timeout(within, self.0.wait()).await.is_err() {
            self.kill().await;
        }
    }
}
