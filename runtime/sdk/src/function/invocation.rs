//! One invocation: an event in, an answer out. Records run in order, or so many at the same time.
//!
//! No record's trouble is another's: a body that cannot be read, an unknown task, a panic are each
//! that record's own outcome. Only an event that is none fails the whole invocation. A process that
//! dies here has answered nothing, and the host gives every record back.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use futures::future::BoxFuture;
use rhubarb_core::{
    envelope::{DecodeError, Envelope},
    ids::MessageId,
    limits::Limits,
    outcome::Failure,
};
use serde_json::value::RawValue;
use tokio::{sync::Semaphore, time::Instant};

use super::{
    answer::Answer,
    event::{Event, Record},
    handlers::{Handlers, Verdict, panic_message},
};
use crate::context::{Attempt, Context, States, routes::Host};

/// Outputs of one answer, in all: what Lambda takes, less room for what stands around them.
const ANSWER_OUTPUT_BYTES_MAX: usize = Limits::AWS.event_bytes_max - 1024 * 1024;

/// The function as its invocations see it.
pub(super) struct Service {
    pub(super) handlers: Handlers,
    pub(super) states: States,
    pub(super) host: Host,
    /// Records of one invocation that run at the same time.
    pub(super) parallel: usize,
}

/// What the records of one invocation share.
#[derive(Clone)]
struct Invocation {
    ends: Instant,
    /// Bytes that outputs may still take in the answer.
    room: Arc<AtomicUsize>,
}

impl Service {
    /// Runs the records of an event. `left` is what remains of the invocation's time.
    ///
    /// # Errors
    ///
    /// The event is no SQS event.
    pub(super) async fn invoke(&self, event: &str, left: Duration) -> Result<Box<RawValue>, String> {
        let event = Event::read(event)?;
        let invocation =
            Invocation { ends: Instant::now() + left, room: Arc::new(AtomicUsize::new(ANSWER_OUTPUT_BYTES_MAX)) };
        let verdicts = if self.parallel > 1 && event.records.len() > 1 {
            self.side_by_side(&event.records, &invocation).await
        } else {
            self.in_order(&event.records, &invocation).await
        };
        if !self.host.is_there() {
            tell(&event.records, &verdicts);
        }
        let answer = Answer { records: &event.records, verdicts: &verdicts };
        serde_json::value::to_raw_value(&answer).map_err(|error| format!("the answer cannot be written: {error}"))
    }

