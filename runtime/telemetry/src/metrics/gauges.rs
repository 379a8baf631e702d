//! What is looked at when somebody asks: the slots and heartbeats of this process's workers, and what the one that
//! holds the sweep's role has seen of queues and workers; and the GPUs that a worker may lease.
//!
//! A worker that ends takes its values with it, and so does one that loses the role: two processes never tell
//! two numbers for one queue for longer than a look takes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rhubarb_core::{
    backend::{WorkerGpu, WorkerGpuState},
    gpu::GpuReading,
    ids::{QueueName, WorkerId},
};

/// What was seen of a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueSeen {
    /// Messages by `visible`, `in_flight`, `delayed`.
    pub messages: Vec<(&'static str, u64)>,
    /// Rows by state.
    pub tasks: Vec<(&'static str, u64)>,
    /// Milliseconds since the first queued one was queued.
    pub oldest_ms: Option<u64>,
    /// Of what it limits, by `queue` and `key`.
    pub permits: Vec<(&'static str, PermitsSeen)>,
    /// Live workers that serve it; none where no worker need.
    pub workers: Option<u64>,
}

/// What was seen of one kind of limit of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PermitsSeen {
    /// Tasks that may run at once, where that is limited.
    pub limit: Option<u32>,
    /// Permits that are held, where the store can tell.
    pub taken: Option<u64>,
    /// Tasks that wait for one.
    pub parked: u64,
}

/// What the holder of the sweep's role has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// By queue.
    pub queues: BTreeMap<QueueName, QueueSeen>,
    /// Workers by state.
    pub workers: Vec<(&'static str, u64)>,
}

/// How many slots of a worker are in use.
pub type Used = Arc<dyn Fn() -> u64 + Send + Sync>;

#[derive(Clone)]
pub(super) struct Worker {
    pub(super) slots: u64,
    pub(super) used: Used,
    pub(super) heartbeat_ms: i64,
    pub(super) gpus: Vec<(WorkerGpu, Option<GpuReading>)>,
    /// For how long each GPU was held for tasks of this worker.
    pub(super) leased: BTreeMap<String, Duration>,
}

/// Everything that observers read.
#[derive(Clone, Default)]
pub(super) struct Gauges(Arc<Mutex<State>>);

#[derive(Default)]
pub(super) struct State {
    pub(super) workers: BTreeMap<WorkerId, Worker>,
    pub(super) seen: BTreeMap<WorkerId, Seen>,
}

impl Gauges {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; if something did, the maps are still whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker whose slots are shown until this is dropped.
pub struct WorkerShown {
    pub(super) id: WorkerId,
    pub(super) gauges: Gauges,
}

impl WorkerShown {
    /// The store has taken a heartbeat at this time, in milliseconds of Unix time.
    pub fn heartbeat(&self, at_ms: i64) {
        if let Some(worker) = self.gauges.state().workers.get_mut(&self.id) {
            worker.heartbeat_ms = at_ms;
        }
    }

    /// Its GPUs stand like this now, and were last told of so long ago.
    pub fn gpus(&self, gpus: Vec<(WorkerGpu, Option<GpuReading>)>, elapsed: Duration) {
        let mut state = self.gauges.state();
        let Some(worker) = state.workers.get_mut(&self.id) else { return };
        for (gpu, _) in &gpus {
            let leased = worker.leased.entry(gpu.device.uuid.clone()).or_default();
            // Another agent's lease names no task of ours.
            if matches!(&gpu.state, WorkerGpuState::Held { tasks } if !tasks.is_empty()) {
                *leased += elapsed;
            }
        }
        worker.gpus = gpus;
    }

    /// It holds the sweep's role and has seen this, or does not hold it any more.
    pub fn seen(&self, seen: Option<Seen>) {
        let mut state = self.gauges.state();
        match seen {
            Some(seen) => state.seen.insert(self.id.clone(), seen),
            None => state.seen.remove(&self.id),
        };
    }
}

impl Drop for WorkerShown {
    fn drop(&mut self) {
        let mut state = self.gauges.state();
        state.workers.remove(&self.id);
        state.seen.remove(&self.id);
    }
}
