//! Batch calls: ten entries at a time, and what SQS could not take is tried again by itself.
//!
//! SQS answers a batch per entry. An entry that failed by no fault of ours is sent again with the others of its
//! kind, a few times; one that is our fault, or can never succeed, never is. A batch that got no answer at all was tried three times
//! by the client and is not tried again here.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::types::BatchResultErrorEntry;
use futures::{StreamExt as _, stream};
use rhubarb_core::backend::{Result, StoreError};

use crate::error::Told;

/// Entries of one request, whatever the limits of a test say.
pub(super) const ENTRIES_MAX: usize = 10;
/// How often an entry is sent in all.
const TRIES: u32 = 3;
/// The pause before an entry is sent again; doubled once.
const PAUSE: Duration = Duration::from_millis(100);
/// Batches of one call that are under way at the same time.
const BATCHES_AT_ONCE: usize = 8;

/// What one request answered: entries are known by their number among the call's items.
#[derive(Debug)]
pub(super) struct Answered<T> {
    /// What was done.
    pub(super) done: Vec<(usize, T)>,
    /// What was not.
    pub(super) failed: Vec<BatchResultErrorEntry>,
}

/// One kind of batch call.
#[async_trait]
pub(super) trait BatchCall: Sync {
    /// What an entry gives.
    type Given: Send;

    /// What it does, as an infinitive, with its queue.
    fn what(&self) -> String;

    /// Sends these items in one request.
    async fn call(&self, items: &[usize]) -> Result<Answered<Self::Given>>;

    /// Whether SQS refused an entry for good. Emulators say that a receipt is gone and call it their own fault.
    fn is_final(&self, entry: &BatchResultErrorEntry) -> bool {
        entry.sender_fault
    }

    /// What an entry comes to that SQS refused for good.
    fn refused(&self, entry: &BatchResultErrorEntry) -> Result<Self::Given>;
}

/// Runs batches of items, in order or several at once, and returns each item's answer.
pub(super) async fn run<C: BatchCall>(
    call: &C,
    batches: Vec<Vec<usize>>,
    in_order: bool,
) -> Vec<(usize, Result<C::Given>)> {
    let at_once = if in_order { 1 } else { BATCHES_AT_ONCE };
    let mut answers = Vec::new();
    let mut running = stream::iter(batches.into_iter().map(|batch| run_one(call, batch))).buffer_unordered(at_once);
    while let Some(batch) = running.next().await {
        answers.extend(batch);
    }
    answers
}

async fn run_one<C: BatchCall>(call: &C, mut items: Vec<usize>) -> Vec<(usize, Result<C::Given>)> {
    let mut answers = Vec::with_capacity(items.len());
    let mut pause = PAUSE;
    for round in 1..=TRIES {
        let answered = match call.call(&items).await {
            Ok(answered) => answered,
            Err(error) => {
                answers.extend(items.into_iter().map(|item| (item, Err(error.clone()))));
                return answers;
            }
        };
        items.retain(|item| !answered.done.iter().any(|(done, _)| done == item));
        answers.extend(answered.done.into_iter().map(|(item, given)| (item, Ok(given))));
        let last = round == TRIES;
        for entry in answered.failed {
            let Some(item) = entry.id.parse().ok().filter(|item| items.contains(item)) else { continue };
            if call.is_final(&entry) {
                answers.push((item, call.refused(&entry)));
                items.retain(|other| *other != item);
            } else if last {
                answers.push((item, Err(not_taken(call.what(), &entry))));
                items.retain(|other| *other != item);
            }
        }
        if items.is_empty() {
            return answers;
        }
        if !last {
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
    let silence = || StoreError::unreachable(call.what(), Told("SQS did not answer for one of its entries".into()));
    answers.extend(items.into_iter().map(|item| (item, Err(silence()))));
    answers
}

fn not_taken(what: String, entry: &BatchResultErrorEntry) -> StoreError {
    let message = entry.message.as_deref().unwrap_or("no reason given");
    StoreError::unreachable(what, Told(format!("SQS answered {}: {message}", entry.code)))
}

/// Splits so many items into batches by number alone.
pub(super) fn by_number(items: impl IntoIterator<Item = usize>, max: usize) -> Vec<Vec<usize>> {
    let items: Vec<usize> = items.into_iter().collect();
    items.chunks(max.clamp(1, ENTRIES_MAX)).map(<[usize]>::to_vec).collect()
}
