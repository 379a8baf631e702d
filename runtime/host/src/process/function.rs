//! A function process that is ready for work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::group::OwnedGroup;
use super::lines::OnLine;
use super::output::Output;
use super::{
    CapturedOutput, ExitStatus, KILL_WAIT_MAX, LAST_WORDS_WAIT_MAX, MEMORY_CHECK_EVERY, ProcessSpec, StartError, memory,
};
use crate::runtime_api::{Answer, Exchange, Invocation, InvocationEnd, Phase, Routes, Server};

/// A function process that has asked for work. Dropping it kills its process group at once.
#[derive(Debug)]
pub struct FunctionProcess {
    spec: Arc<ProcessSpec>,
    group: OwnedGroup,
    exchange: Arc<Exchange>,
    output: Arc<Output>,
    init_took: Duration,
    served: AtomicU64,
    over_memory: Arc<AtomicBool>,
    /// Reads the output, watches for the end and for memory; aborted with the process.
    _watchers: JoinSet<()>,
}

/// How a function process was brought to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitReport {
    /// How it ended.
    pub status: ExitStatus,
    /// Whether it had to be killed because it did not end by itself within the grace.
    pub forced: bool,
    /// The last of what it printed.
    pub output_tail: String,
    /// Descendants that had left the process group, by a session or group of their own, and were not
    /// signalled.
    pub left_behind: Vec<u32>,
}

impl FunctionProcess {
    /// Starts a process and returns when it asks for its first work.
    ///
    /// On an error, and when the future is dropped, nothing is left running.
    pub async fn start(spec: Arc<ProcessSpec>, routes: Arc<dyn Routes>) -> Result<Self, StartError> {
        Self::start_heard(spec, routes, None).await
    }

    /// As [`start`](Self::start), and tells each line that the process prints, as it is read.
    pub async fn start_heard(
        spec: Arc<ProcessSpec>,
        routes: Arc<dyn Routes>,
        on_line: Option<OnLine>,
    ) -> Result<Self, StartError> {
        let began = Instant::now();
        let mut process = Self::launch(spec, routes, on_line).await?;
        if let Err(error) = process.wait_until_ready().await {
            process.kill().await;
            return Err(error);
        }
        process.init_took = began.elapsed();
        Ok(process)
    }

    /// Gives the process one invocation and waits for what it comes to, however long that takes.
    ///
    /// As many calls as the spec's `concurrency` may run at once. Dropping the future does not stop
    /// the function: follow it by [`kill`](Self::kill) unless it may go on.
    pub async fn invoke(&self, invocation: Invocation) -> Result<Answer, InvocationEnd> {
        let ended = self.exchange.invoke(invocation).await;
        if matches!(ended, Ok(_) | Err(InvocationEnd::ResponseTooLarge { .. })) {
            self.served.fetch_add(1, Ordering::Relaxed);
        }
        ended
    }

    /// The id of the process, which is also that of its process group.
    pub fn id(&self) -> u32 {
        self.group.id()
    }

    /// What the process was started from.
    pub fn spec(&self) -> &Arc<ProcessSpec> {
        &self.spec
    }

    /// How long it took from the start to the first `next`.
    pub fn init_took(&self) -> Duration {
        self.init_took
    }

    /// How many invocations the process has answered.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// The resident memory of the process and its descendants, in bytes. None where the system does
    /// not say.
    pub fn memory(&self) -> Option<u64> {
        memory::resident(self.id())
    }

    /// Whether the process holds more memory than its limit, or did at one of the regular looks. It is
    /// not stopped for that: start another before the next invocation.
    pub fn over_memory(&self) -> bool {
        let over = |limit| self.memory().is_some_and(|bytes| bytes > limit);
        self.over_memory.load(Ordering::Relaxed) || self.spec.memory_limit.is_some_and(over)
    }

    /// Whether the process is gone.
    pub fn exited(&self) -> bool {
        self.group.ended().borrow().is_some()
    }

    /// Waits until the process is gone, and what it owed has been told.
    pub async fn wait(&self) -> ExitStatus {
        let mut phase = self.exchange.phase();
        let ended = phase.wait_for(|phase| matches!(phase, Phase::Ended { .. })).await;
        match ended.as_deref() {
            Ok(Phase::Ended { status, .. }) => *status,
            _ => ExitStatus::NotReaped,
        }
    }

    /// What an invocation has printed so far; it stays there to be taken.
    pub fn peek_output(&self, request_id: &str) -> CapturedOutput {
        self.output.peek(request_id)
    }

    /// What an invocation has printed since it began, or since this was last called. Of invocations
    /// that have ended, the last sixteen are kept.
    pub fn take_output(&self, request_id: &str) -> CapturedOutput {
        self.output.take(request_id)
    }

