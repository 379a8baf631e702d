//! One agent, from its start to the three bounded phases of its shutdown.
//!
//! Stop receiving; let attempts finish within the grace; interrupt the rest, which go back at once and
//! spend no attempt. A second request to stop skips the grace. What a kill leaves behind, leases bring
//! back.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use rhubarb_core::{
    backend::{Backend, QueueSpec, StoreError, WorkerRecord, WorkerState},
    config::{Config, QueueConfig, WorkerConfig},
    gpu::{GpuAsk, GpuSource},
    ids::{QueueName, WorkerId},
    time::Timestamp,
};
use rhubarb_host::{
    attempt::Stop,
    listener::ToLog,
    pipeline::{Host, HostParts},
};
use rhubarb_telemetry::metrics::{self, WorkerShown};
use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    beat::{self, Beat},
    ecs::{self, Ecs},
    feeder::Feeder,
    gpu::{GpuPool, LOCKS_DEFAULT, NoGuard, PoolParts, Serving, Taker},
    health::Health,
    programs::{self, NoBinary},
    scheduler::{self, Scheduler},
};

/// With each renewal comes word of a cancellation, so none comes later than this.
const RENEW_WITHIN: Duration = Duration::from_secs(1);
/// What killing, reaping and settling may take after the functions' own grace.
const LAST_PHASE_MAX: Duration = Duration::from_secs(15);

/// Names the folder of the GPUs' locks, before what the worker's section says.
const LOCKS_VARIABLE: &str = "RHUBARB_GPU_LOCKS";

