//! Looks at the rows while everything goes wrong: what has settled must stay as it is.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rhubarb_core::{backend::TaskDetail, outcome::Output, row::State};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{faults::Disturbed, stage::Stage};
use crate::{exit::Result, session::Session};

/// Rows of one read.
pub(super) const READ_MAX: usize = 100;
/// The pause between two looks where nothing new was seen.
const PAUSE: Duration = Duration::from_millis(100);
/// While all is calm something settles within this, or nothing will: leases, retries and the patience for lost
/// doorbells are much shorter.
const PATIENCE: Duration = Duration::from_secs(180);
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What was accepted, and how it was first seen settled.
#[derive(Debug, Default)]
pub(super) struct Watch(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    accepted: u64,
    open: VecDeque<u64>,
    settled: HashMap<u64, Settled>,
}

/// How a task was found once it had settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settled {
    /// As what.
    pub(super) state: State,
    /// The run whose output was committed.
    pub(super) run: Option<u64>,
    /// How many of its attempts the store says succeeded.
    pub(super) commits: usize,
}

impl Settled {
    /// What a row says; none while it is open.
    pub(super) fn of(detail: &TaskDetail) -> Option<Self> {
        let state = detail.record.state;
        let run = match &detail.record.output {
            Some(Output::Inline(json)) => {
                serde_json::from_str::<String>(json.get()).ok().and_then(|run| u64::from_str_radix(&run, 16).ok())
            }
            Some(Output::Blob(_)) | None => None,
        };
        let succeeded = |outcome: Option<&str>| outcome == Some("succeeded");
        let commits = detail.attempts.iter().filter(|attempt| succeeded(attempt.outcome.as_deref())).count();
        state.is_settled().then_some(Self { state, run, commits })
    }
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes tasks that the backend has accepted.
    pub(super) fn accepted(&self, numbers: impl Iterator<Item = u64>) {
        let mut seen = self.lock();
        let before = seen.open.len();
        seen.open.extend(numbers);
        seen.accepted += (seen.open.len() - before) as u64;
    }

    /// How a task was first seen settled.
    pub(super) fn settled(&self, number: u64) -> Option<Settled> {
        self.lock().settled.get(&number).copied()
    }
}

/// Looks until all is calm and everything has settled, or nothing settles any more.
pub(super) async fn look(
    session: &Session,
    stage: &Stage,
    watch: &Watch,
    disturbed: &Disturbed,
    calm: watch::Receiver<bool>,
) -> Result<()> {
    let (mut news, mut told) = (Instant::now(), Instant::now());
    loop {
        let some: Vec<u64> = {
            let mut seen = watch.lock();
            let count = seen.open.len().min(READ_MAX);
            seen.open.drain(..count).collect()
        };
        let found = look_at(stage, watch, &some).await?;
        let is_calm = *calm.borrow();
        if found > 0 || !is_calm {
            news = Instant::now();
        }
        let (accepted, settled, open) = {
            let seen = watch.lock();
            (seen.accepted, seen.settled.len(), seen.open.len())
        };
        if is_calm && (open == 0 || news.elapsed() > PATIENCE) {
            return Ok(());
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            session.screen.note(format!("{accepted} accepted, {settled} seen settled; {disturbed}"));
        }
        if found * 2 < READ_MAX {
            sleep(PAUSE).await;
        }
    }
}

/// Reads some tasks; what is open goes to the end of the line. Returns how many have settled.
async fn look_at(stage: &Stage, watch: &Watch, numbers: &[u64]) -> Result<usize> {
    if numbers.is_empty() {
        return Ok(0);
    }
    let ids: Vec<_> = numbers.iter().map(|number| stage.id(*number)).collect();
    let found = stage.eyes.tasks().read(&ids).await?;
    let mut seen = watch.lock();
    let before = seen.settled.len();
    for (number, detail) in numbers.iter().zip(found) {
        match detail.as_ref().and_then(Settled::of) {
            Some(settled) => drop(seen.settled.insert(*number, settled)),
            None => seen.open.push_back(*number),
        }
    }
    Ok(seen.settled.len() - before)
}
