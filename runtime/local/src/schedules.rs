//! Schedules, kept and listed; an agent fires them.

use async_trait::async_trait;
use rhubarb_core::{
    backend::{Result, ScheduleRecord, Schedules},
    ids::ScheduleName,
};
use rusqlite::params;

use crate::{
    open::LocalBackend,
    texts::{from_json, to_json},
};

#[async_trait]
impl Schedules for LocalBackend {
    async fn put(&self, schedules: &[ScheduleRecord]) -> Vec<Result<()>> {
        self.each("keep schedules", schedules.to_vec(), |transaction, schedule| {
            transaction
                .prepare("insert or replace into schedule(name, record) values(?1, ?2)")?
                .execute(params![schedule.name.as_str(), to_json(&schedule)?])?;
            Ok(Ok(()))
        })
        .await
    }

    async fn delete(&self, names: &[ScheduleName]) -> Vec<Result<()>> {
        self.each("delete schedules", names.to_vec(), |transaction, name| {
            transaction.prepare("delete from schedule where name = ?1")?.execute([name.as_str()])?;
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
}
