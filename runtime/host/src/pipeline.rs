//! The pipeline around each delivery: open, claim (done by the take), keep, invoke, settle.
//!
//! There is one, with two feeders: the agent's long polls and Lambda's real Runtime API. Each early end
//! leaves after the task has been put where it belongs. A crash anywhere leaves a lease that ends, and
//! in mode `message` a message that comes back.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use rhubarb_core::{
    backend::{Backend, Finish, Log, Settlement, StoreError, Won},
    config::{Config, QueueConfig, TaskPolicy, WorkerConfig},
    contract::{self, AttemptInfo, Record},
    envelope::Envelope,
    ids::{FunctionName, MessageId, QueueName, WorkerId},
    limits::SETTLE_ALLOWANCE,
    outcome::{Failure, Outcome},
    routing::Routes,
    row::Settled,
    schedule::{self, Verdict},
};
use serde_json::value::RawValue;
use tokio::sync::{Notify, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    attempt::{Attempt, Peek, Stop},
    functions::{Child, FunctionSpec, Functions, NoProcess},
    judge,
    keeper::{Keeper, Kept},
    listener::Listener,
    routes::Shared,
    runtime_api::{Answer, Invocation, InvocationEnd},
};

/// A settlement that the store does not take is tried again after this, doubled up to the next.
const SETTLE_PAUSE: Duration = Duration::from_millis(100);
const SETTLE_PAUSE_MAX: Duration = Duration::from_secs(5);
/// A tick whose overlap cannot be judged is tried again after this.
const OVERLAP_PAUSE: Duration = Duration::from_secs(1);
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

/// When an invocation's time is up, where the place that the host runs in gives it only so much.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// From here on functions are told to stop, and nothing more is begun.
    pub tell: Instant,
    /// What still runs here is killed; the rest of the time is for settling.
    pub kill: Instant,
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

/// An attempt that is over: what it came to, and what it printed.
type Settling = (Held, Outcome, Log);

