//! Every state of small cases: two workers, two tasks, and so many faults, in any order.
//!
//! Where the [simulation](crate::simulation) draws long stories at random from the protocol's own code, this
//! searches short ones to their end: breadth first, over the core's own verbs on rows ([`Row`]), with the queue, the
//! workers, the sweep and the passing of time as values beside them. So the shortest story that breaks a rule is the
//! one that is told. Once all states are known, each is asked whether every task can still settle from there without
//! a further fault: if not, it is a dead end, and that is a broken rule too.
//!
//! Time passes in steps of one lease, and only its order counts: what lies in the past is the same past, tokens and
//! doorbells are the newest or not, messages that are alike are one, and workers and tasks have no names. That makes
//! the states finite. States are known by 64-bit hashes.
//!
//! [`Row`]: rhubarb_core::row::Row

mod rules;
mod search;
mod small;
mod steps;
mod world;

use std::fmt;

use rhubarb_core::row::AckMode;

use crate::simulation::Sabotage;

/// A case to be searched.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// How the queue's messages are deleted.
    pub ack: AckMode,
    /// How many tasks: one or two.
    pub tasks: usize,
    /// How many things go wrong at most: crashes, messages lost, doubled or early, lost answers, interruptions,
    /// cancellations, redrives.
    pub faults: u8,
    /// A rule that is taken away.
    pub sabotage: Option<Sabotage>,
}

/// What a search without a broken rule has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Searched {
    /// States that can be reached, workers and tasks taken for each other.
    pub states: usize,
    /// Steps between them.
    pub steps: usize,
}

/// A rule that was broken, and the shortest way there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The rule.
    pub rule: String,
    /// The steps that lead there.
    pub trace: Vec<String>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in self.trace.iter().enumerate() {
            writeln!(f, "{:>3}  {step}", number + 1)?;
        }
        f.write_str(&self.rule)
    }
}

impl std::error::Error for Broken {}

/// Searches all states of a case.
///
/// # Errors
///
/// A rule is broken in one of them, or some task can never settle from there.
pub fn explore(case: Case) -> Result<Searched, Broken> {
    search::explore(case)
}
