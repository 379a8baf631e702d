//! What is done with a receipt: extended, released, deleted.
//!
//! SQS hides a message for twelve hours at most, counted from its receive, and refuses an extension that would
//! pass that. So the time of each receive is kept here, for a bounded number of messages, and an extension is
//! cut to what is left. A receipt that is not known here (received by another process, or long ago) is extended
//! as asked: SQS decides.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
};
use rhubarb_core::{
    backend::{Result, StoreError},
    ids::{QueueName, ReceiptHandle},
};
use tokio::time::Instant;

use super::{
    SqsBroker,
    batch::{self, Answered, BatchCall, by_number},
    seconds,
};

/// Receipts remembered in each of two generations.
const GENERATION_MAX: usize = 10_000;

/// When messages were received. The older generation is forgotten when the younger one is full.
#[derive(Debug, Default)]
pub(super) struct Receipts(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<ReceiptHandle, Instant>,
    old: HashMap<ReceiptHandle, Instant>,
}

impl Receipts {
    /// Notes receipts of a receive that began then.
    pub(super) fn note<'a>(&self, receipts: impl Iterator<Item = &'a ReceiptHandle>, at: Instant) {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for receipt in receipts {
            if generations.young.len() >= GENERATION_MAX {
                generations.old = std::mem::take(&mut generations.young);
            }
            generations.young.insert(receipt.clone(), at);
        }
    }

    fn received(&self, receipt: &ReceiptHandle) -> Option<Instant> {
        let generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        generations.young.get(receipt).or_else(|| generations.old.get(receipt)).copied()
    }

    fn forget(&self, receipts: &[ReceiptHandle]) {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for receipt in receipts {
            if generations.young.remove(receipt).is_none() {
                generations.old.remove(receipt);
            }
        }
    }
}

impl SqsBroker {
    pub(super) async fn extend_all(
        &self,
        queue: &QueueName,
        receipts: &[(ReceiptHandle, Duration)],
    ) -> Vec<Result<()>> {
        let now = Instant::now();
        let times: Vec<Option<i32>> =
            receipts.iter().map(|(receipt, time)| self.hideable(receipt, *time, now)).collect();
        let batches = by_number((0..receipts.len()).filter(|item| times[*item].is_some()), self.inner.limits.batch_max);
        let extend = |url| Extend { broker: self, queue, url, receipts, times: &times };
        let given = match self.url(queue).await {
            Ok(url) => batch::run(&extend(&*url), batches, false).await,
            Err(error) => batches.into_iter().flatten().map(|item| (item, Err(error.clone()))).collect(),
        };
        // One without a time is past its twelve hours: its message is back.
        let mut answers: Vec<Result<()>> = times.iter().map(|_| Err(StoreError::ReceiptExpired)).collect();
        for (item, answer) in given {
            answers[item] = answer;
        }
        answers
    }

    /// Seconds that a message may be hidden from now; `None` if its time is over.
    fn hideable(&self, receipt: &ReceiptHandle, time: Duration, now: Instant) -> Option<i32> {
        let max = self.inner.limits.visibility_max;
        let asked = seconds(time.min(max));
        let Some(received) = self.inner.receipts.received(receipt) else { return Some(asked) };
        let left = max.checked_sub(now.duration_since(received)).filter(|left| !left.is_zero())?;
        // Rounded down: SQS refuses what passes the limit. At least a second, or it would be back at once.
        let left = i32::try_from(left.as_secs()).unwrap_or(i32::MAX).max(1);
        Some(asked.min(left))
    }

    pub(super) async fn delete_all(&self, queue: &QueueName, receipts: &[ReceiptHandle]) -> Vec<Result<()>> {
        let batches = by_number(0..receipts.len(), self.inner.limits.batch_max);
        let given = match self.url(queue).await {
            Ok(url) => batch::run(&Delete { broker: self, queue, url: &url, receipts }, batches, false).await,
            Err(error) => (0..receipts.len()).map(|item| (item, Err(error.clone()))).collect(),
        };
        self.inner.receipts.forget(receipts);
        let mut answers: Vec<Result<()>> = receipts.iter().map(|_| Ok(())).collect();
        for (item, answer) in given {
            answers[item] = answer;
        }
        answers
    }
}

