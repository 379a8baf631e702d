//! The pipeline around each delivery: open, claim (done by the take), keep, invoke, settle.
//!
//! There is one, with two feeders: the agent's long polls and Lambda's real Runtime API. Each early end
//! leaves after the task has been put where it belongs. A crash anywhere leaves a lease that ends, and
//! in mode `message` a message that comes back.

mod clock;
mod ended;
mod event;
mod invoke;
mod open;
mod settle;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use rhubarb_core::{
    backend::{Backend, Log, Won},
    config::{Config, QueueConfig, WorkerConfig},
    ids::{FunctionName, QueueName, WorkerId},
    routing::Routes,
};
use tokio::sync::{Notify, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::clock::Cut;
use crate::{
    attempt::{Attempt, Stop},
    functions::{FunctionSpec, Functions, Hold},
    judge,
    keeper::{Keeper, Kept},
    listener::Listener,
    routes::Shared,
};

/// Settlements under way for each slot before the slot waits for them.
const SETTLING_PER_SLOT: usize = 4;

/// Runs tasks for one worker.
pub struct Host {
    shared: Arc<Shared>,
    functions: Arc<Functions>,
    keeper: Arc<Keeper>,
    worker: WorkerConfig,
    routes: BTreeMap<QueueName, Routes>,
    settling: TaskTracker,
    settle_room: Arc<Semaphore>,
    hurry: CancellationToken,
}

/// What a host is made of.
pub struct HostParts {
    /// Rows, queues and blobs.
    pub backend: Arc<dyn Backend>,
    /// The whole configuration.
    pub config: Arc<Config>,
    /// The worker's name.
    pub id: WorkerId,
    /// What the configuration and the command line say about it, with its slots filled in.
    pub worker: WorkerConfig,
    /// Its functions.
    pub functions: BTreeMap<FunctionName, FunctionSpec>,
    /// No lease goes longer without a renewal than this.
    pub renew_within: Duration,
    /// Who hears what it does, if anybody does.
    pub listener: Option<Arc<dyn Listener>>,
}

/// An attempt whose lease is kept.
struct Held {
    attempt: Arc<Attempt>,
    kept: Kept,
    /// What the function is given as the message body, where that is not the envelope as it is kept.
    body: Option<String>,
    taken: Instant,
}

impl Held {
    fn body(&self) -> &str {
        self.body.as_deref().unwrap_or(&self.attempt.won.spec)
    }
}

/// Tasks whose leases are kept, to be run in one slot.
pub struct Batch {
    queue: Arc<QueueConfig>,
    held: Vec<Held>,
    /// Rung when one of them is to stop.
    bell: Arc<Notify>,
}

impl Batch {
    /// How many GPUs its task asks for, where that is fewer than its queue gives.
    #[must_use]
    pub fn gpus_asked(&self) -> Option<u32> {
        let asked = self.held.first()?.attempt.envelope.gpus;
        asked.filter(|asked| *asked < self.queue.gpus)
    }
}

/// What an invocation is given by the place that it runs in.
#[derive(Default)]
struct Room {
    cut: Option<Cut>,
    hold: Option<Hold>,
}

impl Host {
    /// A host of these parts; nothing is started.
    #[must_use]
    pub fn new(parts: HostParts) -> Self {
        let HostParts { backend, config, id, worker, functions, renew_within, listener } = parts;
        let shared = Shared { listener, ..Shared::new(Arc::clone(&backend), Arc::clone(&config), id) };
        let shared = Arc::new(shared);
        let slots = usize::try_from(worker.concurrency.unwrap_or(1)).unwrap_or(1).max(1);
        let routes = worker.queues.iter().filter_map(|queue| Some((queue.clone(), config.routes(queue)?)));
        Self {
            functions: Arc::new(Functions::new(Arc::clone(&shared), functions)),
            keeper: Arc::new(Keeper::new(backend, renew_within)),
            routes: routes.collect(),
            shared,
            worker,
            settling: TaskTracker::new(),
            settle_room: Arc::new(Semaphore::new(slots * SETTLING_PER_SLOT)),
            hurry: CancellationToken::new(),
        }
    }

    /// What all its processes share.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The functions, for the worker's row and for starting them early.
    #[must_use]
    pub fn functions(&self) -> &Arc<Functions> {
        &self.functions
    }

    /// The keeper, whose [`Keeper::run`] must run beside the host.
    #[must_use]
    pub fn keeper(&self) -> &Arc<Keeper> {
        &self.keeper
    }

    /// Starts each function once, so that a broken one is known early and each says which tasks it
    /// runs. Must be called before the first task where a queue has several functions.
    pub async fn warm_up(&mut self) {
        let names: Vec<FunctionName> = self.routes.values().flat_map(|routes| routes.functions().to_vec()).collect();
        let names: std::collections::BTreeSet<FunctionName> = names.into_iter().collect();
        let starts = names.iter().map(|name| self.functions.place(name, None, None));
        // A failure is kept in the function's health and said where a task needs it.
        futures::future::join_all(starts).await;
        for (function, tasks) in self.functions.said() {
            for routes in self.routes.values_mut().filter(|routes| routes.functions().contains(&function)) {
                routes.said(&function, tasks.iter().cloned());
            }
        }
    }

    /// Opens what one take brought: from here on the leases are kept. What cannot be run is settled.
    pub async fn open(&self, queue: &Arc<QueueConfig>, won: Vec<Won>) -> Batch {
        let bell = Arc::<Notify>::default();
        let mut held = Vec::with_capacity(won.len());
        for won in won {
            held.extend(self.open_one(queue, won, &bell).await);
        }
        Batch { queue: Arc::clone(queue), held, bell }
    }

    /// Runs a batch. Returns when its slot is free again; settling goes on behind it.
    pub async fn run(&self, batch: Batch) {
        self.run_within(batch, None, None).await;
    }

    /// Runs a batch in a place whose time is up at `cut`: what has not ended by then goes back and spends no
    /// attempt. Returns when its slot is free again; settling goes on behind it.
    pub async fn run_until(&self, batch: Batch, cut: Cut) {
        self.run_within(batch, Some(cut), None).await;
    }

    /// Runs a batch of one task in a process of its own that has these GPUs. They are let go when it has been reaped.
    pub async fn run_on(&self, batch: Batch, hold: Hold) {
        self.run_within(batch, None, Some(hold)).await;
    }

    async fn run_within(&self, batch: Batch, cut: Option<Cut>, hold: Option<Hold>) {
        for (function, group) in self.group(&batch.queue, batch.held).await {
            if cut.is_some_and(|cut| Instant::now() >= cut.tell) {
                self.settle_unbegun(group).await;
            } else {
                self.invoke(&batch.queue, &function, group, Room { cut, hold: hold.clone() }, &batch.bell).await;
            }
        }
    }

    /// Gives back a batch that was not begun.
    pub async fn give_back(&self, batch: Batch) {
        let outcome = || judge::interrupted("its worker shut down before it began");
        self.settle(batch.held.into_iter().map(|held| (held, outcome(), Log::default())).collect()).await;
    }

    /// Kills every function at once; what it did is handed back.
    pub fn hurry(&self) {
        self.keeper.stop_all(Stop::Shutdown);
        self.hurry.cancel();
    }

    /// Waits until every settlement is written, at most this long. Returns whether all were.
    pub async fn settled(&self, limit: Duration) -> bool {
        self.settling.close();
        let done = tokio::time::timeout(limit, self.settling.wait()).await.is_ok();
        self.settling.reopen();
        done
    }

    /// Splits what was taken into invocations: by function, what must run alone by itself, and no event
    /// over the limit. A task that no function runs is settled here.
    async fn group(&self, queue: &QueueConfig, held: Vec<Held>) -> Vec<(FunctionName, Vec<Held>)> {
        let bytes_max = self.shared.backend.broker().limits().event_bytes_max;
        let mut groups: Vec<(FunctionName, Vec<Held>, usize)> = Vec::new();
        for one in held {
            let routes = self.routes.get(&queue.name);
            let Some(function) = routes.and_then(|routes| routes.function_of(&one.attempt.won.task)).cloned() else {
                one.attempt.note_unknown();
                let outcome = judge::unknown_task(&one.attempt);
                self.settle(vec![(one, outcome, Log::default())]).await;
                continue;
            };
            // A body grows when it is written as a JSON string: to double its size at most for ours.
            let bytes = one.body().len() * 2 + 1024;
            let alone = one.attempt.won.row.alone;
            let room = groups.iter_mut().find(|(name, group, used)| {
                let shares = !alone && group.iter().all(|other| !other.attempt.won.row.alone);
                *name == function && shares && used.saturating_add(bytes) <= bytes_max
            });
            match room {
                Some((_, group, used)) => {
                    *used += bytes;
                    group.push(one);
                }
                None => groups.push((function, vec![one], bytes)),
            }
        }
        groups.into_iter().map(|(function, group, _)| (function, group)).collect()
    }
}
