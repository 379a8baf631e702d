//! The devices of one agent and who holds them.
//!
//! A lease is made in three steps: the ledger reserves the devices, the guards keep other agents off them, and, once
//! there is a task, their readings of that moment become what they must come back to. It ends with the process group
//! that had them: then they are looked at until they are as they were, or go into quarantine ([`super::check`]). A
//! lease that no process ever used is put back at once. An agent that crashes loses its ledger and its leases; the
//! guards free themselves, and the note in a lock file has the next agent look at the device first.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rhubarb_core::{
    backend::{WorkerGpu, WorkerGpuState},
    config::{QueueConfig, WithoutGpu},
    gpu::{GpuAsk, GpuDevice, GpuLeaseId, GpuLedger, GpuReading, GpuSource, GpuState, sickness},
    ids::TaskId,
};
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    guard::{Guard, Guards, NoGuard, Note, Taken, Taker},
    lease::GpuLease,
    survivor::Survivor,
    usage::Tally,
};

/// Where agents lock devices if nothing else is said.
pub const LOCKS_DEFAULT: &str = "/run/lock/rhubarb-gpus";
/// A device that another agent has is asked for again after this.
const ELSEWHERE_PAUSE: Duration = Duration::from_millis(500);
/// Without a folder each question is a write to the store.
const ELSEWHERE_PAUSE_ROWS: Duration = Duration::from_secs(2);
/// For how long a device is left to an agent that waits for it.
const YIELD: Duration = Duration::from_millis(1500);
const _: () = assert!(YIELD.as_millis() >= 2 * ELSEWHERE_PAUSE.as_millis());

/// What a pool is made with.
pub(crate) struct PoolParts {
    pub(crate) source: Arc<dyn GpuSource>,
    pub(crate) folder: PathBuf,
    pub(crate) taker: Taker,
}

/// How a queue that asks for GPUs is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Serving {
    /// Devices are leased for each invocation, or none are asked for.
    Gpus(GpuAsk),
    /// On the CPU: it asks for none, or its `without_gpu` allows it and there is none that fits.
    Cpu,
    /// Not at all.
    Not,
}

/// The devices of one agent. Clones are the same pool.
#[derive(Clone)]
pub struct GpuPool(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) source: Arc<dyn GpuSource>,
    pub(super) guards: Guards,
    pub(super) worker: String,
    state: Mutex<State>,
    /// Leases begin, and guards are given up, one after the other.
    leasing: tokio::sync::Mutex<()>,
    changed: watch::Sender<u64>,
    pub(super) tracker: TaskTracker,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) ledger: GpuLedger,
    pub(super) devices: BTreeMap<String, Device>,
    pub(super) leases: BTreeMap<GpuLeaseId, Entry>,
    next: GpuLeaseId,
    /// Devices that are read and may not be leased.
    pub(super) hidden: Vec<String>,
}

/// What the pool knows of a device beyond the ledger.
#[derive(Default)]
pub(super) struct Device {
    pub(super) guard: Option<Guard>,
    /// Another agent had it; it is asked for again from then on.
    elsewhere: Option<Instant>,
    waiting: Option<File>,
    /// How it stood before its present lease: what it must come back to.
    pub(super) before: Option<GpuReading>,
    /// The newest reading.
    pub(super) reading: Option<GpuReading>,
    /// It is sick, and goes into quarantine when its lease ends.
    pub(super) doomed: Option<String>,
    pub(super) survivors: Vec<Survivor>,
    /// Readings in a row that it was missing from.
    pub(super) missed: u32,
    pub(super) quarantine: Option<super::check::Confined>,
    pub(super) probed: Option<Instant>,
}

/// Whether reserved devices are guarded.
enum Secured {
    Ours,
    /// One of them is another agent's or out of use.
    Not,
    /// An agent that held this one did not live to see it clean.
    LookFirst(String),
}