/// What an agent is started with.
pub struct AgentOptions {
    /// Its name, unique among the living.
    pub id: WorkerId,
    /// Which queues it serves, and how.
    pub worker: WorkerConfig,
    /// The whole configuration.
    pub config: Arc<Config>,
    /// Where the work is.
    pub backend: Arc<dyn Backend>,
    /// The folder of the configuration.
    pub root: PathBuf,
    /// The process's environment, of which functions inherit a few.
    pub vars: Vec<(OsString, OsString)>,
    /// Purges its queues first.
    pub purge: bool,
    /// Serves no queue: sweeps alone.
    pub scheduler_only: bool,
    /// On AWS: feeds queues of class `lambda` too, where no Lambda does.
    pub feed_lambda: bool,
    /// The machine's GPUs, if any may be used. They are asked only where a queue wants some.
    pub gpus: Option<Arc<dyn GpuSource>>,
    /// The base of the EC2 instance's metadata, where Spot interruption notices are to be watched for.
    pub spot_notices: Option<String>,
}

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// It names a queue that the configuration does not have.
    #[error("there is no queue `{0}`: the queues are {1}")]
    UnknownQueue(QueueName, String),
    /// The binary of a function is not there.
    #[error(transparent)]
    NoBinary(#[from] NoBinary),
    /// Its GPUs cannot be kept from other agents.
    #[error(transparent)]
    NoGuard(#[from] NoGuard),
    /// The backend refuses: its name is taken, or it cannot be reached.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What an agent did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Every attempt ended by itself within the grace.
    pub drained: bool,
    /// Every outcome was written.
    pub settled: bool,
}

/// Stops an agent from elsewhere.
#[derive(Clone, Debug)]
pub struct Stopper {
    drain: CancellationToken,
    now: CancellationToken,
}

impl Stopper {
    /// Receives nothing more, lets attempts finish within the grace, interrupts the rest.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Interrupts everything at once and hands it back.
    pub fn now(&self) {
        self.drain.cancel();
        self.now.cancel();
    }
}

/// An agent that is ready to run.
pub struct Agent {
    backend: Arc<dyn Backend>,
    host: Arc<Host>,
    worker: WorkerConfig,
    queues: Vec<Arc<QueueConfig>>,
    record: WorkerRecord,
    scheduler: Scheduler,
    stopper: Stopper,
    shutdown_grace: Duration,
    slots: Arc<Semaphore>,
    health: Health,
    shown: Option<Arc<WorkerShown>>,
    gpus: Option<GpuPool>,
    ecs: Ecs,
}

impl Agent {
    /// Registers the worker and starts its functions.
    ///
    /// # Errors
    ///
    /// A live worker has its name; a queue or binary is missing; the backend cannot be reached.
    pub async fn start(options: AgentOptions) -> Result<Self, AgentError> {
        let AgentOptions { id, mut worker, config, backend, root, vars, purge, scheduler_only, feed_lambda, .. } =
            options;
        let AgentOptions { gpus, spot_notices, .. } = options;
        if scheduler_only {
            worker.queues.clear();
        }
        let asked = queues_of(&config, &worker, feed_lambda)?;
        let instance = uuid::Uuid::now_v7().to_string();
        let taker = Taker { backend: Arc::clone(&backend), worker: id.clone(), instance: instance.clone() };
        let locks = vars.iter().find(|(name, _)| name == LOCKS_VARIABLE).map(|(_, folder)| PathBuf::from(folder));
        let locks = locks.or(worker.gpu_locks.as_ref().map(PathBuf::from)).unwrap_or_else(|| LOCKS_DEFAULT.into());
        let gpus = pool_for(&asked, gpus, locks, taker).await?;
        let gpu_asks = asks_of(&asked, gpus.as_ref());
        let queues = served(&asked, gpus.as_ref());
        worker.queues = queues.iter().map(|queue| queue.name.clone()).collect();
        let leases = queues.iter().any(|queue| gpu_asks.contains_key(&queue.name));
        let slots = worker.concurrency.unwrap_or_else(|| if leases { 1 } else { cpus() });
        worker.concurrency = Some(slots);
        let by_name: BTreeMap<QueueName, Arc<QueueConfig>> =
            queues.iter().map(|queue| (queue.name.clone(), Arc::clone(queue))).collect();
        let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(PathBuf::from));
        let functions = programs::functions_of(&config, &worker, &by_name, &root, beside.as_deref(), &vars)?;
        let shutdown_grace = functions.values().map(|spec| spec.config.shutdown_grace).max().unwrap_or_default();
        let record = WorkerRecord {
            id: id.clone(),
            instance,
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            pid: std::process::id(),
            started: Timestamp::from_system(SystemTime::now()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: WorkerState::Starting,
            queues: worker.queues.clone(),
            concurrency: slots,
            prefetch: worker.prefetch,
            functions: Vec::new(),
            tasks: BTreeMap::new(),
            gpus: gpus.as_ref().map(GpuPool::snapshot).unwrap_or_default(),
            gpu_asks,
            ecs: ecs::metadata(&vars).await,
            holds: Vec::new(),
            silent_after: beat::SILENT_AFTER,
        };
        // The name first: two agents of one name must not purge or start functions for each other.
        backend.workers().beat(&record).await?;
        backend.broker().declare(&queues.iter().map(|queue| spec_of(queue)).collect::<Vec<_>>()).await?;
        if purge {
            for queue in &queues {
                let purged = backend.purge(&queue.name).await?;
                tracing::info!(queue.name = %queue.name, count = purged.count, "purged queue {}", queue.name);
            }
        }
        reconcile(&*backend, &config).await?;
        let scheduler = Scheduler::new(Arc::clone(&backend), Arc::clone(&config));
        let parts = HostParts {
            backend: Arc::clone(&backend),
            config,
            id,
            worker: worker.clone(),
            functions,
            renew_within: RENEW_WITHIN,
            listener: ToLog::is_read().then(|| Arc::new(ToLog) as _),
        };
        let mut host = Host::new(parts);
        host.warm_up().await;
        host.shared().queues.locate(backend.broker(), &worker.queues).await;
        let stopper = Stopper { drain: CancellationToken::new(), now: CancellationToken::new() };
        let (room, slots) = (u64::from(slots), Arc::new(Semaphore::new(count(slots))));
        let shown = metrics::get().map(|metrics| {
            let slots = Arc::clone(&slots);
            let used = move || room.saturating_sub(slots.available_permits() as u64);
            Arc::new(metrics.show_worker(record.id.clone(), room, Arc::new(used)))
        });
        let health = Health::new(record.id.clone());
        let host = Arc::new(host);
        Ok(Self {
            backend,
            host,
            worker,
            queues,
            record,
            scheduler,
            stopper,
            shutdown_grace,
            slots,
            health,
            shown,
            gpus,
            ecs: Ecs { vars, spot_notices },
        })
    }

    /// Its health, for the page of its process.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Its GPUs, where it leases some.
    #[must_use]
    pub const fn gpus(&self) -> Option<&GpuPool> {
        self.gpus.as_ref()
    }

    /// A handle that stops it.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Works until stopped. Returns when every process it started is reaped.
    pub async fn run(self) -> Summary {
        let (id, slots) = (&self.record.id, self.worker.concurrency.unwrap_or(1));
        let served: Vec<&str> = self.worker.queues.iter().map(QueueName::as_str).collect();
        tracing::info!(worker.id = %id, slots, queues = served.join(","), "worker {id} is ready");
        let end = CancellationToken::new();
        let (state, states) = watch::channel(WorkerState::Running);
        let (rows, row_watch) = watch::channel(BTreeMap::new());
        let beat = Beat {
            backend: Arc::clone(&self.backend),
            host: Arc::clone(&self.host),
            record: self.record.clone(),
            state: states,
            has_beaten: false,
            rows,
            health: self.health.clone(),
            shown: self.shown.clone(),
            gpus: self.gpus.clone(),
            told_at: Instant::now(),
        };
        let background = TaskTracker::new();
        if let Some(gpus) = &self.gpus {
            background.spawn(gpus.clone().watch(end.clone()));
        }
        background.spawn(beat.run(end.clone()));
        background.spawn(scheduler::run(self.scheduler.clone(), self.record.clone(), end.clone()));
        background.spawn(beat::sweep(Arc::clone(&self.host), self.record.clone(), self.shown.clone(), end.clone()));
        let (keeper, keep_until) = (Arc::clone(self.host.keeper()), end.clone());
        background.spawn(async move { keeper.run(keep_until).await });
        let busy = Arc::clone(&self.host);
        let is_busy = move || !busy.keeper().held().is_empty();
        self.ecs.start(&background, is_busy, self.stopper.drain.clone(), &end);
        background.close();

        let running = TaskTracker::new();
        self.feed(row_watch, &running).await;
        state.send_replace(WorkerState::Draining);
        let summary = self.shut_down(&running).await;

        end.cancel();
        background.wait().await;
        if let Some(gpus) = &self.gpus {
            // What is not clean by then is looked at by the next agent: the note in its lock file says how.
            let _ = tokio::time::timeout(LAST_PHASE_MAX, gpus.close()).await;
        }
        if let Err(error) = self.backend.workers().leave(&self.record.id, &self.record.instance).await {
            tracing::warn!(error = %error, "cannot remove the worker's row; it counts as gone after a while");
        }
        summary
    }

    async fn feed(
        &self,
        mut rows: watch::Receiver<BTreeMap<QueueName, rhubarb_core::backend::QueueRow>>,
        running: &TaskTracker,
    ) {
        let drain = &self.stopper.drain;
        // What is paused must be known before the first receive.
        drain.run_until_cancelled(rows.changed()).await;
        if self.queues.is_empty() {
            return drain.cancelled().await;
        }
        let slots = count(self.worker.concurrency.unwrap_or(1));
        let prefetch = usize::try_from(self.worker.prefetch).unwrap_or(0);
        let feeder = Feeder {
            backend: Arc::clone(&self.backend),
            host: Arc::clone(&self.host),
            worker: self.record.id.clone(),
            queues: self.queues.clone(),
            weights: self.queues.iter().map(|queue| self.worker.weight(&queue.name)).collect(),
            rows,
            room: Arc::new(Semaphore::new(slots + prefetch)),
            slots: Arc::clone(&self.slots),
            running: running.clone(),
            drain: drain.clone(),
            health: self.health.clone(),
            gpus: self.gpus.clone(),
        };
        feeder.run().await;
        self.health.receives_no_more();
    }

    /// The second and third phase.
    async fn shut_down(&self, running: &TaskTracker) -> Summary {
        running.close();
        let (id, grace) = (&self.record.id, self.worker.grace);
        tracing::info!(worker.id = %id, attempts = self.host.keeper().held().len(), "worker {id} drains within {grace:?}");
        let drained = tokio::select! {
            () = running.wait() => true,
            () = tokio::time::sleep(grace) => false,
            () = self.stopper.now.cancelled() => false,
        };
        if !drained {
            tracing::warn!(worker.id = %id, "worker {id} interrupts what still runs; it goes back to its queues");
            // Functions are told and may leave a checkpoint; those that do not end are killed.
            self.host.keeper().stop_all(Stop::Shutdown);
            tokio::select! {
                () = running.wait() => {}
                () = tokio::time::sleep(self.shutdown_grace + LAST_PHASE_MAX) => self.host.hurry(),
                () = self.stopper.now.cancelled() => self.host.hurry(),
            }
            // Bounded: killing a process group and reaping it is.
            let _ = tokio::time::timeout(LAST_PHASE_MAX, running.wait()).await;
        }
        let settled = self.host.settled(LAST_PHASE_MAX).await;
        self.host.functions().end().await;
        tracing::info!(worker.id = %id, drained, settled, "worker {id} has stopped");
        Summary { drained, settled }
    }
}

/// Brings the store's schedules in line with the file's.
async fn reconcile(backend: &dyn Backend, config: &Config) -> Result<(), StoreError> {
    let now = Timestamp::from_system(SystemTime::now());
    let done = rhubarb_core::schedule::reconcile(backend.schedules(), config, now).await?;
    for name in &done.too_late {
        tracing::warn!(schedule.name = %name, "schedule {name} was to fire at a time that has passed, and never did: write a time that is to come");
    }
    if !done.put.is_empty() || !done.deleted.is_empty() {
        let (put, deleted) = (done.put.len(), done.deleted.len());
        tracing::info!(put, deleted, "took over the file's schedules: {put} new or changed, {deleted} gone");
    }
    Ok(())
}

/// The queues this worker is to feed, whatever devices there are.
fn queues_of(config: &Config, worker: &WorkerConfig, feed_lambda: bool) -> Result<Vec<Arc<QueueConfig>>, AgentError> {
    for queue in &worker.queues {
        if config.queue(queue).is_none() {
            let known: Vec<&str> = config.queues.keys().map(QueueName::as_str).collect();
            return Err(AgentError::UnknownQueue(queue.clone(), known.join(", ")));
        }
    }
    Ok(config.queues_of(worker, feed_lambda).map(|queue| Arc::new(queue.clone())).collect())
}

/// The machine's devices, where one of the queues wants some.
async fn pool_for(
    queues: &[Arc<QueueConfig>],
    source: Option<Arc<dyn GpuSource>>,
    folder: PathBuf,
    taker: Taker,
) -> Result<Option<GpuPool>, NoGuard> {
    let Some(source) = source.filter(|_| queues.iter().any(|queue| queue.gpus > 0)) else { return Ok(None) };
    GpuPool::open(PoolParts { source, folder, taker }).await
}

/// The queues that are fed: those that ask for GPUs with devices that fit, or on the CPU where they allow it.
fn served(queues: &[Arc<QueueConfig>], gpus: Option<&GpuPool>) -> Vec<Arc<QueueConfig>> {
    let is_served = |queue: &&Arc<QueueConfig>| match GpuPool::serving(gpus, queue) {
        Serving::Gpus(_) => true,
        Serving::Cpu => {
            if let Some(ask) = GpuAsk::of(queue) {
                tracing::info!(queue.name = %queue.name, "queue {} asks for {ask}, and this worker has no such device: it is served on the CPU", queue.name);
            }
            true
        }
        Serving::Not => {
            let ask = GpuAsk::of(queue).map(|ask| ask.to_string()).unwrap_or_default();
            tracing::warn!(queue.name = %queue.name, "queue {} asks for {ask}, and this worker has no such device: it is not served", queue.name);
            false
        }
    };
    queues.iter().filter(is_served).cloned().collect()
}

/// What the queues ask of devices, but for those that are served on the CPU.
fn asks_of(queues: &[Arc<QueueConfig>], gpus: Option<&GpuPool>) -> BTreeMap<QueueName, GpuAsk> {
    let asking = queues.iter().filter(|queue| GpuPool::serving(gpus, queue) != Serving::Cpu);
    asking.filter_map(|queue| Some((queue.name.clone(), GpuAsk::of(queue)?))).collect()
}

/// What the queue must be like. A message that is received again and again without an end moves aside;
/// its task's row stays and rings a new one.
fn spec_of(queue: &QueueConfig) -> QueueSpec {
    let dead_letters = queue.dead_letters();
    let max_receives = dead_letters.is_some().then_some(queue.max_receives);
    QueueSpec { queue: queue.name.clone(), max_receives, dead_letters }
}

/// A number of slots: at least one.
fn count(slots: u32) -> usize {
    usize::try_from(slots).unwrap_or(1).max(1)
}

fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1))
}
