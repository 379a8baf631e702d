//! The messages: hidden when received, back when their time has passed.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use rhubarb_core::{
    backend::{Counts, Delivery, OutgoingMessage, QueueSpec, Result, StoreError},
    envelope::Envelope,
    ids::{MessageId, QueueName, ReceiptHandle, TaskId},
    limits::Limits,
    time::{LeaseTime, Now, Timestamp},
};

use super::late::Late;

/// How long a FIFO queue remembers a deduplication id.
const DEDUPLICATION: Duration = Duration::from_secs(5 * 60);

#[derive(Default)]
pub(super) struct Queues {
    queues: HashMap<QueueName, Queue>,
    /// Numbers messages in the order of sending, and deliveries.
    last: u64,
    /// What was accepted and lost, because a test asked for it.
    lost: Vec<Message>,
    /// What is sent later.
    pub(super) late: Late,
}

struct Queue {
    spec: QueueSpec,
    messages: BTreeMap<u64, Message>,
    /// The deduplication ids of late, and the messages that brought them.
    seen: HashMap<String, (Timestamp, MessageId)>,
}

#[derive(Clone)]
struct Message {
    id: MessageId,
    /// The task that it names.
    task: TaskId,
    body: String,
    attributes: BTreeMap<String, String>,
    group: Option<String>,
    sent: Timestamp,
    visible_at: LeaseTime,
    delayed: bool,
    receive_count: u32,
    first_received: Option<Timestamp>,
    /// The newest delivery, and when it was made.
    delivery: Option<(u64, LeaseTime)>,
}

impl Queue {
    /// The message that brought a deduplication id within SQS's five minutes.
    fn seen_lately(&self, deduplication: &str, now: Now) -> Option<MessageId> {
        let (at, message) = self.seen.get(deduplication)?;
        (at.after(DEDUPLICATION) > now.epoch).then(|| message.clone())
    }
}

impl Message {
    fn names(&self, id: TaskId) -> bool {
        self.task == id
    }
}

impl Queues {
    pub(super) fn declare(&mut self, specs: &[QueueSpec]) -> Result<()> {
        for spec in specs {
            match self.queues.get(&spec.queue) {
                Some(known) if known.spec != *spec => {
                    let queue = &spec.queue;
                    return Err(StoreError::Invalid(format!(
                        "queue `{queue}` exists and is described otherwise: delete it or use its description"
                    )));
                }
                Some(_) => {}
                None => {
                    let queue = Queue { spec: spec.clone(), messages: BTreeMap::new(), seen: HashMap::new() };
                    self.queues.insert(spec.queue.clone(), queue);
                }
            }
        }
        Ok(())
    }

    pub(super) fn knows(&self, queue: &QueueName) -> bool {
        self.queues.contains_key(queue)
    }

    pub(super) fn doorbells(&self, queue: &QueueName, id: TaskId) -> usize {
        let messages = self.queues.get(queue).into_iter().flat_map(|queue| queue.messages.values());
        messages.filter(|message| message.names(id)).count()
    }

    pub(super) fn has_lost(&self, id: TaskId) -> bool {
        self.lost.iter().any(|message| message.names(id))
    }

    pub(super) fn send(
        &mut self,
        queue: &QueueName,
        messages: &[OutgoingMessage],
        copies: usize,
        limits: &Limits,
        now: Now,
    ) -> Vec<Result<MessageId>> {
        messages.iter().map(|message| self.send_one(queue, message, copies, limits, now)).collect()
    }

    fn send_one(
        &mut self,
        queue: &QueueName,
        message: &OutgoingMessage,
        copies: usize,
        limits: &Limits,
        now: Now,
    ) -> Result<MessageId> {
        limits.check(message)?;
        let into = self.queues.get_mut(queue).ok_or_else(|| StoreError::NoQueue(queue.clone()))?;
        if let Some(known) = message.deduplication.as_ref().and_then(|id| into.seen_lately(id, now)) {
            return Ok(known);
        }
        self.last += 1;
        // A UUID as SQS gives them, made from the number alone so that a replay makes the same.
        let id = TaskId::from_bytes((0x7e57_u128 << 112 | u128::from(self.last)).to_be_bytes());
        let id = MessageId::new(id.to_string());
        let named = Envelope::decode(&message.body, &id, None).map(|envelope| envelope.id);
        let new = Message {
            task: named.unwrap_or_else(|_| TaskId::of_message(&id)),
            id: id.clone(),
            body: message.body.clone(),
            attributes: message.attributes.clone(),
            group: message.group.clone().filter(|_| message.deduplication.is_some()),
            sent: now.epoch,
            visible_at: now.lease.after(message.delay),
            delayed: !message.delay.is_zero(),
            receive_count: 0,
            first_received: None,
            delivery: None,
        };
        if let Some(deduplication) = &message.deduplication {
            into.seen.insert(deduplication.clone(), (now.epoch, id.clone()));
        }
        if copies == 0 {
            self.lost.push(new.clone());
        }
        for _ in 0..copies {
            self.last += 1;
            into.messages.insert(self.last, new.clone());
        }
        Ok(id)
    }

