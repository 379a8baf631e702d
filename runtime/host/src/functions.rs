//! The functions of one worker: how their processes are started, kept warm, shared and replaced.
//!
//! A function that cannot start is tried again with a growing pause; what it said goes to the tasks
//! that needed it. Processes that die are not returned to the pool. A process that has GPUs is started for one
//! invocation and never shared; its devices are let go when it has been reaped.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rhubarb_core::{
    config::FunctionConfig,
    gpu::{GpuHold, mps::MPS_LIMIT},
    ids::{FunctionName, TaskId, TaskName},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    measure,
    process::{ExitStatus, FunctionProcess, OnLine, ProcessSpec, with_variable},
    routes::{ProcessRoutes, Shared},
};

/// The pause after a first failed start; it doubles up to [`RESTART_PAUSE_MAX`].
const RESTART_PAUSE: Duration = Duration::from_millis(500);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);

/// One function as it is started here.
#[derive(Clone, Debug)]
pub struct FunctionSpec {
    /// What the configuration says.
    pub config: FunctionConfig,
    /// What is executed.
    pub process: Arc<ProcessSpec>,
}

/// All functions of a worker, and their processes.
pub struct Functions {
    shared: Arc<Shared>,
    specs: BTreeMap<FunctionName, FunctionSpec>,
    pool: Mutex<Pool>,
    ending: TaskTracker,
}

#[derive(Default)]
struct Pool {
    children: HashMap<FunctionName, Vec<Arc<Child>>>,
    health: HashMap<FunctionName, Health>,
    said: BTreeMap<FunctionName, Vec<TaskName>>,
}

#[derive(Clone, Default)]
struct Health {
    failures: u32,
    not_before: Option<Instant>,
    error: String,
}

/// GPUs for one process.
pub type Hold = Arc<dyn GpuHold>;

/// What marks a process that has GPUs, and every process that it starts: those that outlive it are found by this.
const MARK: &str = "RHUBARB_GPU_HOLD";

/// A function process of the pool.
pub struct Child {
    /// The process.
    pub process: FunctionProcess,
    /// What it may ask.
    pub routes: Arc<ProcessRoutes>,
    tasks: AtomicU32,
    busy: AtomicU32,
    killed: AtomicBool,
    gpus: Option<Gpus>,
}

/// The GPUs of a process.
struct Gpus {
    /// Let go when the process has been reaped.
    hold: Mutex<Option<Hold>>,
    mark: String,
    reaped: CancellationToken,
}

/// Why there is no process for a task.
#[derive(Clone, Debug)]
pub enum NoProcess {
    /// It was tried, and this came of it.
    CannotStart(String),
    /// It failed a moment ago and is tried again after this pause.
    Pausing(Duration, String),
    /// The devices that it was to have cannot be used.
    NoDevice(String),
}

impl Child {
    /// Ends the process now, with everything it started, because of one of its invocations.
    pub async fn kill(&self) {
        self.killed.store(true, Relaxed);
        self.process.kill().await;
    }

    /// True if it was ended by us, so that its death is not the fault of what it ran.
    #[must_use]
    pub fn was_killed(&self) -> bool {
        self.killed.load(Relaxed)
    }

    /// Waits until the process, if it has GPUs, was reaped.
    pub(crate) async fn reaped(&self) {
        if let Some(gpus) = &self.gpus {
            gpus.reaped.cancelled().await;
        }
    }
}

impl Gpus {
    /// What the process is given, in place of anything else that is said about its devices.
    fn variables(&self, hold: &Hold) -> Vec<(OsString, OsString)> {
        let pair = |name: &str, value: String| (OsString::from(name), OsString::from(value));
        let mut variables = vec![
            pair("CUDA_VISIBLE_DEVICES", hold.uuids().join(",")),
            pair("CUDA_DEVICE_ORDER", "PCI_BUS_ID".into()),
            pair(MARK, self.mark.clone()),
        ];
        variables.extend(hold.memory_limits().map(|limits| pair(MPS_LIMIT, limits)));
        variables
    }

