//! From what a producer asks for to an envelope on a queue: routing, defaults and checks in one place,
//! for the client and for functions that enqueue alike.
//!
//! Nothing is sent here. Arguments over the inline limit are left to the caller, who has the blobs
//! ([`Prepared::needs_claim_check`]).

use std::time::Duration;

use serde_json::value::RawValue;

use crate::{
    backend::{BlobKey, StoreError, Submission, Window},
    config::{Config, Track},
    envelope::{BlobRef, Envelope, Trace, null},
    gpu::too_many_gpus,
    ids::{QueueName, TaskId, TaskName},
    limits::Limits,
    time::Timestamp,
};

/// What a producer asks for.
#[derive(Clone, Debug)]
pub struct NewTask {
    /// The kind of task.
    pub task: TaskName,
    /// The arguments, any JSON.
    pub args: Box<RawValue>,
    /// Its id, where the producer minted one.
    pub id: Option<TaskId>,
    /// The queue that the call names.
    pub queue: Option<QueueName>,
    /// The queue that the task's type names.
    pub type_queue: Option<QueueName>,
    /// Starts this much later.
    pub delay: Option<Duration>,
    /// Starts at this time; together with `delay` a mistake.
    pub not_before: Option<Timestamp>,
    /// Does not start after this.
    pub expires: Option<Timestamp>,
    /// The longest an attempt may take.
    pub timeout: Option<Duration>,
    /// Attempts in all.
    pub max_attempts: Option<u32>,
    /// GPUs, fewer than its queue gives; 0 runs it on the CPU.
    pub gpus: Option<u32>,
    /// A second task with this key is the first one.
    pub idempotency_key: Option<String>,
    /// For how long.
    pub window: Window,
    /// Tasks with the same key run in order (FIFO queues).
    pub ordering_key: Option<String>,
    /// Tasks with the same key share a fair part of the queue.
    pub fairness_key: Option<String>,
    /// Tasks with the same key share a limit.
    pub concurrency_key: Option<String>,
    /// The task that enqueues this one, and the first of its family.
    pub parent: Option<(TaskId, TaskId)>,
    /// The producer's trace.
    pub trace: Option<Trace>,
    /// Who made it, for people.
    pub producer: Option<String>,
}

impl NewTask {
    /// A task with its arguments and nothing else said.
    #[must_use]
    pub const fn new(task: TaskName, args: Box<RawValue>) -> Self {
        Self {
            task,
            args,
            id: None,
            queue: None,
            type_queue: None,
            delay: None,
            not_before: None,
            expires: None,
            timeout: None,
            max_attempts: None,
            gpus: None,
            idempotency_key: None,
            window: Window::DEFAULT,
            ordering_key: None,
            fairness_key: None,
            concurrency_key: None,
            parent: None,
            trace: None,
            producer: None,
        }
    }

    /// Decides queue and times, and checks everything that can be checked without the backend. `fresh`
    /// is the id where the producer gave none.
    ///
    /// # Errors
    ///
    /// `Invalid`, with the field and the fix.
    pub fn prepare(
        self,
        config: &Config,
        limits: &Limits,
        now: Timestamp,
        fresh: TaskId,
    ) -> Result<Prepared, StoreError> {
        let queue = config
            .route(&self.task, self.queue.as_ref(), self.type_queue.as_ref())
            .map_err(|error| StoreError::Invalid(error.to_string()))?;
        let Some(policy) = config.policy(&queue, &self.task) else { return Err(StoreError::NoQueue(queue)) };
        self.check_keys(limits)?;
        let track = config.queue(&queue).map_or(Track::Full, |queue| queue.track);
        if track != Track::Full {
            self.check_rowless(&queue, track, limits)?;
        }
        self.check_order(&queue, config.queue(&queue).is_some_and(|queue| queue.fifo))?;
        let not_before = match (self.delay, self.not_before) {
            (Some(_), Some(_)) => return invalid("`delay` and `not_before` (eta) are both given: keep one"),
            (Some(delay), None) => Some(now.after(delay)),
            (None, at) => at,
        };
        let expires = self.expires.or_else(|| policy.expires.map(|after| not_before.unwrap_or(now).after(after)));
        if expires.is_some_and(|at| at <= not_before.unwrap_or(now).max(now)) {
            return invalid("`expires` is not after the time the task may start: it would never run");
        }
        if self.timeout.is_some_and(|timeout| timeout.is_zero()) {
            return invalid("`timeout` is zero: give the attempt some time");
        }
        if let Some(timeout) = self.timeout.filter(|timeout| *timeout > policy.timeout) {
            let max = policy.timeout;
            return invalid(format!(
                "`timeout` of {timeout:?} is over the {max:?} of queue {queue}: a task may lower it, never raise it"
            ));
        }
        if let Some(attempts) =
            self.max_attempts.filter(|attempts| *attempts == 0 || *attempts > policy.retry.max_attempts)
        {
            let max = policy.retry.max_attempts;
            return invalid(format!(
                "`max_attempts` of {attempts} is not within 1 to {max}, the attempts of queue {queue}: a task may lower them, never raise them"
            ));
        }
        if let Some(asked) = self.gpus
            && let Some(why) = config.queue(&queue).and_then(|queue| too_many_gpus(config, queue, asked))
        {
            return invalid(why);
        }
        let mut envelope = Envelope::new(self.id.unwrap_or(fresh), self.task, self.args);
        envelope.queue = Some(queue.clone());
        envelope.created = Some(now);
        envelope.not_before = not_before.filter(|at| *at > now);
        envelope.expires = expires;
        envelope.timeout_ms = self.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        envelope.max_attempts = self.max_attempts;
        envelope.gpus = self.gpus;
        envelope.idempotency_key = self.idempotency_key;
        envelope.ordering_key = self.ordering_key;
        envelope.fairness_key = self.fairness_key;
        envelope.concurrency_key = self.concurrency_key;
        envelope.parent = self.parent.map(|(parent, _)| parent);
        envelope.root = self.parent.map(|(_, root)| root);
        envelope.trace = self.trace;
        envelope.producer = self.producer;
        // Without a row nothing would ever delete a claim check: such arguments travel in the message.
        let inline_bytes_max = if track == Track::Full { limits.inline_bytes_max } else { usize::MAX };
        Ok(Prepared { envelope, queue, window: self.window, inline_bytes_max })
    }

