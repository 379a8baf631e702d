//! The workers' rows and roles.
//!
//! A worker counts as alive while it is heard; one of this host also no longer than its process lives,
//! so that after a kill its name and its roles are free at once.

use std::time::Duration;

use async_trait::async_trait;
use rhubarb_core::{
    backend::{Heard, Result, StoreError, WorkerRecord, Workers},
    ids::WorkerId,
    time::{LeaseTime, Timestamp},
};
use rusqlite::{OptionalExtension as _, params};

use crate::{
    error::Fallible,
    open::LocalBackend,
    texts::{from_json, to_json},
    transaction::Transaction,
};

/// Workers silent for this long are removed.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// A worker's row.
struct Row {
    record: WorkerRecord,
    heard: Timestamp,
    boot: i64,
    lease: LeaseTime,
}

#[async_trait]
impl Workers for LocalBackend {
    async fn beat(&self, worker: &WorkerRecord) -> Result<()> {
        let worker = worker.clone();
        let verb = move |transaction: &mut Transaction<'_>| transaction.beat(&worker);
        self.inner.writer.call("write the worker's heartbeat", 1, verb).await?
    }

    async fn leave(&self, worker: &WorkerId, instance: &str) -> Result<()> {
        let (worker, instance) = (worker.clone(), instance.to_owned());
        let verb = move |transaction: &mut Transaction<'_>| transaction.leave(&worker, &instance);
        self.inner.writer.call("remove the worker", 1, verb).await
    }

    async fn list(&self) -> Result<Vec<Heard>> {
        self.inner.writer.call("list workers", 1, |transaction| transaction.workers()).await
    }

    async fn hold_role(&self, role: &str, worker: &WorkerId, instance: &str, hold: Duration) -> Result<bool> {
        let (role, worker, instance) = (role.to_owned(), worker.clone(), instance.to_owned());
        let verb = move |transaction: &mut Transaction<'_>| transaction.hold_role(&role, &worker, &instance, hold);
        self.inner.writer.call("take a role", 1, verb).await
    }
}

impl Transaction<'_> {
    fn beat(&mut self, worker: &WorkerRecord) -> Fallible<Result<()>> {
        if let Some(other) = self.worker(worker.id.as_str())?
            && other.record.instance != worker.instance
            && self.is_alive(&other, &worker.host)
        {
            let WorkerRecord { id: worker, host, pid, .. } = other.record;
            return Ok(Err(StoreError::NameTaken { worker, host, pid }));
        }
        self.prepare(
            "insert or replace into worker(id, instance, record, heard, boot, lease) values(?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            worker.id.as_str(),
            worker.instance,
            to_json(worker)?,
            self.epoch().as_millis(),
            self.boot,
            self.now.lease.0
        ])?;
        Ok(Ok(()))
    }

    fn leave(&self, worker: &WorkerId, instance: &str) -> Fallible<()> {
        for table in ["worker where id = ?1", "role where worker = ?1"] {
            let sql = format!("delete from {table} and instance = ?2");
            self.prepare(&sql)?.execute(params![worker.as_str(), instance])?;
        }
        Ok(())
    }

    fn workers(&self) -> Fallible<Vec<Heard>> {
        let forgotten = self.epoch().before(FORGOTTEN_AFTER).as_millis();
        self.prepare("delete from worker where heard < ?1")?.execute([forgotten])?;
        let here = host_name();
        let mut select = self.prepare("select record, heard, boot, lease from worker order by id")?;
        let mut rows = select.query([])?;
        let mut workers = Vec::new();
        while let Some(row) = rows.next()? {
            let row = read_worker(row)?;
            let alive = self.is_alive(&row, &here);
            workers.push(Heard { worker: row.record, heard: row.heard, alive });
        }
        Ok(workers)
    }

    fn worker(&self, id: &str) -> Fallible<Option<Row>> {
        let mut select = self.prepare("select record, heard, boot, lease from worker where id = ?1")?;
        let mut rows = select.query([id])?;
        rows.next()?.map(read_worker).transpose()
    }

    /// Heard recently, by the clock that nobody sets, and its process not known to be gone.
    fn is_alive(&self, row: &Row, here: &str) -> bool {
        let heard = row.boot == self.boot && row.lease.after(row.record.silent_after) > self.now.lease;
        heard && (row.record.host != here || process_lives(row.record.pid))
    }

    fn hold_role(&mut self, role: &str, worker: &WorkerId, instance: &str, hold: Duration) -> Fallible<bool> {
        let mut select = self.prepare("select worker, instance, boot, until from role where name = ?1")?;
        let holder: Option<(String, String, i64, i64)> =
            select.query_row([role], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).optional()?;
        if let Some((other, other_instance, boot, until)) = holder {
            let mine = other == worker.as_str() && other_instance == instance;
            let lasts = boot == self.boot && until > self.now.lease.0;
            if !mine && lasts && !self.is_gone(&other, &other_instance)? {
                return Ok(false);
            }
        }
        self.prepare("insert or replace into role(name, worker, instance, boot, until) values(?1, ?2, ?3, ?4, ?5)")?
            .execute(params![role, worker.as_str(), instance, self.boot, self.now.lease.after(hold).0])?;
        Ok(true)
    }

    /// True if a role's holder is known to have died.
    fn is_gone(&self, worker: &str, instance: &str) -> Fallible<bool> {
        let row = self.worker(worker)?.filter(|row| row.record.instance == instance);
        Ok(row.is_some_and(|row| row.record.host == host_name() && !process_lives(row.record.pid)))
    }
}

fn read_worker(row: &rusqlite::Row<'_>) -> Fallible<Row> {
    let record: String = row.get(0)?;
    Ok(Row {
        record: from_json(&record)?,
        heard: Timestamp(row.get(1)?),
        boot: row.get(2)?,
        lease: LeaseTime(row.get(3)?),
    })
}

/// The name of this machine, as workers write it in their rows.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()).unwrap_or_default()
}

/// False only if there is no such process for certain.
fn process_lives(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return true };
    !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}
