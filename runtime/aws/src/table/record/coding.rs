//! A row as DynamoDB's item: every attribute is spelled here.

use std::time::Duration;

use rhubarb_core::{
    backend::{Log, Progress, Result},
    envelope::BlobRef,
    ids::{FencingToken, QueueName, TaskId, TaskName},
    outcome::Failure,
    permit::Permit,
    row::{AckMode, Hold, Row, State},
    table::{BY_QUEUE, BY_ROOT, BY_STATE, DUE, TTL},
    time::{LeaseTime, Timestamp, millis},
};
use serde::{Deserialize, Serialize};

use super::super::{
    attributes::{Item, damaged, from_item, to_item},
    keys::{self, Due},
    permits::name_of,
};
use super::{Last, Parts, Record, Spec};

#[derive(Serialize, Deserialize)]
struct StoredHold {
    until: i64,
    lease_ms: i64,
    ack: AckMode,
}

/// The item's attributes, beside its key.
#[derive(Serialize, Deserialize)]
struct Fields {
    rev: u64,
    task: TaskName,
    queue: QueueName,
    submitted: Timestamp,
    state: State,
    fence: FencingToken,
    #[serde(default, skip_serializing_if = "is_default")]
    attempt: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_attempts: Option<u32>,
    queued_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_before: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ring_at: Option<Timestamp>,
    rings: u32,
    rung_at: Timestamp,
    #[serde(default, skip_serializing_if = "is_default")]
    cancel_asked: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    alone: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    interruptions: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    snoozes: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    redriven: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    permit: Option<Permit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hold: Option<StoredHold>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<Last>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    settled: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forget_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spec: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spec_parts: Option<Parts>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure: Option<Failure>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure_of: Option<FencingToken>,
    /// As JSON text: numbers come back as they were written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    log: Option<Log>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    progress: Option<Progress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checkpoint: Option<BlobRef>,
    #[serde(default, skip_serializing_if = "is_default")]
    tombstone: bool,
    #[serde(rename = "ttl", default, skip_serializing_if = "Option::is_none")]
    ttl: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due_shard: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state_shard: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    queue_shard: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root: Option<TaskId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root_shard: Option<String>,
}

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Record {
    /// Reads a row; none where its time has passed and DynamoDB has not deleted it yet.
    pub(crate) fn decode(item: Item, now: Timestamp) -> Result<Option<Self>> {
        let id = keys::id_of(&item).ok_or_else(|| damaged("an item that is no task's row"))?;
        let fields: Fields = from_item(&item)?;
        if fields.ttl.is_some_and(|ttl| ttl.saturating_mul(1000) <= now.as_millis()) {
            return Ok(None);
        }
        let hold = fields.hold.zip(fields.last.as_ref()).map(|(hold, last)| Hold {
            worker: last.worker.clone(),
            until: LeaseTime(hold.until),
            lease: Duration::from_millis(u64::try_from(hold.lease_ms).unwrap_or(0)),
            ack: hold.ack,
            started: last.started,
        });
        let row = Row {
            state: fields.state,
            fence: fields.fence,
            attempt: fields.attempt,
            max_attempts: fields.max_attempts.unwrap_or(u32::MAX),
            hold,
            queued_at: fields.queued_at,
            not_before: fields.not_before,
            expires: fields.expires,
            ring_at: fields.ring_at,
            rings: fields.rings,
            rung_at: fields.rung_at,
            cancel_asked: fields.cancel_asked,
            alone: fields.alone,
            interruptions: fields.interruptions,
            snoozes: fields.snoozes,
            redriven: fields.redriven,
            permit: fields.permit.map(Box::new),
        };
        let spec = match (fields.spec, fields.spec_parts) {
            (Some(spec), _) => Spec::Inline(spec),
            (None, Some(parts)) => Spec::Parts(parts),
            (None, None) => Spec::Gone,
        };
        let output = fields.output.map(|text| serde_json::from_str(&text)).transpose();
        Ok(Some(Self {
            id,
            task: fields.task,
            queue: fields.queue,
            root: fields.root,
            submitted: fields.submitted,
            lease_due: fields.due_at.filter(|_| row.state == State::Running),
            was_permit: row.permit.clone(),
            gate: None,
            row,
            last: fields.last,
            settled: fields.settled,
            forget_at: fields.forget_at,
            spec,
            failure: fields.failure,
            failure_of: fields.failure_of,
            output: output.map_err(|error| damaged(&format!("the output of task {id}: {error}")))?,
            log: fields.log,
            progress: fields.progress,
            checkpoint: fields.checkpoint,
            tombstone: fields.tombstone,
            ttl: fields.ttl,
            mark: fields.rev,
            stored: item,
        }))
    }

    /// The item of this record.
    pub(crate) fn encode(&self) -> Result<Item> {
        let shard = keys::shard(self.id);
        let due = self.due();
        let (due_shard, due_at) = self.line().map_or_else(
            || (due.map(|(why, _)| why.shard(shard)), due.map(|(_, at)| at)),
            |line| (Some(line), Some(self.row.queued_at)),
        );
        let listed = !self.tombstone;
        let row = self.row.clone();
        let hold = |hold: Hold| StoredHold { until: hold.until.0, lease_ms: millis(hold.lease), ack: hold.ack };
        let output = self.output.as_ref().map(serde_json::to_string).transpose();
        let (spec, spec_parts) = match self.spec.clone() {
            Spec::Inline(spec) => (Some(spec), None),
            Spec::Parts(parts) => (None, Some(parts)),
            Spec::Gone => (None, None),
        };
        let fields = Fields {
            rev: self.mark,
            task: self.task.clone(),
            queue: self.queue.clone(),
            submitted: self.submitted,
            state: row.state,
            fence: row.fence,
            attempt: row.attempt,
            max_attempts: (row.max_attempts != u32::MAX).then_some(row.max_attempts),
            queued_at: row.queued_at,
            not_before: row.not_before,
            expires: row.expires,
            ring_at: row.ring_at,
            rings: row.rings,
            rung_at: row.rung_at,
            cancel_asked: row.cancel_asked,
            alone: row.alone,
            interruptions: row.interruptions,
            snoozes: row.snoozes,
            redriven: row.redriven,
            permit: row.permit.map(|permit| *permit),
            hold: row.hold.map(hold),
            last: self.last.clone(),
            settled: self.settled,
            forget_at: self.forget_at,
            spec,
            spec_parts,
            failure: self.failure.clone(),
            failure_of: self.failure_of,
            output: output.map_err(|error| damaged(&error))?,
            log: self.log.clone(),
            progress: self.progress.clone(),
            checkpoint: self.checkpoint.clone(),
            tombstone: self.tombstone,
            ttl: self.ttl,
            due_shard,
            due_at,
            state_shard: listed.then(|| keys::state_shard(&self.queue, row.state, shard)),
            queue_shard: listed.then(|| keys::queue_shard(&self.queue, shard)),
            root: self.root,
            root_shard: self.root.filter(|_| listed).map(|root| keys::root_shard(root, shard)),
        };
        let mut item = to_item(&fields)?;
        item.extend(keys::of(keys::task(self.id), keys::ROW));
        Ok(item)
    }

    /// The line of parked tasks that it stands in, within that same index.
    fn line(&self) -> Option<String> {
        let permit = self.row.permit.as_deref()?;
        let scope = permit.parked_for()?;
        Some(keys::line(&name_of(&self.queue, scope, permit.key.as_deref())))
    }

    /// Where it stands in the index of what is due: at one place at most.
    fn due(&self) -> Option<(Due, Timestamp)> {
        if let (State::Running, Some(hold)) = (self.row.state, &self.row.hold) {
            return Some((Due::Lease, self.lease_due.unwrap_or(Timestamp(hold.until.0))));
        }
        let ring = self.row.ring_at.map(|at| (Due::Ring, at));
        ring.or_else(|| self.forget_at.map(|at| (Due::Keep, at)))
    }
}

// The attributes that the indexes are made of are spelled as fields above; the table's description must agree.
const _: () = {
    assert!(same(DUE.partition, "due_shard") && same(DUE.sort, "due_at"));
    assert!(same(BY_STATE.partition, "state_shard") && same(BY_STATE.sort, "submitted"));
    assert!(same(BY_QUEUE.partition, "queue_shard") && same(BY_QUEUE.sort, "submitted"));
    assert!(same(BY_ROOT.partition, "root_shard") && same(BY_ROOT.sort, "submitted"));
    assert!(same(TTL, "ttl"));
};

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut index = 0;
    while index < a.len() {
        if a[index] != b[index] {
            return false;
        }
        index += 1;
    }
    true
}
