//! The queue's side of the joined verbs, in as few calls as there are queues.
//!
//! The rows are written when these begin. What fails here is left to the next delivery or to the sweep, and a
//! row is noted as rung only after its message is out: a crash in between rings twice, never less.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    backend::{Backend, Broker, Called, Doorbell, Finish, OutgoingMessage, Result, Rung, StoreError, TaskDetail},
    ids::{MessageId, QueueName, ReceiptHandle, TaskId},
    row::Settled,
};

/// A row's doorbell that must ring.
#[derive(Clone, Debug)]
pub(super) struct Bell {
    pub(super) queue: QueueName,
    pub(super) rung: Rung,
    pub(super) delay: Duration,
}

/// A delivery that goes back, and how long it stays hidden.
type Release = (ReceiptHandle, Duration);

/// Sends messages, one call a queue. The answers are in the order given.
pub(super) async fn send(broker: &dyn Broker, messages: Vec<(QueueName, OutgoingMessage)>) -> Vec<Result<MessageId>> {
    let mut answers: Vec<Result<MessageId>> = messages.iter().map(|_| Ok(MessageId::new(""))).collect();
    let mut queues: BTreeMap<QueueName, (Vec<usize>, Vec<OutgoingMessage>)> = BTreeMap::new();
    for (index, (queue, message)) in messages.into_iter().enumerate() {
        let (indexes, batch) = queues.entry(queue).or_default();
        indexes.push(index);
        batch.push(message);
    }
    for (queue, (indexes, batch)) in queues {
        for (index, sent) in indexes.into_iter().zip(broker.send(&queue, &batch).await) {
            answers[index] = sent;
        }
    }
    answers
}

/// Rings rows whose specs are read first, and notes those that were rung. What is not rung the sweep rings.
pub(super) async fn ring<B: Backend + ?Sized>(backend: &B, bells: &[Bell]) {
    if bells.is_empty() {
        return;
    }
    let ids: Vec<TaskId> = bells.iter().map(|bell| bell.rung.id).collect();
    let Ok(details) = backend.tasks().read(&ids).await else { return };
    let message = |(bell, detail): (&Bell, Option<TaskDetail>)| {
        let spec = detail?.spec?.encode();
        let doorbell = Doorbell { id: bell.rung.id, rings: bell.rung.rings, spec: &spec, delay: bell.delay };
        Some((bell.rung, (bell.queue.clone(), doorbell.message(&bell.queue, backend.broker()))))
    };
    let (rungs, messages): (Vec<Rung>, Vec<_>) = bells.iter().zip(details).filter_map(message).unzip();
    note_sent(backend, rungs, &send(backend.broker(), messages).await).await;
}

/// Rings called tasks, and notes those that were rung. Returns how many; the sweep rings the rest.
pub(super) async fn ring_called<B: Backend + ?Sized>(backend: &B, called: &[Called]) -> usize {
    if called.is_empty() {
        return 0;
    }
    let message = |Called { ring, delay }: &Called| {
        let doorbell = Doorbell { id: ring.id, rings: ring.rings, spec: &ring.spec, delay: *delay };
        (ring.queue.clone(), doorbell.message(&ring.queue, backend.broker()))
    };
    let sent = send(backend.broker(), called.iter().map(message).collect()).await;
    let rungs = called.iter().map(|called| called.ring.rung()).collect();
    note_sent(backend, rungs, &sent).await.into_iter().filter(Result::is_ok).count()
}

/// Notes the rows whose message is out. Returns what became of each note, with the refused sends between.
pub(super) async fn note_sent<B: Backend + ?Sized>(
    backend: &B,
    rungs: Vec<Rung>,
    sent: &[Result<MessageId>],
) -> Vec<Result<()>> {
    let out: Vec<Rung> = rungs.into_iter().zip(sent).filter(|(_, sent)| sent.is_ok()).map(|(rung, _)| rung).collect();
    let mut noted = if out.is_empty() { Vec::new() } else { backend.tasks().rung(&out).await }.into_iter();
    let missing = || Err(StoreError::Invalid("the store did not answer for every doorbell".into()));
    sent.iter()
        .map(|sent| match sent {
            Ok(_) => noted.next().unwrap_or_else(missing),
            Err(error) => Err(error.clone()),
        })
        .collect()
}

/// Puts the queues in order after settlements: deletes, releases and rings, each queue's together.
pub(super) async fn put_in_order<B: Backend + ?Sized>(backend: &B, finishes: &[Finish], answers: &[Result<Settled>]) {
    let mut deletes: BTreeMap<&QueueName, Vec<ReceiptHandle>> = BTreeMap::new();
    let mut releases: BTreeMap<&QueueName, (Vec<Rung>, Vec<Release>)> = BTreeMap::new();
    let mut bells = Vec::new();
    let delay_max = backend.broker().limits().delay_max;
    for (finish, answer) in finishes.iter().zip(answers) {
        let Ok(settled) = answer else { continue };
        let Finish { queue, settlement, receipt, hideable } = finish;
        let rung = Rung { id: settlement.id, fence: settled.fence, rings: settled.rings };
        match (receipt, settled.again_in) {
            (Some(receipt), None) => deletes.entry(queue).or_default().push(receipt.clone()),
            (Some(receipt), Some(delay)) => {
                let (rungs, receipts) = releases.entry(queue).or_default();
                rungs.push(rung);
                receipts.push((receipt.clone(), delay.min(*hideable)));
            }
            // Mode `lease`: the message is gone. What is due soon is rung now; the sweep rings the rest when
            // it is due, and this one too if the send fails.
            (None, Some(delay)) if delay <= delay_max => bells.push(Bell { queue: queue.clone(), rung, delay }),
            (None, _) => {}
        }
    }
    for (queue, receipts) in deletes {
        backend.broker().delete(queue, &receipts).await;
    }
    let mut released = Vec::new();
    for (queue, (rungs, receipts)) in releases {
        let answers = backend.broker().release(queue, &receipts).await;
        released.extend(rungs.into_iter().zip(answers).filter(|(_, answer)| answer.is_ok()).map(|(rung, _)| rung));
    }
    if !released.is_empty() {
        backend.tasks().rung(&released).await;
    }
    ring(backend, &bells).await;
}