/// A lease as the pool keeps it.
pub(super) struct Entry {
    pub(super) tasks: Vec<TaskId>,
    pub(super) tallies: BTreeMap<String, Tally>,
    pub(super) lost: CancellationToken,
}

impl GpuPool {
    /// Lists the devices and finds out how they can be guarded. A machine without a driver has none, and then nothing
    /// needs a guard: it is none's pool.
    ///
    /// # Errors
    ///
    /// There are devices, and no guard can be used.
    pub(crate) async fn open(parts: PoolParts) -> Result<Option<Self>, NoGuard> {
        let PoolParts { source, folder, taker } = parts;
        let all = match source.devices().await {
            Ok(all) => all,
            Err(error) => {
                tracing::warn!(error = %error, "no GPUs are used: {error}");
                return Ok(None);
            }
        };
        let ours = usable(&all);
        if ours.is_empty() {
            return Ok(None);
        }
        let worker = taker.worker.to_string();
        let guards = Guards::open(&folder, taker).await?;
        let inner = Inner {
            source,
            guards,
            worker,
            state: Mutex::default(),
            leasing: tokio::sync::Mutex::default(),
            changed: watch::Sender::default(),
            tracker: TaskTracker::new(),
        };
        let pool = Self(Arc::new(inner));
        pool.0.take_in(&all);
        Ok(Some(pool))
    }

    /// How a queue is served with these devices, leased or not.
    pub(crate) fn serving(pool: Option<&Self>, queue: &QueueConfig) -> Serving {
        let Some(ask) = GpuAsk::of(queue) else { return Serving::Cpu };
        let is_met = pool.is_some_and(|pool| {
            let state = pool.0.state();
            let devices: Vec<&GpuDevice> = state.ledger.devices().into_iter().map(|(device, _)| device).collect();
            ask.is_met_by(devices)
        });
        match queue.without_gpu {
            _ if is_met => Serving::Gpus(ask),
            WithoutGpu::Cpu => Serving::Cpu,
            WithoutGpu::Wait => Serving::Not,
        }
    }

    /// Leases the devices that are asked for, all or none; never waits for one that is taken.
    pub(crate) async fn lease(&self, ask: &GpuAsk) -> Option<GpuLease> {
        let _one = self.0.leasing.lock().await;
        loop {
            let (id, uuids) = self.0.reserve(ask)?;
            match self.0.secure(&uuids).await {
                Secured::Ours => return Some(GpuLease::new(Arc::clone(&self.0), id, uuids)),
                Secured::Not => self.0.put_back_unused(id, uuids),
                Secured::LookFirst(uuid) => {
                    self.0.put_back_unused(id, uuids);
                    self.0.set_apart(&uuid);
                }
            }
        }
    }

    /// Tells of changes: after one a lease may be had that was not before.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Returns when devices may have come free since `changes` was last looked at.
    pub(crate) async fn wait(&self, changes: &mut watch::Receiver<u64>) {
        let again = self.0.asks_again();
        let elsewhere = async {
            match again {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = changes.changed() => {}
            () = elsewhere => {}
        }
    }

    /// Every device and how it stands, in the driver's order.
    #[must_use]
    pub fn snapshot(&self) -> Vec<WorkerGpu> {
        self.readings().into_iter().map(|(gpu, _)| gpu).collect()
    }

    /// Every device, how it stands, and what was read of it last.
    #[must_use]
    pub fn readings(&self) -> Vec<(WorkerGpu, Option<GpuReading>)> {
        let state = self.0.state();
        let devices = state.ledger.devices().into_iter();
        devices.map(|(device, stands)| (shown(&state, device, stands), state.reading(&device.uuid))).collect()
    }

    /// The folder of the locks, where it can be used.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.0.guards.folder()
    }

    /// Waits until every device that was given back has been looked at, as long as that may take.
    pub(crate) async fn close(&self) {
        self.0.tracker.close();
        self.0.tracker.wait().await;
    }
}

