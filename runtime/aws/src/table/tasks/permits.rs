//! Calling parked tasks: the one of a queue or key that became available first, as often as permits are free.

use std::{collections::BTreeSet, time::Duration};

use rhubarb_core::{
    backend::{Called, DueRing, Reach, Result, StoreError},
    ids::TaskId,
    permit::{Permit, Refusal, Scope},
    row::Row,
    table::{DUE, PARTITION, SHARDS},
    time::Now,
};

use super::DynamoTasks;
use crate::table::{
    access::{Query, Range},
    attributes::text,
    in_order,
    keys::{self, Due},
    permits::{MeterName, name_of},
    record::{KEEP, Record},
    rows::Saved,
};

/// Meters that one sweep looks at.
const METERS_MAX: usize = 1000;

impl DynamoTasks {
    pub(super) async fn call_all(&self, reach: Reach, limit: usize) -> Result<Vec<Called>> {
        let mut names = self.table.take_returned();
        if reach == Reach::Everywhere {
            names.extend(self.due_meters().await?);
        }
        let mut called = Vec::new();
        for name in names {
            called.extend(self.call_of(&name, limit).await?);
        }
        Ok(called)
    }

    async fn due_meters(&self) -> Result<BTreeSet<MeterName>> {
        let now = self.table.now().await?.epoch;
        let range = Range::UpTo(now.as_millis());
        let query = |shard| Query::index("look for free permits", DUE, Due::Meter.shard(shard), range.clone());
        let queries: Vec<Query> = (0..SHARDS).map(query).collect();
        let mut names = BTreeSet::new();
        for items in in_order(queries.iter().map(|query| self.table.items(query, METERS_MAX)).collect()).await {
            names.extend(items?.iter().filter_map(|item| keys::meter_name(text(item, PARTITION)?)));
        }
        Ok(names)
    }

    async fn call_of(&self, name: &MeterName, limit: usize) -> Result<Vec<Called>> {
        let scope = if name.1.is_some() { Scope::Key } else { Scope::Queue };
        let now = self.table.now().await?;
        let seen = self.table.gate(&name.0, name.1.clone(), &[scope]).await?;
        let mut gate = seen.gate.clone();
        let Some(meter) = gate.meter(scope).take().filter(|meter| meter.call_for(now.epoch).is_some()) else {
            self.table.put_off(name, &seen, scope, now).await?;
            return Ok(Vec::new());
        };
        let promised = meter.running.saturating_add(meter.called);
        let free = meter.limits.max_running.map_or(u32::MAX, |max| max.saturating_sub(promised));
        let wanted = limit.min(usize::try_from(free).unwrap_or(usize::MAX));
        let mut query = Query::index("look for a parked task", DUE, keys::line(name), Range::All);
        query.page = Some(wanted.clamp(1, 100));
        let mut called = Vec::new();
        for item in self.table.items(&query, wanted).await? {
            let Some(id) = keys::id_of(&item) else { continue };
            match self.call_one(name, scope, id).await? {
                Some(one) => called.extend(one),
                None => break,
            }
        }
        Ok(called)
    }

    /// Calls one task. None where no permit is free any more.
    async fn call_one(&self, name: &MeterName, scope: Scope, id: TaskId) -> Result<Option<Option<Called>>> {
        for tried in 0..super::TRIES {
            let now = self.table.now().await?;
            // The index lags: it may have been called, or be gone.
            let Some(mut record) = self.table.find(id, now.epoch).await? else { return Ok(Some(None)) };
            let line =
                |permit: &Permit| permit.parked_for().map(|of| name_of(&record.queue, of, permit.key.as_deref()));
            if record.row.permit.as_deref().and_then(line).as_ref() != Some(name) {
                return Ok(Some(None));
            }
            let mut seen = self.table.gate(&name.0, name.1.clone(), &[scope]).await?;
            if !record.row.call(scope, &mut seen.gate, now.epoch) {
                return Ok(None);
            }
            record.close(now.epoch, KEEP);
            record.gate = Some(Box::new(seen));
            if let Saved::Done = self.table.save(&mut record, now.epoch).await? {
                return Ok(Some(self.bell_of(record, now).await?));
            }
            crate::table::batch::pause(super::PAUSE, tried).await;
        }
        Err(self.contended("call a parked task"))
    }

    /// The doorbell of a called row; none where it has expired.
    async fn bell_of(&self, record: Record, now: Now) -> Result<Option<Called>> {
        if record.row.state.is_settled() {
            return Ok(None);
        }
        let spec = self.table.spec(&record).await?;
        let Record { id, queue, row: Row { fence, rings, not_before, .. }, .. } = record;
        let Some(spec) = spec else {
            return Err(StoreError::NoTask(id));
        };
        let delay = not_before.map_or(Duration::ZERO, |at| at.since(now.epoch));
        Ok(Some(Called { ring: DueRing { id, queue, fence, rings, not_before, spec }, delay }))
    }

    /// What a parked task waits for.
    pub(super) async fn refusal(&self, record: &Record, now: Now) -> Result<Option<Refusal>> {
        let Some(permit) = record.row.permit.as_deref() else { return Ok(None) };
        let Some(scope) = permit.parked_for() else { return Ok(None) };
        let meter = self.table.meter(&name_of(&record.queue, scope, permit.key.as_deref())).await?;
        Ok(Some(meter.refusal(scope, permit.key.as_deref(), now.epoch)))
    }
}