struct Extend<'a> {
    broker: &'a SqsBroker,
    queue: &'a QueueName,
    url: &'a str,
    receipts: &'a [(ReceiptHandle, Duration)],
    times: &'a [Option<i32>],
}

#[async_trait]
impl BatchCall for Extend<'_> {
    type Given = ();

    fn what(&self) -> String {
        format!("extend messages of queue `{}`", self.queue)
    }

    async fn call(&self, items: &[usize]) -> Result<Answered<()>> {
        let entry = |item: &usize| {
            ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(item.to_string())
                .receipt_handle(self.receipts[*item].0.as_str())
                .set_visibility_timeout(self.times[*item])
                .build()
        };
        let entries: std::result::Result<Vec<_>, _> = items.iter().map(entry).collect();
        let entries = entries.map_err(|error| StoreError::Invalid(error.to_string()))?;
        let client = &self.broker.inner.client;
        let answer =
            client.change_message_visibility_batch().queue_url(self.url).set_entries(Some(entries)).send().await;
        let answer = answer.map_err(|error| self.broker.failed("extend messages of", self.queue, &error))?;
        let done = answer.successful.into_iter().filter_map(|done| Some((done.id.parse().ok()?, ()))).collect();
        Ok(Answered { done, failed: answer.failed })
    }

    fn is_final(&self, entry: &BatchResultErrorEntry) -> bool {
        entry.sender_fault || is_about_the_receipt(entry)
    }

    fn refused(&self, entry: &BatchResultErrorEntry) -> Result<()> {
        if is_about_the_receipt(entry) {
            return Err(StoreError::ReceiptExpired);
        }
        let message = entry.message.as_deref().unwrap_or_default();
        let (queue, code) = (self.queue, &entry.code);
        Err(StoreError::Invalid(format!("SQS did not extend a message of queue `{queue}` ({code}): {message}")))
    }
}

struct Delete<'a> {
    broker: &'a SqsBroker,
    queue: &'a QueueName,
    url: &'a str,
    receipts: &'a [ReceiptHandle],
}

#[async_trait]
impl BatchCall for Delete<'_> {
    type Given = ();

    fn what(&self) -> String {
        format!("delete messages of queue `{}`", self.queue)
    }

    async fn call(&self, items: &[usize]) -> Result<Answered<()>> {
        let entry = |item: &usize| {
            DeleteMessageBatchRequestEntry::builder()
                .id(item.to_string())
                .receipt_handle(self.receipts[*item].as_str())
                .build()
        };
        let entries: std::result::Result<Vec<_>, _> = items.iter().map(entry).collect();
        let entries = entries.map_err(|error| StoreError::Invalid(error.to_string()))?;
        let client = &self.broker.inner.client;
        let answer = client.delete_message_batch().queue_url(self.url).set_entries(Some(entries)).send().await;
        let answer = answer.map_err(|error| self.broker.failed("delete messages of", self.queue, &error))?;
        let done = answer.successful.into_iter().filter_map(|done| Some((done.id.parse().ok()?, ()))).collect();
        Ok(Answered { done, failed: answer.failed })
    }

    fn is_final(&self, entry: &BatchResultErrorEntry) -> bool {
        entry.sender_fault || is_about_the_receipt(entry)
    }

    /// A message that is gone is as deleted as can be. Of a FIFO queue SQS tells an expired receipt apart.
    fn refused(&self, entry: &BatchResultErrorEntry) -> Result<()> {
        let message = entry.message.as_deref().unwrap_or_default();
        if message.contains("expired") {
            return Err(StoreError::ReceiptExpired);
        }
        if entry.code.ends_with("ReceiptHandleIsInvalid") {
            return Ok(());
        }
        let (queue, code) = (self.queue, &entry.code);
        Err(StoreError::Invalid(format!("SQS did not delete a message of queue `{queue}` ({code}): {message}")))
    }
}

/// SQS says in several ways that the message of a receipt is gone, visible or received again.
fn is_about_the_receipt(entry: &BatchResultErrorEntry) -> bool {
    let message = entry.message.as_deref().unwrap_or_default();
    ["MessageNotInflight", "ReceiptHandleIsInvalid"].iter().any(|code| entry.code.ends_with(code))
        || message.contains("ReceiptHandle")
        || message.contains("receipt handle")
}
