//! The receive loop: room first, then receive.
//!
//! The loop takes a slot before it takes a message, so an agent never holds work that it has no room
//! for, beyond its prefetch. Queues that share slots are polled in weighted turns by this one loop. What
//! a take brought is always opened, never dropped: its leases are already ticking.
//!
//! Where a queue's tasks have GPUs, the devices come first too: without them none of its messages is taken, the other
//! queues have their turns, and an idle loop wakes when devices come free.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rhubarb_core::{
    backend::{Backend, ClaimPolicy, QueueRow, Take, Won, rowless},
    config::QueueConfig,
    ids::{QueueName, WorkerId},
    turns::Turns,
};
use rhubarb_host::{
    functions::Hold,
    pipeline::{Batch, Host},
};
use rhubarb_telemetry::spans;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    gpu::{GpuLease, GpuPool, Serving},
    health::Health,
};

/// The longest wait of an idle loop before it looks at its queues again, bell or no bell.
const IDLE_WAIT: Duration = Duration::from_secs(20);
/// The pause after a failed receive; doubled up to the next.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(10);

/// Takes tasks while there is room, and runs them.
pub(crate) struct Feeder {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) host: Arc<Host>,
    pub(crate) worker: WorkerId,
    pub(crate) queues: Vec<Arc<QueueConfig>>,
    pub(crate) weights: Vec<u32>,
    /// What the store says about queues, read with every heartbeat.
    pub(crate) rows: watch::Receiver<BTreeMap<QueueName, QueueRow>>,
    /// Slots and prefetch: room to hold a batch.
    pub(crate) room: Arc<Semaphore>,
    /// Slots alone: room to run one.
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) running: TaskTracker,
    pub(crate) drain: CancellationToken,
    pub(crate) health: Health,
    pub(crate) gpus: Option<GpuPool>,
}

/// What a round came to.
enum Round {
    /// A queue gave something.
    Served,
    /// None gave anything; for want of devices these were not asked.
    Nothing { starved: Vec<QueueName> },
}

/// What a queue's next invocation runs on.
enum Ground {
    Cpu,
    Gpus(GpuLease),
}

impl Feeder {
    /// Feeds until told to drain. Batches that run are left to the tracker.
    pub(crate) async fn run(mut self) {
        let mut turns = Turns::new(&self.weights);
        let mut pause = RETRY_PAUSE;
        let mut devices = self.gpus.as_ref().map(GpuPool::changes);
        while let Some(room) = self.room_or_drain().await {
            // What comes free from here on ends the wait after this round.
            devices.iter_mut().for_each(|changes| drop(changes.borrow_and_update()));
            match self.round(&mut turns, room).await {
                Ok(Round::Served) => {
                    pause = RETRY_PAUSE;
                    // What was just begun goes first: its function works while this loop looks for more.
                    tokio::task::yield_now().await;
                }
                Ok(Round::Nothing { starved }) => {
                    pause = RETRY_PAUSE;
                    self.idle(&starved, devices.as_mut()).await;
                }
                Err(()) => {
                    self.drain.run_until_cancelled(tokio::time::sleep(pause)).await;
                    pause = (pause * 2).min(RETRY_PAUSE_MAX);
                }
            }
        }
    }

    async fn room_or_drain(&self) -> Option<OwnedSemaphorePermit> {
        self.health.waits_for_room();
        let room = self.drain.run_until_cancelled(Arc::clone(&self.room).acquire_owned()).await;
        self.health.receives();
        // The semaphore is never closed.
        room.and_then(Result::ok).filter(|_| !self.drain.is_cancelled())
    }

    /// Tries the queues in turn until one gives something.
    async fn round(&self, turns: &mut Turns, room: OwnedSemaphorePermit) -> Result<Round, ()> {
        let (mut failed, mut starved) = (false, Vec::new());
        for index in turns.order() {
            let queue = &self.queues[index];
            let row = self.rows.borrow().get(&queue.name).cloned();
            if row.as_ref().is_some_and(|row| row.paused) {
                continue;
            }
            let batch = usize::try_from(queue.batch).unwrap_or(1).max(1);
            // One queue alone may fill all the room at once; among several each turn is one batch.
            let mut slots = if self.queues.len() == 1 { 1 + self.room.available_permits() } else { 1 };
            let Some(ground) = self.ground(queue).await else {
                starved.push(queue.name.clone());
                continue;
            };
            if let Ground::Gpus(_) = ground {
                slots = 1;
            }
            match self.take(queue, row.as_ref(), batch * slots).await {
                Ok(won) if won.is_empty() => {}
                Ok(won) => {
                    turns.served(index);
                    match ground {
                        Ground::Cpu => self.dispatch(queue, won, batch, room).await,
                        Ground::Gpus(lease) => self.dispatch_on(queue, won, lease, room).await,
                    }
                    return Ok(Round::Served);
                }
                Err(()) => failed = true,
            }
        }
        if failed { Err(()) } else { Ok(Round::Nothing { starved }) }
    }

