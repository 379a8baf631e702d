//! The broker's face: queues with the semantics of SQS.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use rhubarb_core::{
    backend::{Broker, Counts, Delivery, OutgoingMessage, QueueSpec, Result, StoreError},
    ids::{MessageId, QueueName, ReceiptHandle},
    limits::Limits,
    time::{LeaseTime, Timestamp},
};
use rusqlite::{OptionalExtension as _, params};
use tokio::{sync::futures::OwnedNotified, time::Instant};

use crate::{
    bell::{Kind, LOOK_AGAIN},
    error::Fallible,
    messages::{Due, Receipt},
    names::NameNo,
    open::LocalBackend,
    reads::Snapshot,
    schema::NEVER,
    transaction::Transaction,
};

/// Hidden messages of a queue that a count looks at one by one.
const COUNTED_MAX: i64 = 10_000;
/// Messages that a purge removes in one transaction.
const PURGE_STEP: usize = 1_000;

/// What one look at a queue brought.
pub(crate) enum Look<T> {
    /// Something.
    Found(T),
    /// Nothing to be received now.
    Empty {
        /// The queue looked at.
        queue: NameNo,
        /// When the next message becomes visible.
        next: Option<i64>,
        /// What to answer when nothing comes.
        nothing: T,
    },
}

impl LocalBackend {
    /// Looks at a queue for up to `max` until something is found or the time is over. Each look is one transaction.
    pub(crate) async fn look<T, V>(
        &self,
        queue: &QueueName,
        max: usize,
        wait: Duration,
        what: &'static str,
        mut verb: impl FnMut() -> V,
    ) -> Result<T>
    where
        T: Send + 'static,
        V: FnOnce(&mut Transaction<'_>) -> Fallible<Look<T>> + Send + 'static,
    {
        let deadline = self.deadline(wait);
        let mut known = if wait.is_zero() { None } else { self.inner.reads.known_number(queue.as_str()) };
        let _listening = (!wait.is_zero()).then(|| self.inner.bells.listen(Kind::Sent));
        loop {
            // Before the look: what comes between the look and the wait must be heard.
            let sent = known.map(|number| self.inner.bells.next_sent(number));
            let moved = self.inner.clock.moved();
            match self.inner.writer.call(what, max, verb()).await? {
                Look::Found(found) => return Ok(found),
                Look::Empty { nothing, .. } if self.is_over(&deadline) => return Ok(nothing),
                Look::Empty { queue, next, .. } => {
                    known = Some(queue);
                    if let Some(sent) = sent {
                        wait_for_bell(vec![sent], moved, self.wake_at(next, &deadline)).await;
                    }
                }
            }
        }
    }

    /// When a wait that begins now is over.
    pub(crate) fn deadline(&self, wait: Duration) -> Deadline {
        Deadline { real: Instant::now() + wait, store: self.inner.clock.read().now.lease.after(wait) }
    }

    /// True if a wait is over.
    pub(crate) fn is_over(&self, deadline: &Deadline) -> bool {
        Instant::now() >= deadline.real || self.inner.clock.read().now.lease >= deadline.store
    }

    /// When to look again without a bell: when the next message becomes visible, or in a while.
    pub(crate) fn wake_at(&self, next: Option<i64>, deadline: &Deadline) -> Instant {
        let until_next = next.map_or(LOOK_AGAIN, |at| Timestamp(at).since(self.inner.epoch()));
        deadline.real.min(Instant::now() + until_next.min(LOOK_AGAIN))
    }
}

/// The end of a wait, on the clock that nobody can move and on the store's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub(crate) real: Instant,
    store: LeaseTime,
}

/// Returns true at a bell or when the clock was moved, false at `until`.
pub(crate) async fn wait_for_bell(bells: Vec<OwnedNotified>, moved: Option<OwnedNotified>, until: Instant) -> bool {
    let bells: Vec<_> = bells.into_iter().chain(moved).map(Box::pin).collect();
    if bells.is_empty() {
        tokio::time::sleep_until(until).await;
        return false;
    }
    // Which of them does not matter: the store says what has come.
    tokio::time::timeout_at(until, futures::future::select_all(bells)).await.is_ok()
}