impl Inner {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; if something did, the maps are still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Devices may have come free, or are to be looked at again.
    pub(super) fn note_change(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Takes in what the driver lists: new devices are looked at before their first lease.
    pub(super) fn take_in(self: &Arc<Self>, all: &[GpuDevice]) {
        let ours = usable(all);
        let mut new = Vec::new();
        {
            let mut state = self.state();
            for device in ours {
                let uuid = device.uuid.clone();
                if state.ledger.state(&uuid).is_none() {
                    tracing::info!(gpu.uuid = %uuid, "GPU {device}");
                    state.ledger.add(device);
                    state.devices.insert(uuid.clone(), Device::default());
                    state.ledger.set_apart(&uuid);
                    new.push(uuid);
                }
            }
        }
        for uuid in new {
            self.tracker.spawn(Arc::clone(self).first_look(uuid));
        }
    }

    fn reserve(&self, ask: &GpuAsk) -> Option<(GpuLeaseId, Vec<String>)> {
        let mut state = self.state();
        let (id, now) = (state.next, Instant::now());
        let State { ledger, devices, .. } = &mut *state;
        for device in devices.values_mut() {
            device.elsewhere = device.elsewhere.filter(|at| *at > now);
        }
        let uuids = ledger.lease_of(id, ask, |uuid| devices.get(uuid).is_some_and(Device::may_be_leased))?;
        state.next += 1;
        let entry = Entry { tasks: Vec::new(), tallies: BTreeMap::new(), lost: CancellationToken::new() };
        state.leases.insert(id, entry);
        Some((id, uuids))
    }

    /// Guards reserved devices.
    async fn secure(&self, uuids: &[String]) -> Secured {
        for uuid in uuids {
            if self.state().devices.get(uuid).is_some_and(|device| device.guard.is_some()) {
                continue;
            }
            let Taken::Ours(guard, note) = self.guards.take(uuid).await else {
                self.set_elsewhere(uuid);
                return Secured::Not;
            };
            self.keep_guard(uuid, guard);
            if self.hear_of_quarantine(uuid) {
                return Secured::Not;
            }
            if let Some(note) = note {
                self.heed(uuid, note);
                return Secured::LookFirst(uuid.clone());
            }
        }
        Secured::Ours
    }

    pub(super) fn keep_guard(&self, uuid: &str, guard: Guard) {
        if let Some(device) = self.state().devices.get_mut(uuid) {
            (device.guard, device.elsewhere, device.waiting) = (Some(guard), None, None);
        }
    }

    /// The last holder of a device did not live to see it clean: it must come back to what it was before.
    pub(super) fn heed(&self, uuid: &str, note: Note) {
        tracing::warn!(gpu.uuid = %uuid, "worker {} ended while it held GPU {uuid}, which is looked at first", note.worker);
        if let Some(device) = self.state().devices.get_mut(uuid) {
            device.before = Some(note.before);
        }
    }

    /// Looks at a free device that is guarded already.
    fn set_apart(self: &Arc<Self>, uuid: &str) {
        if self.state().ledger.set_apart(uuid) {
            self.tracker.spawn(Arc::clone(self).look(uuid.to_owned()));
        }
    }

    /// Leaves a device out of leases for a while, in line for it.
    pub(super) fn set_elsewhere(&self, uuid: &str) {
        let pause = if self.guards.folder().is_some() { ELSEWHERE_PAUSE } else { ELSEWHERE_PAUSE_ROWS };
        let line = self.guards.queue_up(uuid);
        let mut state = self.state();
        if let Some(device) = state.devices.get_mut(uuid) {
            device.elsewhere = Some(Instant::now() + pause);
            device.waiting = device.waiting.take().or(line);
        }
    }

    /// When the first of the devices that others have is asked for again.
    fn asks_again(&self) -> Option<Instant> {
        self.state().devices.values().filter_map(|device| device.elsewhere).min()
    }

    /// Ends a lease whose devices no process had. That is no change to those who wait: the one who feeds has made the
    /// lease itself, and would wake itself for nothing.
    pub(super) fn put_back_unused(self: &Arc<Self>, id: GpuLeaseId, uuids: Vec<String>) {
        {
            let mut state = self.state();
            state.leases.remove(&id);
            state.ledger.put_back(id, false);
        }
        self.give_up_guards(uuids);
    }

    /// Takes devices out of a lease that no process had yet.
    pub(super) fn put_some_back(self: &Arc<Self>, id: GpuLeaseId, uuids: Vec<String>) {
        uuids.iter().for_each(|uuid| self.state().ledger.put_one_back(id, uuid));
        self.give_up_guards(uuids);
        self.note_change();
    }

    /// Ends a lease; what nobody else shares is looked at.
    pub(super) fn put_back_used(self: &Arc<Self>, id: GpuLeaseId) {
        let left = {
            let mut state = self.state();
            state.leases.remove(&id);
            state.ledger.put_back(id, true)
        };
        for uuid in left {
            self.tracker.spawn(Arc::clone(self).look(uuid));
        }
        self.note_change();
    }

    /// Lets other agents take devices that nobody here holds. Behind the leases under way, one of which may want them.
    pub(super) fn give_up_guards(self: &Arc<Self>, uuids: Vec<String>) {
        let inner = Arc::clone(self);
        self.tracker.spawn(async move {
            let _one = inner.leasing.lock().await;
            for uuid in uuids {
                let guard = {
                    let mut state = inner.state();
                    let is_idle = matches!(state.ledger.state(&uuid), Some(GpuState::Free | GpuState::Quarantined(_)));
                    state.devices.get_mut(&uuid).filter(|_| is_idle).and_then(|device| device.guard.take())
                };
                if let Some(guard) = guard {
                    guard.give_up().await;
                }
            }
        });
    }

    /// Lets a waiting agent have a device first that has just come free here.
    pub(super) fn yield_if_wanted(&self, uuid: &str) {
        if self.guards.is_wanted(uuid)
            && let Some(device) = self.state().devices.get_mut(uuid)
        {
            device.elsewhere = Some(Instant::now() + YIELD);
        }
    }
}

impl State {
    fn reading(&self, uuid: &str) -> Option<GpuReading> {
        self.devices.get(uuid)?.reading.clone()
    }
}

impl Device {
    const fn may_be_leased(&self) -> bool {
        self.doomed.is_none() && self.elsewhere.is_none()
    }