    /// Asks the process group to end by SIGTERM, and kills what is left of it after `grace`. When the
    /// leader ends, its group is killed.
    pub async fn stop(&self, grace: Duration) -> ExitReport {
        let left_behind = memory::outside_group(self.id());
        self.group.signal(Signal::TERM);
        match timeout(grace, self.wait()).await {
            Ok(status) => self.report(status, false, left_behind),
            Err(_) => self.end_by_force(left_behind).await,
        }
    }

    /// Kills the process group and reaps it.
    pub async fn kill(&self) -> ExitReport {
        let left_behind = memory::outside_group(self.id());
        self.end_by_force(left_behind).await
    }

    async fn end_by_force(&self, left_behind: Vec<u32>) -> ExitReport {
        self.group.signal(Signal::KILL);
        let status = timeout(KILL_WAIT_MAX, self.wait()).await;
        self.report(status.unwrap_or(ExitStatus::NotReaped), true, left_behind)
    }

    fn report(&self, status: ExitStatus, forced: bool, left_behind: Vec<u32>) -> ExitReport {
        ExitReport { status, forced, output_tail: self.output.tail(), left_behind }
    }

    async fn launch(
        spec: Arc<ProcessSpec>,
        routes: Arc<dyn Routes>,
        on_line: Option<OnLine>,
    ) -> Result<Self, StartError> {
        let prepare = |source| StartError::Prepare { function: spec.function.clone(), source };
        let (output, stdout, stderr) = Output::open(spec.output_bytes_max, on_line).map_err(prepare)?;
        let output = Arc::new(output);
        let exchange = Arc::new(Exchange::new(spec.concurrency, Arc::clone(&output) as _));
        let server = Server::start(Arc::clone(&exchange), routes).await.map_err(prepare)?;
        let Some(mut command) = spec.command(server.address()) else {
            return Err(StartError::NoCommand { function: spec.function.clone() });
        };
        command.stdout(stdout).stderr(stderr);
        let spawned = OwnedGroup::spawn(command).await;
        let group = spawned.map_err(|source| StartError::of_spawn(&spec, source))?;

        let over_memory = Arc::new(AtomicBool::new(false));
        let mut watchers = JoinSet::new();
        let followed = Arc::clone(&output);
        watchers.spawn(async move { followed.follow().await });
        let (ended, talk, printed) = (group.ended(), Arc::clone(&exchange), Arc::clone(&output));
        watchers.spawn(watch_end(ended, server, talk, printed));
        if let Some(limit) = spec.memory_limit {
            watchers.spawn(watch_memory(group.id(), limit, Arc::clone(&over_memory)));
        }
        Ok(Self {
            spec,
            group,
            exchange,
            output,
            init_took: Duration::ZERO,
            served: AtomicU64::new(0),
            over_memory,
            _watchers: watchers,
        })
    }

    async fn wait_until_ready(&self) -> Result<(), StartError> {
        let function = self.spec.function.clone();
        let after = self.spec.init_timeout;
        let mut phase = self.exchange.phase();
        let begun = timeout(after, phase.wait_for(|phase| *phase != Phase::Init)).await;
        let Ok(Ok(phase)) = begun.map(|begun| begun.map(|phase| phase.clone())) else {
            let output_tail = self.output.tail();
            return Err(StartError::TimedOut { function, after, output_tail });
        };
        match phase {
            Phase::Init | Phase::Serving => Ok(()),
            Phase::InitFailed(error) => {
                let output_tail = self.output.tail();
                Err(StartError::Init { function, error, output_tail })
            }
            Phase::Ended { status, output_tail } => Err(StartError::Exited { function, status, output_tail }),
        }
    }
}

/// Ends the conversation when the process is gone, after what it said last has been read. Owns the
/// server: the port is closed with this task.
async fn watch_end(
    mut ended: watch::Receiver<Option<ExitStatus>>,
    mut server: Server,
    exchange: Arc<Exchange>,
    output: Arc<Output>,
) {
    let status = match ended.wait_for(Option::is_some).await {
        Ok(status) => status.unwrap_or(ExitStatus::NotReaped),
        Err(_) => ExitStatus::NotReaped,
    };
    server.finish(LAST_WORDS_WAIT_MAX).await;
    exchange.end(status, output.tail());
}

/// Notes when the process holds more than `limit`; once noted it stays so.
async fn watch_memory(leader: u32, limit: u64, over: Arc<AtomicBool>) {
    let mut looks = interval(MEMORY_CHECK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        match memory::resident(leader) {
            Some(bytes) if bytes > limit => {
                over.store(true, Ordering::Relaxed);
                return;
            }
            Some(_) => {}
            None => return,
        }
    }
}
