//! The rows, their history, keys and what is known about queues; synchronous, one verb a call.
//!
//! What decides is [`Row`] alone; this file keeps what stands beside it. An index that lags is a
//! second map, which each change reaches only after its time.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    time::Duration,
};

use rhubarb_core::{
    backend::{
        AttemptRecord, Buried, ClaimAnswer, ClaimRequest, Cursor, DueLease, DueRing, Filter, IdempotencyKey, Log, Page,
        Progress, QueueRow, Renewal, Report, Result, Rung, Settlement, StateCount, StoreError, Submission, Submitted,
        TaskDetail, TaskRecord, Window, WonRow, too_late,
    },
    envelope::{BlobRef, Envelope},
    ids::{FencingToken, QueueName, TaskId, TaskName, WorkerId},
    limits::{KEEP_DEFAULT, KEEP_FAILED_DEFAULT, Limits, TOMBSTONE_AGE},
    outcome::{Failure, Outcome, Output},
    permit::{Permit, Refusal, Scope},
    row::{Claim, Refused, Renewed, Row, Settled, State},
    time::{LeaseTime, Now, Timestamp},
};

use super::permits::Meters;

/// What a page holds at most, whatever was asked.
const PAGE_MAX: usize = 1000;
const KEEP: (Duration, Duration) = (KEEP_DEFAULT, KEEP_FAILED_DEFAULT);

#[derive(Default)]
pub(super) struct Rows {
    rows: BTreeMap<TaskId, Stored>,
    keys: BTreeMap<(TaskName, String), KeyRow>,
    queues: BTreeMap<QueueName, QueueRow>,
    pub(super) meters: Meters,
    lag: Duration,
    /// What the lagging index shows, and the changes on their way to it.
    indexed: BTreeMap<TaskId, Stored>,
    on_the_way: VecDeque<(LeaseTime, TaskId, Option<Stored>)>,
}

#[derive(Clone)]
struct Stored {
    task: TaskName,
    queue: QueueName,
    root: Option<TaskId>,
    spec: Option<String>,
    row: Row,
    submitted: Timestamp,
    started: Option<Timestamp>,
    settled: Option<Timestamp>,
    keep: (Duration, Duration),
    progress: Option<Progress>,
    failure: Option<Failure>,
    output: Option<Output>,
    checkpoint: Option<BlobRef>,
    attempts: Vec<AttemptRecord>,
}

struct KeyRow {
    first: TaskId,
    args_sha256: [u8; 32],
    /// `None`: until the first task is settled.
    until: Option<Timestamp>,
}

impl Stored {
    fn new(submission: &Submission, row: Row) -> Self {
        let stored = Self::of(submission.task.clone(), submission.queue.clone(), submission.spec.clone(), row);
        Self { root: submission.root, ..stored }
    }

    const fn of(task: TaskName, queue: QueueName, spec: String, row: Row) -> Self {
        Self {
            task,
            queue,
            root: None,
            spec: Some(spec),
            submitted: row.queued_at,
            row,
            started: None,
            settled: None,
            keep: KEEP,
            progress: None,
            failure: None,
            output: None,
            checkpoint: None,
            attempts: Vec::new(),
        }
    }

    fn attempt_mut(&mut self, fence: FencingToken) -> Option<&mut AttemptRecord> {
        self.attempts.iter_mut().rev().find(|attempt| attempt.fence == fence)
    }

    /// Closes the attempt that was taken from its holder.
    fn lose(&mut self, fence: FencingToken, now: Timestamp) {
        if let Some(attempt) = self.attempt_mut(fence).filter(|attempt| attempt.ended.is_none()) {
            attempt.ended = Some(now);
            attempt.outcome = Some("lost".into());
        }
    }

    fn note_settled(&mut self, now: Timestamp) {
        if self.row.state.is_settled() {
            self.settled.get_or_insert(now);
        }
    }

    fn kept_until(&self) -> Option<Timestamp> {
        let keep = if self.row.state == State::Failed { self.keep.1 } else { self.keep.0 };
        self.settled.map(|at| at.after(keep))
    }

