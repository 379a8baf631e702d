//! The meters of limited queues: one item for each queue and each key in it.
//!
//! What a row counts for changes in one transaction with the row, on condition that each meter is as it was read:
//! so no more run than may, and no crash loses a permit. A renewal changes no permit and touches no meter: a permit
//! is held as long as its row runs, and the reaper's write gives a silent holder's back.
//!
//! What a limit costs, beside what a task costs without: a claim reads the row and each meter that counts (one or
//! two reads) and is a transaction of two or three items, two units each; a settlement reads the meters and is such
//! a transaction; a task that is parked costs its park, its call (a query, a read, a transaction, the message and
//! its note) and the claim after it. A meter takes part in every start and end of its tasks, one at a time: some tens
//! a second of one queue or key. A queue without limits reads and writes none of it.
//!
//! A parked row stands in the index `due` under its queue or key, by the time it became available; a meter for which
//! somebody must look, under the time for it. Both lag: what is missed is found by the next sweep.

use std::collections::{BTreeSet, HashMap};

use rhubarb_core::{
    backend::{Result, StoreError},
    ids::QueueName,
    permit::{Gate, Meter, Permit, QueueLimits, Scope, Stage},
    table::{DUE, TTL},
    time::{Now, Timestamp},
};

use super::{
    Expression, Table,
    attributes::{Item, damaged, n, number, s, text},
    batch::pause,
    keys::{self, Due},
    record::Record,
    rows::{Saved, new_mark},
    tasks::{PAUSE, TRIES},
    transaction::{Checked, Transacted, Write},
};

const METER: &str = "meter";
const REV: &str = "rev";
/// How long a meter without a task is kept: longer than any period of a rate.
const IDLE_SECONDS: i64 = 2 * 24 * 60 * 60;

/// A meter's name: a queue, or a key of it.
pub(crate) type MeterName = (QueueName, Option<String>);

/// The meters of one row as they were read.
#[derive(Clone, Debug, Default)]
pub(crate) struct SeenGate {
    pub(crate) gate: Gate,
    items: HashMap<Scope, Item>,
}

pub(crate) fn name_of(queue: &QueueName, scope: Scope, key: Option<&str>) -> MeterName {
    let key = match scope {
        Scope::Queue => None,
        Scope::Key => key.map(ToOwned::to_owned),
    };
    (queue.clone(), key)
}

impl Table {
    /// Reads the meters of these scopes.
    pub(crate) async fn gate(&self, queue: &QueueName, key: Option<String>, scopes: &[Scope]) -> Result<SeenGate> {
        let mut seen = SeenGate::default();
        let read = |scope: &Scope| self.get("read a meter", keys::meter(&name_of(queue, *scope, key.as_deref())));
        let found = super::in_order(scopes.iter().map(read).collect()).await;
        for (scope, found) in scopes.iter().zip(found) {
            let item = found?.unwrap_or_default();
            *seen.gate.meter(*scope) = Some(decode(&item)?);
            seen.items.insert(*scope, item);
        }
        seen.gate.key = key;
        Ok(seen)
    }

    /// Reads one meter.
    pub(crate) async fn meter(&self, name: &MeterName) -> Result<Meter> {
        decode(&self.get("read a meter", keys::meter(name)).await?.unwrap_or_default())
    }

    /// Writes a row whose permit has changed together with its meters. Those that its claim has decided by are
    /// written as they were read then, or nothing is.
    pub(crate) async fn save_with_meters(&self, record: &mut Record, now: Timestamp) -> Result<Saved> {
        record.mark = new_mark();
        for tried in 0..TRIES {
            let decided = record.gate.take();
            let is_claim = decided.is_some();
            let seen = match decided {
                Some(seen) => *seen,
                None => self.gate_moved(record).await?,
            };
            let item = record.encode()?;
            let change = Expression::difference(&record.stored, &item)
                .same_as_in(&record.stored, REV)
                .same_as_in(&record.stored, "fence");
            let mut writes = vec![Write::Update(keys::key_of(&item), change)];
            writes.extend(self.meter_writes(&record.queue, &seen, now)?);
            match self.transact("change a task and its permits", writes).await? {
                Transacted::Done => {
                    record.stored = item;
                    record.was_permit.clone_from(&record.row.permit);
                    self.note_returned(&record.queue, &seen.gate, now);
                    return Ok(Saved::Done);
                }
                Transacted::Busy => {}
                Transacted::Differs(checked) => {
                    if let Some(Checked::Fails(found)) = checked.into_iter().next() {
                        return self.compare(record, found, now).await;
                    }
                }
            }
            if is_claim {
                // Another has counted meanwhile: decide anew.
                return Ok(Saved::Differs(Record::decode(record.stored.clone(), now)?.map(Box::new)));
            }
            pause(PAUSE, tried).await;
        }
        let cause = std::io::Error::other(format!("others have counted permits {TRIES} times meanwhile"));
        Err(StoreError::unreachable(self.what("change a task and its permits"), cause))
    }

