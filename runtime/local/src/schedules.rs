//! Schedules, kept with how far each has come; an agent fires them.
//!
//! A record is one row of JSON. What changes it reads and writes it in one transaction, by the functions that
//! every store shares.

use async_trait::async_trait;
use rhubarb_core::{
    backend::{Current, Noted, Result, ScheduleRecord, Schedules},
    ids::ScheduleName,
};
use rusqlite::{OptionalExtension as _, params};

use crate::{
    error::Fallible,
    open::LocalBackend,
    texts::{from_json, to_json},
    transaction::Transaction,
};

#[async_trait]
impl Schedules for LocalBackend {
    async fn put(&self, schedules: &[ScheduleRecord]) -> Vec<Result<()>> {
        self.each("keep schedules", schedules.to_vec(), |transaction, schedule| {
            let (record, changed) = match transaction.schedule(&schedule.name)? {
                Some(mut known) => {
                    let changed = known.replace(&schedule);
                    (known, changed)
                }
                None => (schedule, true),
            };
            if changed {
                transaction.put_schedule(&record)?;
                transaction.schedules_changed()?;
            }
            Ok(Ok(()))
        })
        .await
    }

    async fn delete(&self, names: &[ScheduleName]) -> Vec<Result<()>> {
        self.each("delete schedules", names.to_vec(), |transaction, name| {
            let deleted = transaction.prepare("delete from schedule where name = ?1")?.execute([name.as_str()])?;
            if deleted > 0 {
                transaction.schedules_changed()?;
            }
            Ok(Ok(()))
        })
        .await
    }

    async fn list(&self) -> Result<Vec<ScheduleRecord>> {
        let read = self.inner.reads.read("list schedules", |snapshot| {
            let mut select = snapshot.prepare("select record from schedule order by name")?;
            let mut rows = select.query([])?;
            let mut schedules = Vec::new();
            while let Some(row) = rows.next()? {
                schedules.push(from_json(&row.get::<_, String>(0)?)?);
            }
            Ok(schedules)
        });
        read.await
    }

    async fn read(&self, names: &[ScheduleName]) -> Result<Vec<Option<ScheduleRecord>>> {
        let names = names.to_vec();
        let read = self.inner.reads.read("read schedules", move |snapshot| {
            let mut select = snapshot.prepare("select record from schedule where name = ?1")?;
            let mut found = Vec::with_capacity(names.len());
            for name in &names {
                let record: Option<String> = select.query_row([name.as_str()], |row| row.get(0)).optional()?;
                found.push(record.map(|record| from_json(&record)).transpose()?);
            }
            Ok(found)
        });
        read.await
    }

    async fn pause(&self, name: &ScheduleName, paused: bool) -> Result<bool> {
        let name = name.clone();
        let verb = move |transaction: &mut Transaction<'_>| {
            let Some(mut record) = transaction.schedule(&name)? else { return Ok(false) };
            if record.pause(paused, transaction.epoch()) {
                transaction.put_schedule(&record)?;
                transaction.schedules_changed()?;
            }
            Ok(true)
        };
        self.inner.writer.call("pause a schedule", 1, verb).await
    }

    async fn note(&self, noted: &[Noted]) -> Vec<Result<()>> {
        self.each("note ticks", noted.to_vec(), |transaction, noted| {
            if let Some(mut record) = transaction.schedule(&noted.name)? {
                record.note(&noted);
                transaction.put_schedule(&record)?;
            }
            Ok(Ok(()))
        })
        .await
    }

    async fn enter(&self, name: &ScheduleName, expected: Option<Current>, next: Current) -> Result<bool> {
        let name = name.clone();
        let verb = move |transaction: &mut Transaction<'_>| {
            let Some(mut record) = transaction.schedule(&name)? else { return Ok(false) };
            let entered = record.enter(expected, next);
            if entered {
                transaction.put_schedule(&record)?;
            }
            Ok(entered)
        };
        self.inner.writer.call("let a tick's task in", 1, verb).await
    }

    async fn revision(&self) -> Result<u64> {
        let read = self.inner.reads.read("look for changed schedules", |snapshot| {
            let mut select = snapshot.prepare("select n from schedule_revision where only = 1")?;
            let revision: i64 = select.query_row([], |row| row.get(0))?;
            Ok(u64::try_from(revision).unwrap_or(0))
        });
        read.await
    }
}

impl Transaction<'_> {
    fn schedule(&self, name: &ScheduleName) -> Fallible<Option<ScheduleRecord>> {
        let mut select = self.prepare("select record from schedule where name = ?1")?;
        let record: Option<String> = select.query_row([name.as_str()], |row| row.get(0)).optional()?;
        record.map(|record| from_json(&record)).transpose()
    }

    fn put_schedule(&self, schedule: &ScheduleRecord) -> Fallible<()> {
        self.prepare("insert or replace into schedule(name, record) values(?1, ?2)")?
            .execute(params![schedule.name.as_str(), to_json(schedule)?])?;
        Ok(())
    }

    fn schedules_changed(&self) -> Fallible<()> {
        self.prepare("update schedule_revision set n = n + 1")?.execute([])?;
        Ok(())
    }
}
