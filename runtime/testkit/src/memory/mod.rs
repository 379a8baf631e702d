//! A backend in memory: for tests of what stands on the seams, and for the simulation.
//!
//! One lock, one store, the protocol's verbs of the core, and the joined verbs with their default
//! two-step bodies, so that a crash between the steps can be tried. Listings and due lists can lag as
//! an eventually consistent index does; what is read by id never lags. Everything is lost at its end.

mod broker;
mod late;
mod permits;
mod queues;
mod rest;
mod rows;
mod tasks;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use rhubarb_core::{
    backend::{
        Backend, BlobKey, Blobs, Broker, QueueSpec, Result, ScheduleRecord, Schedules, StoreError, Tasks, Workers,
    },
    ids::{QueueName, ScheduleName, TaskId},
    limits::Limits,
    permit::{Meter, Permit},
    row::Row,
    time::{Now, Timestamp},
};
use tokio::sync::Notify;

use self::{queues::Queues, rest::Roster, rows::Rows};
use crate::{
    clock::Clock,
    faults::{Fault, Faults, Verb},
    simulation::Sabotage,
};

/// How an in-memory backend behaves.
#[derive(Clone)]
pub struct MemoryOptions {
    /// Its clock.
    pub clock: Clock,
    /// What it may be asked for.
    pub limits: Limits,
    /// Listings, counts of tasks and due lists show what was true so long ago.
    pub index_lag: Duration,
    /// Its queues are FIFO queues: they keep the order of each group and drop repeated deduplication ids.
    pub fifo: bool,
    /// What goes wrong; nothing if absent.
    pub faults: Option<Arc<dyn Faults>>,
}

impl Default for MemoryOptions {
    /// AWS's limits on tokio's clock, standard queues, no lag, no faults.
    fn default() -> Self {
        Self { clock: Clock::tokio(), limits: Limits::AWS, index_lag: Duration::ZERO, fifo: false, faults: None }
    }
}

/// A backend in memory. Clones share it.
#[derive(Clone)]
pub struct MemoryBackend {
    shared: Arc<Shared>,
}

struct Shared {
    options: MemoryOptions,
    sabotage: Option<Sabotage>,
    store: Mutex<Store>,
    changed: Notify,
}

#[derive(Default)]
struct Store {
    queues: Queues,
    rows: Rows,
    blobs: BTreeMap<BlobKey, (Bytes, Timestamp)>,
    schedules: BTreeMap<ScheduleName, ScheduleRecord>,
    schedule_revision: u64,
    roster: Roster,
    /// How far the wall clock was ahead of the clock of leases at the last verb.
    ahead_ms: Option<i64>,
}

impl Store {
    /// Mends the rows where the wall clock was set back since the last verb. Messages are by the clock of leases.
    fn follow_wall(&mut self, now: Now, limits: &Limits) {
        let ahead = now.epoch.0 - now.lease.0;
        if self.ahead_ms.replace(ahead).is_some_and(|before| ahead < before) {
            self.rows.clock_set_back(now, limits);
        }
    }
}

impl MemoryBackend {
    /// An empty backend.
    #[must_use]
    pub fn new(options: MemoryOptions) -> Self {
        Self::sabotaged(options, None)
    }

    /// An empty backend with a rule taken away.
    pub(crate) fn sabotaged(options: MemoryOptions, sabotage: Option<Sabotage>) -> Self {
        let store = Mutex::new(Store { rows: Rows::new(options.index_lag), ..Store::default() });
        Self { shared: Arc::new(Shared { options, sabotage, store, changed: Notify::new() }) }
    }

    /// Declares a queue past all faults.
    pub(crate) fn declare_now(&self, queue: QueueSpec) {
        // A queue that exists is declared as often as wanted.
        let _ = self.lock().queues.declare(&[queue]);
    }

    /// What a queue's row says about its last purge, past all faults.
    pub(crate) fn purged_before(&self, queue: &QueueName) -> Option<Timestamp> {
        self.lock().rows.purged_before(queue)
    }

    /// True if a fault has lost a message that named this task.
    pub(crate) fn has_lost_a_doorbell(&self, id: TaskId) -> bool {
        self.lock().queues.has_lost(id)
    }

