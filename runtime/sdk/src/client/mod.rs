//! The producer's side: enqueue tasks, wait for them, read what they gave, look at the whole.
//!
//! A client is a backend and a configuration; it keeps nothing of its own. What `enqueue` has returned,
//! the backend has.

mod dead;
mod enqueue;
mod error;
mod handle;
#[cfg(any(feature = "local", feature = "aws"))]
mod open;
mod queues;
mod schedules;
mod tree;
mod waiting;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures::{
    Stream,
    stream::{self, BoxStream},
};
use rhubarb_core::{
    backend::{AttemptRecord, Backend, Filter, Heard, Page, Progress, StoreError, TaskDetail, TaskRecord},
    config::{Config, Track},
    ids::{TaskId, TaskName},
    outcome::{Failure, Output},
    row::State,
    time::Timestamp,
};
use rhubarb_telemetry::queues::Queues;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::time::Instant;

#[cfg(any(feature = "local", feature = "aws"))]
pub use self::open::OpenError;
pub use self::{
    dead::{Changed, DeadFilter},
    enqueue::{ENQUEUE_WINDOW, ToBackend},
    error::{ClientError, OutputError},
    handle::Handle,
    queues::QueueStatus,
    schedules::ScheduleStatus,
    tree::{Tree, TreeTask},
    waiting::WaitReason,
};
use crate::{
    Task,
    context::Enqueued,
    new_task::{Enqueue, NewTask},
};

/// One long wait for a task to be settled.
const WAIT_STEP: Duration = Duration::from_secs(20);
/// How often progress is looked at.
const PROGRESS_STEP: Duration = Duration::from_millis(200);

/// Enqueues tasks and reads what became of them. Cloning is cheap.
#[derive(Clone)]
pub struct Client {
    backend: Arc<dyn Backend>,
    config: Arc<Config>,
    queues: Arc<Queues>,
    clock: fn() -> Timestamp,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("app", &self.config.app.name).finish_non_exhaustive()
    }
}

/// How a task comes along.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Update {
    /// Where it stands.
    pub state: State,
    /// Attempts begun and not given back.
    pub attempt: u32,
    /// How far it has come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