    /// What only rows can keep, on a queue that keeps none.
    fn check_rowless(&self, queue: &QueueName, track: Track, limits: &Limits) -> Result<(), StoreError> {
        let because = format!("queue {queue} has track = \"{track}\" and keeps no rows");
        let fix = format!("or write track = \"full\" in [queues.{queue}]");
        let keys = [("idempotency_key", &self.idempotency_key), ("concurrency_key", &self.concurrency_key)];
        if let Some((name, _)) = keys.into_iter().find(|(_, key)| key.is_some()) {
            return invalid(format!("`{name}` is given, and {because} to know it by: leave it out, {fix}"));
        }
        let bytes = self.args.get().len();
        if bytes > limits.message_bytes_max {
            let max = limits.message_bytes_max;
            return invalid(format!(
                "`args` has {bytes} bytes, and {because}: arguments travel in the message, which holds {max} at most. Store them and pass a reference, {fix}"
            ));
        }
        Ok(())
    }

    /// What SQS would refuse or silently leave out, by the kind of queue.
    fn check_order(&self, queue: &QueueName, is_fifo: bool) -> Result<(), StoreError> {
        if !is_fifo && self.ordering_key.is_some() {
            return invalid(format!(
                "`ordering_key` is given, and queue {queue} keeps no order: add `fifo = true` to [queues.{queue}], or leave it out"
            ));
        }
        if is_fifo && self.fairness_key.is_some() {
            return invalid(format!(
                "`fairness_key` does not go with the FIFO queue {queue}: use `ordering_key`, or leave it out"
            ));
        }
        if is_fifo && (self.delay.is_some() || self.not_before.is_some()) {
            return invalid(format!(
                "`delay` and `not_before` (eta) do not go with the FIFO queue {queue}: SQS delays no single message there"
            ));
        }
        Ok(())
    }

    fn check_keys(&self, limits: &Limits) -> Result<(), StoreError> {
        let keys = [
            ("idempotency_key", &self.idempotency_key),
            ("ordering_key", &self.ordering_key),
            ("fairness_key", &self.fairness_key),
            ("concurrency_key", &self.concurrency_key),
        ];
        for (name, key) in keys {
            let Some(key) = key else { continue };
            let count = key.chars().count();
            if count == 0 || count > limits.key_chars_max {
                return invalid(format!("`{name}` has {count} characters: 1 to {} are allowed", limits.key_chars_max));
            }
        }
        Ok(())
    }
}

/// A task ready to be submitted.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The envelope.
    pub envelope: Envelope,
    /// Its queue.
    pub queue: QueueName,
    window: Window,
    inline_bytes_max: usize,
}

impl Prepared {
    /// Where the arguments must be stored first, because they are over the inline limit.
    #[must_use]
    pub fn needs_claim_check(&self) -> Option<BlobKey> {
        let large = self.envelope.args.get().len() > self.inline_bytes_max;
        large.then(|| BlobKey::arguments(self.envelope.id))
    }

    /// Replaces the arguments by their claim check.
    pub fn claim_check(&mut self, blob: BlobRef) {
        self.envelope.args = null();
        self.envelope.blob = Some(blob);
    }