    fn is_sabotaged(&self, sabotage: Sabotage) -> bool {
        self.shared.sabotage == Some(sabotage)
    }

    /// What its clock says.
    #[must_use]
    pub fn now(&self) -> Now {
        self.shared.options.clock.now()
    }

    /// A task's row as it stands: for checks between steps, past all faults.
    #[must_use]
    pub fn row(&self, id: TaskId) -> Option<Row> {
        self.lock().rows.row(id).cloned()
    }

    /// The meters of a queue and of its keys (none: the queue's own) as they stand: for checks between steps.
    #[must_use]
    pub fn meters(&self) -> Vec<((QueueName, Option<String>), Meter)> {
        self.lock().rows.meters.all().map(|(name, meter)| (name.clone(), meter.clone())).collect()
    }

    /// The rows whose permits have not ended: what must never be more than a limit allows. For checks between
    /// steps.
    #[must_use]
    pub fn permits(&self) -> Vec<(TaskId, QueueName, Permit)> {
        self.lock().rows.held_permits(self.now())
    }

    /// How many messages of a queue name a task, hidden ones included: for checks between steps.
    #[must_use]
    pub fn doorbells(&self, queue: &QueueName, id: TaskId) -> usize {
        self.lock().queues.doorbells(queue, id)
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        // A panic of another test's thread leaves whole values behind: each verb is one change.
        self.shared.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn limits(&self) -> &Limits {
        &self.shared.options.limits
    }

    async fn fault(&self, verb: Verb) -> Fault {
        match &self.shared.options.faults {
            Some(faults) => faults.before(verb).await,
            None => Fault::None,
        }
    }

    /// Does one verb with one answer, unless a fault forbids.
    async fn whole<T>(&self, verb: Verb, act: impl FnOnce(&mut Store, Now, Fault) -> Result<T>) -> Result<T> {
        let fault = self.fault(verb).await;
        match fault {
            Fault::CrashBefore => std::future::pending().await,
            Fault::Refuse => Err(out_of_reach(verb)),
            Fault::None | Fault::LoseAnswer | Fault::CrashAfter | Fault::Lose | Fault::Duplicate => {
                let now = self.now();
                let answer = {
                    let mut store = self.lock();
                    store.follow_wall(now, self.limits());
                    act(&mut store, now, fault)
                };
                if !verb.only_reads() {
                    self.shared.changed.notify_waiters();
                }
                match fault {
                    Fault::CrashAfter => std::future::pending().await,
                    Fault::LoseAnswer => Err(out_of_reach(verb)),
                    _ => answer,
                }
            }
        }
    }

    /// Does one verb with one answer per item, unless a fault forbids.
    async fn each<T>(
        &self,
        verb: Verb,
        count: usize,
        act: impl FnOnce(&mut Store, Now, Fault) -> Vec<Result<T>>,
    ) -> Vec<Result<T>> {
        if count == 0 {
            return Vec::new();
        }
        match self.whole(verb, |store, now, fault| Ok(act(store, now, fault))).await {
            Ok(answers) => answers,
            Err(error) => (0..count).map(|_| Err(error.clone())).collect(),
        }
    }
}

#[async_trait]
impl Backend for MemoryBackend {
    fn broker(&self) -> &dyn Broker {
        self
    }

    fn tasks(&self) -> &dyn Tasks {
        self
    }

    fn blobs(&self) -> &dyn Blobs {
        self
    }

    fn schedules(&self) -> &dyn Schedules {
        self
    }

    fn workers(&self) -> &dyn Workers {
        self
    }

    async fn wait_ready(&self, queues: &[QueueName], wait: Duration) -> Result<()> {
        let give_up = self.now().lease.after(wait);
        loop {
            let changed = self.shared.changed.notified();
            let next = {
                let store = self.lock();
                queues.iter().filter_map(|queue| store.queues.next_visible(queue)).min()
            };
            let now = self.now().lease;
            if now >= give_up || next.is_some_and(|next| next <= now) {
                return Ok(());
            }
            let until = next.map_or(give_up, |next| next.min(give_up));
            self.shared.options.clock.wait(changed, until).await;
        }
    }
}

fn out_of_reach(verb: Verb) -> StoreError {
    StoreError::unreachable(format!("do {verb:?}"), std::io::Error::other("a fault that a test asked for"))
}
