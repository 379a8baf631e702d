//! Devices that one attempt holds, as the host sees them.
//!
//! A lease is given back when it is dropped: by the host after the process group that had its devices was reaped, by
//! the feeder when there was nothing to take.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use rhubarb_core::{
    gpu::{GpuError, GpuHold, GpuLeaseId, GpuReading, GpuUsage, mps::limits_of, sickness},
    ids::TaskId,
};

use super::{pool::Inner, survivor::Survivor};

pub(crate) struct GpuLease {
    pool: Arc<Inner>,
    id: GpuLeaseId,
    uuids: Vec<String>,
    used: AtomicBool,
}

impl fmt::Debug for GpuLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GpuLease").field("id", &self.id).field("uuids", &self.uuids).finish_non_exhaustive()
    }
}

impl GpuLease {
    pub(super) const fn new(pool: Arc<Inner>, id: GpuLeaseId, uuids: Vec<String>) -> Self {
        Self { pool, id, uuids, used: AtomicBool::new(false) }
    }

    /// Notes which tasks it is for, for those who look at the worker.
    pub(crate) fn note_tasks(&self, tasks: Vec<TaskId>) {
        if let Some(entry) = self.pool.state().leases.get_mut(&self.id) {
            entry.tasks = tasks;
        }
    }

    /// Keeps so many of the devices, and puts the others back.
    pub(crate) fn keep(&mut self, count: u32) {
        let kept = usize::try_from(count).unwrap_or(usize::MAX).min(self.uuids.len());
        let others = self.uuids.split_off(kept);
        if !others.is_empty() {
            self.pool.put_some_back(self.id, others);
        }
    }

    /// True if no device is left of it.
    pub(crate) const fn is_empty(&self) -> bool {
        self.uuids.is_empty()
    }

    /// What is read of each device now, where the driver can be asked.
    async fn readings(&self) -> Option<Vec<GpuReading>> {
        let all = self.pool.source.read().await.ok()?;
        Some(all.into_iter().filter(|reading| self.uuids.contains(&reading.uuid)).collect())
    }

    /// Why no process may have a device after these readings. It goes into quarantine then.
    fn unfit(&self, uuid: &str, readings: &[GpuReading]) -> Option<String> {
        let found = match readings.iter().find(|reading| reading.uuid == uuid) {
            Some(now) => self.pool.state().devices.get_mut(uuid)?.read(now.clone()),
            None => Some("it no longer answers".into()),
        };
        found.map(|reason| self.doom(uuid, reason))
    }

    /// Notes that a device is sick: it goes into quarantine once it is given back.
    fn doom(&self, uuid: &str, reason: String) -> String {
        let told = format!("GPU {uuid} is sick: {reason}");
        if let Some(device) = self.pool.state().devices.get_mut(uuid) {
            device.doomed.get_or_insert(reason);
        }
        told
    }
}

impl Drop for GpuLease {
    fn drop(&mut self) {
        if self.used.load(Relaxed) {
            self.pool.put_back_used(self.id);
        } else {
            let had_tasks = self.pool.state().leases.get(&self.id).is_some_and(|entry| !entry.tasks.is_empty());
            self.pool.put_back_unused(self.id, std::mem::take(&mut self.uuids));
            if had_tasks {
                self.pool.note_change();
            }
        }
    }
}

#[async_trait]
impl GpuHold for GpuLease {
    fn uuids(&self) -> &[String] {
        &self.uuids
    }

    fn memory_limits(&self) -> Option<String> {
        self.pool.source.limits_memory().then(|| {
            let state = self.pool.state();
            let devices = state.ledger.devices();
            let memory = |uuid: &String| devices.iter().find(|(it, _)| it.uuid == *uuid).map_or(0, |(it, _)| it.memory);
            limits_of(&self.uuids.iter().map(memory).collect::<Vec<_>>())
        })
    }

    async fn begin(&self) -> Result<(), String> {
        let readings = self.readings().await;
        self.used.store(true, Relaxed);
        if let Some(all) = readings
            && let Some(told) = self.uuids.iter().find_map(|uuid| self.unfit(uuid, &all))
        {
            return Err(told);
        }
        let mut state = self.pool.state();
        for uuid in &self.uuids {
            let is_alone = state.ledger.holders(uuid) == [self.id];
            let Some(device) = state.devices.get_mut(uuid) else { continue };
            // A shared device must come back to what it was before the first; and where the driver cannot be asked
            // for a moment, what was read last counts.
            if is_alone {
                device.before = device.reading.clone();
            }
            if let (Some(guard), Some(before)) = (&mut device.guard, &device.before) {
                guard.write_note(before);
            }
        }
        Ok(())
    }

    fn usage(&self) -> Vec<GpuUsage> {
        let state = self.pool.state();
        let tallies = state.leases.get(&self.id).map(|entry| &entry.tallies);
        let usage = |uuid: &String| match tallies.and_then(|tallies| tallies.get(uuid)) {
            Some(tally) => tally.usage(uuid),
            None => GpuUsage { uuid: uuid.clone(), ..GpuUsage::default() },
        };
        self.uuids.iter().map(usage).collect()
    }

    async fn read(&self) {
        let is_read = |entry: &super::pool::Entry| self.uuids.iter().all(|uuid| entry.tallies.contains_key(uuid));
        if self.pool.state().leases.get(&self.id).is_none_or(is_read) {
            return;
        }
        let Some(readings) = self.readings().await else { return };
        if let Some(entry) = self.pool.state().leases.get_mut(&self.id) {
            entry.add(&readings);
        }
    }

    fn outlived_by(&self, processes: &[u32]) {
        let survivors: Vec<Survivor> = processes.iter().copied().filter_map(Survivor::of).collect();
        let mut state = self.pool.state();
        for uuid in &self.uuids {
            if let Some(device) = state.devices.get_mut(uuid) {
                device.survivors.extend(&survivors);
            }
        }
    }

    async fn sickness(&self) -> Option<String> {
        let readings = self.readings().await;
        for uuid in &self.uuids {
            let now = readings.as_ref().map(|all| all.iter().find(|reading| reading.uuid == *uuid));
            let (before, doomed) = match self.pool.state().devices.get(uuid) {
                Some(device) => (device.before.clone(), device.doomed.clone()),
                None => (None, None),
            };
            let found = match (doomed, now, before) {
                (Some(reason), ..) => Some(reason),
                (None, Some(None), _) => Some("it no longer answers".into()),
                (None, Some(Some(now)), Some(before)) => sickness(&before, now),
                (None, None, _) | (None, _, None) => None,
            };
            if let Some(reason) = found {
                return Some(self.doom(uuid, reason));
            }
            match self.pool.source.probe(uuid).await {
                Err(GpuError::Sick(reason)) => return Some(self.doom(uuid, reason)),
                Err(error) => tracing::warn!(gpu.uuid = %uuid, error = %error, "cannot probe GPU {uuid}: {error}"),
                Ok(()) => {}
            }
        }
        None
    }

    async fn lost(&self) {
        let lost = self.pool.state().leases.get(&self.id).map(|entry| entry.lost.clone());
        match lost {
            Some(lost) => lost.cancelled().await,
            None => std::future::pending().await,
        }
    }
}