    /// Lets the devices go. `left` are processes that are known to have outlived the process group.
    async fn let_go(&self, mut left: Vec<u32>) {
        left.extend(with_variable(MARK, &self.mark).await);
        left.sort_unstable();
        left.dedup();
        let hold = self.hold.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(hold) = hold {
            if !left.is_empty() {
                tracing::warn!(processes = ?left, "processes {left:?} outlive the function that had GPUs");
                hold.outlived_by(&left);
            }
            self.reaped.cancel();
        }
    }
}

/// A place in a process, for one invocation.
pub struct Place {
    /// The process.
    pub child: Arc<Child>,
    functions: Arc<Functions>,
    function: FunctionName,
    tasks: u32,
    /// The process is replaced after this many tasks.
    tasks_max: Option<u32>,
}

impl Place {
    /// Notes how many tasks the invocation had.
    pub fn ran(&mut self, tasks: usize) {
        self.tasks = u32::try_from(tasks).unwrap_or(u32::MAX);
    }
}

impl Drop for Place {
    /// Gives the place back, or retires the process when it has done enough.
    fn drop(&mut self) {
        self.functions.give_back(self);
    }
}

impl Functions {
    /// The functions of a worker; nothing is started.
    #[must_use]
    pub fn new(shared: Arc<Shared>, specs: BTreeMap<FunctionName, FunctionSpec>) -> Self {
        Self { shared, specs, pool: Mutex::default(), ending: TaskTracker::new() }
    }

    /// What a function is, if this worker has it.
    #[must_use]
    pub fn spec(&self, function: &FunctionName) -> Option<&FunctionSpec> {
        self.specs.get(function)
    }

    /// Each function, with the reason where it cannot be started.
    #[must_use]
    pub fn health(&self) -> Vec<(FunctionName, Option<String>)> {
        let pool = self.pool();
        let error =
            |name| pool.health.get(name).filter(|health| health.failures > 0).map(|health| health.error.clone());
        self.specs.keys().map(|name| (name.clone(), error(name))).collect()
    }

    /// What each function said it runs.
    #[must_use]
    pub fn said(&self) -> BTreeMap<FunctionName, Vec<TaskName>> {
        self.pool().said.clone()
    }

    /// Finds or starts a process with room for one invocation. With GPUs it is always a new one, and ends after it.
    ///
    /// # Errors
    ///
    /// The function cannot be started.
    pub async fn place(
        self: &Arc<Self>,
        function: &FunctionName,
        tasks_max: Option<u32>,
        hold: Option<&Hold>,
    ) -> Result<Place, NoProcess> {
        let warm = if hold.is_some() { None } else { self.warm(function) };
        let child = match warm {
            Some(child) => child,
            None => self.start(function, hold).await?,
        };
        Ok(Place { child, functions: Arc::clone(self), function: function.clone(), tasks: 0, tasks_max })
    }

    fn warm(&self, function: &FunctionName) -> Option<Arc<Child>> {
        let in_flight = self.specs.get(function).map_or(1, |spec| spec.config.in_flight);
        let mut pool = self.pool();
        let children = pool.children.get_mut(function)?;
        children.retain(|child| !child.process.exited() && !child.was_killed());
        let has_room = |child: &&Arc<Child>| child.gpus.is_none() && child.busy.load(Relaxed) < in_flight;
        let child = children.iter().rev().find(has_room)?;
        child.busy.fetch_add(1, Relaxed);
        Some(Arc::clone(child))
    }

    async fn start(&self, function: &FunctionName, hold: Option<&Hold>) -> Result<Arc<Child>, NoProcess> {
        let Some(spec) = self.specs.get(function) else {
            return Err(NoProcess::CannotStart(format!("this worker has no function `{function}`")));
        };
        self.check_pause(function)?;
        let (gpus, process) = match hold {
            None => (None, Arc::clone(&spec.process)),
            Some(hold) => {
                hold.begin().await.map_err(NoProcess::NoDevice)?;
                let gpus = Gpus {
                    hold: Mutex::new(Some(Arc::clone(hold))),
                    mark: uuid::Uuid::now_v7().to_string(),
                    reaped: CancellationToken::new(),
                };
                let mut process = ProcessSpec::clone(&spec.process);
                process.env.extend(gpus.variables(hold));
                (Some(gpus), Arc::new(process))
            }
        };
        let routes = Arc::new(ProcessRoutes::new(Arc::clone(&self.shared)));
        let on_line = self.on_line(function, &routes);
        match FunctionProcess::start_heard(process, Arc::clone(&routes) as _, on_line).await {
            Ok(process) => {
                measure::function_started(function, true);
                tracing::debug!(function.name = %function, process.id = process.id(), "started a process of function {function}");
                let child = Arc::new(Child {
                    process,
                    routes,
                    tasks: AtomicU32::new(0),
                    busy: AtomicU32::new(1),
                    killed: AtomicBool::new(false),
                    gpus,
                });
                let mut pool = self.pool();
                pool.health.remove(function);
                if let Some(tasks) = child.routes.said() {
                    pool.said.insert(function.clone(), tasks);
                }
                pool.children.entry(function.clone()).or_default().push(Arc::clone(&child));
                Ok(child)
            }
            Err(error) => {
                let error = error.to_string();
                if let Some(gpus) = &gpus {
                    gpus.let_go(Vec::new()).await;
                }
                measure::function_started(function, false);
                tracing::error!(function.name = %function, error = %error, "cannot start function {function}");
                self.note_failure(function, &error);
                Err(NoProcess::CannotStart(error))
            }
        }
    }

