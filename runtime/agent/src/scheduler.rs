//! Fires schedules while this worker holds the role `scheduler`.
//!
//! A heap by the next due time holds names alone: what a schedule says, and how far it has come, is read again
//! when it is due. A tick is submitted under the id and the key that its schedule and its time make, then noted.
//! Whoever dies in between leaves a tick that the next holder submits again, to the same task; two that both
//! believe they hold the role do the same. Slots have no part in it: long tasks delay no tick.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use rhubarb_core::{
    backend::{Backend, Noted, Result, ScheduleRecord, StoreError, Submission, WorkerRecord},
    config::{Config, Definition, ScheduleConfig},
    ids::ScheduleName,
    schedule::{self, Rule, Unfit},
    time::Timestamp,
};
use rhubarb_telemetry::{queues::Queues, spans};
use tokio_util::sync::CancellationToken;

/// When a schedule that could not be fired is due again.
const AGAIN: Duration = Duration::from_secs(1);
/// The role is held for so many looks: one may be lost, and one that dies with it delays no tick for long.
const ROLE_LOOKS: u32 = 3;
/// Schedules that are fired together.
const TOGETHER_MAX: usize = 500;
/// Ticks that are submitted in one go.
const TICKS_MAX: usize = 1000;

/// What one go did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fired {
    /// Ticks that were submitted, also those that somebody else had submitted before.
    pub ticks: usize,
    /// When the next schedule is due; none where nothing is to come.
    pub next: Option<Timestamp>,
}

/// Fires what is due. A clone begins with what the first knew. Every method takes the wall clock's time.
#[derive(Clone)]
pub struct Scheduler {
    backend: Arc<dyn Backend>,
    config: Arc<Config>,
    queues: Arc<Queues>,
    due: BinaryHeap<Reverse<(Timestamp, ScheduleName)>>,
    revision: Option<u64>,
}

/// One schedule's part of a go.
struct Part {
    noted: Noted,
    wake: Option<Timestamp>,
    /// Its submissions, by their places.
    submissions: std::ops::Range<usize>,
    tells: bool,
}

impl Scheduler {
    /// A scheduler that has looked at nothing yet.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>, config: Arc<Config>) -> Self {
        let queues = Arc::new(Queues::of(&config));
        Self { backend, config, queues, due: BinaryHeap::new(), revision: None }
    }

    /// Reads all schedules if some have changed since.
    ///
    /// # Errors
    ///
    /// The backend cannot be reached; what is known stays.
    pub async fn refresh(&mut self) -> Result<()> {
        let schedules = self.backend.schedules();
        let revision = schedules.revision().await?;
        if self.revision == Some(revision) {
            return Ok(());
        }
        let known = schedules.list().await?;
        let mut due = Vec::with_capacity(known.len());
        for record in known.into_iter().filter(|record| !record.paused && !schedules.fires(record)) {
            match read(&record) {
                Ok((schedule, rule)) if schedule.enabled => {
                    due.extend(rule.next(record.passed).map(|tick| Reverse((rule.due(tick), record.name))));
                }
                Ok(_) => {}
                Err(unfit) => tell_unfit(&record.name, &unfit),
            }
        }
        self.due = BinaryHeap::from(due);
        self.revision = Some(revision);
        Ok(())
    }

    /// Forgets what it knows: another fires.
    pub fn forget(&mut self) {
        self.due = BinaryHeap::new();
        self.revision = None;
    }

    /// Fires what is due at `now`, or a part of it: then `next` is not later than `now`.
    ///
    /// # Errors
    ///
    /// The backend cannot be reached; what was not fired is due again in a second.
    pub async fn fire(&mut self, now: Timestamp) -> Result<Fired> {
        let names = self.take_due(now);
        let fired = if names.is_empty() { Ok(0) } else { self.fire_these(&names, now).await };
        if fired.is_err() {
            self.due.extend(names.into_iter().map(|name| Reverse((now.after(AGAIN), name))));
        }
        Ok(Fired { ticks: fired?, next: self.due.peek().map(|Reverse((due, _))| *due) })
    }

    fn take_due(&mut self, now: Timestamp) -> Vec<ScheduleName> {
        let mut names = Vec::new();
        while names.len() < TOGETHER_MAX
            && self.due.peek().is_some_and(|Reverse((due, _))| *due <= now)
            && let Some(Reverse((_, name))) = self.due.pop()
        {
            names.push(name);
        }
        names
    }

    async fn fire_these(&mut self, names: &[ScheduleName], now: Timestamp) -> Result<usize> {
        let records = self.backend.schedules().read(names).await?;
        let ticks_max = TICKS_MAX / names.len();
        let (mut parts, mut sends) = (Vec::new(), Vec::new());
        for record in records.into_iter().flatten().filter(|record| !record.paused) {
            match read(&record) {
                Ok((schedule, rule)) if schedule.enabled => {
                    parts.push(self.part(&record, &schedule, &rule, now, ticks_max, &mut sends).await?);
                }
                Ok(_) => {}
                Err(unfit) => tell_unfit(&record.name, &unfit),
            }
        }
        let (submissions, spans): (Vec<Submission>, Vec<spans::Send>) = sends.into_iter().unzip();
        let answers = self.backend.submit(&submissions, now).await;
        spans.into_iter().zip(&answers).for_each(|(span, answer)| span.end(answer));
        let (mut noted, mut again) = (Vec::new(), Vec::new());
        for part in parts {
            let answers = answers.get(part.submissions.clone()).unwrap_or_default();
            let name = &part.noted.name;
            if let Some(error) = answers.iter().find_map(|answer| answer.as_ref().err()) {
                if error.is_transient() {
                    tracing::warn!(schedule.name = %name, error = %error, "cannot fire schedule {name}, and will try again: {error}");
                    again.push(Reverse((now.after(AGAIN), name.clone())));
                    continue;
                }
                tell_refused(name, error);
            }
            if part.tells {
                tracing::info!(schedule.name = %name, "schedule {name} leaves out ticks that were missed");
            }
            again.extend(part.wake.map(|wake| Reverse((wake, name.clone()))));
            noted.push(part.noted);
        }
        for (noted, answer) in noted.iter().zip(self.backend.schedules().note(&noted).await) {
            if let Err(error) = answer {
                let name = &noted.name;
                tracing::warn!(schedule.name = %name, error = %error, "cannot note the ticks of schedule {name}: {error}");
            }
        }
        self.due.extend(again);
        Ok(submissions.len())
    }

    /// What a schedule owes now; its ticks join `sends`.
    async fn part(
        &self,
        record: &ScheduleRecord,
        schedule: &ScheduleConfig,
        rule: &Rule,
        now: Timestamp,
        ticks_max: usize,
        sends: &mut Vec<(Submission, spans::Send)>,
    ) -> Result<Part> {
        let round = rule.round(record.position(), schedule.catch_up, now, ticks_max);
        let first = sends.len();
        for tick in &round.fire {
            match self.submission(schedule, *tick, now).await {
                Ok(send) => sends.push(send),
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => tell_refused(&schedule.name, &error),
            }
        }
        let noted = Noted {
            name: record.name.clone(),
            passed: round.passed.unwrap_or(record.passed),
            last_tick: round.fire.last().copied(),
        };
        Ok(Part { noted, wake: round.wake, submissions: first..sends.len(), tells: round.left_out })
    }

    async fn submission(
        &self,
        schedule: &ScheduleConfig,
        tick: Timestamp,
        now: Timestamp,
    ) -> Result<(Submission, spans::Send)> {
        let limits = self.backend.broker().limits();
        let mut prepared = schedule::prepare(schedule, Some(tick), &self.config, limits, now)?;
        let span = spans::Send::begin(&self.queues, &mut prepared, &spans::Context::new());
        if let Some(key) = prepared.needs_claim_check() {
            let content = Bytes::copy_from_slice(prepared.envelope.args.get().as_bytes());
            let blob = self.backend.blobs().check_in(&key, content).await?;
            prepared.claim_check(blob);
        }
        Ok((prepared.submission(), span))
    }
}

