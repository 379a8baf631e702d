//! The end of an attempt without a claim: what becomes of its message.

use std::{collections::HashMap, time::Duration};

use super::{
    anew,
    bury::{Dead, Fallen, bury},
    send_again,
};
use crate::{
    backend::{Backend, Finish, Result, StoreError, Won},
    config::Track,
    envelope::Envelope,
    ids::{FencingToken, QueueName, ReceiptHandle, WorkerId},
    outcome::{Failure, Outcome},
    row::{Settled, State},
};

/// An attempt without a claim that is over.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    /// The task as it was taken.
    pub won: &'a Won,
    /// What the attempt came to, and its message.
    pub finish: &'a Finish,
    /// No function here knew the task: it was not begun, and going back spends no attempt.
    pub unknown: bool,
}

/// What becomes of a message.
enum Fate {
    Delete(State),
    Hide(State, Duration),
    Again(Duration),
    Bury(Failure),
}

/// Deletes the messages of attempts that are over, hides them until they are tried again, or buries their tasks first.
/// All are of one queue of this level.
///
/// # Errors
///
/// Per item: the backend cannot be reached; the same again settles it.
pub async fn finish<B: Backend + ?Sized>(
    backend: &B,
    track: Track,
    queue: &QueueName,
    worker: &WorkerId,
    ended: &[Ended<'_>],
) -> Vec<Result<Settled>> {
    let (mut deletes, mut hides, mut again, mut buries) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (index, one) in ended.iter().enumerate() {
        match fate(one) {
            Fate::Delete(state) => deletes.push((index, settled(state, None))),
            Fate::Hide(state, delay) => hides.push((index, settled(state, Some(delay.min(one.finish.hideable))))),
            Fate::Again(delay) => again.push((index, settled(State::Queued, Some(delay)))),
            Fate::Bury(failure) => buries.push((index, failure)),
        }
    }
    let ending = Ending { backend, queue, ended };
    let mut answers = ending.bury(track, worker, buries, &mut deletes).await;
    answers.extend(ending.delete(deletes).await);
    answers.extend(ending.hide(hides).await);
    answers.extend(ending.send_again(again).await);
    let missing = || Err(StoreError::Invalid("an attempt without a claim has no receipt".into()));
    (0..ended.len()).map(|index| answers.remove(&index).unwrap_or_else(missing)).collect()
}

/// The answers so far, by the places of their attempts.
type Answers = HashMap<usize, Result<Settled>>;

/// The calls of the broker, each for all attempts of one fate.
struct Ending<'a, B: ?Sized> {
    backend: &'a B,
    queue: &'a QueueName,
    ended: &'a [Ended<'a>],
}

impl<B: Backend + ?Sized> Ending<'_, B> {
    fn receipt(&self, index: usize) -> Option<&ReceiptHandle> {
        self.ended[index].finish.receipt.as_ref()
    }

    /// Buries tasks; the messages of those that are buried are to be deleted.
    async fn bury(
        &self,
        track: Track,
        worker: &WorkerId,
        buries: Vec<(usize, Failure)>,
        deletes: &mut Vec<(usize, Settled)>,
    ) -> Answers {
        if buries.is_empty() {
            return Answers::new();
        }
        let dead = buries.iter().map(|(index, failure)| fallen(&self.ended[*index], worker, failure.clone())).collect();
        let answers = bury(self.backend, track, self.queue, dead).await;
        let mut refused = Answers::new();
        for ((index, failure), answer) in buries.into_iter().zip(answers) {
            match answer {
                Ok(()) => {
                    let buried = self.ended[index].finish.settlement.outcome.failure().is_none().then_some(failure);
                    deletes.push((index, Settled { buried, ..settled(State::Failed, None) }));
                }
                Err(error) => _ = refused.insert(index, Err(error)),
            }
        }
        refused
    }

    async fn delete(&self, deletes: Vec<(usize, Settled)>) -> Answers {
        let (receipts, places): (Vec<ReceiptHandle>, Vec<(usize, Settled)>) =
            deletes.into_iter().filter_map(|place| Some((self.receipt(place.0)?.clone(), place))).unzip();
        if receipts.is_empty() {
            return Answers::new();
        }
        heeded(places, self.backend.broker().delete(self.queue, &receipts).await)
    }

    async fn hide(&self, hides: Vec<(usize, Settled)>) -> Answers {
        let release = |place: (usize, Settled)| {
            let delay = place.1.again_in.unwrap_or_default();
            Some(((self.receipt(place.0)?.clone(), delay), place))
        };
        let (releases, places): (Vec<_>, Vec<_>) = hides.into_iter().filter_map(release).unzip();
        if releases.is_empty() {
            return Answers::new();
        }
        heeded(places, self.backend.broker().release(self.queue, &releases).await)
    }

    async fn send_again(&self, again: Vec<(usize, Settled)>) -> Answers {
        let message = |(index, settled): (usize, Settled)| {
            let won = self.ended[index].won;
            let envelope = Envelope::decode_full(&won.spec).ok()?;
            let delay = settled.again_in.unwrap_or_default();
            let message = anew(self.backend, self.queue, &envelope, won.row.submitted, &won.message, delay);
            Some(((self.receipt(index)?.clone(), message), (index, settled)))
        };
        let (messages, places): (Vec<_>, Vec<_>) = again.into_iter().filter_map(message).unzip();
        if messages.is_empty() {
            return Answers::new();
        }
        let is_fifo = self.backend.broker().is_fifo(self.queue);
        let answers = send_again(self.backend, self.queue, messages).await;
        let each = places.into_iter().zip(answers).map(|((index, settled), (_, answer))| {
            // The old message is gone where a new one was sent.
            let again_in = settled.again_in.filter(|_| is_fifo);
            (index, answer.map(|_| Settled { again_in, ..settled }))
        });
        each.collect()
    }
}