    /// The meters after what a row's change means for them.
    async fn gate_moved(&self, record: &Record) -> Result<SeenGate> {
        let (before, after) = (record.was_permit.as_deref(), record.row.permit.as_deref());
        let key = before.or(after).and_then(|permit| permit.key.clone());
        let scopes = Gate::scopes(&QueueLimits::NONE, key.as_deref(), &[before, after]);
        let mut seen = self.gate(&record.queue, key, &scopes).await?;
        seen.gate.moved(before, after);
        // A holder that comes back late works on only if a permit is free.
        let holds = |permit: Option<&Permit>| permit.is_some_and(|permit| matches!(permit.stage, Stage::Held { .. }));
        if holds(after) && !holds(before) && seen.gate.is_over() {
            return Err(record.refused());
        }
        Ok(seen)
    }

    fn meter_writes(&self, queue: &QueueName, seen: &SeenGate, now: Timestamp) -> Result<Vec<Write>> {
        let mut gate = seen.gate.clone();
        let mut writes = Vec::new();
        for scope in Scope::ALL {
            let Some(mut meter) = gate.meter(scope).take() else { continue };
            meter.prune(now);
            let name = name_of(queue, scope, gate.key.as_deref());
            let only = match seen.items.get(&scope) {
                Some(item) => Expression::new().same_as_in(item, REV),
                None => Expression::new(),
            };
            writes.push(Write::Put(encode(&name, &meter, now)?, only));
        }
        Ok(writes)
    }

    /// Remembers which meters have a permit for somebody who is parked.
    fn note_returned(&self, queue: &QueueName, gate: &Gate, now: Timestamp) {
        let mut gate = gate.clone();
        for scope in Scope::ALL {
            let free = gate.meter(scope).as_ref().is_some_and(|meter| meter.call_for(now).is_some());
            if free {
                self.returned().insert(name_of(queue, scope, gate.key.as_deref()));
            }
        }
    }

    /// Writes anew when a meter must be looked at, if that is due although nobody may be called.
    pub(crate) async fn put_off(&self, name: &MeterName, seen: &SeenGate, scope: Scope, now: Now) -> Result<()> {
        let Some(item) = seen.items.get(&scope) else { return Ok(()) };
        let due = number(item, DUE.sort).is_some_and(|at| at <= now.epoch.as_millis());
        let meter = decode(item)?;
        if due && meter.look_at(now.epoch) != Some(now.epoch) {
            let only = Expression::new().same_as_in(item, REV);
            self.put("put a meter off", encode(name, &meter, now.epoch)?, &only).await?;
        }
        Ok(())
    }

    pub(crate) fn take_returned(&self) -> BTreeSet<MeterName> {
        std::mem::take(&mut *self.returned())
    }
}

fn decode(item: &Item) -> Result<Meter> {
    let meter = text(item, METER).map(serde_json::from_str).transpose();
    Ok(meter.map_err(|error| damaged(&error))?.unwrap_or_default())
}

fn encode(name: &MeterName, meter: &Meter, now: Timestamp) -> Result<Item> {
    let mut item = keys::meter(name);
    let json = serde_json::to_string(meter).map_err(|error| damaged(&error))?;
    item.insert(METER.to_owned(), s(json));
    item.insert(REV.to_owned(), n(new_mark()));
    if let Some(at) = meter.look_at(now) {
        item.insert(DUE.partition.to_owned(), s(Due::Meter.shard(keys::meter_shard(name))));
        item.insert(DUE.sort.to_owned(), n(at.as_millis()));
    }
    if meter.running == 0 && meter.parked == 0 && meter.called == 0 {
        item.insert(TTL.to_owned(), n(now.as_millis().div_euclid(1000) + IDLE_SECONDS));
    }
    Ok(item)
}