/// What an invocation came to.
enum End {
    Answered(Answer),
    Died(InvocationEnd),
    /// It passed its hard limit and was killed.
    TimedOut,
    /// It was told to stop, did not within its grace, and was killed.
    Stopped,
    /// It ran when the time of the place was up, and was killed.
    Cut,
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
        let starts = names.iter().map(|name| self.functions.place(name, None));
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
        self.run_within(batch, None).await;
    }

    /// Runs a batch in a place whose time is up at `cut`: what has not ended by then goes back and spends no
    /// attempt. Returns when its slot is free again; settling goes on behind it.
    pub async fn run_until(&self, batch: Batch, cut: Cut) {
        self.run_within(batch, Some(cut)).await;
    }

    async fn run_within(&self, batch: Batch, cut: Option<Cut>) {
        for (function, group) in self.group(&batch.queue, batch.held).await {
            if cut.is_some_and(|cut| Instant::now() >= cut.tell) {
                self.settle_unbegun(group).await;
            } else {
                self.invoke(&batch.queue, &function, group, cut, &batch.bell).await;
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

    /// Reads the envelope and keeps the lease; fetches arguments that travel as a claim check. What
    /// cannot be read is settled here.
    async fn open_one(&self, queue: &Arc<QueueConfig>, won: Won, bell: &Arc<Notify>) -> Option<Held> {
        let (envelope, unreadable) = match Envelope::decode_full(&won.spec) {
            Ok(envelope) => (envelope, None),
            // Cannot be run, but can be settled under its own id.
            Err(error) => (Envelope::new(won.id, won.task.clone(), rhubarb_core::envelope::null()), Some(error)),
        };
        let timeout = envelope.timeout_ms.map(Duration::from_millis);
        let task_config = self.shared.config.tasks.get(&won.task);
        let policy = TaskPolicy::new(queue, task_config).lowered(timeout, envelope.max_attempts);
        let attempt = Arc::new(Attempt::new(won, envelope, Arc::clone(queue), policy, Arc::clone(bell)));
        let kept = self.keeper.keep(Arc::clone(&attempt));
        let mut held = Held { attempt, kept, body: None, taken: Instant::now() };
        let refusal = match unreadable {
            Some(error) => Some(Outcome::Poisoned(Failure::new(Failure::POISON, error.to_string()))),
            None => match self.body(&held.attempt).await {
                Ok(body) => {
                    held.body = body;
                    None
                }
                Err(outcome) => Some(outcome),
            },
        };
        let refusal = match refusal {
            None => self.left_out(&held.attempt).await,
            Some(outcome) => Some((outcome, Log::default())),
        };
        match refusal {
            None => Some(held),
            Some((outcome, log)) => {
                self.settle(vec![(held, outcome, log)]).await;
                None
            }
        }
    }

    /// What becomes of a schedule's tick that may not begin beside an earlier one.
    async fn left_out(&self, attempt: &Attempt) -> Option<(Outcome, Log)> {
        match schedule::judge(&*self.shared.backend, &attempt.envelope).await {
            Ok(Verdict::Begin | Verdict::Replaces(_)) => None,
            Ok(Verdict::LeftOut(other)) => {
                let text = format!("[left out: task {other} of another tick has not settled]\n");
                Some((Outcome::Cancelled, Log { text, dropped: 0 }))
            }
            Err(error) => {
                let id = attempt.won.id;
                tracing::warn!(task.id = %id, error = %error, "cannot tell whether task {id} overlaps another tick: {error}");
                Some((Outcome::Snoozed(OVERLAP_PAUSE), Log::default()))
            }
        }
    }

    /// The body a function is given, where it is not the envelope as it is kept.
    async fn body(&self, attempt: &Attempt) -> Result<Option<String>, Outcome> {
        if let Some(raw) = &attempt.envelope.raw {
            return Ok(Some(raw.clone()));
        }
        let Some(blob) = &attempt.envelope.blob else { return Ok(None) };
        let content = self.shared.backend.blobs().check_out(blob).await.map_err(|error| {
            let failure = Failure::new(Failure::BLOB, format!("cannot read the arguments: {error}"));
            judge::failed(attempt, failure, None, fastrand::f64())
        })?;
        let poisoned = |what: String| Outcome::Poisoned(Failure::new(Failure::POISON, what));
        let text = String::from_utf8(content.into()).map_err(|_| poisoned("the arguments are not UTF-8".into()))?;
        let args =
            RawValue::from_string(text).map_err(|error| poisoned(format!("the arguments are not JSON: {error}")))?;
        let mut envelope = attempt.envelope.clone();
        (envelope.args, envelope.blob) = (args, None);
        Ok(Some(envelope.encode()))
    }

    /// Splits what was taken into invocations: by function, what must run alone by itself, and no event
    /// over the limit. A task that no function runs is settled here.
    async fn group(&self, queue: &QueueConfig, held: Vec<Held>) -> Vec<(FunctionName, Vec<Held>)> {
        let bytes_max = self.shared.backend.broker().limits().event_bytes_max;
        let mut groups: Vec<(FunctionName, Vec<Held>, usize)> = Vec::new();
        for one in held {
            let routes = self.routes.get(&queue.name);
            let Some(function) = routes.and_then(|routes| routes.function_of(&one.attempt.won.task)).cloned() else {
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

    async fn invoke(
        &self,
        queue: &QueueConfig,
        function: &FunctionName,
        group: Vec<Held>,
        cut: Option<Cut>,
        bell: &Notify,
    ) {
        let tasks_max = self.shared.config.max_tasks_per_child(&self.worker, function, queue);
        let place = before(cut, self.functions.place(function, tasks_max)).await;
        let mut place = match place {
            Some(Ok(place)) => place,
            Some(Err(none)) => return self.settle_without_process(function, group, &none).await,
            None => return self.settle_unbegun(group).await,
        };
        place.ran(group.len());
        let child = Arc::clone(&place.child);
        let request_id = uuid::Uuid::now_v7().to_string();
        let grace = self.functions.spec(function).map_or(Duration::ZERO, |spec| spec.config.shutdown_grace);
        let clock = Clock::new(queue, &group, grace, cut);
        let invocation = Invocation::new(
            request_id.clone(),
            SystemTime::now() + clock.end().saturating_duration_since(Instant::now()),
            event_of(&group, &self.shared.queue_arn(&queue.name)).into(),
            self.shared.function_arn(function),
        );
        let end = self.converse(&child, &group, invocation, clock, bell).await;
        let output = child.process.take_output(&request_id);
        let log = Log { text: output.text, dropped: output.dropped_bytes };
        let inline_bytes_max = self.shared.backend.broker().limits().inline_bytes_max;
        // The slot is free from here: judging and settling go on behind it.
        drop(place);
        self.judge_and_settle(move || {
            let outcomes = judge_all(&child, &group, end, inline_bytes_max);
            group.into_iter().zip(outcomes).map(|(held, outcome)| (held, outcome, log.clone())).collect()
        })
        .await;
    }

    /// Hands the event over and waits for the answer, within the limits.
    async fn converse(
        &self,
        child: &Arc<Child>,
        group: &[Held],
        invocation: Invocation,
        mut clock: Clock,
        bell: &Notify,
    ) -> End {
        let attempts: Vec<Arc<Attempt>> = group.iter().map(|held| Arc::clone(&held.attempt)).collect();
        let _registered = child.routes.register(&attempts);
        let peek = peek(child, &invocation.request_id);
        attempts.iter().for_each(|attempt| attempt.watch_output(Arc::clone(&peek)));
        if attempts.iter().any(|attempt| attempt.stopped().is_some()) {
            // An invocation before this one of the same batch may have heard that bell.
            bell.notify_one();
        }
        let answer = child.process.invoke(invocation);
        tokio::pin!(answer);
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return answer.map_or_else(End::Died, End::Answered),
                () = tokio::time::sleep_until(clock.wake().into()) => {}
                () = bell.notified() => {}
                () = self.hurry.cancelled() => {
                    child.kill().await;
                    return End::Stopped;
                }
            }
            if let Some(end) = clock.strike(&attempts, Instant::now()) {
                child.kill().await;
                return end;
            }
        }
    }

    /// Hands back what the time of the place left no room for. Who was to run alone still is.
    async fn settle_unbegun(&self, group: Vec<Held>) {
        let settlements = group.into_iter().map(|held| {
            let why = Cow::Borrowed("the time of its invocation was up before it began");
            let outcome = Outcome::Interrupted { alone: held.attempt.won.row.alone, why };
            (held, outcome, Log::default())
        });
        self.settle(settlements.collect()).await;
    }

    async fn settle_without_process(&self, function: &FunctionName, group: Vec<Held>, none: &NoProcess) {
        let settlements = group.into_iter().map(|held| {
            let outcome = match none {
                NoProcess::CannotStart(error) => {
                    let failure = Failure::new(Failure::INIT, format!("function `{function}` cannot start: {error}"));
                    judge::failed(&held.attempt, failure, None, fastrand::f64())
                }
                // Spends no attempt: this task is not to blame for the one before it.
                NoProcess::Pausing(left, _) => Outcome::Snoozed((*left).max(Duration::from_millis(100))),
            };
            (held, outcome, Log::default())
        });
        self.settle(settlements.collect()).await;
    }

    async fn settle(&self, settlements: Vec<Settling>) {
        self.judge_and_settle(|| settlements).await;
    }

    /// Judges and writes outcomes in the background; waits only where too many are under way.
    async fn judge_and_settle(&self, judge: impl FnOnce() -> Vec<Settling> + Send + 'static) {
        // The semaphore is never closed.
        let room = Arc::clone(&self.settle_room).acquire_owned().await.ok();
        let shared = Arc::clone(&self.shared);
        self.settling.spawn(async move {
            settle(&shared, judge()).await;
            drop(room);
        });
    }
}

/// When an invocation must end.
#[derive(Clone, Copy)]
struct Limits {
    soft: Option<Instant>,
    hard: Instant,
}

impl Limits {
    /// A lone record has its own limits; several share one, since nobody outside sees which one runs. Where
    /// the place cuts an invocation off, the allowance to settle in is already kept back.
    fn of(queue: &QueueConfig, group: &[Held], is_cut: bool, now: Instant) -> Self {
        if let [only] = group {
            let policy = &only.attempt.policy;
            return Self { soft: Some(now + policy.soft_timeout), hard: now + policy.timeout };
        }
        let parallel = usize::try_from(queue.parallel).unwrap_or(1).max(1);
        let rounds = u32::try_from(group.len().div_ceil(parallel)).unwrap_or(u32::MAX);
        let allowance = if is_cut { Duration::ZERO } else { SETTLE_ALLOWANCE };
        Self { soft: None, hard: now + queue.timeout.saturating_mul(rounds) + allowance }
    }
}

/// Decides when a running invocation is told to stop, and when it is killed.
struct Clock {
    limits: Limits,
    grace: Duration,
    cut: Option<Cut>,
    told_soft: bool,
    told_cut: bool,
    told_at: Option<Instant>,
}

impl Clock {
    fn new(queue: &QueueConfig, group: &[Held], grace: Duration, cut: Option<Cut>) -> Self {
        let limits = Limits::of(queue, group, cut.is_some(), Instant::now());
        Self { limits, grace, cut, told_soft: false, told_cut: false, told_at: None }
    }

    /// When the invocation has ended, one way or another.
    fn end(&self) -> Instant {
        self.cut.map_or(self.limits.hard, |cut| cut.kill.min(self.limits.hard))
    }

    fn wake(&self) -> Instant {
        let soft = self.limits.soft.filter(|_| !self.told_soft);
        let kill = self.told_at.map(|at| at + self.grace);
        let cut = self.cut.map(|cut| if self.told_cut { cut.kill } else { cut.tell });
        [soft, kill, cut].into_iter().flatten().fold(self.limits.hard, Instant::min)
    }

    /// What is due now; an end means: kill it.
    fn strike(&mut self, attempts: &[Arc<Attempt>], now: Instant) -> Option<End> {
        if let Some(cut) = self.cut {
            if now >= cut.kill && cut.kill <= self.limits.hard {
                return Some(End::Cut);
            }
            if now >= cut.tell && !self.told_cut {
                self.told_cut = true;
                attempts.iter().for_each(|attempt| attempt.stop(Stop::Shutdown));
            }
        }
        if now >= self.limits.hard {
            return Some(End::TimedOut);
        }
        if !self.told_soft && self.limits.soft.is_some_and(|soft| now >= soft) {
            self.told_soft = true;
            attempts.iter().for_each(|attempt| attempt.stop(Stop::Timeout));
        }
        let stops = || attempts.iter().filter_map(|attempt| attempt.stopped());
        // One lost record of several is only refused when it settles: the others go on.
        if stops().filter(|stop| *stop == Stop::Lost).count() == attempts.len() {
            return Some(End::Stopped);
        }
        if stops().any(|stop| matches!(stop, Stop::Requested | Stop::Shutdown)) {
            let told_at = *self.told_at.get_or_insert(now);
            let end = if self.told_cut { End::Cut } else { End::Stopped };
            return (now >= told_at + self.grace).then_some(end);
        }
        None
    }
}

/// What comes of `work` before the time of the place is up.
async fn before<T>(cut: Option<Cut>, work: impl Future<Output = T>) -> Option<T> {
    match cut {
        None => Some(work.await),
        Some(cut) => tokio::time::timeout_at(cut.kill.into(), work).await.ok(),
    }
}

/// Reads what an invocation has printed so far.
fn peek(child: &Arc<Child>, request_id: &str) -> Peek {
    let (child, id) = (Arc::clone(child), request_id.to_owned());
    Arc::new(move || {
        let output = child.process.peek_output(&id);
        Log { text: output.text, dropped: output.dropped_bytes }
    })
}

fn event_of(group: &[Held], arn: &str) -> String {
    let infos: Vec<AttemptInfo<'_>> = group.iter().map(|held| info(&held.attempt)).collect();
    let records: Vec<Record<'_>> = group
        .iter()
        .zip(&infos)
        .map(|(held, info)| {
            let won = &held.attempt.won;
            Record {
                message: &won.message,
                body: held.body(),
                // What counts for a function is how often the task was tried, whichever message it came by.
                receive_count: won.receive_count.max(won.row.attempt),
                sent: won.sent,
                first_received: won.first_received,
                arn,
                info,
                traceparent: held.attempt.envelope.trace.as_ref().and_then(|trace| trace.traceparent.as_deref()),
            }
        })
        .collect();
    contract::event(&records)
}

fn info(attempt: &Attempt) -> AttemptInfo<'_> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    AttemptInfo {
        v: contract::VERSION,
        id: attempt.won.id,
        attempt: attempt.won.row.attempt,
        max_attempts: attempt.max_attempts(),
        fence: attempt.won.row.fence.0,
        timeout_ms: millis(attempt.policy.timeout),
        soft_timeout_ms: millis(attempt.policy.soft_timeout),
        gpus: Cow::Borrowed(&[]),
        checkpoint: attempt.won.row.checkpoint.is_some(),
    }
}

fn judge_all(child: &Child, group: &[Held], end: End, inline_bytes_max: usize) -> Vec<Outcome> {
    let each = |outcome: &dyn Fn(&Attempt) -> Outcome| group.iter().map(|held| outcome(&held.attempt)).collect();
    let fail_each = |failure: Failure| each(&|attempt| judge::failed(attempt, failure.clone(), None, fastrand::f64()));
    let ids: Vec<&MessageId> = group.iter().map(|held| &held.attempt.won.message).collect();
    match end {
        End::Answered(Answer::Response(body)) => match contract::read_answer(&body, &ids, inline_bytes_max) {
            Ok(said) => {
                group.iter().zip(said).map(|(held, said)| judge::said(&held.attempt, said, fastrand::f64())).collect()
            }
            Err(bad) => fail_each(bad.failure()),
        },
        End::Answered(Answer::Error(error)) => {
            let stack = error.stack.iter().fold(String::new(), |text, line| text + "\n" + line);
            fail_each(Failure::new(error.error_type, error.message + &stack))
        }
        End::Died(InvocationEnd::ProcessDied { .. }) if child.was_killed() => {
            each(&|_| judge::interrupted("its process was stopped because of another invocation"))
        }
        End::Died(end @ InvocationEnd::ProcessDied { .. }) => died(group, Failure::CRASHED, &end.to_string()),
        End::Died(InvocationEnd::NotOffered { reason }) => {
            tracing::warn!(reason, "cannot hand an invocation over");
            each(&|_| judge::interrupted("its process could not take it"))
        }
        End::Died(end) => fail_each(Failure::new(Failure::BAD_ANSWER, end.to_string())),
        End::TimedOut => match group {
            [only] => vec![judge::timed_out(&only.attempt, fastrand::f64())],
            _ => alone(group, "the invocation it shared passed its time limit"),
        },
        End::Cut => cut_off(group),
        End::Stopped => each(&|attempt| match attempt.stopped() {
            Some(_) => judge::stopped(attempt, fastrand::f64()),
            None => Outcome::Interrupted { alone: true, why: "the invocation it shared was stopped".into() },
        }),
    }
}

/// Nobody knows which of several records killed the process: all go back without a spent attempt and
/// run next in an invocation of their own; only then does a death count.
fn died(group: &[Held], kind: &str, what: &str) -> Vec<Outcome> {
    match group {
        [only] => vec![judge::failed(&only.attempt, Failure::new(kind, what), None, fastrand::f64())],
        _ => alone(group, "the process died in an invocation of several records"),
    }
}

/// The time of the place was up. What was to be stopped anyway is stopped; of several, each goes on alone,
/// under limits of its own.
fn cut_off(group: &[Held]) -> Vec<Outcome> {
    let outcome = |held: &Held| match held.attempt.stopped() {
        Some(Stop::Requested | Stop::Lost) => judge::stopped(&held.attempt, fastrand::f64()),
        Some(Stop::Timeout | Stop::Shutdown) | None => {
            Outcome::Interrupted { alone: group.len() > 1, why: Cow::Borrowed("the time of its invocation was up") }
        }
    };
    group.iter().map(outcome).collect()
}

fn alone(group: &[Held], why: &'static str) -> Vec<Outcome> {
    let outcome = |held: &Held| match held.attempt.stopped() {
        Some(_) => judge::stopped(&held.attempt, fastrand::f64()),
        None => Outcome::Interrupted { alone: true, why: Cow::Borrowed(why) },
    };
    group.iter().map(outcome).collect()
}

/// Writes outcomes until the store has them. Leases are kept until then: the holder is the holder.
async fn settle(shared: &Shared, settlements: Vec<Settling>) {
    let backend = &*shared.backend;
    let reports: Vec<_> = settlements.iter().filter_map(|(held, _, _)| held.attempt.last_progress()).collect();
    if !reports.is_empty() {
        // Only shown to people; the outcome counts.
        let _ = backend.tasks().report(&reports).await;
    }
    let visibility_max = backend.broker().limits().visibility_max;
    let (mut kept, mut finishes): (Vec<Held>, Vec<Finish>) = settlements
        .into_iter()
        .map(|(held, outcome, log)| {
            let hideable = visibility_max.saturating_sub(held.taken.elapsed());
            let finish = finish(&held.attempt, outcome, log, hideable);
            (held, finish)
        })
        .unzip();
    let mut pause = SETTLE_PAUSE;
    loop {
        kept.iter().for_each(|held| held.attempt.note_settling(true));
        let answers = backend.finish(&finishes).await;
        let mut open = (Vec::new(), Vec::new());
        for ((held, finish), answer) in kept.into_iter().zip(finishes).zip(answers) {
            if heed(&finish, &answer) {
                if let Some(listener) = &shared.listener {
                    listener.settled(&finish, &answer);
                }
                drop(held.kept);
            } else {
                held.attempt.note_settling(false);
                open.0.push(held);
                open.1.push(finish);
            }
        }
        (kept, finishes) = open;
        if kept.is_empty() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(SETTLE_PAUSE_MAX);
    }
}

fn finish(attempt: &Attempt, outcome: Outcome, log: Log, hideable: Duration) -> Finish {
    let settlement = Settlement {
        id: attempt.won.id,
        fence: attempt.won.row.fence,
        outcome,
        log,
        keep: (attempt.queue.keep, attempt.queue.keep_failed),
    };
    Finish { queue: attempt.queue.name.clone(), settlement, receipt: attempt.won.receipt.clone(), hideable }
}

/// Says what became of a settlement. Returns whether it is over.
fn heed(finish: &Finish, answer: &Result<Settled, StoreError>) -> bool {
    let (id, outcome) = (finish.settlement.id, &finish.settlement.outcome);
    let queue = &finish.queue;
    match (answer, outcome.failure()) {
        (Ok(settled), Some(failure)) => {
            let state = settled.state;
            tracing::warn!(task.id = %id, queue.name = %queue, error.kind = failure.kind, "task {id} failed an attempt and is {state}: {failure}");
            true
        }
        (Ok(settled), None) => {
            tracing::debug!(task.id = %id, queue.name = %queue, "task {id} {}: {}", outcome.word(), settled.state);
            true
        }
        (Err(StoreError::Refused(refused)), _) => {
            tracing::warn!(task.id = %id, queue.name = %queue, "task {id} {} too late: {refused}", outcome.word());
            true
        }
        (Err(StoreError::NoTask(_)), _) => true,
        (Err(error), _) => {
            tracing::error!(task.id = %id, queue.name = %queue, error = %error, "cannot settle task {id}; trying again");
            false
        }
    }
}
