//! Schedules on AWS: the records in the table, and EventBridge Scheduler, which fires what it can.
//!
//! Those of the file belong to the template, those made at run time are written through the API into the same
//! group. Where there is no group nothing was deployed, and agents fire everything. A schedule made at run time is
//! EventBridge's from the moment its record says so: whoever dies between the two calls leaves one that both fire
//! at the same times, to the same tasks. It goes from EventBridge before its record goes.
//!
//! Tasks without a row that come late wait in the same group ([`late`]) and have no record.

mod eventbridge;
mod group;
mod late;

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use rhubarb_core::{
    backend::{Current, Later, Noted, Result, ScheduleRecord, Schedules, StoreError},
    config::{Config, Definition, ScheduleConfig},
    ids::ScheduleName,
    limits::Limits,
    schedule::{hosted, needs_agent},
};

use self::{eventbridge::EventBridge, group::Group};
use crate::{
    broker::SqsBroker,
    connect::Connection,
    table::{DynamoSchedules, Table},
};

/// How often an agent looks for what people changed. Each look costs a request.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The schedules of an application on AWS.
#[derive(Clone, Debug)]
pub struct AwsSchedules {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    records: DynamoSchedules,
    eventbridge: EventBridge,
    group: Group,
    table: Table,
    config: Config,
    limits: Limits,
    /// What agents have to fire as of a revision, and whether the group was there then.
    left: RwLock<Option<(u64, bool, bool)>>,
}