#[async_trait]
impl Broker for LocalBackend {
    fn limits(&self) -> &Limits {
        &self.inner.ground.limits
    }

    async fn declare(&self, queues: &[QueueSpec]) -> Result<()> {
        let queues = queues.to_vec();
        let verb =
            move |transaction: &mut Transaction<'_>| queues.iter().try_for_each(|queue| transaction.declare(queue));
        self.inner.writer.call("declare queues", 1, verb).await
    }

    async fn send(&self, queue: &QueueName, messages: &[OutgoingMessage]) -> Vec<Result<MessageId>> {
        let queue = queue.clone();
        let limits = self.limits();
        let items = messages.iter().map(|message| limits.check(message).map(|()| message.clone())).collect();
        self.each("send messages", items, move |transaction, item: Result<OutgoingMessage>| {
            let message = match item {
                Ok(message) => message,
                Err(error) => return Ok(Err(error)),
            };
            match transaction.declared(&queue)? {
                Ok(queue) => transaction.put_message(queue, &message).map(Ok),
                Err(error) => Ok(Err(error)),
            }
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
        self.limits().check_receive(max, visibility, wait)?;
        let max = max.min(self.limits().batch_max);
        self.look(queue, max, wait, "receive messages", || {
            let queue = queue.clone();
            move |transaction: &mut Transaction<'_>| transaction.receive(&queue, max, visibility)
        })
        .await?
    }

    async fn extend(&self, _queue: &QueueName, receipts: &[(ReceiptHandle, Duration)]) -> Vec<Result<()>> {
        self.each("extend messages", receipts.to_vec(), |transaction, (handle, time)| match Receipt::read(&handle) {
            Ok(receipt) => transaction.extend(receipt, time),
            Err(error) => Ok(Err(error)),
        })
        .await
    }

    async fn delete(&self, _queue: &QueueName, receipts: &[ReceiptHandle]) -> Vec<Result<()>> {
        self.each("delete messages", receipts.to_vec(), |transaction, handle| match Receipt::read(&handle) {
            Ok(receipt) => transaction.delete(receipt),
            Err(error) => Ok(Err(error)),
        })
        .await
    }

    async fn counts(&self, queue: &QueueName) -> Result<Counts> {
        let queue = queue.clone();
        self.inner.reads.read("count messages", move |snapshot| snapshot.counts(&queue)).await
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        let mut purged = 0;
        loop {
            let queue = queue.clone();
            let verb = move |transaction: &mut Transaction<'_>| transaction.purge_messages(&queue, PURGE_STEP, true);
            let step = self.inner.writer.call("purge messages", PURGE_STEP, verb).await?;
            purged += step;
            if step == 0 {
                return Ok(purged);
            }
        }
    }
}

impl Transaction<'_> {
    fn declare(&mut self, spec: &QueueSpec) -> Fallible<()> {
        let queue = self.number(spec.queue.as_str())?;
        let dead = spec.dead_letters.as_ref().map(|dead| self.number(dead.as_str())).transpose()?;
        self.prepare(
            "insert into queue(queue, declared, max_receives, dead_letters) values(?1, 1, ?2, ?3) on conflict(queue) \
             do update set declared = 1, max_receives = excluded.max_receives, dead_letters = excluded.dead_letters",
        )?
        .execute(params![queue, spec.max_receives, dead])?;
        // A dead-letter queue is a queue too: it can be sent to and received from.
        let declare_dead =
            "insert into queue(queue, declared) values(?1, 1) on conflict(queue) do update set declared = 1";
        if let Some(dead) = dead {
            self.prepare(declare_dead)?.execute([dead])?;
        }
        Ok(())
    }

    /// The number of a queue that was declared. The joined verbs do not ask: a queue is then whatever a
    /// task was submitted to.
    fn declared(&self, queue: &QueueName) -> Fallible<Result<NameNo>> {
        let number = match self.find_number(queue.as_str())? {
            Some(number) => {
                let mut select = self.prepare("select 1 from queue where queue = ?1 and declared")?;
                select.query_row([number], |_| Ok(number)).optional()?
            }
            None => None,
        };
        Ok(number.ok_or_else(|| StoreError::NoQueue(queue.clone())))
    }

    fn receive(
        &mut self,
        queue: &QueueName,
        max: usize,
        visibility: Duration,
    ) -> Fallible<Look<Result<Vec<Delivery>>>> {
        let queue = match self.declared(queue)? {
            Ok(queue) => queue,
            Err(error) => return Ok(Look::Found(Err(error))),
        };
        let due = self.due(queue, max)?;
        let mut deliveries = Vec::with_capacity(due.len());
        for one in due {
            deliveries.push(match one {
                Due::Bell(bell) => self.receive_bell(*bell, visibility)?,
                Due::Message(message) => self.receive_message(*message, visibility)?,
            });
        }
        if deliveries.is_empty() {
            let next = self.next_visible(queue)?;
            return Ok(Look::Empty { queue, next, nothing: Ok(deliveries) });
        }
        Ok(Look::Found(Ok(deliveries)))
    }

    /// Removes up to `limit` messages of a queue, and doorbells too if `bells`. Returns how many.
    pub(crate) fn purge_messages(&mut self, queue: &QueueName, limit: usize, bells: bool) -> Fallible<u64> {
        let Some(queue) = self.find_number(queue.as_str())? else { return Ok(0) };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut removed = self
            .prepare(
                "delete from message where seq in \
                 (select seq from message indexed by message_visible where queue = ?1 limit ?2)",
            )?
            .execute(params![queue, limit])?;
        if bells {
            // A waiting row stays in the index, as one whose doorbell is not out.
            removed += self
                .prepare(
                    "update task set bell_at = case when state = 3 then null else ?2 end where seq in \
                     (select seq from task indexed by task_bell where queue = ?1 and bell_at < ?2 limit ?3)",
                )?
                .execute(params![queue, NEVER, limit])?;
        }
        Ok(u64::try_from(removed).unwrap_or(u64::MAX))
    }
}

impl Snapshot<'_> {
    /// A queue's messages and doorbells, about where there are very many.
    fn counts(&self, queue: &QueueName) -> Fallible<Counts> {
        let Some(queue) = self.find_number(queue.as_str())? else { return Ok(Counts::default()) };
        let now = self.now.epoch.as_millis();
        let mut counts = Counts::default();
        for (visible, hidden) in [
            (
                "select count(*) from (select 1 from task indexed by task_bell where queue = ?1 and bell_at <= ?2 limit ?3)",
                "select bell_receives > 0, count(*) from (select bell_receives from task indexed by task_bell \
                 where queue = ?1 and bell_at > ?2 and bell_at < 9223372036854775807 limit ?3) group by 1",
            ),
            (
                "select count(*) from (select 1 from message indexed by message_visible where queue = ?1 and visible_at <= ?2 limit ?3)",
                "select receives > 0, count(*) from (select receives from message indexed by message_visible \
                 where queue = ?1 and visible_at > ?2 limit ?3) group by 1",
            ),
        ] {
            let seen: i64 = self.prepare(visible)?.query_row(params![queue, now, COUNTED_MAX], |row| row.get(0))?;
            counts.visible += seen.cast_unsigned();
            let mut select = self.prepare(hidden)?;
            let by_kind: HashMap<bool, i64> = select
                .query_map(params![queue, now, COUNTED_MAX], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            counts.in_flight += by_kind.get(&true).map_or(0, |n| n.cast_unsigned());
            counts.delayed += by_kind.get(&false).map_or(0, |n| n.cast_unsigned());
        }
        if counts.visible >= COUNTED_MAX.cast_unsigned() {
            // More than is looked at: nearly every queued row has its doorbell out.
            let queued = self.queued(queue)?;
            counts.visible = counts.visible.max(queued.saturating_sub(counts.in_flight));
        }
        Ok(counts)
    }

    fn queued(&self, queue: NameNo) -> Fallible<u64> {
        let mut select = self.prepare("select n from count where queue = ?1 and state = 2")?;
        let n: Option<i64> = select.query_row([queue], |row| row.get(0)).optional()?;
        Ok(n.and_then(|n| u64::try_from(n).ok()).unwrap_or(0))
    }
}
