//! Messages that are kept until their time, outside their queues. Whoever looks at a queue next sends what is due.

use std::collections::BTreeMap;

use async_trait::async_trait;
use rhubarb_core::{
    backend::{LateMessage, Later, OutgoingMessage, Result, StoreError},
    ids::{QueueName, TaskId},
    limits::Limits,
    time::{LeaseTime, Now, Timestamp},
};

use super::{MemoryBackend, queues::Queues};
use crate::faults::Verb;

/// What is kept, and when it is due.
pub(super) type Late = BTreeMap<TaskId, (LateMessage, LeaseTime)>;

impl Queues {
    fn keep(&mut self, message: &LateMessage, limits: &Limits, now: Now) -> Result<bool> {
        if !self.knows(&message.queue) {
            return Err(StoreError::NoQueue(message.queue.clone()));
        }
        self.send_late(limits, now);
        if self.late.contains_key(&message.task) {
            return Ok(false);
        }
        let due = now.lease.after(message.at.since(now.epoch));
        self.late.insert(message.task, (message.clone(), due));
        Ok(true)
    }

    /// Sends what is due.
    pub(super) fn send_late(&mut self, limits: &Limits, now: Now) {
        let due = self.late.extract_if(.., |_, (_, at)| *at <= now.lease);
        let due: Vec<LateMessage> = due.map(|(_, (message, _))| message).collect();
        for LateMessage { queue, body, .. } in due {
            self.send(&queue, &[OutgoingMessage { body, ..OutgoingMessage::default() }], 1, limits, now);
        }
    }

    /// When the next message of a queue is due.
    pub(super) fn next_late(&self, queue: &QueueName) -> Option<LeaseTime> {
        let of_queue = self.late.values().filter(|(message, _)| message.queue == *queue);
        of_queue.map(|(_, at)| *at).min()
    }
}

#[async_trait]
impl Later for MemoryBackend {
    async fn keep(&self, messages: &[LateMessage], now: Timestamp) -> Vec<Result<bool>> {
        let limits = self.limits();
        self.each(Verb::Schedule, messages.len(), |store, clock, _| {
            let keep = |message: &LateMessage| {
                message.check(limits, now)?;
                store.queues.keep(message, limits, clock)
            };
            messages.iter().map(keep).collect()
        })
        .await
    }

    async fn forget(&self, tasks: &[TaskId]) -> Vec<Result<bool>> {
        let limits = self.limits();
        self.each(Verb::Schedule, tasks.len(), |store, now, _| {
            store.queues.send_late(limits, now);
            tasks.iter().map(|task| Ok(store.queues.late.remove(task).is_some())).collect()
        })
        .await
    }
}
