//! Reading tasks: the row as people see it, and its history.

use rhubarb_core::{
    backend::{AttemptRecord, Log, TaskDetail, TaskRecord},
    envelope::Envelope,
    ids::{FencingToken, TaskId},
    outcome::Failure,
    time::Timestamp,
};
use rusqlite::OptionalExtension as _;

use crate::{
    error::Fallible,
    reads::Snapshot,
    record::{COLUMN_COUNT, Ending, Last, Record, columns},
    texts::{Payload, from_json},
};

/// What a select adds to [`columns!`] for [`Snapshot::shown`].
macro_rules! shown_columns {
    () => {
        concat!(crate::record::columns!(), ", checkpoint, progress, failure, output")
    };
}
pub(crate) use shown_columns;

impl Snapshot<'_> {
    /// Everything about a task.
    pub(crate) fn detail(&self, id: TaskId) -> Fallible<Option<TaskDetail>> {
        self.read_detail(id).map_err(|fault| fault.of_task(id))
    }

    fn read_detail(&self, id: TaskId) -> Fallible<Option<TaskDetail>> {
        let mut select = self.prepare(concat!(
            "select ",
            columns!(),
            ", checkpoint, progress, failure, output, spec, why from task where id = ?1"
        ))?;
        let mut rows = select.query([&id.as_bytes()[..]])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let record = self.decode(row)?;
        let spec = match row.get::<_, Option<String>>(COLUMN_COUNT + 4)? {
            Some(spec) => Some(spec),
            None => self.payload(record.seq, Payload::Spec)?,
        };
        // What a plain producer sent may be no envelope: then it was buried, and only its failure says why.
        let spec = spec.and_then(|spec| Envelope::decode_full(&spec).ok());
        let mut attempts = self.attempts(record.seq)?;
        if let Some(last) = record.last.filter(|_| !record.tombstone) {
            let failure: Option<String> = row.get(COLUMN_COUNT + 2)?;
            let why: Option<String> = row.get(COLUMN_COUNT + 5)?;
            attempts.push(self.last_attempt(record.seq, &last, failure.as_deref(), why.as_deref())?);
        }
        let refusal = self.refusal(&record)?;
        Ok(Some(TaskDetail { record: self.shown(row, &record)?, spec, attempts, refusal }))
    }

    /// A row of a select that begins with [`shown_columns!`], as people see it.
    pub(crate) fn shown(&self, row: &rusqlite::Row<'_>, record: &Record) -> Fallible<TaskRecord> {
        self.read_shown(row, record).map_err(|fault| fault.of_task(record.id))
    }

    fn read_shown(&self, row: &rusqlite::Row<'_>, record: &Record) -> Fallible<TaskRecord> {
        let text = |index: usize| -> Fallible<Option<String>> { Ok(row.get(COLUMN_COUNT + index)?) };
        let output = match text(3)? {
            Some(output) => Some(output),
            None if record.row.state.is_settled() => self.payload(record.seq, Payload::Output)?,
            None => None,
        };
        let claimed = record.row.fence > FencingToken(0);
        Ok(TaskRecord {
            id: record.id,
            task: self.name(record.task)?.task()?,
            queue: self.name(record.queue)?.queue()?,
            state: record.row.state,
            attempt: record.row.attempt,
            max_attempts: claimed.then_some(record.row.max_attempts),
            submitted: record.submitted,
            queued_at: record.row.queued_at,
            not_before: record.row.not_before,
            expires: record.row.expires,
            started: record.last.map(|last| last.started),
            settled: record.settled_at,
            worker: record.last.map(|last| self.name(last.worker)?.worker()).transpose()?,
            progress: text(1)?.as_deref().map(from_json).transpose()?,
            cancel_asked: record.row.cancel_asked,
            redriven: record.row.redriven,
            interruptions: record.row.interruptions,
            snoozes: record.row.snoozes,
            failure: text(2)?.as_deref().map(from_json).transpose()?,
            output: output.as_deref().map(from_json).transpose()?,
            checkpoint: text(0)?.as_deref().map(from_json).transpose()?,
        })
    }

    fn attempts(&self, seq: i64) -> Fallible<Vec<AttemptRecord>> {
        let mut select = self.prepare(
            "select fence, attempt, worker, started, ended, outcome, failure, log from attempt where seq = ?1 order by fence",
        )?;
        let mut rows = select.query([seq])?;
        let mut attempts = Vec::new();
        while let Some(row) = rows.next()? {
            let fence: i64 = row.get(0)?;
            let failure: Option<String> = row.get(6)?;
            let log: Option<String> = row.get(7)?;
            attempts.push(AttemptRecord {
                attempt: row.get(1)?,
                fence: FencingToken(fence.cast_unsigned()),
                worker: self.name(row.get(2)?)?.worker()?,
                started: Timestamp(row.get(3)?),
                ended: row.get::<_, Option<i64>>(4)?.map(Timestamp),
                outcome: outcome_word(row.get(5)?),
                failure: failure.as_deref().map(from_json).transpose()?,
                log: log.as_deref().map(from_json).transpose()?.unwrap_or_default(),
            });
        }
        Ok(attempts)
    }

    fn last_attempt(&self, seq: i64, last: &Last, failure: Option<&str>, why: Option<&str>) -> Fallible<AttemptRecord> {
        let failed = [Ending::Failed, Ending::Poisoned, Ending::Lost].map(|ending| ending as i64);
        let own = if last.ending.is_some_and(|ending| failed.contains(&ending)) { failure } else { why };
        let log: Option<Log> = self.payload(seq, Payload::Log)?.as_deref().map(from_json).transpose()?;
        Ok(AttemptRecord {
            attempt: last.attempt,
            fence: last.fence,
            worker: self.name(last.worker)?.worker()?,
            started: last.started,
            ended: last.ended,
            outcome: outcome_word(last.ending),
            failure: own.map(from_json::<Failure>).transpose()?,
            log: log.unwrap_or_default(),
        })
    }

    /// The states of tasks: one look-up each.
    pub(crate) fn states(&self, ids: &[TaskId]) -> Fallible<Vec<Option<rhubarb_core::row::State>>> {
        let mut select = self.prepare("select state from task where id = ?1")?;
        let mut states = Vec::with_capacity(ids.len());
        for id in ids {
            let state: Option<u8> = select.query_row([&id.as_bytes()[..]], |row| row.get(0)).optional()?;
            states.push(state.and_then(rhubarb_core::row::State::from_number));
        }
        Ok(states)
    }
}

fn outcome_word(ending: Option<i64>) -> Option<String> {
    ending.and_then(Ending::word).map(str::to_owned)
}
