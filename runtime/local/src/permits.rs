//! The meters of limited queues, and the line of parked tasks, beside the rows.
//!
//! A row's flag says whether anything stands here about it, so that a task of a queue without limits reads and
//! writes none of it. Row, meter and line change in one transaction, and so does the call: whatever gives a permit
//! back calls the task that became available first before it commits, at that task's old place in the queue. So
//! only a rate needs the sweep: it calls when time has passed.

use rhubarb_core::{
    ids::QueueName,
    permit::{COUNTED_MAX, Gate, Meter, Permit, PermitCounts, QueueLimits, Refusal, Scope, concurrency_key},
    row::{Claim, ClaimTerms},
};
use rusqlite::{OptionalExtension as _, params};

use crate::{
    error::Fallible,
    names::NameNo,
    reads::Snapshot,
    record::Record,
    tasks::KEEP,
    texts::{from_json, to_json},
    transaction::Transaction,
};

/// Parked tasks of one queue or key that are called in one transaction; the sweep calls the rest.
const CALLS_MAX: usize = 100;
/// What stands before a key in a meter's name; the queue's own meter has an empty one.
const KEY: char = '#';

/// The name of a meter within its queue.
pub(crate) fn line(scope: Scope, key: Option<&str>) -> String {
    match (scope, key) {
        (Scope::Key, Some(key)) => format!("{KEY}{key}"),
        (Scope::Key | Scope::Queue, _) => String::new(),
    }
}

/// Reads what stands about a row's permits.
pub(crate) fn permit_of(connection: &rusqlite::Connection, seq: i64) -> Fallible<Option<Box<Permit>>> {
    let mut select = connection.prepare_cached("select permit from permit where seq = ?1")?;
    let text: Option<String> = select.query_row([seq], |row| row.get(0)).optional()?;
    Ok(text.as_deref().map(from_json).transpose()?.map(Box::new))
}

fn meter_of(connection: &rusqlite::Connection, queue: NameNo, line: &str) -> Fallible<Meter> {
    let mut select = connection.prepare_cached("select meter from meter where queue = ?1 and line = ?2")?;
    let text: Option<String> = select.query_row(params![queue, line], |row| row.get(0)).optional()?;
    Ok(text.as_deref().map(from_json).transpose()?.unwrap_or_default())
}

