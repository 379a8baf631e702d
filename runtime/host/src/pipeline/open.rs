//! Opening what was won: reads the envelope, keeps the lease, fetches arguments that travel as a claim check.
//!
//! What cannot be run is settled here. A crash leaves leases that end.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rhubarb_core::{
    backend::{Log, Won},
    config::{QueueConfig, TaskPolicy},
    envelope::Envelope,
    gpu::too_many_gpus,
    outcome::{Failure, Outcome},
    schedule::{self, Verdict},
};
use rhubarb_telemetry::spans;
use serde_json::value::RawValue;
use tokio::sync::Notify;

use super::{Held, Host};
use crate::{attempt::Attempt, judge};

/// A tick whose overlap cannot be judged is tried again after this.
const OVERLAP_PAUSE: Duration = Duration::from_secs(1);

impl Host {
    /// Reads the envelope and keeps the lease; fetches arguments that travel as a claim check. What
    /// cannot be read is settled here.
    pub(super) async fn open_one(&self, queue: &Arc<QueueConfig>, won: Won, bell: &Arc<Notify>) -> Option<Held> {
        let (envelope, unreadable) = match Envelope::decode_full(&won.spec) {
            Ok(envelope) => (envelope, None),
            // Cannot be run, but can be settled under its own id.
            Err(error) => (Envelope::new(won.id, won.task.clone(), rhubarb_core::envelope::null()), Some(error)),
        };
        let timeout = envelope.timeout_ms.map(Duration::from_millis);
        let task_config = self.shared.config.tasks.get(&won.task);
        let policy = TaskPolicy::new(queue, task_config).lowered(timeout, envelope.max_attempts);
        let span = spans::Attempt::begin(&self.shared.queues, &queue.name, &self.shared.worker, &won, &envelope);
        let attempt = Attempt::new(won, envelope, Arc::clone(queue), policy, Arc::clone(bell)).traced(span);
        let attempt = Arc::new(attempt);
        let kept = self.keeper.keep(Arc::clone(&attempt));
        let mut held = Held { attempt, kept, body: None, taken: Instant::now() };
        let asks_too_much =
            held.attempt.envelope.gpus.and_then(|asked| too_many_gpus(&self.shared.config, queue, asked));
        let refusal = match unreadable.map(|error| error.to_string()).or(asks_too_much) {
            Some(why) => Some(Outcome::Poisoned(Failure::new(Failure::POISON, why))),
            None => match self.body(&held.attempt).await {
                Ok(body) => {
                    held.body = body;
                    None
                }
                Err(outcome) => Some(outcome),
            },
        };
        let refusal = match refusal {
            None => self.left_out(&held.attempt).await,
            Some(outcome) => Some((outcome, Log::default())),
        };
        match refusal {
            None => Some(held),
            Some((outcome, log)) => {
                self.settle(vec![(held, outcome, log)]).await;
                None
            }
        }
    }

    /// What becomes of a schedule's tick that may not begin beside an earlier one.
    async fn left_out(&self, attempt: &Attempt) -> Option<(Outcome, Log)> {
        if attempt.won.is_rowless() {
            return None;
        }
        match schedule::judge(&*self.shared.backend, &attempt.envelope, &self.shared.config).await {
            Ok(Verdict::Begin | Verdict::Replaces(_)) => None,
            Ok(Verdict::LeftOut(other)) => {
                let text = format!("[left out: task {other} of another tick has not settled]\n");
                Some((Outcome::Cancelled, Log { text, dropped: 0, ..Log::default() }))
            }
            Err(error) => {
                let id = attempt.won.id;
                let _line = attempt.span.enter();
                tracing::warn!(task.id = %id, error = %error, "cannot tell whether task {id} overlaps another tick: {error}");
                Some((Outcome::Snoozed(OVERLAP_PAUSE), Log::default()))
            }
        }
    }

    /// The body a function is given, where it is not the envelope as it is kept.
    async fn body(&self, attempt: &Attempt) -> Result<Option<String>, Outcome> {
        if let Some(raw) = &attempt.envelope.raw {
            return Ok(Some(raw.clone()));
        }
        let Some(blob) = &attempt.envelope.blob else { return Ok(None) };
        let content = self.shared.backend.blobs().check_out(blob).await.map_err(|error| {
            let failure = Failure::new(Failure::BLOB, format!("cannot read the arguments: {error}"));
            judge::failed(attempt, failure, None, fastrand::f64())
        })?;
        let poisoned = |what: String| Outcome::Poisoned(Failure::new(Failure::POISON, what));
        let text = String::from_utf8(content.into()).map_err(|_| poisoned("the arguments are not UTF-8".into()))?;
        let args =
            RawValue::from_string(text).map_err(|error| poisoned(format!("the arguments are not JSON: {error}")))?;
        let mut envelope = attempt.envelope.clone();
        (envelope.args, envelope.blob) = (args, None);
        Ok(Some(envelope.encode()))
    }
}