impl AwsSchedules {
    /// The schedules of an application: the records in its table, the rest in its group.
    #[must_use]
    pub fn new(connection: &Connection, config: &Config, broker: &SqsBroker, table: &Table, limits: Limits) -> Self {
        let eventbridge = EventBridge::new(connection, config, broker.clone());
        let inner = Inner {
            records: DynamoSchedules::new(table.clone()),
            group: Group::new(eventbridge.clone()),
            eventbridge,
            table: table.clone(),
            config: config.clone(),
            limits,
            left: RwLock::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// True if EventBridge can fire it.
    fn is_fit(&self, record: &ScheduleRecord) -> bool {
        read(record).is_ok_and(|schedule| needs_agent(&schedule, &self.inner.config).is_none())
    }

    /// True if EventBridge has it, to be paused and resumed there.
    async fn is_there(&self, record: &ScheduleRecord) -> Result<bool> {
        Ok(if record.from_file { self.is_fit(record) && self.inner.group.exists().await? } else { record.hosted })
    }

    async fn put_one(&self, record: &ScheduleRecord) -> Result<()> {
        let Inner { records, eventbridge, group, .. } = &*self.inner;
        let known = one(records.read(std::slice::from_ref(&record.name)).await?);
        if record.from_file {
            return records.put_one(&ScheduleRecord { hosted: false, ..record.clone() }).await;
        }
        let fit = self.is_fit(record) && group.exists().await?;
        let same = known.as_ref().is_some_and(|known| known.definition == record.definition && !known.from_file);
        if !(same && known.as_ref().is_some_and(|known| known.hosted == fit)) {
            records.put_one(&ScheduleRecord { hosted: false, ..record.clone() }).await?;
        }
        if !fit {
            return match known.filter(|known| known.hosted) {
                Some(_) => eventbridge.delete(&record.name).await,
                None => Ok(()),
            };
        }
        let Some(kept) = one(records.read(std::slice::from_ref(&record.name)).await?) else { return Ok(()) };
        self.host(&kept).await?;
        records.put_one(&ScheduleRecord { hosted: true, ..kept }).await
    }

    /// Writes a schedule made at run time to EventBridge, as its record is now.
    async fn host(&self, record: &ScheduleRecord) -> Result<()> {
        let now = self.inner.table.now().await?.epoch;
        let schedule = read(record)?;
        match hosted(&schedule, Some(record.since), &self.inner.config, now)? {
            Some(hosted) => self.inner.eventbridge.put(&record.name, &hosted, record.paused).await,
            None => self.inner.eventbridge.delete(&record.name).await,
        }
    }

    async fn delete_one(&self, name: &ScheduleName) -> Result<()> {
        let Inner { records, eventbridge, .. } = &*self.inner;
        let known = one(records.read(std::slice::from_ref(name)).await?);
        if known.is_some_and(|known| known.hosted) {
            eventbridge.delete(name).await?;
        }
        records.delete(std::slice::from_ref(name)).await.into_iter().collect()
    }
}

#[async_trait]
impl Schedules for AwsSchedules {
    async fn put(&self, schedules: &[ScheduleRecord]) -> Vec<Result<()>> {
        let mut answers = Vec::with_capacity(schedules.len());
        for schedule in schedules {
            answers.push(self.put_one(schedule).await);
        }
        answers
    }

    async fn delete(&self, names: &[ScheduleName]) -> Vec<Result<()>> {
        let mut answers = Vec::with_capacity(names.len());
        for name in names {
            answers.push(self.delete_one(name).await);
        }
        answers
    }

    async fn list(&self) -> Result<Vec<ScheduleRecord>> {
        self.inner.records.list().await
    }

    async fn read(&self, names: &[ScheduleName]) -> Result<Vec<Option<ScheduleRecord>>> {
        self.inner.records.read(names).await
    }

    async fn pause(&self, name: &ScheduleName, paused: bool) -> Result<bool> {
        if !self.inner.records.pause(name, paused).await? {
            return Ok(false);
        }
        // Also where the record said so before: whoever said it may have died here.
        let Some(record) = one(self.inner.records.read(std::slice::from_ref(name)).await?) else { return Ok(false) };
        if !self.is_there(&record).await? {
            return Ok(true);
        }
        if record.from_file {
            let now = self.inner.table.now().await?.epoch;
            let hosted = hosted(&read(&record)?, Some(record.since), &self.inner.config, now)?;
            // One that is over stays as it is: Scheduler takes no time that has passed.
            if let Some(hosted) = hosted {
                self.inner.eventbridge.switch(name, !paused && hosted.enabled, hosted.start, now).await?;
            }
        } else {
            self.host(&record).await?;
        }
        Ok(true)
    }

    async fn note(&self, noted: &[Noted]) -> Vec<Result<()>> {
        self.inner.records.note(noted).await
    }

    async fn enter(&self, name: &ScheduleName, expected: Option<Current>, next: Current) -> Result<bool> {
        self.inner.records.enter(name, expected, next).await
    }

    async fn revision(&self) -> Result<u64> {
        self.inner.records.revision().await
    }

    fn fires(&self, schedule: &ScheduleRecord) -> bool {
        if schedule.from_file { self.inner.group.was_there() && self.is_fit(schedule) } else { schedule.hosted }
    }

    async fn left_to_agents(&self) -> Result<bool> {
        let there = self.inner.group.exists().await?;
        let revision = self.revision().await?;
        let known = *self.inner.left.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, _, left)) = known.filter(|known| (known.0, known.1) == (revision, there)) {
            return Ok(left);
        }
        let left = self.list().await?.iter().any(|record| !self.fires(record));
        *self.inner.left.write().unwrap_or_else(PoisonError::into_inner) = Some((revision, there, left));
        Ok(left)
    }

    fn look_every(&self) -> Duration {
        LOOK_EVERY
    }

    fn later(&self) -> Option<&dyn Later> {
        Some(self)
    }
}

fn one(records: Vec<Option<ScheduleRecord>>) -> Option<ScheduleRecord> {
    records.into_iter().next().flatten()
}

fn read(record: &ScheduleRecord) -> Result<ScheduleConfig> {
    let name = &record.name;
    let invalid = |what: String| StoreError::Invalid(format!("schedule `{name}` cannot be read: {what}"));
    let definition = Definition::of_value(&record.definition).map_err(|error| invalid(error.to_string()))?;
    definition.read(name.clone()).map_err(|unfit| invalid(unfit.to_string()))
}
