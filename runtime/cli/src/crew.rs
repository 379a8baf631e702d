//! Agents at work in this process, from their start to the end of the last function process.

use rhubarb_agent::{Agent, Stopper, Summary};
use tokio::task::JoinHandle;

use crate::{
    exit::{CliError, Result},
    signals::StopSignals,
};

/// Agents at work.
#[derive(Debug)]
pub(crate) struct Crew {
    stoppers: Vec<Stopper>,
    work: JoinHandle<Vec<Summary>>,
}

impl Crew {
    /// Lets agents work.
    pub(crate) fn set_out(agents: Vec<Agent>) -> Self {
        let stoppers = agents.iter().map(Agent::stopper).collect();
        let work = tokio::spawn(futures::future::join_all(agents.into_iter().map(Agent::run)));
        Self { stoppers, work }
    }

    /// Waits for a signal and drains, or until the agents have drained by themselves: their Spot instance is to go.
    pub(crate) async fn until_stopped(mut self, signals: &mut StopSignals) -> Result<()> {
        let signal = tokio::select! {
            signal = signals.next() => signal,
            done = &mut self.work => return self.told(&done.unwrap_or_default()),
        };
        tracing::info!("{signal}: draining; a second one ends at once and hands the work back");
        self.drain(signals).await
    }

    /// Receives nothing more, lets attempts finish within their grace, and ends. A signal meanwhile ends
    /// at once and hands the work back.
    pub(crate) async fn drain(mut self, signals: &mut StopSignals) -> Result<()> {
        self.stoppers.iter().for_each(Stopper::drain);
        let summaries = loop {
            tokio::select! {
                done = &mut self.work => break done.unwrap_or_default(),
                signal = signals.next() => {
                    tracing::warn!("{signal}: ending at once");
                    self.stoppers.iter().for_each(Stopper::now);
                }
            }
        };
        self.told(&summaries)
    }

    fn told(&self, summaries: &[Summary]) -> Result<()> {
        if summaries.len() == self.stoppers.len() && summaries.iter().all(|summary| summary.settled) {
            return Ok(());
        }
        let text = "not every outcome could be written: the leases end by themselves, and others try these tasks again";
        Err(CliError::Backend(text.into()))
    }
}
