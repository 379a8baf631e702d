//! What a handler knows about its attempt, and what it may ask of its host.
//!
//! A context costs nothing until it is used: no call is made, and nothing polls, before the handler
//! asks. When the attempt is over, or its lease is lost, calls answer [`ContextError::LeaseLost`].

mod blobs;
mod cancellation;
mod enqueue;
mod error;
mod progress;
pub(crate) mod routes;

use std::{
    any::{Any, TypeId, type_name},
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Method;
use rhubarb_core::{
    backend::{AttemptRecord, Filter, Page, Progress, StateCount, TaskDetail, TaskRecord},
    envelope::{BlobRef, Envelope},
    ids::TaskId,
    limits::Limits,
    row::State,
};
use serde::Deserialize;
use tokio::time::Instant;

pub(crate) use self::error::Refusal;
use self::routes::{Call, Host, query_value};
pub use self::{
    blobs::Blobs,
    cancellation::CancelReason,
    enqueue::{Enqueued, ToHost},
    error::ContextError,
};
use crate::{
    Task,
    new_task::{Enqueue, NewTask},
};

/// Tasks of one call to the host.
const ENQUEUE_TASKS_MAX: usize = 1000;
/// Bytes of arguments after which such a call is full; the host takes 6 MiB.
const ENQUEUE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// What a handler knows about its attempt, and what it may ask of its host. Cloning is cheap.
#[derive(Clone)]
pub struct Context {
    pub(crate) attempt: Arc<Attempt>,
}

/// One attempt.
pub(crate) struct Attempt {
    pub(crate) id: TaskId,
    pub(crate) attempt: u32,
    pub(crate) max_attempts: u32,
    pub(crate) gpus: Vec<String>,
    pub(crate) deadline: Instant,
    pub(crate) soft_deadline: Instant,
    pub(crate) host: Host,
    pub(crate) states: States,
    /// Bytes that outputs may still take in the invocation's answer.
    pub(crate) room: Arc<AtomicUsize>,
    pub(crate) progress: Arc<progress::Reporter>,
    pub(crate) cancellation: cancellation::Cancellation,
}

impl Attempt {
    /// The first attempt of a task, until `deadline`.
    pub(crate) fn new(id: TaskId, host: Host, states: States, room: Arc<AtomicUsize>, deadline: Instant) -> Self {
        Self {
            id,
            attempt: 1,
            max_attempts: 1,
            gpus: Vec::new(),
            deadline,
            soft_deadline: deadline,
            host,
            states,
            room,
            progress: Arc::default(),
            cancellation: cancellation::Cancellation::default(),
        }
    }

    /// Takes room for an output in the answer. Returns false where it must be posted.
    pub(crate) fn takes_inline(&self, bytes: usize) -> bool {
        bytes <= Limits::AWS.inline_bytes_max
            && self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(bytes)).is_ok()
    }
}

/// What the sweep found to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Swept {
    /// Tasks whose holder fell silent, brought back or buried.
    pub reaped: u64,
    /// Doorbells rung.
    pub rung: u64,
    /// Records whose time to be kept had passed.
    pub forgotten: u64,
}

impl Context {
    /// The task.
    #[must_use]
    pub fn task_id(&self) -> TaskId {
        self.attempt.id
    }

