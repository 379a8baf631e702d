//! Enqueuing: ids are minted first, large arguments are stored first, then the backend accepts.
//!
//! A crash in the middle leaves a prefix and at most one window of a bulk enqueue behind; repeating it
//! with the same ids brings in the rest and changes nothing that is there.

use std::{
    collections::VecDeque,
    future::{Future, IntoFuture, ready},
    marker::PhantomData,
    pin::Pin,
    task::Poll,
};

use bytes::Bytes;
use futures::{
    FutureExt, Stream, StreamExt,
    future::{BoxFuture, Either, select},
    poll,
    stream::{self, BoxStream},
};
use rhubarb_core::{
    backend::{BlobKey, Submission, Submitted, rowless},
    enqueue::Prepared,
    ids::TaskId,
};
use rhubarb_telemetry::spans;

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
            let window = vec![prepare(&client, self.task)];
            let (id, submitted) = submit(&client, window).await.pop().unwrap_or(Err(unanswered()))?;
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
pub(super) fn enqueue_all<'a, S>(client: Client, tasks: S) -> BoxStream<'a, Result<Enqueued, ClientError>>
where
    S: Stream + Send + 'a,
    S::Item: Into<NewTask>,
{
    let preparer = client.clone();
    let windows = tasks.map(move |task| prepare(&preparer, task.into())).ready_chunks(ENQUEUE_WINDOW);
    let bulk = Bulk { client, windows: windows.fuse().boxed(), writing: None };
    stream::unfold(bulk, |mut bulk| async move { bulk.step().await.map(|results| (results, bulk)) })
        .flat_map(stream::iter)
        .boxed()
}

type Window = Vec<Result<Ready, ClientError>>;
type Results = VecDeque<Result<Enqueued, ClientError>>;

/// One window is written, never two, so that what a crash leaves is a prefix and tasks keep their order.
/// Meanwhile the next one is prepared, and the results of the last one are read.
struct Bulk<'a> {
    client: Client,
    windows: BoxStream<'a, Window>,
    writing: Option<BoxFuture<'static, Results>>,
}

impl Bulk<'_> {
    /// Returns the results of the next window, or none when all are written.
    async fn step(&mut self) -> Option<Results> {
        let writing = match self.writing.take() {
            Some(writing) => writing,
            None => {
                let first = self.windows.next().await?;
                begun(write(self.client.clone(), first)).await
            }
        };
        match select(self.windows.next(), writing).await {
            Either::Left((Some(window), writing)) => {
                let results = writing.await;
                self.writing = Some(begun(write(self.client.clone(), window)).await);
                Some(results)
            }
            Either::Left((None, writing)) => Some(writing.await),
            // The stream is slow: it may have nothing for a long time.
            Either::Right((results, _)) => Some(results),
        }
    }
}

fn write(client: Client, window: Window) -> BoxFuture<'static, Results> {
    async move {
        let submitted = submit(&client, window).await;
        submitted.into_iter().map(|result| result.map(|(id, submitted)| enqueued(id, submitted))).collect()
    }
    .boxed()
}

/// Hands a window to the backend, so that it has work while the next is prepared and results are read.
async fn begun(mut writing: BoxFuture<'static, Results>) -> BoxFuture<'static, Results> {
    match poll!(&mut writing) {
        Poll::Ready(results) => ready(results).boxed(),
        Poll::Pending => writing,
    }
}

const fn enqueued(id: TaskId, submitted: Submitted) -> Enqueued {
    match submitted {
        Submitted::New => Enqueued { id, existing: false },
        Submitted::Exists(_) => Enqueued { id, existing: true },
        Submitted::Keyed(first) => Enqueued { id: first, existing: true },
    }
}

/// A task that is routed and checked, and the span of its sending.
struct Ready {
    what: What,
    span: spans::Send,
}

enum What {
    Small(Submission),
    /// Its arguments are stored first, under this key.
    Large(Box<Prepared>, BlobKey),
}

impl Ready {
    /// What the caller does now is what the task hangs under.
    fn new(client: &Client, mut prepared: Prepared) -> Self {
        let span = spans::Send::begin(&client.queues, &mut prepared, &spans::Context::current());
        let what = match prepared.needs_claim_check() {
            None => What::Small(prepared.submission()),
            Some(key) => What::Large(Box::new(prepared), key),
        };
        Self { what, span }
    }
}

fn prepare(client: &Client, task: NewTask) -> Result<Ready, ClientError> {
    let task = task.into_inner().map_err(ClientError::Invalid)?;
    let limits = client.backend().broker().limits();
    Ok(Ready::new(client, task.prepare(client.config(), limits, client.now(), TaskId::mint())?))
}

/// Submits one task that somebody else has prepared.
pub(super) async fn submit_prepared(client: &Client, prepared: Prepared) -> Result<TaskId, ClientError> {
    let answer = submit(client, vec![Ok(Ready::new(client, prepared))]).await.pop();
    answer.unwrap_or(Err(unanswered())).map(|(id, _)| id)
}

/// Submits what is prepared: one result each, in order.
async fn submit(client: &Client, window: Window) -> Vec<Result<(TaskId, Submitted), ClientError>> {
    let mut results: Vec<Option<Result<(TaskId, Submitted), ClientError>>> = Vec::with_capacity(window.len());
    let (mut submissions, mut spans) = (Vec::with_capacity(window.len()), Vec::with_capacity(window.len()));
    for ready in window {
        let submission = match ready {
            Ok(Ready { what, span }) => {
                let submission = match what {
                    What::Small(submission) => Ok(submission),
                    What::Large(prepared, key) => with_claim_check(client, *prepared, key).await,
                };
                submission.map(|submission| (submission, span))
            }
            Err(error) => Err(error),
        };
        results.push(submission.map_or_else(
            |error| Some(Err(error)),
            |(submission, span)| {
                submissions.push(submission);
                spans.push(span);
                None
            },
        ));
    }
    if !submissions.is_empty() {
        let answers = rowless::submit(client.backend(), client.config(), &submissions, client.now()).await;
        spans.into_iter().zip(&answers).for_each(|(span, answer)| span.end(answer));
        let mut answers = submissions.iter().zip(answers);
        for open in results.iter_mut().filter(|result| result.is_none()) {
            *open = answers.next().map(|(submission, answer)| Ok((submission.id, answer?)));
        }
    }
    results.into_iter().map(|result| result.unwrap_or_else(|| Err(unanswered()))).collect()
}

async fn with_claim_check(client: &Client, mut prepared: Prepared, key: BlobKey) -> Result<Submission, ClientError> {
    let content = Bytes::copy_from_slice(prepared.envelope.args.get().as_bytes());
    let blob = client.backend().blobs().check_in(&key, content).await?;
    prepared.claim_check(blob);
    Ok(prepared.submission())
}

fn unanswered() -> ClientError {
    let what = "enqueue the task";
    let cause = std::io::Error::other("the backend gave fewer answers than there were tasks");
    ClientError::Store(rhubarb_core::backend::StoreError::unreachable(what, cause))
}
