//! Enqueuing: ids are minted first, large arguments are stored first, then the backend accepts.
//!
//! A crash in the middle leaves a prefix and at most one window of a bulk enqueue behind; repeating it
//! with the same ids brings in the rest and changes nothing that is there.

use std::{
    collections::VecDeque,
    future::{Future, IntoFuture},
    marker::PhantomData,
    pin::Pin,
};

use bytes::Bytes;
use futures::{
    FutureExt, Stream, StreamExt,
    future::{BoxFuture, Either, select},
    stream,
};
use rhubarb_core::{backend::Submitted, enqueue::Prepared, ids::TaskId};

use super::{Client, ClientError, Handle};
use crate::{
    context::Enqueued,
    new_task::{Enqueue, NewTask},
};

/// Tasks that are submitted in one call of the backend.
pub const ENQUEUE_WINDOW: usize = 1000;

/// Where a task that a producer enqueues goes: to the client's backend.
#[derive(Debug)]
pub struct ToBackend<O> {
    client: Client,
    output: PhantomData<fn() -> O>,
}

impl<O> ToBackend<O> {
    pub(super) const fn new(client: Client) -> Self {
        Self { client, output: PhantomData }
    }
}

impl<O> Enqueue<ToBackend<O>> {
    /// Says that another task made this one; `root` is the first of that task's family.
    pub fn parent(self, parent: TaskId, root: TaskId) -> Self {
        self.change(|task| task.parent = Some((parent, root)))
    }
}

impl<O: Send + 'static> IntoFuture for Enqueue<ToBackend<O>> {
    type Output = Result<Handle<O>, ClientError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let client = self.to.client;
            let named = self.task.task_id();
            let prepared = prepare(&client, self.task)?;
            let (id, submitted) = submit(&client, vec![Ok(prepared)]).await.pop().unwrap_or(Err(unanswered()))?;
            match submitted {
                // The caller chose the id, and somebody was there before.
                Submitted::Exists(state) if named.is_some() => Err(ClientError::AlreadyExists { id, state }),
                Submitted::New => Ok(Handle::new(client, id, false)),
                Submitted::Exists(_) => Ok(Handle::new(client, id, true)),
                Submitted::Keyed(first) => Ok(Handle::new(client, first, true)),
            }
        })
    }
}

/// Enqueues a stream of any length; see [`Client::enqueue_all`].
pub(super) fn enqueue_all<'a, S>(
    client: Client,
    tasks: S,
) -> impl Stream<Item = Result<Enqueued, ClientError>> + Send + use<'a, S>
where
    S: Stream + Send + 'a,
    S::Item: Into<NewTask>,
{
    let preparer = client.clone();
    let windows = tasks.map(move |task| prepare(&preparer, task.into())).ready_chunks(ENQUEUE_WINDOW);
    let state = Bulk { client, windows: Box::pin(windows.fuse()), next: None, writing: None };
    stream::unfold(state, |mut bulk| async move { bulk.step().await.map(|results| (results, bulk)) })
        .flat_map(stream::iter)
}

type Windows<'a> = Pin<Box<dyn Stream<Item = Vec<Result<Prepared, ClientError>>> + Send + 'a>>;
type Results = VecDeque<Result<Enqueued, ClientError>>;

/// One window is written while the next one is prepared.
struct Bulk<'a> {
    client: Client,
    windows: Windows<'a>,
    next: Option<Vec<Result<Prepared, ClientError>>>,
    writing: Option<BoxFuture<'static, Results>>,
}

impl Bulk<'_> {
    /// Returns the results of the next window, or none when all are written.
    async fn step(&mut self) -> Option<Results> {
        let mut writing = match self.writing.take() {
            Some(writing) => writing,
            None => {
                let window = match self.next.take() {
                    Some(window) => window,
                    None => self.windows.next().await?,
                };
                write(self.client.clone(), window)
            }
        };
        if self.next.is_none() {
            match select(writing, self.windows.next()).await {
                Either::Left((results, _)) => return Some(results),
                Either::Right((window, unfinished)) => {
                    self.next = window;
                    writing = unfinished;
                }
            }
        }
        Some(writing.await)
    }
}

fn write(client: Client, window: Vec<Result<Prepared, ClientError>>) -> BoxFuture<'static, Results> {
    async move {
        let submitted = submit(&client, window).await;
        submitted.into_iter().map(|result| result.map(|(id, submitted)| enqueued(id, submitted))).collect()
    }
    .boxed()
}

const fn enqueued(id: TaskId, submitted: Submitted) -> Enqueued {
    match submitted {
        Submitted::New => Enqueued { id, existing: false },
        Submitted::Exists(_) => Enqueued { id, existing: true },
        Submitted::Keyed(first) => Enqueued { id: first, existing: true },
    }
}

fn prepare(client: &Client, task: NewTask) -> Result<Prepared, ClientError> {
    let task = task.into_inner().map_err(ClientError::Invalid)?;
    let limits = client.backend().broker().limits();
    Ok(task.prepare(client.config(), limits, client.now(), TaskId::mint())?)
}

/// Submits what is prepared: one result each, in order.
async fn submit(
    client: &Client,
    window: Vec<Result<Prepared, ClientError>>,
) -> Vec<Result<(TaskId, Submitted), ClientError>> {
    let mut results: Vec<Option<Result<(TaskId, Submitted), ClientError>>> = Vec::with_capacity(window.len());
    let mut submissions = Vec::with_capacity(window.len());
    for prepared in window {
        match with_claim_check(client, prepared).await {
            Ok(prepared) => {
                submissions.push(prepared.submission());
                results.push(None);
            }
            Err(error) => results.push(Some(Err(error))),
        }
    }
    if !submissions.is_empty() {
        let answers = client.backend().submit(&submissions, client.now()).await;
        let mut answers = submissions.iter().zip(answers);
        for open in results.iter_mut().filter(|result| result.is_none()) {
            *open = answers.next().map(|(submission, answer)| Ok((submission.id, answer?)));
        }
    }
    results.into_iter().map(|result| result.unwrap_or_else(|| Err(unanswered()))).collect()
}

async fn with_claim_check(client: &Client, prepared: Result<Prepared, ClientError>) -> Result<Prepared, ClientError> {
    let mut prepared = prepared?;
    if let Some(key) = prepared.needs_claim_check() {
        let content = Bytes::copy_from_slice(prepared.envelope.args.get().as_bytes());
        let blob = client.backend().blobs().check_in(&key, content).await?;
        prepared.claim_check(blob);
    }
    Ok(prepared)
}

fn unanswered() -> ClientError {
    let what = "enqueue the task";
    let cause = std::io::Error::other("the backend gave fewer answers than there were tasks");
    ClientError::Store(rhubarb_core::backend::StoreError::unreachable(what, cause))
}
