//! The handlers of a function, by task name, with their types forgotten.

use std::{any::Any, collections::BTreeMap, future::Future, panic::AssertUnwindSafe};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use rhubarb_core::{contract::Word, envelope::BlobRef, outcome::Failure};
use serde_json::value::RawValue;

use crate::{
    Task, TaskError,
    context::{CancelReason, Context},
};

/// What one record came to, as the answer says it.
#[derive(Debug)]
pub(super) enum Verdict {
    Succeeded(Option<Given>),
    Failed { failure: Failure, fatal: bool, delay_ms: Option<u64> },
    Snoozed { delay_ms: u64 },
    Cancelled,
    Interrupted,
    UnknownTask,
    Poisoned(Failure),
}

/// An output, or where it was posted.
#[derive(Debug)]
pub(super) enum Given {
    Inline(Box<RawValue>),
    Posted(BlobRef),
}

impl Verdict {
    pub(super) fn failed(kind: &str, message: impl Into<String>) -> Self {
        Self::Failed { failure: Failure::new(kind, message), fatal: false, delay_ms: None }
    }

    pub(super) fn poisoned(message: impl Into<String>) -> Self {
        Self::Poisoned(Failure::new(Failure::POISON, message))
    }

    pub(super) const fn word(&self) -> Word {
        match self {
            Self::Succeeded(_) => Word::Succeeded,
            Self::Failed { fatal: false, .. } => Word::Failed,
            Self::Failed { fatal: true, .. } => Word::Fatal,
            Self::Snoozed { .. } => Word::Snoozed,
            Self::Cancelled => Word::Cancelled,
            Self::Interrupted => Word::Interrupted,
            Self::UnknownTask => Word::UnknownTask,
            Self::Poisoned(_) => Word::Poisoned,
        }
    }
}

/// A handler with its types forgotten: arguments as JSON in, what it came to out.
type Handler = Box<dyn Fn(&str, Context) -> Result<BoxFuture<'static, Verdict>, serde_json::Error> + Send + Sync>;

/// Handlers by task name.
#[derive(Default)]
pub(super) struct Handlers(BTreeMap<&'static str, Handler>);

impl Handlers {
    /// Adds a handler. Returns whether the name was free.
    pub(super) fn add<T, F, R, E>(&mut self, handler: F) -> bool
    where
        T: Task,
        F: Fn(T, Context) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T::Output, E>> + Send + 'static,
        E: Into<TaskError>,
    {
        let forgotten: Handler = Box::new(move |args, cx| {
            let task: T = arguments(args)?;
            // The call itself may panic, before there is a future.
            let running = std::panic::catch_unwind(AssertUnwindSafe(|| handler(task, cx.clone())));
            Ok(async move {
                let done = match running {
                    Ok(running) => AssertUnwindSafe(running.map(result::<T, E>)).catch_unwind().await,
                    Err(panic) => Err(panic),
                };
                match done {
                    Ok(Ok(output)) => succeeded(output, &cx).await,
                    Ok(Err(error)) => unsuccessful(error, &cx),
                    Err(panic) => Verdict::failed(Failure::PANIC, panic_message(panic.as_ref())),
                }
            }
            .boxed())
        });
        self.0.insert(T::NAME, forgotten).is_none()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Handler> {
        self.0.get(name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.keys().copied()
    }
}

/// Reads the arguments. A message that names none has `null`, which no struct is written as: one whose
/// fields all have defaults is `{}`.
fn arguments<T: Task>(args: &str) -> Result<T, serde_json::Error> {
    match serde_json::from_str(args) {
        Err(error) if args == "null" => serde_json::from_str("{}").map_err(|_| error),
        read => read,
    }
}

fn result<T: Task, E: Into<TaskError>>(result: Result<T::Output, E>) -> Result<Box<RawValue>, TaskError> {
    let output = result.map_err(Into::into)?;
    serde_json::value::to_raw_value(&output).map_err(|error| {
        TaskError::retry(format!("the output of task `{}` cannot be written as JSON: {error}", T::NAME)).kind("output")
    })
}

async fn succeeded(output: Box<RawValue>, cx: &Context) -> Verdict {
    let bytes = output.get().len();
    if output.get() == "null" {
        Verdict::Succeeded(None)
    } else if cx.attempt.takes_inline(bytes) {
        Verdict::Succeeded(Some(Given::Inline(output)))
    } else {
        posted(output, cx).await
    }
}

async fn posted(json: Box<RawValue>, cx: &Context) -> Verdict {
    let bytes = Bytes::from(String::from(Box::<str>::from(json)));
    match cx.post_output(bytes).await {
        Ok(blob) => Verdict::Succeeded(Some(Given::Posted(blob))),
        // Nobody reads outputs on plain Lambda.
        Err(crate::ContextError::NoHost { .. }) => Verdict::Succeeded(None),
        Err(error) => unsuccessful(error.into(), cx),
    }
}

fn unsuccessful(error: TaskError, cx: &Context) -> Verdict {
    match error {
        TaskError::Retry { failure, after } => {
            Verdict::Failed { failure, fatal: false, delay_ms: after.map(|after| after.as_millis() as u64) }
        }
        TaskError::Fatal(failure) => Verdict::Failed { failure, fatal: true, delay_ms: None },
        TaskError::Snooze(delay) => Verdict::Snoozed { delay_ms: delay.as_millis() as u64 },
        TaskError::LeaseLost => Verdict::Interrupted,
        TaskError::Cancelled => match cx.known_cancel_reason() {
            Some(CancelReason::Shutdown | CancelReason::LeaseLost) => Verdict::Interrupted,
            Some(CancelReason::Timeout) => {
                Verdict::failed(Failure::TIMEOUT, "the handler stopped at the soft time limit")
            }
            Some(CancelReason::Requested) | None => Verdict::Cancelled,
        },
    }
}

/// What a panic says, where it says anything.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "the handler panicked with a value that is no text".to_owned())
}