    /// Devices, if the queue's tasks are to have some; none if there are none to be had now.
    async fn ground(&self, queue: &QueueConfig) -> Option<Ground> {
        if queue.gpus == 0 {
            return Some(Ground::Cpu);
        }
        match (GpuPool::serving(self.gpus.as_ref(), queue), &self.gpus) {
            (Serving::Gpus(ask), Some(pool)) => pool.lease(&ask).await.map(Ground::Gpus),
            (Serving::Cpu, _) => Some(Ground::Cpu),
            (Serving::Gpus(_) | Serving::Not, _) => None,
        }
    }

    async fn take(&self, queue: &QueueConfig, row: Option<&QueueRow>, max: usize) -> Result<Vec<Won>, ()> {
        let policy = ClaimPolicy::of(queue, row);
        // Deliveries that led to nothing are gone from the queue: look again, as long as there are any.
        loop {
            let began = SystemTime::now();
            let take = Take { policy: &policy, worker: &self.worker, max, wait: Duration::ZERO };
            match rowless::take(&*self.backend, queue.track, take).await {
                Ok(taken) if taken.won.is_empty() && taken.idle + taken.poisoned > 0 && !self.drain.is_cancelled() => {}
                Ok(taken) => {
                    spans::received(&self.host.shared().queues, &queue.name, began, &taken.won);
                    return Ok(taken.won);
                }
                Err(error) => {
                    let name = &queue.name;
                    tracing::error!(queue.name = %name, error = %error, "cannot receive from queue {name}: {error}");
                    return Err(());
                }
            }
        }
    }

    async fn dispatch(&self, queue: &Arc<QueueConfig>, won: Vec<Won>, batch: usize, room: OwnedSemaphorePermit) {
        let mut rooms = vec![room];
        let mut won = won.into_iter().peekable();
        while won.peek().is_some() {
            let chunk: Vec<Won> = won.by_ref().take(batch).collect();
            let room = match rooms.pop() {
                Some(room) => Some(room),
                // Counted before the take, so it is there; were it not, the batch would still be run.
                None => Arc::clone(&self.room).acquire_owned().await.ok(),
            };
            let batch = self.host.open(queue, chunk).await;
            self.set_out(batch, None, room);
        }
    }

    /// As [`Self::dispatch`], for the one task that devices were leased for. One that asks for fewer gives the others
    /// back first.
    async fn dispatch_on(
        &self,
        queue: &Arc<QueueConfig>,
        won: Vec<Won>,
        mut lease: GpuLease,
        room: OwnedSemaphorePermit,
    ) {
        lease.note_tasks(won.iter().map(|won| won.id).collect());
        let batch = self.host.open(queue, won).await;
        if let Some(asked) = batch.gpus_asked() {
            lease.keep(asked);
        }
        let hold = (!lease.is_empty()).then(|| Arc::new(lease) as Hold);
        self.set_out(batch, hold, Some(room));
    }

    fn set_out(&self, batch: Batch, hold: Option<Hold>, room: Option<OwnedSemaphorePermit>) {
        let (host, slots, drain) = (Arc::clone(&self.host), Arc::clone(&self.slots), self.drain.clone());
        self.running.spawn(async move {
            // Reserved ones wait for a slot; a drain gives them back unbegun.
            let slot = match slots.try_acquire() {
                Ok(slot) => Some(slot),
                Err(_) => drain.run_until_cancelled(slots.acquire()).await.and_then(Result::ok),
            };
            match (slot, hold) {
                (Some(_slot), None) => host.run(batch).await,
                (Some(_slot), Some(hold)) => host.run_on(batch, hold).await,
                (None, _) => host.give_back(batch).await,
            }
            drop(room);
        });
    }

    async fn idle(&mut self, starved: &[QueueName], devices: Option<&mut watch::Receiver<u64>>) {
        let paused = self.rows.borrow_and_update().clone();
        let open = |queue: &&Arc<QueueConfig>| {
            !paused.get(&queue.name).is_some_and(|row| row.paused) && !starved.contains(&queue.name)
        };
        let queues: Vec<QueueName> = self.queues.iter().filter(open).map(|queue| queue.name.clone()).collect();
        let ready = async {
            if queues.is_empty() {
                // Until one is resumed, or there are devices for it.
                self.health.receives_no_more();
                std::future::pending::<()>().await;
            }
            if let Err(error) = self.backend.wait_ready(&queues, IDLE_WAIT).await {
                tracing::debug!(error = %error, "cannot wait for the queues");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        };
        let devices = async {
            match (&self.gpus, devices) {
                (Some(pool), Some(changes)) if !starved.is_empty() => pool.wait(changes).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.drain.cancelled() => {}
            () = ready => {}
            () = devices => {}
            // A queue was paused or resumed.
            _ = self.rows.changed() => {}
        }
    }
}
