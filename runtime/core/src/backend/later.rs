//! Messages that come later than their queue can delay, of tasks that have no row to wait in.
//!
//! Such a message is kept outside its queue until its time and then sent, in the end at least once: a keeper that dies
//! between the send and its own note of it sends another. What is kept is known by its task, so that keeping it again
//! keeps one.

use async_trait::async_trait;

use crate::{
    backend::{Result, StoreError},
    ids::{QueueName, TaskId},
    limits::Limits,
    time::Timestamp,
};

/// A message to be sent at its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LateMessage {
    /// The task that it is.
    pub task: TaskId,
    /// Where it goes.
    pub queue: QueueName,
    /// Its body: the full envelope as JSON.
    pub body: String,
    /// When: a whole second.
    pub at: Timestamp,
}

/// Keeps messages until their time.
#[async_trait]
pub trait Later: Send + Sync {
    /// Keeps messages, and sends each to its queue at its time or after it, never before. It comes without attributes.
    /// Returns false where a message of this task is kept already, which stays as it is. `now` is the caller's wall
    /// clock.
    ///
    /// # Errors
    ///
    /// Per item: `Invalid` for what [`LateMessage::check`] refuses; the keeper cannot be reached (then the message may
    /// or may not be kept; the same call again settles it).
    async fn keep(&self, messages: &[LateMessage], now: Timestamp) -> Vec<Result<bool>>;

    /// Forgets the messages of tasks. Returns false where none is kept: there never was one, or it is sent.
    ///
    /// # Errors
    ///
    /// Per item: the keeper cannot be reached.
    async fn forget(&self, tasks: &[TaskId]) -> Vec<Result<bool>>;
}

impl LateMessage {
    /// Checks a message before it is kept.
    ///
    /// # Errors
    ///
    /// `Invalid`: its time has come already or is none, or its body is over what a schedule holds or nothing that a
    /// queue takes. The text names the field and the fix.
    pub fn check(&self, limits: &Limits, now: Timestamp) -> Result<()> {
        let Self { queue, body, at, .. } = self;
        if *at <= now {
            return Err(StoreError::Invalid(format!(
                "`not_before` (eta) of {at} is not to come: send the message to queue {queue} itself"
            )));
        }
        if jiff::Timestamp::from_millisecond(at.as_millis()).is_err() {
            return Err(StoreError::Invalid(
                "`delay` or `not_before` (eta) is after the year 9999: ask for less".into(),
            ));
        }
        let (bytes, max) = (body.len(), limits.schedule_input_bytes_max);
        if bytes > max {
            let delay = limits.delay_max;
            return Err(StoreError::Invalid(format!(
                "`args`: the task has {bytes} bytes with all that is said of it, and the schedule that keeps a task without a row until its time holds {max} at most. Store them and pass a reference, ask for {delay:?} of delay at most, or write track = \"full\" in [queues.{queue}]"
            )));
        }
        limits.check_body(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn check(change: impl FnOnce(&mut LateMessage)) -> std::result::Result<(), String> {
        let queue = QueueName::new("light").unwrap();
        let mut message =
            LateMessage { task: TaskId::from_bytes([7; 16]), queue, body: "{}".into(), at: Timestamp(1_001_000) };
        change(&mut message);
        message.check(&Limits::AWS, NOW).map_err(|error| error.to_string())
    }

    #[test]
    fn a_message_is_kept_for_a_time_to_come_alone() {
        assert_eq!(check(|_| {}), Ok(()));
        for at in [NOW, Timestamp(0)] {
            let refusal = check(|message| message.at = at).unwrap_err();
            assert!(refusal.contains("is not to come") && refusal.contains("light"), "{refusal}");
        }
        let refusal = check(|message| message.at = Timestamp(i64::MAX)).unwrap_err();
        assert!(refusal.contains("year 9999"), "{refusal}");
    }

    #[test]
    fn a_message_that_a_schedule_does_not_hold_is_refused_with_three_ways_out() {
        let most = Limits::AWS.schedule_input_bytes_max;
        assert_eq!(check(|message| message.body = "x".repeat(most)), Ok(()));
        let refusal = check(|message| message.body = "x".repeat(most + 1)).unwrap_err();
        for word in ["262145 bytes", "262144 at most", "a reference", "900s", "track = \"full\" in [queues.light]"] {
            assert!(refusal.contains(word), "{word}: {refusal}");
        }
        assert!(check(|message| message.body = "\u{FFFF}".into()).unwrap_err().contains("U+FFFF"));
    }
}
