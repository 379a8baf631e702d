//! Blobs, schedules and workers.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use rhubarb_core::{
    backend::{
        BlobInfo, BlobKey, Blobs, Current, Heard, Later, Noted, Result, ScheduleRecord, Schedules, StoreError,
        WorkerRecord, Workers,
    },
    ids::{ScheduleName, WorkerId},
    time::Timestamp,
};

use super::{MemoryBackend, Store};
use crate::faults::Verb;

/// After so long a silent worker is left out of the list.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Who is alive, and who has which role.
#[derive(Default)]
pub(super) struct Roster {
    workers: BTreeMap<WorkerId, (WorkerRecord, Timestamp)>,
    roles: BTreeMap<String, (WorkerId, String, Timestamp)>,
}

impl Roster {
    fn beat(&mut self, worker: &WorkerRecord, now: Timestamp) -> Result<()> {
        if let Some((known, heard)) = self.workers.get(&worker.id)
            && known.instance != worker.instance
            && is_alive(known, *heard, now)
        {
            let (worker, host, pid) = (known.id.clone(), known.host.clone(), known.pid);
            return Err(StoreError::NameTaken { worker, host, pid });
        }
        self.workers.insert(worker.id.clone(), (worker.clone(), now));
        Ok(())
    }

    fn leave(&mut self, worker: &WorkerId, instance: &str) {
        if self.workers.get(worker).is_some_and(|(known, _)| known.instance == instance) {
            self.workers.remove(worker);
        }
        self.roles.retain(|_, (holder, of, _)| (&*holder, of.as_str()) != (worker, instance));
    }

    fn list(&mut self, now: Timestamp) -> Vec<Heard> {
        self.workers.retain(|_, (_, heard)| heard.after(FORGOTTEN_AFTER) > now);
        let heard = |(worker, heard): &(WorkerRecord, Timestamp)| Heard {
            alive: is_alive(worker, *heard, now),
            worker: worker.clone(),
            heard: *heard,
        };
        self.workers.values().map(heard).collect()
    }

    fn hold_role(&mut self, role: &str, worker: &WorkerId, instance: &str, hold: Duration, now: Timestamp) -> bool {
        let taken = self
            .roles
            .get(role)
            .is_some_and(|(holder, of, until)| *until > now && (holder, of.as_str()) != (worker, instance));
        if !taken {
            self.roles.insert(role.to_owned(), (worker.clone(), instance.to_owned(), now.after(hold)));
        }
        !taken
    }
}

fn is_alive(worker: &WorkerRecord, heard: Timestamp, now: Timestamp) -> bool {
    heard.after(worker.silent_after) > now
}

#[async_trait]
impl Workers for MemoryBackend {
    async fn beat(&self, worker: &WorkerRecord) -> Result<()> {
        self.whole(Verb::Worker, |store, now, _| store.roster.beat(worker, now.epoch)).await
    }

    async fn leave(&self, worker: &WorkerId, instance: &str) -> Result<()> {
        self.whole(Verb::Worker, |store, _, _| {
            store.roster.leave(worker, instance);
            Ok(())
        })
        .await
    }

    async fn list(&self) -> Result<Vec<Heard>> {
        self.whole(Verb::Worker, |store, now, _| Ok(store.roster.list(now.epoch))).await
    }

    async fn hold_role(&self, role: &str, worker: &WorkerId, instance: &str, hold: Duration) -> Result<bool> {
        self.whole(Verb::Worker, |store, now, _| Ok(store.roster.hold_role(role, worker, instance, hold, now.epoch)))
            .await
    }
}

#[async_trait]
impl Schedules for MemoryBackend {
    async fn put(&self, schedules: &[ScheduleRecord]) -> Vec<Result<()>> {
        self.each(Verb::Schedule, schedules.len(), |store, _, _| {
            let put = |schedule: &ScheduleRecord| {
                let known = store.schedules.get_mut(&schedule.name);
                let changed = known.is_none_or(|known| known.replace(schedule));
                store.schedules.entry(schedule.name.clone()).or_insert_with(|| schedule.clone());
                store.schedule_revision += u64::from(changed);
                Ok(())
            };
            schedules.iter().map(put).collect()
        })
        .await
    }

