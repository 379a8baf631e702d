//! The joined verbs, one transaction each: submit, take, finish, ring, redrive, purge.

use std::time::Duration;

use async_trait::async_trait;
use rhubarb_core::{
    backend::{
        Backend, Blobs, Broker, ClaimPolicy, Delivery, DueRing, Finish, Purged, Result, Schedules, StoreError,
        Submission, Submitted, Take, Taken, Tasks, Window, Won, Workers, backoff_for_newer, poison_failure,
    },
    envelope::{DecodeError, Envelope},
    ids::{QueueName, ReceiptHandle, TaskId, WorkerId},
    row::{Claim, Disposition, Settled},
    time::Timestamp,
};

use crate::{
    bell::Kind,
    broker::{Look, wait_for_bell},
    error::Fallible,
    messages::{Doorbell, Due, Message, Receipt, next_visible},
    names::NameNo,
    open::LocalBackend,
    record::{HELD, Record},
    texts::from_json,
    transaction::Transaction,
};

/// Tasks of one take.
const TAKE_MAX: usize = 1_000;
/// Tasks that a purge cancels in one transaction.
const PURGE_STEP: usize = 1_000;

#[async_trait]
impl Backend for LocalBackend {
    fn broker(&self) -> &dyn Broker {
        self
    }

    fn tasks(&self) -> &dyn Tasks {
        self
    }

    fn blobs(&self) -> &dyn Blobs {
        &self.inner.blobs
    }

    fn schedules(&self) -> &dyn Schedules {
        self
    }

    fn workers(&self) -> &dyn Workers {
        self
    }

    async fn submit(&self, submissions: &[Submission], _now: Timestamp) -> Vec<Result<Submitted>> {
        self.submit_each(submissions, true).await
    }

    async fn take(&self, take: Take<'_>) -> Result<Taken> {
        let Take { policy, worker, max, wait } = take;
        self.inner.ground.limits.check_receive(max, policy.lease, wait)?;
        let order = Order { policy: policy.clone(), worker: worker.clone(), max: max.min(TAKE_MAX) };
        self.look(&policy.queue, max, wait, "take tasks", || {
            let order = order.clone();
            move |transaction: &mut Transaction<'_>| transaction.take(&order)
        })
        .await
    }

    async fn wait_ready(&self, queues: &[QueueName], wait: Duration) -> Result<()> {
        let deadline = self.deadline(wait);
        let _listening = self.inner.bells.listen(Kind::Sent);
        let numbers = self.numbers(queues).await?;
        loop {
            let bells: Vec<_> = numbers.iter().map(|number| self.inner.bells.next_sent(*number)).collect();
            let moved = self.inner.clock.moved();
            let next = self.inner.reads.read_here("look at queues", |snapshot| {
                let next = numbers.iter().map(|number| next_visible(snapshot.connection, *number));
                Ok(next.collect::<Fallible<Vec<_>>>()?.into_iter().flatten().min())
            })?;
            let due = next.is_some_and(|at| at <= self.inner.epoch().as_millis());
            // A bell is answered by a take, without a look before it.
            if due || self.is_over(&deadline) || wait_for_bell(bells, moved, self.wake_at(next, &deadline)).await {
                return Ok(());
            }
        }
    }

    async fn finish(&self, finishes: &[Finish]) -> Vec<Result<Settled>> {
        self.each("finish tasks", finishes.to_vec(), |transaction, finish| transaction.finish(&finish)).await
    }

    async fn ring(&self, rings: &[DueRing], _now: Timestamp) -> Vec<Result<()>> {
        self.each("ring tasks", rings.to_vec(), |transaction, ring| transaction.ring_due(&ring).map(Ok)).await
    }

    async fn redrive(&self, ids: &[TaskId]) -> Vec<Result<Settled>> {
        self.each("redrive tasks", ids.to_vec(), |transaction, id| transaction.redrive(id, true)).await
    }

    async fn purge(&self, queue: &QueueName) -> Result<Purged> {
        self.tasks().mark_purged(queue).await?;
        let mut count = 0;
        loop {
            let queue = queue.clone();
            let verb = move |transaction: &mut Transaction<'_>| {
                let tasks = transaction.cancel_purged(&queue, PURGE_STEP)?;
                Ok(tasks + transaction.purge_messages(&queue, PURGE_STEP, false)?)
            };
            let step = self.inner.writer.call("purge a queue", PURGE_STEP, verb).await?;
            count += step;
            if step == 0 {
                return Ok(Purged { count, exact: true });
            }
        }
    }
}