    /// What is given to [`crate::backend::Backend::submit`].
    #[must_use]
    pub fn submission(&self) -> Submission {
        Submission::new(&self.envelope, self.queue.clone(), self.window)
    }
}

fn invalid<T>(what: impl Into<String>) -> Result<T, StoreError> {
    Err(StoreError::Invalid(what.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{NoVars, Overrides};

    fn prepare(change: impl FnOnce(&mut NewTask)) -> Result<Prepared, String> {
        let text = "[app]\nname = \"shop\"\n[queues.high]\nmax_attempts = 3\ntimeout = \"1m\"\nfunctions = [\"f\"]\n[queues.ordered]\nfifo = true\nfunctions = [\"f\"]\n[functions.f]\npackage = \"f\"\n";
        let config = Config::parse(text, &NoVars, &Overrides::default()).map_err(|error| error.to_string())?;
        let mut task = NewTask::new(TaskName::new("t").unwrap(), RawValue::from_string("{}".into()).unwrap());
        change(&mut task);
        let now = Timestamp(1_000_000);
        task.prepare(&config, &Limits::AWS, now, TaskId::from_bytes([9; 16])).map_err(|error| error.to_string())
    }

    #[test]
    fn a_task_may_lower_its_queues_policy_and_never_raise_it() {
        let high = || QueueName::new("high").ok();
        assert!(prepare(|task| (task.queue, task.timeout) = (high(), Some(Duration::from_secs(59)))).is_ok());
        assert!(
            prepare(|task| (task.queue, task.timeout) = (high(), Some(Duration::from_secs(61))))
                .unwrap_err()
                .contains("`timeout`")
        );
        assert!(
            prepare(|task| (task.queue, task.max_attempts) = (high(), Some(4))).unwrap_err().contains("`max_attempts`")
        );
        assert!(prepare(|task| task.queue = QueueName::new("hihg").ok()).unwrap_err().contains("hihg"));
    }

    #[test]
    fn a_task_may_ask_for_fewer_gpus_than_its_queue_gives_and_never_for_more() {
        assert_eq!(prepare(|task| task.gpus = Some(0)).unwrap().envelope.gpus, Some(0));
        let refusal = prepare(|task| task.gpus = Some(1)).unwrap_err();
        assert!(refusal.contains("`gpus` of 1 is over the 0 of queue default"), "{refusal}");
    }

    #[test]
    fn what_would_never_run_is_refused() {
        assert!(prepare(|task| task.expires = Some(Timestamp(5))).unwrap_err().contains("`expires`"));
        assert!(
            prepare(|task| (task.delay, task.expires) = (Some(Duration::from_secs(9)), Some(Timestamp(1_005_000))))
                .is_err()
        );
        assert!(prepare(|task| (task.delay, task.not_before) = (Some(Duration::ZERO), Some(Timestamp(5)))).is_err());
        assert!(
            prepare(|task| task.idempotency_key = Some("k".repeat(129))).unwrap_err().contains("`idempotency_key`")
        );
    }

    #[test]
    fn order_and_delay_are_refused_where_the_queue_has_none() {
        let ordered = || QueueName::new("ordered").ok();
        let key = || Some("k".to_owned());
        assert!(prepare(|task| (task.queue, task.ordering_key) = (ordered(), key())).is_ok());
        let refusal = prepare(|task| task.ordering_key = key()).unwrap_err();
        assert!(refusal.contains("`ordering_key`") && refusal.contains("fifo = true"), "{refusal}");
        assert!(prepare(|task| task.fairness_key = key()).is_ok());
        assert!(
            prepare(|task| (task.queue, task.fairness_key) = (ordered(), key()))
                .unwrap_err()
                .contains("`fairness_key`")
        );
        assert!(
            prepare(|task| (task.queue, task.delay) = (ordered(), Some(Duration::from_secs(5))))
                .unwrap_err()
                .contains("`delay`")
        );
        assert!(prepare(|task| (task.queue, task.not_before) = (ordered(), Some(Timestamp(2_000_000)))).is_err());
    }

    #[test]
    fn a_delay_becomes_a_time_and_a_past_eta_none() {
        let late = prepare(|task| task.delay = Some(Duration::from_secs(5))).unwrap();
        assert_eq!(late.envelope.not_before, Some(Timestamp(1_005_000)));
        let past = prepare(|task| task.not_before = Some(Timestamp(7))).unwrap();
        assert_eq!(past.envelope.not_before, None);
    }

    #[test]
    fn large_arguments_ask_for_a_claim_check() {
        let large = format!("\"{}\"", "x".repeat(Limits::AWS.inline_bytes_max));
        let prepared = prepare(|task| task.args = RawValue::from_string(large).unwrap()).unwrap();
        assert!(prepared.needs_claim_check().is_some());
        assert!(prepare(|_| {}).unwrap().needs_claim_check().is_none());
    }
}