impl Transaction<'_> {
    fn gate(&self, queue: NameNo, key: Option<String>, scopes: &[Scope]) -> Fallible<Gate> {
        let mut gate = Gate::default();
        for scope in scopes {
            *gate.meter(*scope) = Some(meter_of(self.connection, queue, &line(*scope, key.as_deref()))?);
        }
        gate.key = key;
        Ok(gate)
    }

    fn put_gate(&mut self, queue: NameNo, mut gate: Gate) -> Fallible<()> {
        for scope in Scope::ALL {
            let Some(mut meter) = gate.meter(scope).take() else { continue };
            meter.prune(self.epoch());
            let line = line(scope, gate.key.as_deref());
            if meter.is_idle() {
                self.prepare("delete from meter where queue = ?1 and line = ?2")?.execute(params![queue, line])?;
                continue;
            }
            let look_at = meter.look_at(self.epoch()).map(rhubarb_core::time::Timestamp::as_millis);
            self.prepare(
                "insert into meter(queue, line, meter, look_at) values(?1, ?2, ?3, ?4) on conflict(queue, line) \
                 do update set meter = excluded.meter, look_at = excluded.look_at",
            )?
            .execute(params![queue, line, to_json(&meter)?, look_at])?;
            if meter.call_for(self.epoch()).is_some() {
                self.note_returned(queue, line);
            }
        }
        Ok(())
    }

    /// Tries to win a row of a limited queue, or one that has a permit.
    pub(crate) fn claim_within(&mut self, record: &mut Record, terms: &ClaimTerms<'_>) -> Fallible<Claim> {
        let known = record.row.permit.as_ref().and_then(|permit| permit.key.clone());
        let key = match known {
            None if !terms.limits.key.is_none() => self.spec(record.seq)?.as_deref().and_then(concurrency_key),
            known => known,
        };
        let scopes = Gate::scopes(&terms.limits, key.as_deref(), &[record.row.permit.as_deref()]);
        let mut gate = self.gate(record.queue, key, &scopes)?;
        let claim = record.row.claim_within(terms, &mut gate, self.now);
        self.put_gate(record.queue, gate)?;
        record.is_counted = true;
        Ok(claim)
    }

    /// Writes what a row's save means for its permits: what stands about it, its place in the line, and the
    /// meters where nobody has counted it yet.
    pub(crate) fn save_permit(&mut self, record: &mut Record) -> Fallible<()> {
        let is_counted = std::mem::take(&mut record.is_counted);
        let (before, after) = (&record.was.row.permit, &record.row.permit);
        if before == after {
            return Ok(());
        }
        match after.as_deref() {
            Some(permit) => {
                let line = permit.parked_for().map(|scope| line(scope, permit.key.as_deref()));
                self.prepare(
                    "insert or replace into permit(seq, queue, permit, line, since) values(?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![
                    record.seq,
                    record.queue,
                    to_json(permit)?,
                    line,
                    record.row.queued_at.as_millis()
                ])?;
            }
            None => {
                self.prepare("delete from permit where seq = ?1")?.execute([record.seq])?;
            }
        }
        if is_counted {
            return Ok(());
        }
        let gate = self.gate_moved(record)?;
        self.put_gate(record.queue, gate)
    }

    fn gate_moved(&self, record: &Record) -> Fallible<Gate> {
        let (before, after) = (record.was.row.permit.as_deref(), record.row.permit.as_deref());
        let key = before.or(after).and_then(|permit| permit.key.clone());
        let scopes = Gate::scopes(&QueueLimits::NONE, key.as_deref(), &[before, after]);
        let mut gate = self.gate(record.queue, key, &scopes)?;
        gate.moved(before, after);
        Ok(gate)
    }

    /// False where a holder that came back late would run beside as many as may.
    pub(crate) fn may_regain(&self, record: &Record) -> Fallible<bool> {
        Ok(record.was.row.permit == record.row.permit || !self.gate_moved(record)?.is_over())
    }

    /// Calls parked tasks for the permits that have come back in this transaction.
    pub(crate) fn call_returned(&mut self) -> Fallible<usize> {
        let mut called = 0;
        let mut looked_at = Vec::new();
        while let Some((queue, line)) = self.next_returned() {
            if !looked_at.contains(&(queue, line.clone())) {
                called += self.call_of(queue, &line, CALLS_MAX)?;
                looked_at.push((queue, line));
            }
        }
        Ok(called)
    }

    /// Calls parked tasks wherever somebody must look by now.
    pub(crate) fn call_due(&mut self, limit: usize) -> Fallible<usize> {
        let due = {
            let mut select = self.prepare(
                "select queue, line from meter indexed by meter_look where look_at <= ?1 order by look_at limit ?2",
            )?;
            let rows = select.query_map(params![self.epoch().as_millis(), crate::tasks::row_limit(limit)], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
            rows.collect::<Result<Vec<(NameNo, String)>, _>>()?
        };
        let mut called = 0;
        for (queue, line) in due {
            called += self.call_of(queue, &line, CALLS_MAX)?;
        }
        Ok(called)
    }

    fn call_of(&mut self, queue: NameNo, line: &str, limit: usize) -> Fallible<usize> {
        let key = line.strip_prefix(KEY).map(ToOwned::to_owned);
        let scope = if key.is_some() { Scope::Key } else { Scope::Queue };
        for called in 0..limit {
            let mut gate = self.gate(queue, key.clone(), &[scope])?;
            let Some(mut record) = self.first_parked(queue, line)? else { return Ok(called) };
            if !record.row.call(scope, &mut gate, self.epoch()) {
                return Ok(called);
            }
            if record.row.state.is_settled() {
                record.close(self.epoch(), KEEP);
            } else {
                // At its old place in the queue, unless its rate lets it start only later, or the clock was set back.
                let at = record.row.not_before.unwrap_or(record.row.queued_at.min(self.epoch()));
                record.bell.ring(at, self.epoch());
                let (fence, rings) = (record.row.fence, record.row.rings);
                record.row.rung(fence, rings);
            }
            record.is_counted = true;
            self.put_gate(queue, gate)?;
            self.save(&mut record)?;
        }
        Ok(limit)
    }

    fn first_parked(&self, queue: NameNo, line: &str) -> Fallible<Option<Record>> {
        let mut select = self.prepare(
            "select seq from permit indexed by permit_line where queue = ?1 and line = ?2 order by since, seq limit 1",
        )?;
        let seq: Option<i64> = select.query_row(params![queue, line], |row| row.get(0)).optional()?;
        seq.map_or(Ok(None), |seq| self.find_seq(seq))
    }
}

impl Snapshot<'_> {
    /// What the meters of a queue and of its keys count. The queue's own comes first.
    pub(crate) fn permit_counts(&self, queue: &QueueName, limits: &QueueLimits) -> Fallible<PermitCounts> {
        let mut meters = Vec::new();
        if let Some(queue) = self.find_number(queue.as_str())? {
            let mut select = self.prepare("select line, meter from meter where queue = ?1 order by line limit ?2")?;
            let most = crate::tasks::row_limit(COUNTED_MAX);
            let rows = select.query_map(params![queue, most], |row| Ok((row.get(0)?, row.get(1)?)))?;
            for row in rows {
                let (line, meter): (String, String) = row?;
                meters.push((if line.is_empty() { Scope::Queue } else { Scope::Key }, from_json(&meter)?));
            }
        }
        Ok(PermitCounts::of(limits, meters.iter().map(|(scope, meter)| (*scope, meter))))
    }

    /// What a parked row waits for.
    pub(crate) fn refusal(&self, record: &Record) -> Fallible<Option<Refusal>> {
        let Some(permit) = record.row.permit.as_deref() else { return Ok(None) };
        let Some(scope) = permit.parked_for() else { return Ok(None) };
        let meter = meter_of(self.connection, record.queue, &line(scope, permit.key.as_deref()))?;
        Ok(Some(meter.refusal(scope, permit.key.as_deref(), self.now.epoch)))
    }

    /// True if somebody must look at a meter now.
    pub(crate) fn has_due_meters(&self) -> Fallible<bool> {
        let mut select = self.prepare("select 1 from meter indexed by meter_look where look_at <= ?1 limit 1")?;
        Ok(select.query_row([self.now.epoch.as_millis()], |_| Ok(())).optional()?.is_some())
    }
}