impl Client {
    /// A client of this backend, with this configuration.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>, config: Arc<Config>) -> Self {
        let queues = Arc::new(Queues::of(&config));
        Self { backend, config, queues, clock: || Timestamp::from_system(SystemTime::now()) }
    }

    /// Counts delays from another clock than the system's: for tests that move their time.
    #[must_use]
    pub fn with_clock(mut self, clock: fn() -> Timestamp) -> Self {
        self.clock = clock;
        self
    }

    fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The backend.
    #[must_use]
    pub fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    /// Enqueues a task: add options, then `.await`. It returns after the backend has it.
    pub fn enqueue<T: Task>(&self, task: T) -> Enqueue<ToBackend<T::Output>> {
        Enqueue { task: NewTask::new(&task), to: ToBackend::new(self.clone()) }
    }

    /// Enqueues a task whose type this program does not know.
    pub fn enqueue_named(&self, task: TaskName, args: Box<RawValue>) -> Enqueue<ToBackend<Box<RawValue>>> {
        Enqueue { task: NewTask::named(task, args), to: ToBackend::new(self.clone()) }
    }

    /// Enqueues a stream of any length in bounded memory: one result per task, in order. For tasks at
    /// hand use `futures::stream::iter`.
    ///
    /// Ids are minted before a task is sent. A crash leaves a prefix and at most one window of
    /// [`ENQUEUE_WINDOW`] tasks behind; repeating the stream with the same ids ([`NewTask::id`]) brings in
    /// the rest, and says `existing` of what was there. The next window is prepared while one is written.
    ///
    /// ```no_run
    /// # use futures::StreamExt as _;
    /// # async fn enqueue(client: rhubarb::Client, tasks: Vec<rhubarb::NewTask>) -> Result<(), rhubarb::ClientError> {
    /// let mut accepted = client.enqueue_all(futures::stream::iter(tasks));
    /// while let Some(enqueued) = accepted.next().await {
    ///     println!("{}", enqueued?.id);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn enqueue_all<'a, S>(&self, tasks: S) -> BoxStream<'a, Result<Enqueued, ClientError>>
    where
        S: Stream + Send + 'a,
        S::Item: Into<NewTask>,
    {
        enqueue::enqueue_all(self.clone(), tasks)
    }

    /// A handle of a task that was enqueued earlier, or elsewhere.
    #[must_use]
    pub fn handle<O>(&self, id: TaskId) -> Handle<O> {
        Handle::new(self.clone(), id, true)
    }

    /// Where a task stands.
    ///
    /// # Errors
    ///
    /// `NoTask`, or the backend is not reachable.
    pub async fn state(&self, id: TaskId) -> Result<State, ClientError> {
        self.settled_within(id, Duration::ZERO).await
    }

    /// Waits until a task is settled, at most so long. Returns where it stands then.
    ///
    /// # Errors
    ///
    /// As [`Self::state`].
    pub async fn wait(&self, id: TaskId, timeout: Duration) -> Result<State, ClientError> {
        let began = Instant::now();
        loop {
            let left = timeout.saturating_sub(began.elapsed());
            let state = self.settled_within(id, left.min(WAIT_STEP)).await?;
            if state.is_settled() || left.is_zero() {
                return Ok(state);
            }
        }
    }

    async fn settled_within(&self, id: TaskId, wait: Duration) -> Result<State, ClientError> {
        let states = self.backend.tasks().wait_settled(&[id], wait).await?;
        states.into_iter().next().flatten().ok_or_else(|| self.no_task(id))
    }

    /// Reads what a task gave, as often as wanted; a task that gave nothing gives `null`. Does not wait.
    ///
    /// # Errors
    ///
    /// It is not settled, failed, was cancelled or expired; it gave something else than an `O`; or the
    /// backend is not reachable.
    pub async fn output<O: DeserializeOwned>(&self, id: TaskId) -> Result<O, OutputError> {
        let json = self.output_json(id).await?;
        serde_json::from_slice(&json).map_err(|source| OutputError::Type { id, source })
    }

    async fn output_json(&self, id: TaskId) -> Result<Bytes, OutputError> {
        let record = self.task(id).await?.record;
        match record.state {
            State::Succeeded => match record.output {
                None => Ok(Bytes::from_static(b"null")),
                Some(Output::Inline(json)) => Ok(Bytes::from(String::from(Box::<str>::from(json)))),
                Some(Output::Blob(blob)) => Ok(self.backend.blobs().check_out(&blob).await?),
            },
            State::Failed => {
                let unknown = || Failure::new("unknown", "the reason is not kept any more");
                Err(OutputError::Failed { id, failure: record.failure.unwrap_or_else(unknown) })
            }
            State::Cancelled => Err(OutputError::Cancelled(id)),
            State::Expired => Err(OutputError::Expired(id)),
            state @ (State::Scheduled | State::Waiting | State::Queued | State::Running | State::Retrying) => {
                Err(OutputError::NotSettled { id, state })
            }
        }
    }

    /// How a task comes along: an item at once, one for each change that is seen, and the last when it is
    /// settled. The stream ends there, or after an error.
    pub fn progress(&self, id: TaskId) -> impl Stream<Item = Result<Update, ClientError>> + Send + use<> {
        let state = Some((self.clone(), None::<Update>));
        stream::unfold(state, move |state| async move {
            let (client, last) = state?;
            match client.changed(id, last.as_ref()).await {
                Ok(update) if update.state.is_settled() => Some((Ok(update), None)),
                Ok(update) => Some((Ok(update.clone()), Some((client, Some(update))))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn changed(&self, id: TaskId, last: Option<&Update>) -> Result<Update, ClientError> {
        loop {
            if last.is_some() {
                // Returns at once when it is settled, and is the pause otherwise.
                self.settled_within(id, PROGRESS_STEP).await?;
            }
            let TaskRecord { state, attempt, progress, .. } = self.task(id).await?.record;
            let update = Update { state, attempt, progress };
            if last != Some(&update) {
                return Ok(update);
            }
        }
    }

    /// Everything that is known about a task: its record, its envelope, its attempts.
    ///
    /// # Errors
    ///
    /// `NoTask`, or the backend is not reachable.
    pub async fn task(&self, id: TaskId) -> Result<TaskDetail, ClientError> {
        let found = self.backend.tasks().read(&[id]).await?;
        found.into_iter().next().flatten().ok_or_else(|| self.no_task(id))
    }

    /// Why a task is not found.
    fn no_task(&self, id: TaskId) -> ClientError {
        let rowless = self.config.queues.values().filter(|queue| queue.track != Track::Full);
        let queues: Vec<&str> = rowless.map(|queue| queue.name.as_str()).collect();
        if queues.is_empty() {
            return ClientError::NoTask(id);
        }
        ClientError::NoRow { id, queues: queues.join(", ") }
    }

    /// Lists a page of tasks, the newest first; [`Page::next`] is the next page's cursor.
    ///
    /// # Errors
    ///
    /// The backend is not reachable, or the cursor is not one of its own.
    pub async fn tasks(&self, filter: &Filter) -> Result<Page<TaskRecord>, ClientError> {
        Ok(self.backend.tasks().list(filter).await?)
    }

    /// The attempts of a task, oldest first, with what the function printed in each.
    ///
    /// # Errors
    ///
    /// `NoTask`, or the backend is not reachable.
    pub async fn logs(&self, id: TaskId) -> Result<Vec<AttemptRecord>, ClientError> {
        Ok(self.task(id).await?.attempts)
    }

    /// Cancels tasks, or asks their holders to stop: where each stands then. A task without a row can be cancelled as
    /// long as it waits outside its queue for its time.
    pub async fn cancel(&self, ids: &[TaskId]) -> Vec<Result<State, ClientError>> {
        let states = self.backend.tasks().cancel(ids).await;
        let mut answers = Vec::with_capacity(states.len());
        for state in states {
            answers.push(match state {
                Err(StoreError::NoTask(id)) => self.cancel_rowless(id).await,
                state => state.map_err(Into::into),
            });
        }
        answers
    }

    async fn cancel_rowless(&self, id: TaskId) -> Result<State, ClientError> {
        let is_any = self.config.queues.values().any(|queue| queue.track != Track::Full);
        let forgotten = match self.backend.schedules().later().filter(|_| is_any) {
            Some(later) => later.forget(&[id]).await.pop().transpose()?.unwrap_or(false),
            None => false,
        };
        if forgotten { Ok(State::Cancelled) } else { Err(self.no_task(id)) }
    }

    /// Brings failed tasks back, the only road there is: same id, attempts from 1, both runs in the history. Where each
    /// stands then. See [`Self::redrive_dead`] for all that fit a filter.
    pub async fn redrive(&self, ids: &[TaskId]) -> Vec<Result<State, ClientError>> {
        let settled = self.backend.redrive(ids).await;
        settled.into_iter().map(|settled| Ok(settled?.state)).collect()
    }

    /// The workers, the silent ones too.
    ///
    /// # Errors
    ///
    /// The backend is not reachable.
    pub async fn workers(&self) -> Result<Vec<Heard>, ClientError> {
        Ok(self.backend.workers().list().await?)
    }
}