impl LocalBackend {
    async fn numbers(&self, queues: &[QueueName]) -> Result<Vec<NameNo>> {
        let known: Option<Vec<NameNo>> =
            queues.iter().map(|queue| self.inner.reads.known_number(queue.as_str())).collect();
        if let Some(known) = known {
            return Ok(known);
        }
        let queues = queues.to_vec();
        let verb = move |transaction: &mut Transaction<'_>| {
            queues.iter().map(|queue| transaction.number(queue.as_str())).collect()
        };
        self.inner.writer.call("look at queues", 1, verb).await
    }
}

/// A take that can be sent to the writer.
#[derive(Clone, Debug)]
struct Order {
    policy: ClaimPolicy,
    worker: WorkerId,
    max: usize,
}

impl Transaction<'_> {
    fn take(&mut self, order: &Order) -> Fallible<Look<Taken>> {
        let queue = self.number(order.policy.queue.as_str())?;
        let due = self.due(queue, order.max)?;
        let mut taken = Taken::default();
        let mut rows_changed = false;
        for one in due {
            match one {
                Due::Bell(mut bell) => {
                    // A message may name the row of a doorbell that was read before.
                    if rows_changed && !self.reload(&mut bell.record)? {
                        continue;
                    }
                    self.take_bell(order, *bell, &mut taken)?;
                }
                Due::Message(message) => {
                    self.take_message(order, *message, &mut taken)?;
                    rows_changed = true;
                }
            }
        }
        if taken.won.is_empty() && taken.idle == 0 && taken.poisoned == 0 {
            let next = self.next_visible(queue)?;
            return Ok(Look::Empty { queue, next, nothing: taken });
        }
        Ok(Look::Found(taken))
    }

    /// Reads a row again; returns whether its doorbell is still there to be received.
    fn reload(&self, record: &mut Record) -> Fallible<bool> {
        let Some(current) = self.find_seq(record.seq)? else { return Ok(false) };
        *record = current;
        Ok(record.bell.at.is_some_and(|at| at <= self.epoch().as_millis()))
    }

    fn take_bell(&mut self, order: &Order, bell: Doorbell, taken: &mut Taken) -> Fallible<()> {
        let Doorbell { mut record, checkpoint, spec } = bell;
        self.count_receipt(&mut record, order.policy.lease);
        let claim = self.claim(&mut record, &order.policy.terms(&order.worker), order.policy.keep)?;
        let disposition = claim.disposition(order.policy.ack, self.epoch(), self.limits().visibility_max);
        match disposition {
            Disposition::Delete => record.bell.at = None,
            Disposition::Hide(time) => record.bell.at = Some(self.epoch().after(time).as_millis()),
            Disposition::Keep => {}
        }
        self.save(&mut record)?;
        if claim != Claim::Won {
            taken.idle += 1;
            return Ok(());
        }
        let receives = record.bell.receives;
        let checkpoint = checkpoint.as_deref().map(from_json).transpose()?;
        taken.won.push(Won {
            id: record.id,
            task: self.name(record.task)?.task()?,
            spec,
            message: self.doorbell_id(record.seq),
            receipt: (disposition == Disposition::Keep).then(|| Receipt::Bell { seq: record.seq, receives }.handle()),
            receive_count: receives,
            sent: record.bell.sent,
            first_received: record.bell.first_received.unwrap_or(self.epoch()),
            row: record.won(checkpoint),
        });
        if disposition == Disposition::Delete && record.flags() == HELD {
            self.recent.borrow_mut().remember(record);
        }
        Ok(())
    }

    fn take_message(&mut self, order: &Order, message: Message, taken: &mut Taken) -> Fallible<()> {
        let delivery = self.receive_message(message, order.policy.lease)?;
        let mut envelope = match Envelope::decode(&delivery.body, &delivery.message, order.policy.raw_task.as_ref()) {
            Ok(envelope) => envelope,
            Err(error) => return self.take_unreadable(order, &delivery, &error, taken),
        };
        envelope.join_trace(&delivery.attributes);
        let submission = Submission::new(&envelope, order.policy.queue.clone(), Window::DEFAULT);
        let Some(mut record) = self.find_or_put(&submission, delivery.sent)? else {
            taken.idle += 1;
            return self.put_away(&delivery.receipt, Disposition::Delete);
        };
        let claim = self.claim(&mut record, &order.policy.terms(&order.worker), order.policy.keep)?;
        let disposition = claim.disposition(order.policy.ack, self.epoch(), self.limits().visibility_max);
        self.save(&mut record)?;
        self.put_away(&delivery.receipt, disposition)?;
        if claim != Claim::Won {
            taken.idle += 1;
            return Ok(());
        }
        taken.won.push(Won {
            id: record.id,
            task: envelope.task,
            spec: self.spec(record.seq)?.unwrap_or(submission.spec),
            message: delivery.message,
            receipt: (disposition == Disposition::Keep).then_some(delivery.receipt),
            receive_count: delivery.receive_count,
            sent: delivery.sent,
            first_received: delivery.first_received,
            row: record.won(self.checkpoint(record.seq)?),
        });
        Ok(())
    }

    fn take_unreadable(
        &mut self,
        order: &Order,
        delivery: &Delivery,
        error: &DecodeError,
        taken: &mut Taken,
    ) -> Fallible<()> {
        if let Some(delay) = backoff_for_newer(error, delivery) {
            return self.put_away(&delivery.receipt, Disposition::Hide(delay));
        }
        taken.poisoned += 1;
        let id = TaskId::of_message(&delivery.message);
        self.bury_poison(&order.policy.queue, id, &poison_failure(error, &delivery.body))?;
        self.put_away(&delivery.receipt, Disposition::Delete)
    }

    fn put_away(&mut self, receipt: &ReceiptHandle, disposition: Disposition) -> Fallible<()> {
        // The receipt is this transaction's own: nobody can have made it stale.
        let Ok(receipt) = Receipt::read(receipt) else { return Ok(()) };
        match disposition {
            Disposition::Delete => self.delete(receipt)?.ok(),
            Disposition::Hide(time) => self.extend(receipt, time)?.ok(),
            Disposition::Keep => None,
        };
        Ok(())
    }

    fn finish(&mut self, finish: &Finish) -> Fallible<Result<Settled>> {
        let receipt = finish.receipt.as_ref().and_then(|handle| Receipt::read(handle).ok());
        if let Some((mut record, settled)) = self.settle_remembered(&finish.settlement)? {
            self.finish_message(&mut record, &settled, receipt, finish.hideable)?;
            return Ok(Ok(settled));
        }
        let Some(mut record) = self.find(finish.settlement.id)? else {
            return Ok(Err(StoreError::NoTask(finish.settlement.id)));
        };
        let settled = match self.settle_record(&mut record, &finish.settlement)? {
            Ok(settled) => settled,
            Err(refused) => return Ok(Err(refused)),
        };
        self.finish_message(&mut record, &settled, receipt, finish.hideable)?;
        self.save_settled(&mut record, &finish.settlement.outcome)?;
        Ok(Ok(settled))
    }

    /// The queue's side of a settlement. A settled row's own doorbell goes when the row is saved.
    fn finish_message(
        &mut self,
        record: &mut Record,
        settled: &Settled,
        receipt: Option<Receipt>,
        hideable: Duration,
    ) -> Fallible<()> {
        let now = self.epoch();
        let Some(delay) = settled.again_in else {
            if let Some(receipt @ Receipt::Message { .. }) = receipt {
                // Stale means that a newer delivery exists: it will be answered Settled.
                self.delete(receipt)?.ok();
            }
            return Ok(());
        };
        match receipt {
            // The row's own doorbell takes the place of the message, which would be moved aside for being received so
            // often. Stale means that a newer delivery exists.
            Some(receipt @ Receipt::Message { .. }) => {
                if self.delete(receipt)?.is_ok() {
                    record.bell.ring(now.after(delay.min(hideable)), now);
                    record.row.rung(settled.fence, settled.rings);
                }
            }
            Some(Receipt::Bell { receives, .. }) if record.bell.is_out() && record.bell.receives == receives => {
                record.bell.at = Some(now.after(delay.min(hideable)).as_millis());
                record.row.rung(settled.fence, settled.rings);
            }
            // Mode `lease`, or the message has gone: rung anew if that is soon, else the sweep does it.
            Some(Receipt::Bell { .. }) | None => {
                if delay <= self.limits().delay_max {
                    record.bell.ring(now.after(delay), now);
                    record.row.rung(settled.fence, settled.rings);
                }
            }
        }
        Ok(())
    }
}
