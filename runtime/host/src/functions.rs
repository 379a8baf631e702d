//! The functions of one worker: how their processes are started, kept warm, shared and replaced.
//!
//! A function that cannot start is tried again with a growing pause; what it said goes to the tasks
//! that needed it. Processes that die are not returned to the pool.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rhubarb_core::{
    config::FunctionConfig,
    ids::{FunctionName, TaskId, TaskName},
};
use tokio_util::task::TaskTracker;

use crate::{
    measure,
    process::{FunctionProcess, OnLine, ProcessSpec},
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

/// A function process of the pool.
pub struct Child {
    /// The process.
    pub process: FunctionProcess,
    /// What it may ask.
    pub routes: Arc<ProcessRoutes>,
    tasks: AtomicU32,
    busy: AtomicU32,
    killed: AtomicBool,
}

/// Why there is no process for a task.
#[derive(Clone, Debug)]
pub enum NoProcess {
    /// It was tried, and this came of it.
    CannotStart(String),
    /// It failed a moment ago and is tried again after this pause.
    Pausing(Duration, String),
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

    /// Finds or starts a process with room for one invocation.
    ///
    /// # Errors
    ///
    /// The function cannot be started.
    pub async fn place(self: &Arc<Self>, function: &FunctionName, tasks_max: Option<u32>) -> Result<Place, NoProcess> {
        let child = match self.warm(function) {
            Some(child) => child,
            None => self.start(function).await?,
        };
        Ok(Place { child, functions: Arc::clone(self), function: function.clone(), tasks: 0, tasks_max })
    }

    fn warm(&self, function: &FunctionName) -> Option<Arc<Child>> {
        let in_flight = self.specs.get(function).map_or(1, |spec| spec.config.in_flight);
        let mut pool = self.pool();
        let children = pool.children.get_mut(function)?;
        children.retain(|child| !child.process.exited() && !child.was_killed());
        let child = children.iter().rev().find(|child| child.busy.load(Relaxed) < in_flight)?;
        child.busy.fetch_add(1, Relaxed);
        Some(Arc::clone(child))
    }

    async fn start(&self, function: &FunctionName) -> Result<Arc<Child>, NoProcess> {
        let Some(spec) = self.specs.get(function) else {
            return Err(NoProcess::CannotStart(format!("this worker has no function `{function}`")));
        };
        self.check_pause(function)?;
        let routes = Arc::new(ProcessRoutes::new(Arc::clone(&self.shared)));
        let on_line = self.on_line(function, &routes);
        match FunctionProcess::start_heard(Arc::clone(&spec.process), Arc::clone(&routes) as _, on_line).await {
            Ok(process) => {
                measure::function_started(function, true);
                tracing::debug!(function.name = %function, process.id = process.id(), "started a process of function {function}");
                let child = Arc::new(Child {
                    process,
                    routes,
                    tasks: AtomicU32::new(0),
                    busy: AtomicU32::new(1),
                    killed: AtomicBool::new(false),
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
        let worn = place.tasks_max.is_some_and(|max| tasks >= max) || child.process.over_memory();
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
        self.ending.spawn(async move { child.process.stop(grace).await });
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