    async fn in_order(&self, records: &[Record<'_>], invocation: &Invocation) -> Vec<Verdict> {
        let mut verdicts = Vec::with_capacity(records.len());
        for record in records {
            verdicts.push(match self.begin(record, invocation) {
                Ok(running) => running.await,
                Err(verdict) => verdict,
            });
        }
        verdicts
    }

    async fn side_by_side(&self, records: &[Record<'_>], invocation: &Invocation) -> Vec<Verdict> {
        let room = Arc::new(Semaphore::new(self.parallel));
        let mut begun = Vec::with_capacity(records.len());
        for record in records {
            // Begun one by one as room is there, so that the time of each counts from its own start.
            let place = Arc::clone(&room).acquire_owned().await;
            begun.push(self.begin(record, invocation).map(|running| {
                tokio::spawn(async move {
                    let verdict = running.await;
                    drop(place);
                    verdict
                })
            }));
        }
        let mut verdicts = Vec::with_capacity(begun.len());
        for running in begun {
            verdicts.push(match running {
                Ok(running) => running.await.unwrap_or_else(ended),
                Err(verdict) => verdict,
            });
        }
        verdicts
    }

    /// Begins one record, or says why it cannot begin.
    fn begin(&self, record: &Record<'_>, invocation: &Invocation) -> Result<BoxFuture<'static, Verdict>, Verdict> {
        let message = MessageId::new(record.message_id.as_ref());
        let envelope = Envelope::decode(&record.body, &message, None).map_err(unreadable)?;
        let Some(handler) = self.handlers.get(envelope.task.as_str()) else { return Err(Verdict::UnknownTask) };
        if let Some(blob) = envelope.blob.as_ref().filter(|_| envelope.args.get() == "null") {
            let message = format!("the arguments lie in blob `{}`, and no host has put them in place", blob.key);
            return Err(Verdict::failed(Failure::BLOB, message));
        }
        let cx = self.context(record, &envelope, invocation)?;
        let running = handler(&arguments(&envelope), cx.clone()).map_err(|error| {
            Verdict::poisoned(format!("the arguments do not fit task `{}`: {error}", envelope.task))
        })?;
        let run = async move {
            let verdict = running.await;
            cx.close().await;
            verdict
        };
        #[cfg(feature = "otel")]
        let run = {
            let (traceparent, tracestate) = record.trace();
            rhubarb_telemetry::spans::FutureExt::with_context(run, super::otel::context(traceparent, tracestate))
        };
        Ok(Box::pin(run))
    }

    fn context(&self, record: &Record<'_>, envelope: &Envelope, invocation: &Invocation) -> Result<Context, Verdict> {
        let info = record.info().map_err(|error| Verdict::failed(Failure::POISON, error))?;
        let now = Instant::now();
        let within =
            |ms: u64| now.checked_add(Duration::from_millis(ms)).map_or(invocation.ends, |at| at.min(invocation.ends));
        let room = Arc::clone(&invocation.room);
        let (host, states) = (self.host.clone(), self.states.clone());
        let attempt = match info {
            Some(info) => Attempt {
                attempt: info.attempt,
                max_attempts: info.max_attempts,
                gpus: info.gpus.into_owned(),
                deadline: within(info.timeout_ms),
                soft_deadline: within(info.soft_timeout_ms),
                ..Attempt::new(info.id, host, states, room, invocation.ends)
            },
            None => Attempt {
                attempt: record.receive_count(),
                max_attempts: envelope.max_attempts.unwrap_or(u32::MAX),
                ..Attempt::new(envelope.id, host, states, room, envelope.timeout_ms.map_or(invocation.ends, within))
            },
        };
        Ok(Context { attempt: Arc::new(attempt) })
    }
}

/// The arguments of a task; those of a body that was no envelope are that body: its JSON, or its text.
fn arguments(envelope: &Envelope) -> std::borrow::Cow<'_, str> {
    match &envelope.raw {
        None => envelope.args.get().into(),
        Some(raw) if serde_json::from_str::<&RawValue>(raw).is_ok() => raw.into(),
        Some(raw) => serde_json::Value::from(raw.as_str()).to_string().into(),
    }
}

fn unreadable(error: DecodeError) -> Verdict {
    match error {
        DecodeError::Newer(_) => Verdict::failed(Failure::NEWER_ENVELOPE, error.to_string()),
        _ => Verdict::poisoned(error.to_string()),
    }
}

/// A record's own task never panics (its handler's panic is caught) and is never aborted; should the
/// runtime end it all the same, the record has failed.
fn ended(error: tokio::task::JoinError) -> Verdict {
    match error.try_into_panic() {
        Ok(panic) => Verdict::failed(Failure::PANIC, panic_message(panic.as_ref())),
        Err(error) => Verdict::failed(Failure::CRASHED, error.to_string()),
    }
}

/// On plain Lambda nobody else says why a record failed.
fn tell(records: &[Record<'_>], verdicts: &[Verdict]) {
    for (record, verdict) in records.iter().zip(verdicts) {
        let id = &record.message_id;
        match verdict {
            Verdict::Failed { failure, .. } | Verdict::Poisoned(failure) => {
                tracing::error!(message.id = %id, error.kind = failure.kind, "message {id} failed: {}", failure.message);
            }
            Verdict::UnknownTask => tracing::error!(message.id = %id, "message {id} is no task of this function"),
            Verdict::Succeeded(_) | Verdict::Snoozed { .. } | Verdict::Cancelled | Verdict::Interrupted => {}
        }
    }
}

#[cfg(test)]
mod tests;