    /// This attempt, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt.attempt
    }

    /// Attempts in all; on plain Lambda, where only the queue knows it, `u32::MAX`.
    #[must_use]
    pub fn max_attempts(&self) -> u32 {
        self.attempt.max_attempts
    }

    /// When this attempt is cut off.
    #[must_use]
    pub fn deadline(&self) -> std::time::Instant {
        self.attempt.deadline.into_std()
    }

    /// When the attempt is asked to stop, so that it can save what it has ([`Self::cancelled`]).
    #[must_use]
    pub fn soft_deadline(&self) -> std::time::Instant {
        self.attempt.soft_deadline.into_std()
    }

    /// What is left until the deadline.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.attempt.deadline.saturating_duration_since(Instant::now())
    }

    /// The devices leased for this attempt, by UUID.
    #[must_use]
    pub fn gpus(&self) -> &[String] {
        &self.attempt.gpus
    }

    /// What was given with [`crate::Function::state`] or [`crate::Function::setup`].
    ///
    /// # Errors
    ///
    /// `NoState`: nothing of this type was given.
    pub fn state<S: Send + Sync + 'static>(&self) -> Result<Arc<S>, ContextError> {
        self.attempt.states.get::<S>().ok_or(ContextError::NoState(type_name::<S>()))
    }

    /// Says whether the handler should stop, as far as is known: the first call begins to ask. Good for
    /// a loop that computes: on a runtime of several threads the answer arrives meanwhile.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancel_reason().is_some()
    }

    /// Why the handler should stop, as far as is known: the first call begins to ask.
    #[must_use]
    pub fn cancel_reason(&self) -> Option<CancelReason> {
        self.attempt.cancellation.watch(&self.attempt.host, self.attempt.id);
        self.attempt.cancellation.reason()
    }

    /// Waits until the handler should stop, and says why. Meant for `select!`; the handler then returns
    /// [`crate::TaskError::cancelled`].
    pub async fn cancelled(&self) -> CancelReason {
        self.attempt.cancellation.watch(&self.attempt.host, self.attempt.id);
        self.attempt.cancellation.wait().await
    }

    /// Reports progress. Cheap in a loop: what comes within 100 ms of the last report waits and is
    /// overwritten, and the last one is sent at the latest when the handler returns. On plain Lambda it
    /// does nothing, and what the host or the store cannot take at the moment is no error: it is logged
    /// at level debug, and sent with the next report.
    ///
    /// # Errors
    ///
    /// `LeaseLost`, and nothing else: stop working.
    pub async fn progress(&self, done: impl TryInto<u64>, total: impl TryInto<u64>) -> Result<(), ContextError> {
        self.report(done.try_into().unwrap_or(0), total.try_into().unwrap_or(0), None).await
    }

    /// Reports progress and says what the task does now.
    ///
    /// # Errors
    ///
    /// As [`Self::progress`].
    pub async fn progress_message(
        &self,
        done: impl TryInto<u64>,
        total: impl TryInto<u64>,
        message: impl Into<String>,
    ) -> Result<(), ContextError> {
        self.report(done.try_into().unwrap_or(0), total.try_into().unwrap_or(0), Some(message.into())).await
    }

    async fn report(&self, done: u64, total: u64, message: Option<String>) -> Result<(), ContextError> {
        let progress = Progress { done, total, message };
        self.attempt.progress.report(&self.attempt.host, self.attempt.id, progress).await
    }

    /// Keeps what a later attempt can resume from; it replaces the last checkpoint.
    ///
    /// # Errors
    ///
    /// `LeaseLost`, or the backend is not reachable.
    pub async fn checkpoint(&self, content: impl Into<Bytes>) -> Result<(), ContextError> {
        let call = Call::new("write the checkpoint", Method::PUT, self.path("checkpoint"), content.into());
        self.attempt.host.call(call).await.map(drop)
    }

    /// The last checkpoint of this task, of this attempt or an earlier one.
    ///
    /// # Errors
    ///
    /// `LeaseLost`, or the backend is not reachable.
    pub async fn last_checkpoint(&self) -> Result<Option<Bytes>, ContextError> {
        // Nobody else could have kept one.
        if !self.attempt.host.is_there() {
            return Ok(None);
        }
        found(self.attempt.host.call(Call::get("read the checkpoint", self.path("checkpoint"))).await)
    }

    /// Enqueues a task of this task's family: add options, then `.await`.
    pub fn enqueue<T: Task>(&self, task: T) -> Enqueue<ToHost> {
        Enqueue { task: NewTask::new(&task), to: ToHost::new(self) }
    }

    /// Enqueues tasks of this task's family: one result each, in order.
    ///
    /// # Errors
    ///
    /// Per task, or the host cannot be reached; what came before stays enqueued.
    pub async fn enqueue_all<I>(&self, tasks: I) -> Result<Vec<Result<Enqueued, ContextError>>, ContextError>
    where
        I: IntoIterator<Item: Into<NewTask>, IntoIter: Send>,
    {
        let mut results = Vec::new();
        let mut tasks = tasks.into_iter().map(Into::into).peekable();
        while tasks.peek().is_some() {
            let (mut window, mut bytes) = (Vec::new(), 0);
            while let Some(task) = tasks.next_if(|_| window.len() < ENQUEUE_TASKS_MAX && bytes < ENQUEUE_BYTES_MAX) {
                bytes += task.size();
                window.push(task);
            }
            results.extend(ToHost::new(self).send(window).await?);
        }
        Ok(results)
    }

    /// Reads a task with its history; `None` where there is none.
    ///
    /// # Errors
    ///
    /// The backend is not reachable.
    pub async fn task(&self, id: TaskId) -> Result<Option<TaskDetail>, ContextError> {
        let what = "read the task";
        let Some(body) = found(self.attempt.host.call(Call::get(what, format!("/tasks/{id}"))).await)? else {
            return Ok(None);
        };
        detail(&body).map(Some).map_err(|error| ContextError::Host { what, source: error.into() })
    }

    /// Lists a page of tasks, the newest first.
    ///
    /// # Errors
    ///
    /// The backend is not reachable, or the cursor is not one of its own.
    pub async fn tasks(&self, filter: &Filter) -> Result<Page<TaskRecord>, ContextError> {
        self.attempt.host.json(Call::get("list tasks", format!("/tasks{}", query(filter)))).await
    }

    /// Counts tasks by queue and state, without reading them.
    ///
    /// # Errors
    ///
    /// The backend is not reachable.
    pub async fn count_tasks(&self) -> Result<Vec<StateCount>, ContextError> {
        self.attempt.host.json(Call::get("count tasks", "/counts".to_owned())).await
    }

    /// The application's blobs.
    #[must_use]
    pub fn blobs(&self) -> Blobs {
        Blobs::new(self.attempt.host.clone())
    }

    /// Runs the sweep once.
    ///
    /// # Errors
    ///
    /// `NotAllowed` where the queue's configuration does not allow `sweep`.
    pub async fn sweep(&self) -> Result<Swept, ContextError> {
        self.attempt.host.json(Call::new("sweep", Method::POST, "/sweep".to_owned(), Bytes::new())).await
    }

    /// Brings a failed task back. Returns where it stands then.
    ///
    /// # Errors
    ///
    /// `NotAllowed` where the queue's configuration does not allow `redrive`; `Invalid` where the task is
    /// not failed.
    pub async fn redrive(&self, id: TaskId) -> Result<State, ContextError> {
        #[derive(Deserialize)]
        struct Redriven {
            state: State,
        }
        let call = Call::new("redrive the task", Method::POST, format!("/tasks/{id}/redrive"), Bytes::new());
        self.attempt.host.json::<Redriven>(call).await.map(|redriven| redriven.state)
    }

    /// Why the handler was told to stop, if it asked.
    pub(crate) fn known_cancel_reason(&self) -> Option<CancelReason> {
        self.attempt.cancellation.reason()
    }

    /// Posts an output that is too large for the answer.
    pub(crate) async fn post_output(&self, output: Bytes) -> Result<BlobRef, ContextError> {
        self.attempt.host.json(Call::new("post the output", Method::PUT, self.path("output"), output)).await
    }

    /// Sends what still waits to be sent, and ends what runs in the background.
    pub(crate) async fn close(&self) {
        self.attempt.cancellation.close();
        self.attempt.progress.flush(&self.attempt.host, self.attempt.id).await;
    }

    fn path(&self, of: &str) -> String {
        format!("/tasks/{}/{of}", self.attempt.id)
    }
}

