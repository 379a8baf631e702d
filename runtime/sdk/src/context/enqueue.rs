//! Tasks that a task makes: handed to the host, which knows the queues.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
};

use http::Method;
use rhubarb_core::{
    backend::Window,
    enqueue::NewTask as Asked,
    ids::{QueueName, TaskId, TaskName},
    time::{Timestamp, millis},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Context, ContextError,
    error::Refusal,
    routes::{Call, Host},
};
use crate::new_task::{Enqueue, NewTask};

/// A task that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enqueued {
    /// Its id.
    pub id: TaskId,
    /// It was there before: the same id, or the same idempotency key. Nothing was changed.
    #[serde(default)]
    pub existing: bool,
}

/// Where a task that a function enqueues goes: to its host.
#[derive(Clone)]
pub struct ToHost {
    host: Host,
    caller: TaskId,
}

impl ToHost {
    pub(super) fn new(cx: &Context) -> Self {
        Self { host: cx.attempt.host.clone(), caller: cx.attempt.id }
    }

    pub(super) async fn send(self, tasks: Vec<NewTask>) -> Result<Vec<Result<Enqueued, ContextError>>, ContextError> {
        let mut results: Vec<Option<Result<Enqueued, ContextError>>> = Vec::with_capacity(tasks.len());
        let mut asked = Vec::with_capacity(tasks.len());
        for task in tasks {
            let checked = task.into_inner().and_then(checked);
            results.push(checked.map_or_else(
                |mistake| Some(Err(ContextError::Invalid(mistake))),
                |task| {
                    asked.push(task);
                    None
                },
            ));
        }
        if !asked.is_empty() {
            let mut answers = self.ask(&asked).await?.into_iter();
            for open in results.iter_mut().filter(|result| result.is_none()) {
                *open = answers.next();
            }
        }
        let missing = || Err(host_error("the host gave fewer results than there were tasks"));
        Ok(results.into_iter().map(|result| result.unwrap_or_else(missing)).collect())
    }

    async fn ask(self, tasks: &[Asked]) -> Result<Vec<Result<Enqueued, ContextError>>, ContextError> {
        let tasks = tasks.iter().map(AskedOnWire::of).collect();
        let body = serde_json::to_vec(&Request { tasks }).map_err(host_error)?;
        let call =
            Call { task: Some(self.caller), ..Call::new(WHAT, Method::POST, "/enqueue".to_owned(), body.into()) };
        let answer: Answer = self.host.json(call).await?;
        Ok(answer.results.into_iter().map(Said::into_result).collect())
    }
}

impl IntoFuture for Enqueue<ToHost> {
    type Output = Result<Enqueued, ContextError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let results = self.to.send(vec![self.task]).await?;
            results.into_iter().next().unwrap_or_else(|| Err(host_error("the host gave no result")))
        })
    }
}

const WHAT: &str = "enqueue the task";

fn host_error(source: impl Into<crate::task_error::BoxError>) -> ContextError {
    ContextError::Host { what: WHAT, source: source.into() }
}

/// What the route has no words for.
fn checked(task: Asked) -> Result<Asked, String> {
    if task.parent.is_some() {
        return Err("`parent` of a task that a function enqueues is its own task: leave it out".to_owned());
    }
    Ok(task)
}

#[derive(Serialize)]
struct Request<'a> {
    tasks: Vec<AskedOnWire<'a>>,
}

#[derive(Serialize)]
struct AskedOnWire<'a> {
    task: &'a TaskName,
    args: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<&'a QueueName>,
    /// What the task's type says: the host's configuration comes between the two.
    #[serde(skip_serializing_if = "Option::is_none")]
    type_queue: Option<&'a QueueName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<TaskId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gpus: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ordering_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fairness_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency_key: Option<&'a str>,
}

impl<'a> AskedOnWire<'a> {
    fn of(task: &'a Asked) -> Self {
        Self {
            task: &task.task,
            args: &task.args,
            queue: task.queue.as_ref(),
            type_queue: task.type_queue.as_ref(),
            id: task.id,
            delay_ms: task.delay.map(millis),
            not_before: task.not_before,
            expires: task.expires,
            timeout_ms: task.timeout.map(millis),
            max_attempts: task.max_attempts,
            gpus: task.gpus,
            idempotency_key: task.idempotency_key.as_deref(),
            window_ms: match task.window {
                Window::For(time) if task.window != Window::DEFAULT => Some(millis(time)),
                Window::For(_) | Window::UntilSettled => None,
            },
            window: (task.window == Window::UntilSettled).then_some("until_settled"),
            ordering_key: task.ordering_key.as_deref(),
            fairness_key: task.fairness_key.as_deref(),
            concurrency_key: task.concurrency_key.as_deref(),
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    results: Vec<Said>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    Accepted(Enqueued),
    Refused { error: Refusal },
}

impl Said {
    fn into_result(self) -> Result<Enqueued, ContextError> {
        match self {
            Self::Accepted(enqueued) => Ok(enqueued),
            Self::Refused { error } => Err(ContextError::Invalid(error.error_message)),
        }
    }
}