    /// What can be received now; `again` leaves it visible, as SQS sometimes does.
    pub(super) fn receive(
        &mut self,
        queue: &QueueName,
        max: usize,
        visibility: Duration,
        again: bool,
        limits: &Limits,
        now: Now,
    ) -> Result<Vec<Delivery>> {
        self.send_late(limits, now);
        self.forget_old(queue, limits, now);
        self.move_dead(queue, now);
        let from = self.queues.get_mut(queue).ok_or_else(|| StoreError::NoQueue(queue.clone()))?;
        let mut deliveries = Vec::new();
        let mut waiting = HashSet::new();
        for (number, message) in &mut from.messages {
            // An earlier message of its group comes first, also one that is hidden.
            let must_wait = message.group.as_ref().is_some_and(|group| waiting.contains(group));
            if must_wait || message.visible_at > now.lease || deliveries.len() == max {
                waiting.extend(message.group.clone());
                continue;
            }
            self.last += 1;
            message.delivery = Some((self.last, now.lease));
            message.delayed = false;
            message.receive_count += 1;
            if !again {
                message.visible_at = now.lease.after(visibility);
            }
            deliveries.push(Delivery {
                message: message.id.clone(),
                receipt: ReceiptHandle::new(format!("{number}-{}", self.last)),
                body: message.body.clone(),
                receive_count: message.receive_count,
                sent: message.sent,
                first_received: *message.first_received.get_or_insert(now.epoch),
                attributes: message.attributes.clone(),
            });
        }
        Ok(deliveries)
    }

    fn forget_old(&mut self, queue: &QueueName, limits: &Limits, now: Now) {
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.messages.retain(|_, message| message.sent.after(limits.retention) > now.epoch);
        }
    }

    /// Moves what was received too often to where the queue says.
    fn move_dead(&mut self, queue: &QueueName, now: Now) {
        let Some(from) = self.queues.get_mut(queue) else { return };
        let (Some(max), Some(to)) = (from.spec.max_receives, from.spec.dead_letters.clone()) else { return };
        let dead = from.messages.extract_if(.., |_, m| m.receive_count >= max && m.visible_at <= now.lease);
        let dead: Vec<(u64, Message)> = dead.collect();
        if let Some(to) = self.queues.get_mut(&to) {
            to.messages.extend(dead);
        }
    }

    /// When something of the queue becomes visible by itself.
    pub(super) fn next_visible(&self, queue: &QueueName) -> Option<LeaseTime> {
        let visible = self.queues.get(queue)?.messages.values().map(|message| message.visible_at).min();
        visible.into_iter().chain(self.next_late(queue)).min()
    }

    fn newest(&mut self, queue: &QueueName, receipt: &ReceiptHandle) -> Result<Option<(u64, &mut Message)>> {
        let from = self.queues.get_mut(queue).ok_or_else(|| StoreError::NoQueue(queue.clone()))?;
        let parts = receipt.as_str().split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        let (number, delivery): (u64, u64) =
            parts.ok_or_else(|| StoreError::Invalid(format!("`{receipt}` is no receipt handle of this broker")))?;
        match from.messages.get_mut(&number) {
            None => Ok(None),
            Some(message) if message.delivery.is_some_and(|(newest, _)| newest == delivery) => {
                Ok(Some((number, message)))
            }
            Some(_) => Err(StoreError::ReceiptExpired),
        }
    }

    pub(super) fn extend(
        &mut self,
        queue: &QueueName,
        receipt: &ReceiptHandle,
        time: Duration,
        limits: &Limits,
        now: Now,
    ) -> Result<()> {
        let Some((_, message)) = self.newest(queue, receipt)? else { return Err(StoreError::ReceiptExpired) };
        let received = message.delivery.map_or(now.lease, |(_, at)| at);
        message.visible_at = now.lease.after(time).min(received.after(limits.visibility_max));
        Ok(())
    }

    pub(super) fn delete(&mut self, queue: &QueueName, receipt: &ReceiptHandle) -> Result<()> {
        let number = self.newest(queue, receipt)?.map(|(number, _)| number);
        if let (Some(number), Some(from)) = (number, self.queues.get_mut(queue)) {
            from.messages.remove(&number);
        }
        Ok(())
    }

    pub(super) fn counts(&mut self, queue: &QueueName, limits: &Limits, now: Now) -> Result<Counts> {
        self.send_late(limits, now);
        self.forget_old(queue, limits, now);
        let from = self.queues.get(queue).ok_or_else(|| StoreError::NoQueue(queue.clone()))?;
        let mut counts = Counts::default();
        for message in from.messages.values() {
            match (message.visible_at <= now.lease, message.delayed) {
                (true, _) => counts.visible += 1,
                (false, true) => counts.delayed += 1,
                (false, false) => counts.in_flight += 1,
            }
        }
        Ok(counts)
    }

    pub(super) fn purge(&mut self, queue: &QueueName) -> Result<u64> {
        let from = self.queues.get_mut(queue).ok_or_else(|| StoreError::NoQueue(queue.clone()))?;
        let count = from.messages.len() as u64;
        from.messages.clear();
        Ok(count)
    }
}
