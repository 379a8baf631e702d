//! Keeps SQS from moving a healthy task aside.
//!
//! SQS counts receives, not failures: a message that is held by another, comes early, or whose task is
//! interrupted or snoozes, is received again and again, until `maxReceiveCount` moves it to the dead-letter queue.
//! So whoever receives a message that has half of its receives behind it sends the same task anew and deletes
//! the worn message. A crash between the two leaves two doorbells of one task, which is harmless.
//!
//! The new message holds the full envelope with the task's id, also where a plain producer's did not: the id of
//! a new message would be another task. What cannot be read is left alone: it is released with backoff and
//! buried, by the count of its receives. Of a FIFO queue the new message is the last of its group: the price of
//! not losing it to a queue that nobody reads.

use std::time::Duration;

use rhubarb_core::{
    backend::{Broker as _, Delivery, Doorbell, OutgoingMessage},
    envelope::Envelope,
    ids::{QueueName, ReceiptHandle, TaskName},
};

use crate::broker::{SqsBroker, TRACE_HEADER};

/// The first delivery of a message is never sent anew, or it would be so for ever.
const RECEIVES_MIN: u32 = 2;

/// From how many receives on a message is sent anew.
const fn worn_at(max_receives: u32) -> u32 {
    let half = max_receives.div_ceil(2);
    if half < RECEIVES_MIN { RECEIVES_MIN } else { half }
}

/// Sends worn messages anew and returns the others.
pub(crate) async fn send_anew(
    broker: &SqsBroker,
    queue: &QueueName,
    raw_task: Option<&TaskName>,
    deliveries: Vec<Delivery>,
) -> Vec<Delivery> {
    let Some(worn_at) = broker.max_receives(queue).map(worn_at) else { return deliveries };
    if deliveries.iter().all(|delivery| delivery.receive_count < worn_at) {
        return deliveries;
    }
    let (mut rest, mut worn, mut messages) = (Vec::new(), Vec::new(), Vec::new());
    for delivery in deliveries {
        match (delivery.receive_count >= worn_at).then(|| copy_of(broker, queue, raw_task, &delivery)).flatten() {
            Some(message) => {
                worn.push(delivery);
                messages.push(message);
            }
            None => rest.push(delivery),
        }
    }
    let mut receipts: Vec<ReceiptHandle> = Vec::new();
    for (delivery, sent) in worn.into_iter().zip(broker.send(queue, &messages).await) {
        match sent {
            Ok(_) => receipts.push(delivery.receipt),
            // It has as many receives left as it had: the next one tries again.
            Err(_) => rest.push(delivery),
        }
    }
    if !receipts.is_empty() {
        broker.delete(queue, &receipts).await;
    }
    rest
}

/// The message that rings for the same task; `None` where there is no telling which.
fn copy_of(
    broker: &SqsBroker,
    queue: &QueueName,
    raw_task: Option<&TaskName>,
    delivery: &Delivery,
) -> Option<OutgoingMessage> {
    let mut envelope = Envelope::decode(&delivery.body, &delivery.message, raw_task).ok()?;
    envelope.join_trace(&delivery.attributes);
    let spec = envelope.encode();
    let doorbell = Doorbell { id: envelope.id, rings: Doorbell::FIRST, spec: &spec, delay: Duration::ZERO };
    let mut message = doorbell.message(queue, broker);
    // New, and the same for all who find this very message worn.
    message.deduplication = message.deduplication.map(|_| format!("{}.{}", envelope.id, delivery.message));
    if let Some(header) = delivery.attributes.get(TRACE_HEADER) {
        message.attributes.insert(TRACE_HEADER.to_owned(), header.clone());
    }
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_worn_at_half_of_its_receives_and_never_at_the_first() {
        assert_eq!([1, 2, 3, 4, 5, 130, 1000].map(worn_at), [2, 2, 2, 2, 3, 65, 500]);
    }
}
