//! The receive loop: room first, then receive.
//!
//! The loop takes a slot before it takes a message, so an agent never holds work that it has no room
//! for, beyond its prefetch. Queues that share slots are polled in weighted turns by this one loop. What
//! a take brought is always opened, never dropped: its leases are already ticking.

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
use rhubarb_host::pipeline::Host;
use rhubarb_telemetry::spans;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::health::Health;

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
}

impl Feeder {
    /// Feeds until told to drain. Batches that run are left to the tracker.
    pub(crate) async fn run(mut self) {
        let mut turns = Turns::new(&self.weights);
        let mut pause = RETRY_PAUSE;
        while let Some(room) = self.room_or_drain().await {
            match self.round(&mut turns, room).await {
                Ok(true) => {
                    pause = RETRY_PAUSE;
                    // What was just begun goes first: its function works while this loop looks for more.
                    tokio::task::yield_now().await;
                }
                Ok(false) => {
                    pause = RETRY_PAUSE;
                    self.idle().await;
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

    /// Tries the queues in turn until one gives something. Returns whether one did.
    async fn round(&self, turns: &mut Turns, room: OwnedSemaphorePermit) -> Result<bool, ()> {
        let mut failed = false;
        for index in turns.order() {
            let queue = &self.queues[index];
            let row = self.rows.borrow().get(&queue.name).cloned();
            if row.as_ref().is_some_and(|row| row.paused) {
                continue;
            }
            let batch = usize::try_from(queue.batch).unwrap_or(1).max(1);
            // One queue alone may fill all the room at once; among several each turn is one batch.
            let slots = if self.queues.len() == 1 { 1 + self.room.available_permits() } else { 1 };
            match self.take(queue, row.as_ref(), batch * slots).await {
                Ok(won) if won.is_empty() => {}
                Ok(won) => {
                    turns.served(index);
                    self.dispatch(queue, won, batch, room).await;
                    return Ok(true);
                }
                Err(()) => failed = true,
            }
        }
        if failed { Err(()) } else { Ok(false) }
    }

    async fn take(&self, queue: &QueueConfig, row: Option<&QueueRow>, max: usize) -> Result<Vec<Won>, ()> {
        let policy = ClaimPolicy {
            queue: queue.name.clone(),
            ack: queue.ack,
            lease: queue.lease,
            max_attempts: queue.retry.max_attempts,
            raw_task: queue.raw_task.clone(),
            purged_before: row.and_then(|row| row.purged_before),
            keep: (queue.keep, queue.keep_failed),
            limits: queue.limits,
        };
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
            let (host, slots, drain) = (Arc::clone(&self.host), Arc::clone(&self.slots), self.drain.clone());
            self.running.spawn(async move {
                // Reserved ones wait for a slot; a drain gives them back unbegun.
                match slots.try_acquire() {
                    Ok(_slot) => host.run(batch).await,
                    Err(_) => match drain.run_until_cancelled(slots.acquire()).await {
                        Some(_slot) => host.run(batch).await,
                        None => host.give_back(batch).await,
                    },
                }
                drop(room);
            });
        }
    }

    async fn idle(&mut self) {
        let paused = self.rows.borrow_and_update().clone();
        let open = |queue: &&Arc<QueueConfig>| !paused.get(&queue.name).is_some_and(|row| row.paused);
        let queues: Vec<QueueName> = self.queues.iter().filter(open).map(|queue| queue.name.clone()).collect();
        let ready = async {
            if queues.is_empty() {
                // Until one is resumed.
                self.health.receives_no_more();
                std::future::pending::<()>().await;
            }
            if let Err(error) = self.backend.wait_ready(&queues, IDLE_WAIT).await {
                tracing::debug!(error = %error, "cannot wait for the queues");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        };
        tokio::select! {
            () = self.drain.cancelled() => {}
            () = ready => {}
            // A queue was paused or resumed.
            _ = self.rows.changed() => {}
        }
    }
}