    fn record(&self, id: TaskId) -> TaskRecord {
        let row = &self.row;
        TaskRecord {
            id,
            task: self.task.clone(),
            queue: self.queue.clone(),
            state: row.state,
            attempt: row.attempt,
            max_attempts: (!self.attempts.is_empty()).then_some(row.max_attempts),
            submitted: self.submitted,
            queued_at: row.queued_at,
            not_before: row.not_before,
            expires: row.expires,
            started: self.started,
            settled: self.settled,
            worker: self.attempts.last().map(|attempt| attempt.worker.clone()),
            progress: self.progress.clone(),
            cancel_asked: row.cancel_asked,
            redriven: row.redriven,
            interruptions: row.interruptions,
            snoozes: row.snoozes,
            failure: self.failure.clone(),
            output: self.output.clone(),
            checkpoint: self.checkpoint.clone(),
        }
    }

    fn detail(&self, id: TaskId, refusal: Option<Refusal>) -> TaskDetail {
        let spec = self.spec.as_deref().and_then(|spec| Envelope::decode_full(spec).ok());
        TaskDetail { record: self.record(id), spec, attempts: self.attempts.clone(), refusal }
    }

    /// What its attempts left, and the claim checks that go with them.
    fn strip(&mut self) -> Vec<BlobRef> {
        let arguments = self.spec.take().and_then(|spec| Envelope::decode_full(&spec).ok()).and_then(|spec| spec.blob);
        let output = match self.output.take() {
            Some(Output::Blob(blob)) => Some(blob),
            Some(Output::Inline(_)) | None => None,
        };
        self.attempts.clear();
        self.progress = None;
        self.failure = None;
        [arguments, output, self.checkpoint.take()].into_iter().flatten().collect()
    }
}

impl Rows {
    pub(super) fn new(lag: Duration) -> Self {
        Self { lag, ..Self::default() }
    }

    pub(super) fn row(&self, id: TaskId) -> Option<&Row> {
        self.rows.get(&id).map(|stored| &stored.row)
    }

    /// Changes one row and tells the index.
    fn change<T>(&mut self, id: TaskId, now: Now, change: impl FnOnce(&mut Stored) -> Result<T>) -> Result<T> {
        let stored = self.rows.get_mut(&id).ok_or(StoreError::NoTask(id))?;
        let (before, queue) = (stored.row.permit.clone(), stored.queue.clone());
        let answer = change(stored);
        stored.note_settled(now.epoch);
        if before != stored.row.permit {
            self.meters.follow(&queue, before.as_deref(), stored.row.permit.as_deref(), now);
        }
        self.tell_index(id, now);
        answer
    }

    /// Changes one row alone; its permit's meters are the caller's business.
    pub(super) fn change_row<T>(&mut self, id: TaskId, now: Now, change: impl FnOnce(&mut Row) -> T) -> Option<T> {
        let stored = self.rows.get_mut(&id)?;
        let answer = change(&mut stored.row);
        stored.note_settled(now.epoch);
        self.tell_index(id, now);
        Some(answer)
    }

    /// The rows parked for a scope of a queue, those first that became available first.
    pub(super) fn parked(&mut self, queue: &QueueName, scope: Scope, key: Option<&str>) -> Vec<TaskId> {
        let parked = |(id, stored): (&TaskId, &Stored)| {
            let permit = stored.row.permit.as_deref().filter(|permit| permit.parked_for() == Some(scope))?;
            let same = stored.queue == *queue && (scope == Scope::Queue || permit.key.as_deref() == key);
            same.then_some((stored.row.queued_at, stored.submitted, *id))
        };
        let mut found: Vec<_> = self.rows.iter().filter_map(parked).collect();
        found.sort_unstable();
        found.into_iter().map(|(_, _, id)| id).collect()
    }

    pub(super) fn spec(&self, id: TaskId) -> Option<String> {
        self.rows.get(&id)?.spec.clone()
    }

