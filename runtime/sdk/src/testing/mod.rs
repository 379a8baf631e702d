//! Tests of handlers, without a server: a host in memory that answers the routes a handler may call.
//!
//! ```
//! # use rhubarb::{Context, Task, TaskError};
//! # #[derive(serde::Serialize, serde::Deserialize)] struct Double { number: u32 }
//! # impl Task for Double { const NAME: &'static str = "double"; type Output = u32; }
//! # async fn double(task: Double, cx: Context) -> Result<u32, TaskError> {
//! #     cx.progress(1, 1).await?;
//! #     Ok(task.number * 2)
//! # }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let host = rhubarb::testing::Host::new();
//! let output = host.run(double, Double { number: 21 }).await;
//! assert_eq!((output, host.progress().len()), (Ok(42), 1));
//! # }
//! ```

mod kept;

use std::{
    future::Future,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use bytes::Bytes;
use rhubarb_core::{
    backend::{BlobKey, Progress, StateCount, TaskRecord},
    ids::TaskId,
};
use tokio::time::Instant;

use self::kept::Kept;
use crate::{
    CancelReason, Context, Task, TaskError,
    context::{Attempt, States, routes},
};

/// How long an attempt may take where the test says nothing.
const TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// Runs a handler once, with a host that holds nothing. Arguments and output go through JSON, as they
/// do in production.
///
/// # Errors
///
/// What the handler answers; arguments or an output that do not survive JSON.
pub async fn run<T, F, R, E>(handler: F, task: T) -> Result<T::Output, TaskError>
where
    T: Task,
    F: FnOnce(T, Context) -> R,
    R: Future<Output = Result<T::Output, E>>,
    E: Into<TaskError>,
{
    Host::new().run(handler, task).await
}

/// A host in memory: what a handler finds, and what it left.
///
/// One value is one task: a second [`Self::run`] is its next attempt.
pub struct Host {
    kept: Arc<Kept>,
    id: TaskId,
    attempt: u32,
    max_attempts: u32,
    timeout: Duration,
    gpus: Vec<String>,
    states: States,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// A host that holds nothing.
    #[must_use]
    pub fn new() -> Self {
        let id = TaskId::mint();
        Self {
            kept: Arc::new(Kept::new(id)),
            id,
            attempt: 1,
            max_attempts: 1,
            timeout: TIMEOUT,
            gpus: Vec::new(),
            states: States::default(),
        }
    }

    /// An earlier attempt left this checkpoint.
    #[must_use]
    pub fn with_checkpoint(self, content: impl Into<Bytes>) -> Self {
        self.kept.lock().checkpoint = Some(content.into());
        self
    }

    /// The application has this blob.
    ///
    /// # Panics
    ///
    /// The key is none.
    #[must_use]
    pub fn with_blob(self, key: &str, content: impl Into<Bytes>) -> Self {
        self.kept.lock().blobs.insert(blob_key(key), content.into());
        self
    }

    /// The function has this state.
    #[must_use]
    pub fn with_state<S: Send + Sync + 'static>(mut self, state: S) -> Self {
        self.states.insert(Arc::new(state));
        self
    }

    /// It is this attempt of so many.
    #[must_use]
    pub const fn with_attempt(mut self, attempt: u32, max_attempts: u32) -> Self {
        (self.attempt, self.max_attempts) = (attempt, max_attempts);
        self
    }

    /// An attempt may take so long.
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// These devices are leased for it.
    #[must_use]
    pub fn with_gpus(mut self, gpus: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.gpus = gpus.into_iter().map(Into::into).collect();
        self
    }

    /// The store has these tasks, the newest first.
    #[must_use]
    pub fn with_tasks(self, tasks: impl IntoIterator<Item = TaskRecord>) -> Self {
        self.kept.lock().tasks.extend(tasks);
        self
    }

    /// The store counts tasks like this.
    #[must_use]
    pub fn with_counts(self, counts: impl IntoIterator<Item = StateCount>) -> Self {
        self.kept.lock().counts.extend(counts);
        self
    }

    /// The context of an attempt.
    #[must_use]
    pub fn context(&self) -> Context {
        let host = routes::Host::new(Arc::clone(&self.kept) as Arc<dyn routes::Routes>);
        let room = Arc::new(AtomicUsize::new(usize::MAX));
        let attempt = Attempt {
            attempt: self.attempt,
            max_attempts: self.max_attempts,
            gpus: self.gpus.clone(),
            ..Attempt::new(self.id, host, self.states.clone(), room, Instant::now() + self.timeout)
        };
        Context { attempt: Arc::new(attempt) }
    }

    /// Runs one attempt. Arguments and output go through JSON, as they do in production.
    ///
    /// # Errors
    ///
    /// What the handler answers; arguments or an output that do not survive JSON.
    pub async fn run<T, F, R, E>(&self, handler: F, task: T) -> Result<T::Output, TaskError>
    where
        T: Task,
        F: FnOnce(T, Context) -> R,
        R: Future<Output = Result<T::Output, E>>,
        E: Into<TaskError>,
    {
        let cx = self.context();
        let task = through_json(&task)?;
        let result = handler(task, cx.clone()).await;
        cx.close().await;
        through_json(&result.map_err(Into::into)?)
    }

    /// Tells the handler to stop.
    pub fn cancel(&self, reason: CancelReason) {
        self.kept.cancel(reason);
    }

    /// Takes the lease away: every call of the attempt answers `LeaseLost` from now on.
    pub fn lose_lease(&self) {
        self.kept.lock().lease_lost = true;
        self.kept.cancel(CancelReason::LeaseLost);
    }

    /// Takes the store away, or brings it back: meanwhile every call answers `Unavailable`.
    pub fn set_store_reachable(&self, reachable: bool) {
        self.kept.lock().store_is_down = !reachable;
    }

    /// The progress that reached the host, in order: thinned, the last one always there.
    #[must_use]
    pub fn progress(&self) -> Vec<Progress> {
        self.kept.lock().progress.clone()
    }

    /// The last checkpoint.
    #[must_use]
    pub fn checkpoint(&self) -> Option<Bytes> {
        self.kept.lock().checkpoint.clone()
    }

    /// A blob.
    ///
    /// # Panics
    ///
    /// The key is none.
    #[must_use]
    pub fn blob(&self, key: &str) -> Option<Bytes> {
        self.kept.lock().blobs.get(&blob_key(key)).cloned()
    }

    /// The keys of all blobs, in order.
    #[must_use]
    pub fn blob_keys(&self) -> Vec<String> {
        self.kept.lock().blobs.keys().map(ToString::to_string).collect()
    }

    /// The tasks of this kind that the handler enqueued, in order.
    ///
    /// # Panics
    ///
    /// One of them is not what its type says.
    #[must_use]
    #[expect(clippy::expect_used, reason = "made for tests, where a panic is the failure")]
    pub fn enqueued<T: Task>(&self) -> Vec<T> {
        let kept = self.kept.lock();
        let of_kind = kept.enqueued.iter().filter(|task| task["task"] == T::NAME);
        of_kind
            .map(|task| serde_json::from_value(task["args"].clone()).expect("arguments of the task's type"))
            .collect()
    }

    /// What the handler asked to be enqueued, as it goes over the wire.
    #[must_use]
    pub fn enqueued_json(&self) -> Vec<serde_json::Value> {
        self.kept.lock().enqueued.clone()
    }

    /// The tasks that the handler brought back, in order.
    #[must_use]
    pub fn redriven(&self) -> Vec<TaskId> {
        self.kept.lock().redriven.clone()
    }

    /// How often the handler ran the sweep.
    #[must_use]
    pub fn sweeps(&self) -> usize {
        self.kept.lock().sweeps
    }
}

#[expect(clippy::expect_used, reason = "made for tests, where a panic is the failure")]
fn blob_key(key: &str) -> BlobKey {
    BlobKey::new(key).expect("a blob key")
}

fn through_json<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> Result<T, TaskError> {
    Ok(serde_json::from_str(&serde_json::to_string(value)?)?)
}

/// The host of the task with this id, for the sdk's own tests.
#[cfg(test)]
pub(crate) fn fake(id: TaskId) -> (routes::Host, Arc<Kept>) {
    let kept = Arc::new(Kept::new(id));
    (routes::Host::new(Arc::clone(&kept) as Arc<dyn routes::Routes>), kept)
}
