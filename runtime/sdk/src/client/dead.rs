//! Dead letters: tasks that failed for good. Their rows are the dead letters; listing, redriving and discarding work
//! on rows alone.
//!
//! A message that somebody moves by hand from the broker's dead-letter queue to the queue does not bring a task back:
//! it cannot be told from a late doorbell, and is deleted like that of any settled task. Only [`Client::redrive`] and
//! [`Client::redrive_dead`] do. Both, and the discards, may be cut off at any point and repeated: what is done is done,
//! and no longer found.

use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use rhubarb_core::{
    backend::{Cursor, Filter, TaskRecord},
    ids::{QueueName, TaskId, TaskName},
    row::State,
    time::Timestamp,
};

use super::{Client, ClientError};

/// Tasks that one read brings, and that one write changes.
const PAGE: usize = 500;

/// Which dead letters. What is left out fits all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadFilter {
    /// Of this queue.
    pub queue: Option<QueueName>,
    /// Of this kind.
    pub task: Option<TaskName>,
    /// That failed at or after this.
    pub since: Option<Timestamp>,
    /// For this reason: the failure's kind, or the end of its path (`Timeout` fits `requests.Timeout`).
    pub reason: Option<String>,
}

impl DeadFilter {
    fn fits(&self, record: &TaskRecord) -> bool {
        // Listings may lag: what has been brought back meanwhile is no dead letter.
        let fails = record.state == State::Failed;
        let since = self.since.is_none_or(|since| record.settled.is_some_and(|at| at >= since));
        let reason = self.reason.as_ref();
        fails
            && since
            && reason.is_none_or(|reason| record.failure.as_ref().is_some_and(|failure| failure.is_of(reason)))
    }

    fn page(&self, cursor: Option<Cursor>) -> Filter {
        Filter {
            queue: self.queue.clone(),
            task: self.task.clone(),
            state: Some(State::Failed),
            limit: PAGE,
            cursor,
            ..Filter::default()
        }
    }
}

/// What became of one dead letter.
pub type Changed<T> = (TaskId, Result<T, ClientError>);

impl Client {
    /// The dead letters that fit, those accepted last first; as many as there are, in bounded memory. The stream ends
    /// after an error.
    pub fn dead(&self, filter: &DeadFilter) -> BoxStream<'static, Result<TaskRecord, ClientError>> {
        let pages = self.dead_pages(filter.clone());
        pages.map_ok(|page| stream::iter(page.into_iter().map(Ok))).try_flatten().boxed()
    }

    fn dead_pages(&self, filter: DeadFilter) -> BoxStream<'static, Result<Vec<TaskRecord>, ClientError>> {
        let begin = (self.clone(), filter, Some(None));
        stream::try_unfold(begin, |(client, filter, at)| async move {
            let Some(cursor) = at else { return Ok(None) };
            let page = client.tasks(&filter.page(cursor)).await?;
            let fitting = page.items.into_iter().filter(|record| filter.fits(record)).collect();
            Ok(Some((fitting, (client, filter, page.next.map(Some)))))
        })
        .boxed()
    }

    /// Brings every dead letter back that fits: same id, attempts from 1, both runs in the history. An item for each;
    /// the stream must be read for anything to happen.
    pub fn redrive_dead(&self, filter: &DeadFilter) -> BoxStream<'static, Result<Changed<State>, ClientError>> {
        let client = self.clone();
        let changed = self.dead_pages(filter.clone()).and_then(move |page| {
            let client = client.clone();
            async move {
                let ids: Vec<TaskId> = page.iter().map(|record| record.id).collect();
                let answers = client.redrive(&ids).await;
                Ok(stream::iter(ids.into_iter().zip(answers).map(Ok)))
            }
        });
        changed.try_flatten().boxed()
    }

    /// Forgets failed tasks for good: arguments, history, blobs. What is left is a tombstone, which keeps a late message
    /// from running the task.
    ///
    /// # Errors
    ///
    /// Per item: `NoTask`, also where it was discarded before; it is not failed; the backend is not reachable.
    pub async fn discard(&self, ids: &[TaskId]) -> Vec<Result<(), ClientError>> {
        self.backend().discard(ids).await.into_iter().map(|answer| answer.map_err(Into::into)).collect()
    }

    /// Forgets every dead letter that fits, as [`Self::discard`] does. An item for each; the stream must be read for
    /// anything to happen.
    pub fn discard_dead(&self, filter: &DeadFilter) -> BoxStream<'static, Result<Changed<()>, ClientError>> {
        let client = self.clone();
        let changed = self.dead_pages(filter.clone()).and_then(move |page| {
            let client = client.clone();
            async move {
                let ids: Vec<TaskId> = page.iter().map(|record| record.id).collect();
                let answers = client.discard(&ids).await;
                Ok(stream::iter(ids.into_iter().zip(answers).map(Ok)))
            }
        });
        changed.try_flatten().boxed()
    }
}
