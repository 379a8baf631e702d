//! One enqueued task, to be waited for and read. A handle is only an id: dropping it changes nothing,
//! and a new one can be made anywhere with [`Client::handle`].

use std::{marker::PhantomData, time::Duration};

use futures::Stream;
use rhubarb_core::{backend::TaskDetail, ids::TaskId, row::State};
use serde::de::DeserializeOwned;

use super::{Client, ClientError, OutputError, Update};

/// One task, whose output is an `O`.
#[derive(Debug)]
pub struct Handle<O> {
    client: Client,
    id: TaskId,
    existing: bool,
    output: PhantomData<fn() -> O>,
}

impl<O> Clone for Handle<O> {
    fn clone(&self) -> Self {
        Self::new(self.client.clone(), self.id, self.existing)
    }
}

impl<O> Handle<O> {
    pub(super) const fn new(client: Client, id: TaskId, existing: bool) -> Self {
        Self { client, id, existing, output: PhantomData }
    }

    /// The task.
    #[must_use]
    pub const fn id(&self) -> TaskId {
        self.id
    }

    /// The task was there before: its idempotency key is another's. Nothing was changed.
    #[must_use]
    pub const fn existing(&self) -> bool {
        self.existing
    }

    /// Where it stands.
    ///
    /// # Errors
    ///
    /// `NoTask`, or the backend is not reachable.
    pub async fn state(&self) -> Result<State, ClientError> {
        self.client.state(self.id).await
    }

    /// Everything that is known about it.
    ///
    /// # Errors
    ///
    /// As [`Self::state`].
    pub async fn detail(&self) -> Result<TaskDetail, ClientError> {
        self.client.task(self.id).await
    }

    /// Waits until it is settled, however long that takes. Returns the state it is settled in.
    ///
    /// # Errors
    ///
    /// As [`Self::state`].
    pub async fn wait(&self) -> Result<State, ClientError> {
        self.client.wait(self.id, Duration::MAX).await
    }

    /// How it comes along, until it is settled.
    pub fn progress(&self) -> impl Stream<Item = Result<Update, ClientError>> + Send + use<O> {
        self.client.progress(self.id)
    }

    /// Cancels it, or asks its holder to stop. Returns where it stands then.
    ///
    /// # Errors
    ///
    /// `NoTask`, or it is settled already.
    pub async fn cancel(&self) -> Result<State, ClientError> {
        let mut states = self.client.cancel(&[self.id]).await;
        states.pop().unwrap_or(Err(ClientError::NoTask(self.id)))
    }
}

impl<O: DeserializeOwned> Handle<O> {
    /// Waits until it is settled, and reads what it gave. As often as wanted.
    ///
    /// # Errors
    ///
    /// It failed, was cancelled or expired; or the backend is not reachable.
    pub async fn output(&self) -> Result<O, OutputError> {
        self.wait().await?;
        self.client.output(self.id).await
    }
}