    /// Takes the newest reading. Returns what has made the device sick since the one before: whoever reads it must say
    /// so, because the next to read sees nothing new.
    pub(super) fn read(&mut self, now: GpuReading) -> Option<String> {
        let before = self.reading.replace(now);
        sickness(&before?, self.reading.as_ref()?)
    }
}

fn shown(state: &State, device: &GpuDevice, stands: &GpuState) -> WorkerGpu {
    let elsewhere = state.devices.get(&device.uuid).is_some_and(|known| known.elsewhere.is_some());
    let stands = match stands {
        GpuState::Free if elsewhere => WorkerGpuState::Held { tasks: Vec::new() },
        GpuState::Free => WorkerGpuState::Free,
        GpuState::Held(leases) => {
            let tasks = leases.iter().filter_map(|id| state.leases.get(id)).flat_map(|lease| &lease.tasks);
            WorkerGpuState::Held { tasks: tasks.copied().collect() }
        }
        GpuState::Checking => WorkerGpuState::Checking,
        GpuState::Quarantined(reason) => WorkerGpuState::Quarantined { reason: reason.clone() },
    };
    WorkerGpu { device: device.clone(), state: stands }
}

/// The devices that may be leased: of one that MIG has divided its instances alone.
fn usable(all: &[GpuDevice]) -> Vec<GpuDevice> {
    let is_divided = |device: &GpuDevice| all.iter().any(|other| other.parent.as_ref() == Some(&device.uuid));
    all.iter().filter(|device| !is_divided(device)).cloned().collect()
}