    pub(super) fn held_permits(&self, now: Now) -> Vec<(TaskId, QueueName, Permit)> {
        let held = |(id, stored): (&TaskId, &Stored)| {
            let unexpired = stored.row.hold.as_ref().is_some_and(|hold| hold.until > now.lease);
            let permit = stored.row.permit.as_deref().filter(|_| stored.row.state == State::Running && unexpired)?;
            Some((*id, stored.queue.clone(), permit.clone()))
        };
        self.rows.iter().filter_map(held).collect()
    }

    fn tell_index(&mut self, id: TaskId, now: Now) {
        if !self.lag.is_zero() {
            self.on_the_way.push_back((now.lease.after(self.lag), id, self.rows.get(&id).cloned()));
        }
    }

    /// What a listing sees.
    fn index(&mut self, now: Now) -> &BTreeMap<TaskId, Stored> {
        if self.lag.is_zero() {
            return &self.rows;
        }
        while let Some((_, id, stored)) = self.on_the_way.pop_front_if(|(at, _, _)| *at <= now.lease) {
            match stored {
                Some(stored) => self.indexed.insert(id, stored),
                None => self.indexed.remove(&id),
            };
        }
        &self.indexed
    }

    pub(super) fn submit(&mut self, submission: &Submission, limits: &Limits, now: Now) -> Result<Submitted> {
        if let Some(stored) = self.rows.get(&submission.id) {
            return Ok(Submitted::Exists(stored.row.state));
        }
        if let Some(key) = &submission.key
            && let Some(first) = self.first_of(&submission.task, key, limits, now)?
        {
            return Ok(Submitted::Keyed(first));
        }
        if let Some(key) = &submission.key {
            self.keep_key(submission, key, now);
        }
        let Submission { max_attempts, not_before, expires, .. } = *submission;
        let row = Row::submitted(max_attempts, not_before, expires, now.epoch, limits);
        self.rows.insert(submission.id, Stored::new(submission, row));
        self.tell_index(submission.id, now);
        Ok(Submitted::New)
    }

    fn keep_key(&mut self, submission: &Submission, key: &IdempotencyKey, now: Now) {
        let until = match key.window {
            Window::For(window) => Some(now.epoch.after(window)),
            Window::UntilSettled => None,
        };
        let row = KeyRow { first: submission.id, args_sha256: key.args_sha256, until };
        self.keys.insert((submission.task.clone(), key.key.clone()), row);
    }

    fn first_of(&self, task: &TaskName, key: &IdempotencyKey, limits: &Limits, now: Now) -> Result<Option<TaskId>> {
        let chars = key.key.chars().count();
        if chars == 0 || chars > limits.key_chars_max {
            let max = limits.key_chars_max;
            return Err(StoreError::Invalid(format!(
                "the idempotency key has {chars} characters: 1 to {max} are allowed"
            )));
        }
        let Some(known) = self.keys.get(&(task.clone(), key.key.clone())) else { return Ok(None) };
        let valid = match known.until {
            Some(until) => until > now.epoch,
            None => self.rows.get(&known.first).is_some_and(|first| !first.row.state.is_settled()),
        };
        match (valid, known.args_sha256 == key.args_sha256) {
            (false, _) => Ok(None),
            (true, true) => Ok(Some(known.first)),
            (true, false) => Err(StoreError::KeyReused { key: key.key.clone(), first: known.first }),
        }
    }

