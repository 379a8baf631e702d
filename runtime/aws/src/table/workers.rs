//! The workers' rows and roles.
//!
//! A worker is alive until `alive_until`, written with each heartbeat by the server's clock; one that falls silent
//! leaves its row behind, which DynamoDB deletes after a day. A role is an item with an end: who does not keep it
//! loses it.

use std::time::Duration;

use async_trait::async_trait;
use rhubarb_core::{
    backend::{Heard, Result, StoreError, WorkerRecord, Workers},
    ids::WorkerId,
    table::{SORT, TTL},
    time::Timestamp,
};

use super::{
    Expression, Table,
    access::{Query, Written},
    attributes::{Item, damaged, n, number, s, text},
    in_order, keys,
};

/// Workers silent for this long are left out.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

const RECORD: &str = "record";
const INSTANCE: &str = "instance";
const HEARD: &str = "heard";
const ALIVE_UNTIL: &str = "alive_until";
const WORKER: &str = "worker";
const HELD_UNTIL: &str = "held_until";

/// The workers of a table.
#[derive(Clone, Debug)]
pub struct DynamoWorkers {
    table: Table,
}

impl DynamoWorkers {
    /// The workers of this table.
    #[must_use]
    pub const fn new(table: Table) -> Self {
        Self { table }
    }

    /// Gives up a role, if it is still this worker's.
    async fn give_up(&self, role: &str, worker: &WorkerId, instance: &str) -> Result<()> {
        let only = Expression::new().is(WORKER, s(worker.as_str())).is(INSTANCE, s(instance));
        self.table.delete("give up a role", keys::of(keys::ROLES, role), &only).await?;
        Ok(())
    }
}

#[async_trait]
impl Workers for DynamoWorkers {
    async fn beat(&self, worker: &WorkerRecord) -> Result<()> {
        let now = self.table.now().await?.epoch;
        let record = serde_json::to_string(worker).map_err(|error| damaged(&error))?;
        let mut item = keys::of(keys::WORKERS, worker.id.as_str());
        item.extend([
            (RECORD.to_owned(), s(record)),
            (INSTANCE.to_owned(), s(worker.instance.as_str())),
            (HEARD.to_owned(), n(now.as_millis())),
            (ALIVE_UNTIL.to_owned(), n(now.after(worker.silent_after).as_millis())),
            (TTL.to_owned(), n(now.after(FORGOTTEN_AFTER).as_millis().div_euclid(1000) + 1)),
        ]);
        let free = Expression::new().only_if(|e| {
            let (instance, mine) = (e.name(INSTANCE), e.value(s(worker.instance.as_str())));
            let (alive_until, now) = (e.name(ALIVE_UNTIL), e.value(n(now.as_millis())));
            format!("attribute_not_exists({instance}) OR {instance} = {mine} OR {alive_until} <= {now}")
        });
        match self.table.put("write the worker's heartbeat", item, &free).await? {
            Written::Done => Ok(()),
            Written::Differs(other) => {
                let other = other.as_ref().map(read).transpose()?;
                let WorkerRecord { id, host, pid, .. } = other.map_or_else(|| worker.clone(), |(other, _)| other);
                Err(StoreError::NameTaken { worker: id, host, pid })
            }
        }
    }

    async fn leave(&self, worker: &WorkerId, instance: &str) -> Result<()> {
        let only = Expression::new().is(INSTANCE, s(instance));
        self.table.delete("remove the worker", keys::of(keys::WORKERS, worker.as_str()), &only).await?;
        let roles = self.table.items(&Query::partition("read roles", keys::ROLES), usize::MAX).await?;
        let mine = roles.iter().filter(|role| text(role, WORKER) == Some(worker.as_str()));
        let give_up = mine.filter_map(|role| text(role, SORT)).map(|role| self.give_up(role, worker, instance));
        in_order(give_up.collect()).await.into_iter().collect()
    }

    async fn list(&self) -> Result<Vec<Heard>> {
        let items = self.table.items(&Query::partition("list workers", keys::WORKERS), usize::MAX).await?;
        let now = self.table.now().await?.epoch;
        let mut workers = Vec::with_capacity(items.len());
        for item in &items {
            let (worker, heard) = read(item)?;
            if heard.after(FORGOTTEN_AFTER) > now {
                let alive = number(item, ALIVE_UNTIL).is_some_and(|until| until > now.as_millis());
                workers.push(Heard { worker, heard, alive });
            }
        }
        Ok(workers)
    }

    async fn hold_role(&self, role: &str, worker: &WorkerId, instance: &str, hold: Duration) -> Result<bool> {
        let now = self.table.now().await?.epoch;
        let mut item = keys::of(keys::ROLES, role);
        item.extend([
            (WORKER.to_owned(), s(worker.as_str())),
            (INSTANCE.to_owned(), s(instance)),
            (HELD_UNTIL.to_owned(), n(now.after(hold).as_millis())),
        ]);
        let free = Expression::new().only_if(|e| {
            let (holder, me) = (e.name(WORKER), e.value(s(worker.as_str())));
            let (of, mine) = (e.name(INSTANCE), e.value(s(instance)));
            let (until, now) = (e.name(HELD_UNTIL), e.value(n(now.as_millis())));
            format!("attribute_not_exists({holder}) OR {until} <= {now} OR ({holder} = {me} AND {of} = {mine})")
        });
        Ok(matches!(self.table.put("take a role", item, &free).await?, Written::Done))
    }
}

fn read(item: &Item) -> Result<(WorkerRecord, Timestamp)> {
    let record = serde_json::from_str(text(item, RECORD).unwrap_or_default()).map_err(|error| damaged(&error))?;
    Ok((record, Timestamp(number(item, HEARD).unwrap_or(0))))
}