/// A newer delivery of a message is nothing to try again: its task then runs once more.
fn heeded(places: Vec<(usize, Settled)>, answers: Vec<Result<()>>) -> Answers {
    let each = places.into_iter().zip(answers).map(|((index, settled), answer)| match answer {
        Ok(()) | Err(StoreError::ReceiptExpired) => (index, Ok(settled)),
        Err(error) => (index, Err(error)),
    });
    each.collect()
}

fn fate(ended: &Ended<'_>) -> Fate {
    let is_last = ended.won.row.attempt >= ended.won.row.max_attempts;
    match &ended.finish.settlement.outcome {
        Outcome::Succeeded(_) => Fate::Delete(State::Succeeded),
        Outcome::Cancelled => Fate::Delete(State::Cancelled),
        Outcome::Poisoned(failure) | Outcome::Failed { failure, retry_in: None } => Fate::Bury(failure.clone()),
        Outcome::Failed { failure, .. } if is_last => Fate::Bury(failure.clone()),
        Outcome::Failed { retry_in: Some(delay), .. } => Fate::Hide(State::Retrying, *delay),
        Outcome::Snoozed(delay) if ended.unknown => Fate::Again(*delay),
        Outcome::Snoozed(_) if is_last => {
            let what = "snoozed in its last attempt: without a row each snooze spends one";
            Fate::Bury(Failure::new(Failure::SNOOZED, what))
        }
        Outcome::Snoozed(delay) => Fate::Hide(State::Retrying, *delay),
        Outcome::Interrupted { why, .. } if is_last => {
            let what = format!("interrupted in its last attempt ({why}): without a row each interruption spends one");
            Fate::Bury(Failure::new(Failure::INTERRUPTED, what))
        }
        Outcome::Interrupted { .. } => Fate::Hide(State::Queued, Duration::ZERO),
    }
}

fn fallen(ended: &Ended<'_>, worker: &WorkerId, failure: Failure) -> Dead {
    let Ended { won, finish, .. } = ended;
    let unreadable = || Envelope::new(won.id, won.task.clone(), crate::envelope::null());
    Dead::Task(Box::new(Fallen {
        envelope: Envelope::decode_full(&won.spec).unwrap_or_else(|_| unreadable()),
        submitted: won.row.submitted,
        attempt: won.row.attempt,
        max_attempts: won.row.max_attempts,
        worker: worker.clone(),
        started: won.row.started,
        failure,
        log: finish.settlement.log.clone(),
        keep: finish.settlement.keep,
    }))
}

const fn settled(state: State, again_in: Option<Duration>) -> Settled {
    Settled { state, fence: FencingToken::NONE, rings: 0, again_in, buried: None }
}