    async fn delete(&self, names: &[ScheduleName]) -> Vec<Result<()>> {
        self.each(Verb::Schedule, names.len(), |store, _, _| {
            let before = store.schedules.len();
            store.schedules.retain(|name, _| !names.contains(name));
            store.schedule_revision += u64::from(store.schedules.len() != before);
            names.iter().map(|_| Ok(())).collect()
        })
        .await
    }

    async fn list(&self) -> Result<Vec<ScheduleRecord>> {
        self.whole(Verb::Schedule, |store, _, _| Ok(store.schedules.values().cloned().collect())).await
    }

    async fn read(&self, names: &[ScheduleName]) -> Result<Vec<Option<ScheduleRecord>>> {
        let read = |name: &ScheduleName, store: &Store| store.schedules.get(name).cloned();
        self.whole(Verb::Schedule, |store, _, _| Ok(names.iter().map(|name| read(name, store)).collect())).await
    }

    async fn pause(&self, name: &ScheduleName, paused: bool) -> Result<bool> {
        self.whole(Verb::Schedule, |store, now, _| {
            let Some(schedule) = store.schedules.get_mut(name) else { return Ok(false) };
            store.schedule_revision += u64::from(schedule.pause(paused, now.epoch));
            Ok(true)
        })
        .await
    }

    async fn note(&self, noted: &[Noted]) -> Vec<Result<()>> {
        self.each(Verb::Schedule, noted.len(), |store, _, _| {
            let note = |noted: &Noted| {
                if let Some(schedule) = store.schedules.get_mut(&noted.name) {
                    schedule.note(noted);
                }
                Ok(())
            };
            noted.iter().map(note).collect()
        })
        .await
    }

    async fn enter(&self, name: &ScheduleName, expected: Option<Current>, next: Current) -> Result<bool> {
        self.whole(Verb::Schedule, |store, _, _| {
            Ok(store.schedules.get_mut(name).is_some_and(|schedule| schedule.enter(expected, next)))
        })
        .await
    }

    async fn revision(&self) -> Result<u64> {
        self.whole(Verb::Schedule, |store, _, _| Ok(store.schedule_revision)).await
    }

    fn later(&self) -> Option<&dyn Later> {
        Some(self)
    }
}

#[async_trait]
impl Blobs for MemoryBackend {
    async fn put(&self, key: &BlobKey, content: Bytes) -> Result<()> {
        self.whole(Verb::Blob, |store, now, _| {
            store.blobs.insert(key.clone(), (content, now.epoch));
            Ok(())
        })
        .await
    }

    async fn get(&self, key: &BlobKey) -> Result<Bytes> {
        self.whole(Verb::Blob, |store, _, _| {
            let blob = store.blobs.get(key).ok_or_else(|| StoreError::NoBlob(key.clone()))?;
            Ok(blob.0.clone())
        })
        .await
    }

    async fn list(&self, prefix: Option<&BlobKey>) -> Result<Vec<BlobInfo>> {
        let below = |key: &BlobKey| {
            let rest = prefix.map(|prefix| key.as_str().strip_prefix(prefix.as_str()));
            rest.is_none_or(|rest| rest.is_some_and(|rest| rest.starts_with('/')))
        };
        self.whole(Verb::Blob, |store, _, _| {
            let found = store.blobs.iter().filter(|(key, _)| below(key));
            let info = |(key, (content, modified)): (&BlobKey, &(Bytes, Timestamp))| BlobInfo {
                key: key.clone(),
                size: content.len() as u64,
                modified: *modified,
            };
            Ok(found.map(info).collect())
        })
        .await
    }

    async fn delete(&self, keys: &[BlobKey]) -> Vec<Result<()>> {
        self.each(Verb::Blob, keys.len(), |store, _, _| {
            store.blobs.retain(|key, _| !keys.contains(key));
            keys.iter().map(|_| Ok(())).collect()
        })
        .await
    }

    fn locate(&self, key: &BlobKey) -> String {
        format!("memory:{key}")
    }
}