/// What was given to all handlers, by type.
#[derive(Clone, Default)]
pub(crate) struct States(Arc<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>);

impl States {
    pub(crate) fn insert<S: Send + Sync + 'static>(&mut self, state: Arc<S>) {
        Arc::make_mut(&mut self.0).insert(TypeId::of::<S>(), state);
    }

    fn get<S: Send + Sync + 'static>(&self) -> Option<Arc<S>> {
        self.0.get(&TypeId::of::<S>()).cloned().and_then(|state| state.downcast().ok())
    }
}

fn found<T>(answer: Result<T, ContextError>) -> Result<Option<T>, ContextError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(ContextError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Read in two goes: a record that lies flat beside other fields cannot hold raw JSON.
fn detail(body: &[u8]) -> Result<TaskDetail, serde_json::Error> {
    #[derive(Deserialize)]
    struct Beside {
        spec: Option<Envelope>,
        #[serde(default)]
        attempts: Vec<AttemptRecord>,
    }
    let record: TaskRecord = serde_json::from_slice(body)?;
    let Beside { spec, attempts } = serde_json::from_slice(body)?;
    Ok(TaskDetail { record, spec, attempts, refusal: None })
}

fn query(filter: &Filter) -> String {
    let mut query = String::new();
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            query.push(if query.is_empty() { '?' } else { '&' });
            query.push_str(name);
            query.push('=');
            query.push_str(&query_value(&value));
        }
    };
    add("queue", filter.queue.as_ref().map(ToString::to_string));
    add("state", filter.state.map(|state| state.to_string()));
    add("task", filter.task.as_ref().map(ToString::to_string));
    add("root", filter.root.map(|root| root.to_string()));
    add("since", filter.since.map(|since| since.as_millis().to_string()));
    add("limit", (filter.limit > 0).then(|| filter.limit.to_string()));
    add("cursor", filter.cursor.as_ref().map(|cursor| cursor.0.clone()));
    query
}

#[cfg(test)]
mod tests;