fn read(record: &ScheduleRecord) -> std::result::Result<(ScheduleConfig, Rule), Unfit> {
    let definition = Definition::of_value(&record.definition).map_err(|error| Unfit {
        key: "definition",
        what: error.to_string(),
        fix: "delete the schedule and make it again".to_owned(),
    })?;
    let schedule = definition.read(record.name.clone())?;
    let rule = Rule::new(&schedule, record.since)?;
    Ok((schedule, rule))
}

fn tell_unfit(name: &ScheduleName, unfit: &Unfit) {
    tracing::error!(schedule.name = %name, error = %unfit, "schedule {name} cannot be read and does not fire: {unfit}");
}

fn tell_refused(name: &ScheduleName, error: &StoreError) {
    tracing::error!(schedule.name = %name, error = %error, "schedule {name} lost a tick: {error}");
}

/// Fires while this worker holds the role, until it is ended.
pub(crate) async fn run(mut scheduler: Scheduler, worker: WorkerRecord, end: CancellationToken) {
    let mut looks = tokio::time::interval(scheduler.backend.schedules().look_every());
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut wake = None;
    loop {
        tokio::select! {
            biased;
            () = end.cancelled() => return,
            _ = looks.tick() => {
                if let Err(error) = look(&mut scheduler, &worker).await {
                    tracing::warn!(error = %error, "cannot look for schedules: {error}");
                }
            }
            () = until(wake) => {}
        }
        let now = Timestamp::from_system(SystemTime::now());
        wake = match scheduler.fire(now).await {
            Ok(fired) => fired.next,
            Err(error) => {
                tracing::warn!(error = %error, "cannot fire schedules: {error}");
                None
            }
        };
    }
}

/// Takes or keeps the role, and looks for changes where it has it. Nobody asks for it where the backend fires all.
async fn look(scheduler: &mut Scheduler, worker: &WorkerRecord) -> Result<()> {
    let (schedules, workers) = (scheduler.backend.schedules(), scheduler.backend.workers());
    let hold = schedules.look_every() * ROLE_LOOKS;
    if schedules.left_to_agents().await? && workers.hold_role("scheduler", &worker.id, &worker.instance, hold).await? {
        return scheduler.refresh().await;
    }
    scheduler.forget();
    Ok(())
}

/// Waits until the wall clock says `due`, by what it says now; without one for ever.
async fn until(due: Option<Timestamp>) {
    match due {
        Some(due) => tokio::time::sleep(due.since(Timestamp::from_system(SystemTime::now()))).await,
        None => std::future::pending().await,
    }
}
