//! Receives: one request to learn whether there is anything, more at once only where there is.

use std::{collections::BTreeMap, time::Duration};

use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use futures::future::join_all;
use rhubarb_core::{
    backend::{Delivery, Result},
    ids::{MessageId, QueueName, ReceiptHandle},
    time::Timestamp,
};
use tokio::time::Instant;

use super::{SqsBroker, batch::ENTRIES_MAX, seconds, send::TRACE_HEADER};

/// Requests of one receive that are under way at the same time.
const RECEIVES_AT_ONCE: usize = 10;

impl SqsBroker {
    /// The first request asks for a batch and may wait; only if it comes back full are the others sent, at once
    /// and without waiting. So an idle queue costs one request, and a backlog is carried at full speed.
    pub(super) async fn receive_up_to(
        &self,
        queue: &QueueName,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Delivery>> {
        let most = self.inner.limits.batch_max.clamp(1, ENTRIES_MAX);
        let mut deliveries = self.receive_batch(queue, max.min(most), visibility, wait).await?;
        if deliveries.len() < most || max <= most {
            return Ok(deliveries);
        }
        let rest = (max - most).min(most * (RECEIVES_AT_ONCE - 1));
        let counts = (0..rest).step_by(most).map(|begun| most.min(rest - begun));
        let requests = counts.map(|count| self.receive_batch(queue, count, visibility, Duration::ZERO));
        for received in join_all(requests).await {
            match received {
                Ok(received) => deliveries.extend(received),
                // What the others brought is already hidden: it is delivered all the same.
                Err(error) => tracing::warn!(queue.name = %queue, error = %error, "cannot receive more from {queue}"),
            }
        }
        Ok(deliveries)
    }

    /// One request.
    async fn receive_batch(
        &self,
        queue: &QueueName,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Delivery>> {
        let url = self.url(queue).await?;
        // SQS counts from its receive, which is no earlier.
        let asked = Instant::now();
        let answer = self
            .inner
            .client
            .receive_message()
            .queue_url(&*url)
            .max_number_of_messages(i32::try_from(max).unwrap_or(i32::MAX))
            .visibility_timeout(seconds(visibility))
            .wait_time_seconds(seconds(wait))
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .message_attribute_names("All")
            .send()
            .await
            .map_err(|error| self.failed("receive from", queue, &error))?;
        let deliveries: Vec<Delivery> = answer.messages.unwrap_or_default().into_iter().filter_map(delivery).collect();
        self.inner.receipts.note(deliveries.iter().map(|delivery| &delivery.receipt), asked);
        Ok(deliveries)
    }
}

/// A message as SQS gives it; `None` only where it lacks what SQS never leaves out.
fn delivery(message: Message) -> Option<Delivery> {
    let system = message.attributes.unwrap_or_default();
    let number = |name: MessageSystemAttributeName| system.get(&name)?.parse::<i64>().ok();
    let sent = Timestamp(number(MessageSystemAttributeName::SentTimestamp).unwrap_or_default());
    let first = number(MessageSystemAttributeName::ApproximateFirstReceiveTimestamp).map_or(sent, Timestamp);
    let count = number(MessageSystemAttributeName::ApproximateReceiveCount).unwrap_or(1);
    let mut attributes: BTreeMap<String, String> = message
        .message_attributes
        .unwrap_or_default()
        .into_iter()
        // Binary attributes of plain producers are theirs: nothing of ours reads them.
        .filter_map(|(name, value)| Some((name, value.string_value?)))
        .collect();
    if let Some(header) = system.get(&MessageSystemAttributeName::AwsTraceHeader) {
        attributes.insert(TRACE_HEADER.to_owned(), header.clone());
    }
    Some(Delivery {
        message: MessageId::new(message.message_id?),
        receipt: ReceiptHandle::new(message.receipt_handle?),
        body: message.body.unwrap_or_default(),
        receive_count: u32::try_from(count).unwrap_or(1),
        sent,
        first_received: first,
        attributes,
    })
}
