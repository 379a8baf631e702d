//! The broker on SQS.
//!
//! Emulators accept what AWS refuses, so every limit is checked here before anything is sent. Whole batches are
//! tried again by the client (three times in all), entries of a batch that SQS could not take by this module.
//! A message that was received and never deleted, by a crash for instance, comes back when its visibility ends;
//! a send whose answer was lost may have been one: a second doorbell is harmless.

mod batch;
mod declare;
mod purge;
mod receipts;
mod receive;
mod send;
#[cfg(test)]
mod tests;

use std::{error::Error, sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_smithy_runtime_api::client::{orchestrator::HttpResponse, result::SdkError};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use rhubarb_core::{
    backend::{Broker, Counts, Delivery, OutgoingMessage, QueueSpec, Result, StoreError},
    config::Config,
    ids::{MessageId, QueueName, ReceiptHandle},
    limits::Limits,
};

use self::receipts::Receipts;
pub(crate) use self::send::TRACE_HEADER;
use crate::{
    connect::Connection,
    error::{answered_code, store_error},
    names::Names,
};

/// What SQS calls a queue that does not exist.
const NO_QUEUE: [&str; 2] = ["QueueDoesNotExist", "NonExistentQueue"];

/// Queues on SQS. Cheap to clone; clones share what they know.
#[derive(Clone, Debug)]
pub struct SqsBroker {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    limits: Limits,
    names: Names,
    receipts: Receipts,
    /// Makes queues that are missing.
    create: bool,
    /// For errors.
    region: String,
}

impl SqsBroker {
    /// The queues of a configuration. Connects to nothing yet. With `create`, [`Broker::declare`] makes what is
    /// missing.
    #[must_use]
    pub fn new(connection: &Connection, config: &Config, limits: Limits, create: bool) -> Self {
        let client_config =
            aws_sdk_sqs::config::Builder::from(&connection.config).interceptor(connection.requests.clone()).build();
        let region = connection.region().map_or_else(|| "no region".to_owned(), ToString::to_string);
        let (client, names) = (Client::from_conf(client_config), Names::of(config));
        let inner = Inner { client, limits, names, receipts: Receipts::default(), create, region };
        Self { inner: Arc::new(inner) }
    }

    /// A queue's URL, as plain producers want it.
    ///
    /// # Errors
    ///
    /// `NoQueue`, or SQS cannot be reached.
    pub async fn url(&self, queue: &QueueName) -> Result<Arc<str>> {
        if let Some(url) = self.inner.names.url(queue) {
            return Ok(url);
        }
        let name = self.inner.names.get(queue).name;
        let answer = self.inner.client.get_queue_url().queue_name(name).send().await;
        let url = answer.map_err(|error| self.failed("find", queue, &error))?.queue_url.unwrap_or_default();
        let url: Arc<str> = url.into();
        self.inner.names.found(queue, Arc::clone(&url));
        Ok(url)
    }

    /// After how many receives SQS moves a message of this queue aside, as far as is known.
    pub(crate) fn max_receives(&self, queue: &QueueName) -> Option<u32> {
        self.inner.names.max_receives(queue)
    }

    /// What a failed call of a queue comes to.
    fn failed<E>(&self, verb: &str, queue: &QueueName, error: &SdkError<E, HttpResponse>) -> StoreError
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        if answered_code(error).is_some_and(|code| NO_QUEUE.contains(&code)) {
            self.inner.names.lost(queue);
            return StoreError::NoQueue(queue.clone());
        }
        store_error(format!("{verb} queue `{queue}`"), error)
    }
}

#[async_trait]
impl Broker for SqsBroker {
    fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    fn is_fifo(&self, queue: &QueueName) -> bool {
        self.inner.names.is_fifo(queue)
    }

    async fn declare(&self, queues: &[QueueSpec]) -> Result<()> {
        self.declare_all(queues).await
    }

    async fn send(&self, queue: &QueueName, messages: &[OutgoingMessage]) -> Vec<Result<MessageId>> {
        self.send_all(queue, messages).await
    }

    async fn receive(
        &self,
        queue: &QueueName,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Delivery>> {
        self.inner.limits.check_receive(max, visibility, wait)?;
        self.receive_up_to(queue, max, visibility, wait).await
    }

    async fn extend(&self, queue: &QueueName, receipts: &[(ReceiptHandle, Duration)]) -> Vec<Result<()>> {
        self.extend_all(queue, receipts).await
    }

    async fn delete(&self, queue: &QueueName, receipts: &[ReceiptHandle]) -> Vec<Result<()>> {
        self.delete_all(queue, receipts).await
    }

    async fn counts(&self, queue: &QueueName) -> Result<Counts> {
        self.count(queue).await
    }

    async fn locate(&self, queue: &QueueName) -> Result<Option<String>> {
        Ok(Some(self.url(queue).await?.to_string()))
    }

    /// Where the queue was purged less than a minute ago, waits until SQS allows it again.
    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        self.purge_all(queue).await
    }
}

/// Whole seconds, as SQS takes them, rounded up: nothing comes back early.
fn seconds(time: Duration) -> i32 {
    let whole = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    i32::try_from(whole).unwrap_or(i32::MAX)
}
