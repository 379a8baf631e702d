//! The broker's face.

use std::time::Duration;

use async_trait::async_trait;
use rhubarb_core::{
    backend::{Broker, Counts, Delivery, OutgoingMessage, QueueSpec, Result},
    ids::{MessageId, QueueName, ReceiptHandle},
    limits::Limits,
};

use super::{MemoryBackend, Store};
use crate::{
    faults::{Fault, Verb},
    simulation::Sabotage,
};

#[async_trait]
impl Broker for MemoryBackend {
    fn limits(&self) -> &Limits {
        Self::limits(self)
    }

    fn is_fifo(&self, _queue: &QueueName) -> bool {
        self.shared.options.fifo
    }

    async fn declare(&self, queues: &[QueueSpec]) -> Result<()> {
        self.whole(Verb::Declare, |store, _, _| store.queues.declare(queues)).await
    }

    async fn send(&self, queue: &QueueName, messages: &[OutgoingMessage]) -> Vec<Result<MessageId>> {
        let limits = self.limits();
        let same_bell = self.is_sabotaged(Sabotage::SameBellAgain);
        let without_number = |id: &str| id.rsplit_once('.').map_or(id, |(task, _)| task).to_owned();
        let unnumbered: Vec<OutgoingMessage> = messages
            .iter()
            .filter(|_| same_bell)
            .map(|m| OutgoingMessage { deduplication: m.deduplication.as_deref().map(without_number), ..m.clone() })
            .collect();
        let messages = if same_bell { &unnumbered } else { messages };
        self.each(Verb::Send, messages.len(), |store, now, fault| {
            let copies = match fault {
                Fault::Lose => 0,
                // A FIFO queue would drop the second.
                Fault::Duplicate if !self.shared.options.fifo => 2,
                _ => 1,
            };
            store.queues.send(queue, messages, copies, limits, now)
        })
        .await
    }

    async fn receive(
        &self,
        queue: &QueueName,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Delivery>> {
        let limits = self.limits();
        limits.check_receive(max, visibility, wait)?;
        let max = max.min(limits.batch_max);
        let give_up = self.now().lease.after(wait);
        loop {
            let changed = self.shared.changed.notified();
            let mut next = None;
            let received = self
                .whole(Verb::Receive, |store: &mut Store, now, fault| {
                    let again = fault == Fault::Duplicate;
                    let received = store.queues.receive(queue, max, visibility, again, limits, now);
                    next = store.queues.next_visible(queue);
                    received
                })
                .await?;
            if !received.is_empty() || self.now().lease >= give_up {
                return Ok(received);
            }
            let until = next.map_or(give_up, |next| next.min(give_up));
            self.shared.options.clock.wait(changed, until).await;
        }
    }

    async fn extend(&self, queue: &QueueName, receipts: &[(ReceiptHandle, Duration)]) -> Vec<Result<()>> {
        let limits = self.limits();
        self.each(Verb::Extend, receipts.len(), |store, now, _| {
            receipts.iter().map(|(receipt, time)| store.queues.extend(queue, receipt, *time, limits, now)).collect()
        })
        .await
    }

    async fn delete(&self, queue: &QueueName, receipts: &[ReceiptHandle]) -> Vec<Result<()>> {
        self.each(Verb::Delete, receipts.len(), |store, _, _| {
            receipts.iter().map(|receipt| store.queues.delete(queue, receipt)).collect()
        })
        .await
    }

    async fn counts(&self, queue: &QueueName) -> Result<Counts> {
        let limits = self.limits();
        self.whole(Verb::Counts, |store, now, _| store.queues.counts(queue, limits, now)).await
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        self.whole(Verb::PurgeQueue, |store, _, _| store.queues.purge(queue)).await
    }
}