    /// Leads what a process prints to whoever listens, with the tasks that it has in hand.
    fn on_line(&self, function: &FunctionName, routes: &Arc<ProcessRoutes>) -> Option<OnLine> {
        let listener = self.shared.listener.clone()?;
        let (function, routes) = (function.clone(), Arc::clone(routes));
        Some(Box::new(move |line| {
            let attempts = routes.attempts_in_flight();
            let _line = if let [only] = attempts.as_slice() { only.span.enter() } else { None };
            let tasks: Vec<TaskId> = attempts.iter().map(|attempt| attempt.won.id).collect();
            listener.printed(&function, &tasks, line);
        }))
    }

    fn check_pause(&self, function: &FunctionName) -> Result<(), NoProcess> {
        let pool = self.pool();
        let Some(health) = pool.health.get(function) else { return Ok(()) };
        let left = health.not_before.map(|at| at.saturating_duration_since(Instant::now()));
        match left.filter(|left| !left.is_zero()) {
            Some(left) => Err(NoProcess::Pausing(left, health.error.clone())),
            None => Ok(()),
        }
    }

    fn note_failure(&self, function: &FunctionName, error: &str) {
        let mut pool = self.pool();
        let health = pool.health.entry(function.clone()).or_default();
        health.failures = health.failures.saturating_add(1);
        let pause = RESTART_PAUSE.saturating_mul(1 << (health.failures - 1).min(10)).min(RESTART_PAUSE_MAX);
        health.not_before = Some(Instant::now() + pause);
        error.clone_into(&mut health.error);
    }

    fn give_back(&self, place: &Place) {
        let child = &place.child;
        let tasks = child.tasks.fetch_add(place.tasks, Relaxed) + place.tasks;
        let busy = child.busy.fetch_sub(1, Relaxed) - 1;
        let worn =
            child.gpus.is_some() || place.tasks_max.is_some_and(|max| tasks >= max) || child.process.over_memory();
        if busy > 0 || !(worn || child.was_killed() || child.process.exited()) {
            return;
        }
        let mut pool = self.pool();
        if let Some(children) = pool.children.get_mut(&place.function) {
            children.retain(|other| !Arc::ptr_eq(other, child));
        }
        drop(pool);
        self.retire(&place.function, Arc::clone(child));
    }

    fn retire(&self, function: &FunctionName, child: Arc<Child>) {
        let grace = self.specs.get(function).map_or(Duration::ZERO, |spec| spec.config.shutdown_grace);
        self.ending.spawn(async move {
            let report = child.process.stop(grace).await;
            if let Some(gpus) = &child.gpus {
                let mut left = report.left_behind;
                left.extend((report.status == ExitStatus::NotReaped).then(|| child.process.id()));
                gpus.let_go(left).await;
            }
        });
    }

    /// Ends every process: asked first, killed after its grace. Returns when all are reaped.
    pub async fn end(&self) {
        let children: Vec<(FunctionName, Vec<Arc<Child>>)> = self.pool().children.drain().collect();
        for (function, children) in children {
            for child in children {
                self.retire(&function, child);
            }
        }
        self.ending.close();
        self.ending.wait().await;
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        // Nothing panics while it holds the lock; if something did, the maps are still whole.
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
