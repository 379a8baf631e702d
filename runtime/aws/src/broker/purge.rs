//! Counts and purges, both about: SQS counts by sampling, and deletes for up to a minute.

use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName;
use rhubarb_core::{
    backend::{Counts, Result},
    ids::QueueName,
};

use super::SqsBroker;
use crate::error::answered_code;

/// SQS refuses a purge within this of the last one.
const PURGE_INTERVAL: Duration = Duration::from_secs(60);
/// How long a purge waits before it asks again.
const PURGE_PAUSE: Duration = Duration::from_secs(5);
/// Pauses of one purge at most: a little more than the interval.
const PURGE_PAUSES_MAX: u64 = PURGE_INTERVAL.as_secs() / PURGE_PAUSE.as_secs() + 1;

impl SqsBroker {
    pub(super) async fn count(&self, queue: &QueueName) -> Result<Counts> {
        let url = self.url(queue).await?;
        let answer = self
            .inner
            .client
            .get_queue_attributes()
            .queue_url(&*url)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessages)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessagesNotVisible)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessagesDelayed)
            .send()
            .await
            .map_err(|error| self.failed("count messages of", queue, &error))?;
        let attributes = answer.attributes.unwrap_or_default();
        let number = |name| attributes.get(&name).and_then(|text| text.parse().ok()).unwrap_or_default();
        Ok(Counts {
            visible: number(QueueAttributeName::ApproximateNumberOfMessages),
            in_flight: number(QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
            delayed: number(QueueAttributeName::ApproximateNumberOfMessagesDelayed),
        })
    }

    pub(super) async fn purge_all(&self, queue: &QueueName) -> Result<u64> {
        let mut pauses = 0;
        loop {
            let Counts { visible, in_flight, delayed } = self.count(queue).await?;
            let url = self.url(queue).await?;
            match self.inner.client.purge_queue().queue_url(&*url).send().await {
                Ok(_) => return Ok(visible + in_flight + delayed),
                Err(error) if answered_code(&error) == Some("PurgeQueueInProgress") && pauses < PURGE_PAUSES_MAX => {
                    if pauses == 0 {
                        tracing::info!(queue.name = %queue, "queue {queue} was purged within a minute: SQS makes us wait");
                    }
                    pauses += 1;
                    tokio::time::sleep(PURGE_PAUSE).await;
                }
                Err(error) => return Err(self.failed("purge", queue, &error)),
            }
        }
    }
}
