//! A simulation of the whole protocol: any order of its steps, with anything going wrong in between.
//!
//! The actors run the real code: the core's row, claim, disposition and reaper, and the two-step bodies
//! of `submit`, `take`, `finish`, `ring` and `redrive`, over the in-memory backend. Each verb on row or
//! queue is one step; a seed decides which actor takes the next one, how time passes, who crashes or
//! stands still, and what becomes of each verb (refused, answer lost, message lost or doubled). Clocks
//! of workers are skewed and step by an hour, indexes lag, writes arrive after their senders gave up, and the
//! store has outages. Half of the worlds limit how many tasks run at once, and how many start in a period.
//! After each step the oracle compares every row with the one before. At last all is calm,
//! and every accepted task must settle.
//!
//! A broken rule names the seed, and [`simulate`] with that seed breaks it again, with its trace.

mod actors;
mod oracle;
pub(crate) mod random;
mod world;

use std::fmt;

pub use world::simulate;

/// A rule of the protocol taken away, to show that the simulation would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// The store keeps a settle whatever token it carries.
    NoFencing,
    /// A message is deleted before its outcome is written.
    DeleteBeforeSettle,
    /// The delivery of a held task is deleted in mode `message` too.
    DropHeldDeliveries,
    /// The reaper judges leases by a worker's clock, at the first look.
    ReapByWorkerClock,
    /// The sweep rings no doorbell.
    SilentSweep,
    /// On a FIFO queue every doorbell of a task has the same deduplication id.
    SameBellAgain,
    /// A claim starts whatever the queue's limits say.
    ClaimPastLimits,
    /// A holder that settles gives its permit back twice.
    PermitGivenBackTwice,
    /// Nobody calls the tasks that are parked for a permit.
    ParkedNeverCalled,
}

impl Sabotage {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::NoFencing,
        Self::DeleteBeforeSettle,
        Self::DropHeldDeliveries,
        Self::ReapByWorkerClock,
        Self::SilentSweep,
        Self::SameBellAgain,
        Self::ClaimPastLimits,
        Self::PermitGivenBackTwice,
        Self::ParkedNeverCalled,
    ];
}

/// What a run without a broken rule did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Verbs that were done or refused.
    pub steps: u64,
    /// Actors that were stopped for good between two steps.
    pub crashes: u64,
    /// Tasks that were accepted, and settled in the end.
    pub settled: u64,
    /// Attempts that were begun.
    pub attempts: u64,
    /// Leases that the reaper took.
    pub reaped: u64,
    /// Settles that changed nothing: of older holders, or while the store was out of reach.
    pub refused: u64,
    /// Tasks that found no permit and were parked.
    pub parked: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.steps += other.steps;
        self.crashes += other.crashes;
        self.settled += other.settled;
        self.attempts += other.attempts;
        self.reaped += other.reaped;
        self.refused += other.refused;
        self.parked += other.parked;
    }
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The seed that breaks it again.
    pub seed: u64,
    /// The rule.
    pub rule: String,
    /// What happened until then, a line a step.
    pub trace: Vec<String>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        write!(f, "seed {}: {}", self.seed, self.rule)
    }
}

impl std::error::Error for Broken {}