    pub(super) fn claim(&mut self, request: &ClaimRequest<'_>, limits: &Limits, now: Now) -> ClaimAnswer {
        let ClaimRequest { submission, sent, terms } = request;
        let id = submission.id;
        if let Some(key) = submission.key.as_ref().filter(|_| !self.rows.contains_key(&id)) {
            match self.first_of(&submission.task, key, limits, now) {
                Ok(Some(_)) => return ClaimAnswer { claim: Claim::Settled, now: now.epoch, won: None },
                Ok(None) => self.keep_key(submission, key, now),
                // A message cannot be told: its task runs without the key.
                Err(_) => {}
            }
        }
        let stored = self.rows.entry(id).or_insert_with(|| {
            let Submission { max_attempts, not_before, expires, .. } = *submission;
            Stored::new(submission, Row::submitted(max_attempts, not_before, expires, *sent, limits))
        });
        let (held, was_settled) = (stored.row.fence, stored.row.state.is_settled());
        let claim = self.meters.claim(&mut stored.row, request, now);
        if claim == Claim::Won || (claim == Claim::Settled && !was_settled) {
            stored.lose(held, now.epoch);
        }
        stored.note_settled(now.epoch);
        let won = (claim == Claim::Won).then(|| stored.begin(terms.worker, now.epoch));
        self.tell_index(id, now);
        ClaimAnswer { claim, now: now.epoch, won }
    }

    pub(super) fn renew(&mut self, renewal: Renewal, now: Now) -> Renewed {
        if !self.may_regain(renewal, now) {
            return Renewed::Lost;
        }
        let renewed = self.change(renewal.id, now, |stored| {
            let renewed = stored.row.renew(renewal.fence, now);
            if let (Renewed::Kept { .. }, Some(attempt)) = (renewed, stored.attempt_mut(renewal.fence)) {
                (attempt.ended, attempt.outcome) = (None, None);
            }
            Ok(renewed)
        });
        renewed.unwrap_or(Renewed::Lost)
    }

    /// Whether the permit that a late holder wants back is there.
    fn may_regain(&mut self, renewal: Renewal, now: Now) -> bool {
        let Some(stored) = self.rows.get(&renewal.id) else { return true };
        let mut renewed = stored.row.clone();
        let (before, queue) = (stored.row.permit.clone(), stored.queue.clone());
        renewed.renew(renewal.fence, now) == Renewed::Lost
            || self.meters.may_follow(&queue, before.as_deref(), renewed.permit.as_deref())
    }

    pub(super) fn report(&mut self, report: &Report, now: Now) -> Result<()> {
        self.change(report.id, now, |stored| {
            if !stored.row.is_held_by(report.fence) {
                return Err(refused(&stored.row));
            }
            stored.progress = report.progress.clone().or(stored.progress.take());
            stored.checkpoint = report.checkpoint.clone().or(stored.checkpoint.take());
            if let (Some(log), Some(attempt)) = (&report.log, stored.attempt_mut(report.fence)) {
                attempt.log = log.clone();
            }
            Ok(())
        })
    }

    pub(super) fn settle(&mut self, settlement: &Settlement, limits: &Limits, now: Now) -> Result<Settled> {
        let Settlement { id, fence, outcome, log, keep } = settlement;
        self.change(*id, now, |stored| {
            let settled = match stored.row.settle(*fence, outcome, now, limits) {
                Ok(settled) => settled,
                Err(refused) => {
                    // What it gave is noted where its attempt is; a second settle of the same notes nothing.
                    if let Some(attempt) =
                        stored.attempt_mut(*fence).filter(|a| a.outcome.as_deref() != Some(outcome.word()))
                    {
                        attempt.log = too_late(outcome, log);
                    }
                    return Err(refused.into());
                }
            };
            let failure = settled.buried.clone().or_else(|| outcome.failure().cloned());
            if let Some(attempt) = stored.attempt_mut(*fence) {
                attempt.ended = Some(now.epoch);
                attempt.outcome = Some(outcome.word().to_owned());
                attempt.failure.clone_from(&failure);
                attempt.log = log.clone();
            }
            stored.keep = *keep;
            stored.failure = failure.or(stored.failure.take());
            if let Outcome::Succeeded(output) = outcome {
                stored.output.clone_from(output);
                stored.failure = None;
            }
            Ok(settled)
        })
    }

    pub(super) fn bury(&mut self, buried: &Buried, now: Now) {
        let Buried { submission, submitted, attempt, max_attempts, worker, started, failure, log, keep } = buried;
        let Entry::Vacant(place) = self.rows.entry(submission.id) else { return };
        let mut stored = Stored::new(submission, Row::buried(*attempt, *max_attempts, *submitted));
        stored.attempts.push(AttemptRecord {
            attempt: *attempt,
            fence: stored.row.fence,
            worker: worker.clone(),
            started: *started,
            ended: Some(now.epoch),
            outcome: Some("failed".into()),
            failure: Some(failure.clone()),
            log: log.clone(),
        });
        (stored.started, stored.failure, stored.keep) = (Some(*started), Some(failure.clone()), *keep);
        stored.note_settled(now.epoch);
        place.insert(stored);
        self.tell_index(submission.id, now);
    }

    pub(super) fn bury_poison(&mut self, queue: &QueueName, id: TaskId, failure: &Failure, now: Now) {
        let Entry::Vacant(place) = self.rows.entry(id) else { return };
        let row = Row::poisoned(now.epoch);
        let mut stored = Stored::of(TaskName::unreadable(), queue.clone(), String::new(), row);
        stored.failure = Some(failure.clone());
        stored.note_settled(now.epoch);
        place.insert(stored);
        self.tell_index(id, now);
    }

    pub(super) fn read(&self, id: TaskId, now: Now) -> Option<TaskDetail> {
        let refusal = |stored: &Stored| self.meters.refusal(&stored.queue, &stored.row, now);
        self.rows.get(&id).map(|stored| stored.detail(id, refusal(stored)))
    }

    pub(super) fn state(&self, id: TaskId) -> Option<State> {
        self.row(id).map(|row| row.state)
    }

    pub(super) fn list(&mut self, filter: &Filter, now: Now) -> Result<Page<TaskRecord>> {
        let after = filter.cursor.as_ref().map(place_of).transpose()?;
        let matches = |stored: &Stored| {
            stored.spec.is_some()
                && filter.queue.as_ref().is_none_or(|queue| *queue == stored.queue)
                && filter.state.is_none_or(|state| state == stored.row.state)
                && filter.task.as_ref().is_none_or(|task| *task == stored.task)
                && filter.root.is_none_or(|root| stored.root == Some(root))
                && filter.since.is_none_or(|since| stored.submitted >= since)
        };
        let index = self.index(now);
        let mut found: Vec<(Timestamp, TaskId)> =
            index.iter().filter(|(_, stored)| matches(stored)).map(|(id, stored)| (stored.submitted, *id)).collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        found.retain(|place| after.is_none_or(|after| *place < after));
        let limit = filter.limit.clamp(1, PAGE_MAX);
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|(at, id)| Cursor(format!("{}/{id}", at.0)));
        let items = found.iter().filter_map(|(_, id)| index.get(id).map(|stored| stored.record(*id))).collect();
        Ok(Page { items, next })
    }

    pub(super) fn count(&mut self, now: Now) -> Vec<StateCount> {
        let mut counts: BTreeMap<(QueueName, State), (u64, Timestamp)> = BTreeMap::new();
        for stored in self.index(now).values().filter(|stored| stored.spec.is_some()) {
            let place = counts.entry((stored.queue.clone(), stored.row.state)).or_insert((0, stored.submitted));
            *place = (place.0 + 1, place.1.min(stored.submitted));
        }
        let count = |((queue, state), (count, oldest))| StateCount { queue, state, count, oldest: Some(oldest) };
        counts.into_iter().map(count).collect()
    }

    pub(super) fn due_leases(&mut self, limit: usize, now: Now) -> Vec<DueLease> {
        let due = |(id, stored): (&TaskId, &Stored)| {
            let hold = stored.row.hold.as_ref().filter(|hold| hold.until <= now.lease)?;
            (stored.row.state == State::Running).then(|| DueLease {
                id: *id,
                queue: stored.queue.clone(),
                fence: stored.row.fence,
                until: hold.until,
                lease: hold.lease,
            })
        };
        let mut found: Vec<DueLease> = self.index(now).iter().filter_map(due).collect();
        found.sort_by_key(|lease| lease.until);
        found.truncate(limit);
        found
    }

    pub(super) fn reap(&mut self, lease: &DueLease, now: Now) -> Result<Settled> {
        self.change(lease.id, now, |stored| {
            let settled = stored.row.reap(lease.fence, lease.until, now)?;
            stored.lose(lease.fence, now.epoch);
            if let Some(failure) = &settled.buried {
                stored.failure = Some(failure.clone());
                if let Some(attempt) = stored.attempt_mut(lease.fence) {
                    attempt.failure = Some(failure.clone());
                }
            }
            Ok(settled)
        })
    }

    pub(super) fn due_rings(&mut self, limit: usize, now: Now) -> Vec<DueRing> {
        let due = |(id, stored): (&TaskId, &Stored)| {
            let at = stored.row.ring_at.filter(|at| *at <= now.epoch)?;
            let Row { fence, rings, not_before, .. } = stored.row;
            let spec = stored.spec.clone()?;
            Some((at, DueRing { id: *id, queue: stored.queue.clone(), fence, rings, not_before, spec }))
        };
        let mut found: Vec<(Timestamp, DueRing)> = self.index(now).iter().filter_map(due).collect();
        found.sort_by_key(|(at, _)| *at);
        found.into_iter().take(limit).map(|(_, ring)| ring).collect()
    }

    pub(super) fn rung(&mut self, rung: Rung, now: Now) -> Result<()> {
        match self.change(rung.id, now, |stored| {
            stored.row.rung(rung.fence, rung.rings);
            Ok(())
        }) {
            // A row that has gone needs no bell.
            Err(StoreError::NoTask(_)) => Ok(()),
            rung => rung,
        }
    }

    /// Changes up to `limit` rows of a queue; returns how many `change` did change.
    fn sweep(&mut self, queue: &QueueName, limit: usize, now: Now, change: impl Fn(&mut Row) -> bool) -> u64 {
        let of_queue = self.rows.iter().filter(|(_, stored)| stored.queue == *queue);
        let changes = of_queue.filter_map(|(id, stored)| change(&mut stored.row.clone()).then_some(*id));
        let changed: Vec<TaskId> = changes.take(limit).collect();
        for id in &changed {
            // It is there: it was looked at a moment ago.
            let _ = self.change(*id, now, |stored| Ok(change(&mut stored.row)));
        }
        changed.len() as u64
    }

    pub(super) fn doorbells_lost(&mut self, queue: &QueueName, limit: usize, now: Now) -> u64 {
        self.sweep(queue, limit, now, |row| row.doorbell_lost(now.epoch))
    }

    pub(super) fn doorbells_aged(&mut self, queue: &QueueName, limit: usize, now: Now) -> u64 {
        self.sweep(queue, limit, now, |row| row.doorbell_aged(now.epoch))
    }

    pub(super) fn cancel(&mut self, id: TaskId, now: Now) -> Result<State> {
        self.change(id, now, |stored| stored.row.cancel().map_err(Into::into))
    }

    pub(super) fn redrive(&mut self, id: TaskId, now: Now) -> Result<Settled> {
        self.change(id, now, |stored| {
            let readable = stored.spec.as_deref().is_some_and(|spec| Envelope::decode_full(spec).is_ok());
            if stored.row.state == State::Failed && !readable {
                return Err(StoreError::Invalid(format!(
                    "task {id} has no envelope that could be sent again: enqueue it anew"
                )));
            }
            let settled = stored.row.redrive(now.epoch)?;
            stored.settled = None;
            Ok(settled)
        })
    }

    pub(super) fn discard(&mut self, id: TaskId, now: Now) -> Result<Vec<BlobRef>> {
        self.change(id, now, |stored| {
            let row = &stored.row;
            if stored.spec.is_none() {
                return Err(StoreError::NoTask(id));
            }
            if row.state != State::Failed {
                return Err(Refused { state: row.state, fence: row.fence }.into());
            }
            Ok(stored.strip())
        })
    }

    pub(super) fn queue_rows(&self) -> Vec<QueueRow> {
        self.queues.values().cloned().collect()
    }

    fn queue_row(&mut self, queue: &QueueName) -> &mut QueueRow {
        let new = QueueRow { queue: queue.clone(), paused: false, purged_before: None };
        self.queues.entry(queue.clone()).or_insert(new)
    }

    pub(super) fn purged_before(&self, queue: &QueueName) -> Option<Timestamp> {
        self.queues.get(queue)?.purged_before
    }

    pub(super) fn pause(&mut self, queue: &QueueName, paused: bool) {
        self.queue_row(queue).paused = paused;
    }

    pub(super) fn mark_purged(&mut self, queue: &QueueName, now: Now) -> Timestamp {
        self.queue_row(queue).purged_before = Some(now.epoch);
        now.epoch
    }

    pub(super) fn cancel_purged(&mut self, queue: &QueueName, limit: usize, now: Now) -> u64 {
        match self.queue_row(queue).purged_before {
            Some(purge) => self.sweep(queue, limit, now, |row| row.purge(purge)),
            None => 0,
        }
    }

    /// Mends what a step back of the wall clock would hold up, or cancel.
    pub(super) fn clock_set_back(&mut self, now: Now, limits: &Limits) {
        let ids: Vec<TaskId> = self.rows.keys().copied().collect();
        for id in ids {
            self.change_row(id, now, |row| row.clock_set_back(now.epoch, limits));
        }
        for queue in self.queues.values_mut() {
            queue.purged_before = queue.purged_before.map(|mark| mark.min(now.epoch.before(Duration::from_millis(1))));
        }
    }

    pub(super) fn forget(&mut self, limit: usize, now: Now) -> (u64, Vec<BlobRef>) {
        let mut blobs = Vec::new();
        let past = |at: Option<Timestamp>| at.is_some_and(|at| at <= now.epoch);
        let stale = self.rows.iter().filter(|(_, stored)| stored.spec.is_some() && past(stored.kept_until()));
        let stale: Vec<TaskId> = stale.map(|(id, _)| *id).take(limit).collect();
        for id in &stale {
            let stripped = self.change(*id, now, |stored| Ok(stored.strip()));
            blobs.extend(stripped.unwrap_or_default());
        }
        let tombstones = self.rows.iter().filter(|(id, stored)| {
            stored.spec.is_none() && !stale.contains(id) && past(stored.settled.map(|at| at.after(TOMBSTONE_AGE)))
        });
        let gone: Vec<TaskId> = tombstones.map(|(id, _)| *id).take(limit - stale.len()).collect();
        for id in &gone {
            self.rows.remove(id);
            self.keys.retain(|_, key| key.first != *id);
            self.tell_index(*id, now);
        }
        ((stale.len() + gone.len()) as u64, blobs)
    }
}

impl Stored {
    fn begin(&mut self, worker: &WorkerId, now: Timestamp) -> WonRow {
        let row = &self.row;
        self.started = Some(now);
        self.attempts.push(AttemptRecord {
            attempt: row.attempt,
            fence: row.fence,
            worker: worker.clone(),
            started: now,
            ended: None,
            outcome: None,
            failure: None,
            log: Log::default(),
        });
        WonRow {
            fence: row.fence,
            attempt: row.attempt,
            max_attempts: row.max_attempts,
            alone: row.alone,
            submitted: self.submitted,
            queued_at: row.queued_at,
            started: now,
            checkpoint: self.checkpoint.clone(),
        }
    }
}

fn refused(row: &Row) -> StoreError {
    StoreError::Refused(rhubarb_core::row::Refused { state: row.state, fence: row.fence })
}

fn place_of(cursor: &Cursor) -> Result<(Timestamp, TaskId)> {
    let parts = cursor.0.split_once('/');
    let place = parts.and_then(|(at, id)| Some((Timestamp(at.parse().ok()?), id.parse().ok()?)));
    place.ok_or_else(|| StoreError::Invalid(format!("`{}` is no cursor of this store", cursor.0)))
}
