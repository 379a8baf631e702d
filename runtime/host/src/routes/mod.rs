//! The routes beside the Runtime API: what a function may ask of its host while it works.
//!
//! They lie below `/rhubarb/v1` on the process's own loopback listener. What concerns one attempt works
//! only for attempts in flight in this very process; sweeping and redriving only where a queue of theirs
//! allows it. Every answer is an AWS-style JSON error or the thing itself. Lost requests lose nothing:
//! progress is said again, a checkpoint that was not acknowledged is not referred to.

mod messages;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use rhubarb_core::{
    backend::{Backend, BlobKey, Cursor, Filter, Progress, Report, StoreError, Submitted, rowless, sha256_hex},
    config::{Config, Grant},
    enqueue::NewTask,
    envelope::BlobRef,
    ids::{FunctionName, QueueName, TaskId, TaskName, WorkerId},
    row::State,
    time::Timestamp,
};
use rhubarb_telemetry::{queues::Queues, spans};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use self::messages::{
    Answer, Enqueue, Enqueued, ErrorBody, Refusal, blob_key, body, json, now, parent_span, query, refuse_rowless,
    respond, task_id,
};
use crate::{attempt::Attempt, listener::Listener, runtime_api, sweep::Sweep};

/// The largest checkpoint, output or blob that a route takes.
const CONTENT_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Tasks of one enqueue.
const ENQUEUE_MAX: usize = 1000;
/// The longest long poll of the cancellation route.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// Tasks of one listing where the function names no number.
const LIST_DEFAULT: usize = 100;
const LIST_MAX: usize = 1000;

/// What all processes of a worker share.
pub struct Shared {
    /// Rows, queues and blobs.
    pub backend: Arc<dyn Backend>,
    /// The whole configuration.
    pub config: Arc<Config>,
    /// The worker.
    pub worker: WorkerId,
    /// How queues are named in spans.
    pub queues: Queues,
    /// The sweep, for the agent and for functions that may sweep.
    pub sweep: tokio::sync::Mutex<Sweep>,
    /// Who hears what the host does, if anybody does.
    pub listener: Option<Arc<dyn Listener>>,
}

impl Shared {
    /// What the processes of this worker share.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>, config: Arc<Config>, worker: WorkerId) -> Self {
        let queues = Queues::of(&config);
        Self { backend, config, worker, queues, sweep: tokio::sync::Mutex::default(), listener: None }
    }

    /// A queue's ARN as a function sees it, whichever backend it is.
    #[must_use]
    pub fn queue_arn(&self, queue: &QueueName) -> String {
        format!("arn:aws:sqs:us-east-1:000000000000:{queue}")
    }

    /// A function's ARN as it sees it, whichever place it runs in.
    #[must_use]
    pub fn function_arn(&self, function: &FunctionName) -> String {
        format!("arn:aws:lambda:us-east-1:000000000000:function:{function}")
    }
}

/// The routes of one function process.
pub struct ProcessRoutes {
    shared: Arc<Shared>,
    said: Mutex<Option<Vec<TaskName>>>,
    attempts: Mutex<HashMap<TaskId, Arc<Attempt>>>,
}

/// Attempts in flight in a process, until this is dropped.
pub struct Registered<'a> {
    routes: &'a ProcessRoutes,
    ids: Vec<TaskId>,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let mut attempts = self.routes.attempts();
        for id in &self.ids {
            attempts.remove(id);
        }
    }
}

#[async_trait]
impl runtime_api::Routes for ProcessRoutes {
    async fn call(&self, request: Request<Bytes>) -> Response<Bytes> {
        let answer = self.route(request).await;
        answer.unwrap_or_else(|refusal| {
            let body = serde_json::json!({ "errorType": refusal.kind, "errorMessage": refusal.message });
            respond(refusal.status, body.to_string().into())
        })
    }

    fn body_limit(&self, path: &str) -> usize {
        let content = path.contains("/blobs/") || path.ends_with("/checkpoint") || path.ends_with("/output");
        if content { CONTENT_BYTES_MAX } else { runtime_api::RESPONSE_BYTES_MAX }
    }
}

impl ProcessRoutes {
    /// The routes of a process that has no attempt in flight yet.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, said: Mutex::default(), attempts: Mutex::default() }
    }

    /// The tasks that the function said it runs, if it said so.
    #[must_use]
    pub fn said(&self) -> Option<Vec<TaskName>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The attempts that are in flight in this process.
    #[must_use]
    pub fn attempts_in_flight(&self) -> Vec<Arc<Attempt>> {
        self.attempts().values().cloned().collect()
    }

    /// Notes attempts that are in flight in this process.
    #[must_use]
    pub fn register(&self, attempts: &[Arc<Attempt>]) -> Registered<'_> {
        let ids: Vec<TaskId> = attempts.iter().map(|attempt| attempt.won.id).collect();
        self.attempts().extend(ids.iter().copied().zip(attempts.iter().cloned()));
        Registered { routes: self, ids }
    }

    fn attempts(&self) -> MutexGuard<'_, HashMap<TaskId, Arc<Attempt>>> {
        // Nothing panics while it holds the lock; if something did, the map is still whole.
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn route(&self, request: Request<Bytes>) -> Answer {
        let path = request.uri().path().to_owned();
        let path = path.strip_prefix(runtime_api::ROUTES_PREFIX).unwrap_or(&path);
        let segments: Vec<&str> = path.split('/').collect();
        let get = request.method() == Method::GET;
        let put = request.method() == Method::PUT;
        let post = request.method() == Method::POST;
        let delete = request.method() == Method::DELETE;
        match segments.as_slice() {
            ["function"] if post => self.function(&request),
            ["enqueue"] if post => self.enqueue(&request).await,
            ["counts"] if get => json(StatusCode::OK, &self.shared.backend.tasks().count().await?),
            ["sweep"] if post => self.sweep().await,
            ["tasks"] if get => self.tasks(&request).await,
            ["tasks", id] if get => self.task(id).await,
            ["tasks", id, "progress"] if post => self.progress(id, &request).await,
            ["tasks", id, "checkpoint"] if put => self.checkpoint(id, request.into_body()).await,
            ["tasks", id, "checkpoint"] if get => self.last_checkpoint(id).await,
            ["tasks", id, "cancellation"] if get => self.cancellation(id, &request).await,
            ["tasks", id, "output"] if put => self.output(id, request.into_body()).await,
            ["tasks", id, "redrive"] if post => self.redrive(id).await,
            ["blobs"] if get => self.blobs(&request).await,
            ["blobs", key @ ..] if get => self.blob(&blob_key(key)?, &request).await,
            ["blobs", key @ ..] if put => self.put_blob(&blob_key(key)?, request.into_body()).await,
            ["blobs", key @ ..] if delete => self.delete_blob(&blob_key(key)?).await,
            _ => {
                let message = format!("there is no route {} {}", request.method(), request.uri().path());
                Err(Refusal::new(StatusCode::NOT_FOUND, "NoRoute", message))
            }
        }
    }

    fn function(&self, request: &Request<Bytes>) -> Answer {
        #[derive(Deserialize)]
        struct Said {
            v: u64,
            tasks: Vec<TaskName>,
        }
        let said: Said = body(request)?;
        if said.v > rhubarb_core::contract::VERSION {
            return Err(Refusal::bad(format!(
                "`v` is {}, this host reads up to {}",
                said.v,
                rhubarb_core::contract::VERSION
            )));
        }
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = Some(said.tasks);
        Ok(respond(StatusCode::ACCEPTED, Bytes::new()))
    }

    /// The attempt of this task that is in flight here.
    fn attempt(&self, id: &str) -> Result<Arc<Attempt>, Refusal> {
        let id = task_id(id)?;
        self.attempts().get(&id).cloned().ok_or_else(|| {
            let message = format!("task {id} is not in flight in this process");
            Refusal::new(StatusCode::FORBIDDEN, "NotHeld", message)
        })
    }

    async fn progress(&self, id: &str, request: &Request<Bytes>) -> Answer {
        let attempt = self.attempt(id)?;
        let progress: Progress = body(request)?;
        if let Some(report) = attempt.note_progress(progress, Instant::now()) {
            self.report(report).await?;
        }
        Ok(respond(StatusCode::ACCEPTED, Bytes::new()))
    }

    async fn report(&self, report: Report) -> Result<(), Refusal> {
        let answers = self.shared.backend.tasks().report(&[report]).await;
        answers.into_iter().try_for_each(|answer| answer.map_err(Refusal::from))
    }

    async fn checkpoint(&self, id: &str, content: Bytes) -> Answer {
        let attempt = self.attempt(id)?;
        refuse_rowless(&attempt)?;
        let (id, fence) = (attempt.won.id, attempt.won.row.fence);
        // Each has a key of its own: the row never refers to a half-replaced one.
        let key = BlobKey::new(format!("{}-{}", BlobKey::checkpoint(id, fence), uuid::Uuid::now_v7().simple()))?;
        let blobs = self.shared.backend.blobs();
        let reference = blobs.check_in(&key, content).await?;
        let report = Report { id, fence, progress: None, checkpoint: Some(reference.clone()), log: None };
        if let Err(refusal) = self.report(report).await {
            blobs.delete(&[key]).await;
            return Err(refusal);
        }
        let older = attempt.checkpoint().and_then(|older| BlobKey::new(older.key).ok());
        attempt.note_checkpoint(reference);
        blobs.delete(older.as_slice()).await;
        Ok(respond(StatusCode::NO_CONTENT, Bytes::new()))
    }

    async fn last_checkpoint(&self, id: &str) -> Answer {
        let attempt = self.attempt(id)?;
        let Some(reference) = attempt.checkpoint() else {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "NoCheckpoint", "the task has left no checkpoint yet"));
        };
        Ok(respond(StatusCode::OK, self.shared.backend.blobs().check_out(&reference).await?))
    }

    async fn cancellation(&self, id: &str, request: &Request<Bytes>) -> Answer {
        #[derive(Serialize)]
        struct Cancellation {
            cancelled: bool,
            reason: Option<&'static str>,
        }
        let attempt = self.attempt(id)?;
        let wait_ms = query(request, "wait_ms").map_or(Ok(0), |text| text.parse::<u64>());
        let wait = Duration::from_millis(wait_ms.map_err(|_| Refusal::bad("`wait_ms` is no number"))?).min(WAIT_MAX);
        // Either it is told to stop, or the wait is over: the answer reads the same place.
        let _ = tokio::time::timeout(wait, attempt.told()).await;
        let reason = attempt.stopped().map(crate::attempt::Stop::word);
        json(StatusCode::OK, &Cancellation { cancelled: reason.is_some(), reason })
    }

    async fn output(&self, id: &str, content: Bytes) -> Answer {
        let attempt = self.attempt(id)?;
        serde_json::from_slice::<&RawValue>(&content)
            .map_err(|error| Refusal::bad(format!("the output is not JSON: {error}")))?;
        let key = BlobKey::output(attempt.won.id, attempt.won.row.fence);
        let reference = if attempt.won.is_rowless() {
            // Nothing would ever name it.
            BlobRef { key: key.to_string(), sha256: sha256_hex(&content), size: content.len() as u64 }
        } else {
            self.shared.backend.blobs().check_in(&key, content).await?
        };
        attempt.note_output(reference.clone());
        json(StatusCode::OK, &reference)
    }

    async fn enqueue(&self, request: &Request<Bytes>) -> Answer {
        let parent = match request.headers().get("rhubarb-task") {
            Some(id) => Some(self.attempt(id.to_str().unwrap_or_default())?),
            None => None,
        };
        let span = parent_span(request, parent.as_deref());
        let asked: Enqueue = body(request)?;
        if asked.tasks.len() > ENQUEUE_MAX {
            return Err(Refusal::bad(format!(
                "{} tasks at once are over the limit of {ENQUEUE_MAX}",
                asked.tasks.len()
            )));
        }
        let mut results = Vec::with_capacity(asked.tasks.len());
        for task in asked.tasks {
            let answer = match task.into_new_task(parent.as_deref()) {
                Ok(task) => self.enqueue_one(task, &span).await,
                Err(refusal) => Err(refusal),
            };
            results.push(answer.unwrap_or_else(|refusal| Enqueued::Error {
                error: ErrorBody { kind: refusal.kind, message: refusal.message },
            }));
        }
        json(StatusCode::OK, &serde_json::json!({ "results": results }))
    }

    async fn enqueue_one(&self, task: NewTask, parent: &spans::Context) -> Result<Enqueued, Refusal> {
        let (backend, now) = (&self.shared.backend, now());
        let mut prepared = task.prepare(&self.shared.config, backend.broker().limits(), now, TaskId::mint())?;
        if let Some(key) = prepared.needs_claim_check() {
            let content = Bytes::copy_from_slice(prepared.envelope.args.get().as_bytes());
            prepared.claim_check(backend.blobs().check_in(&key, content).await?);
        }
        let id = prepared.envelope.id;
        let span = spans::Send::begin(&self.shared.queues, &mut prepared, parent);
        let answer = rowless::submit(&**backend, &self.shared.config, &[prepared.submission()], now).await.pop();
        if let Some(answer) = &answer {
            span.end(answer);
        }
        match answer {
            Some(Ok(Submitted::New)) => Ok(Enqueued::Accepted { id, existing: false }),
            Some(Ok(Submitted::Exists(_))) => Ok(Enqueued::Accepted { id, existing: true }),
            Some(Ok(Submitted::Keyed(first))) => Ok(Enqueued::Accepted { id: first, existing: true }),
            Some(Err(error)) => Err(error.into()),
            None => {
                Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "BackendUnavailable", "the backend gave no answer"))
            }
        }
    }

    async fn tasks(&self, request: &Request<Bytes>) -> Answer {
        let parsed = |name: &str| query(request, name);
        let name = |error: rhubarb_core::ids::InvalidName| Refusal::bad(error.to_string());
        let number = |name: &str| match parsed(name) {
            Some(text) => text.parse().map(Some).map_err(|_| Refusal::bad(format!("`{name}` is no number"))),
            None => Ok(None),
        };
        let limit: Option<i64> = number("limit")?;
        let filter = Filter {
            queue: parsed("queue").map(|text| QueueName::new(&text)).transpose().map_err(name)?,
            state: parsed("state").map(|text| text.parse::<State>()).transpose().map_err(Refusal::bad)?,
            task: parsed("task").map(|text| TaskName::new(&text)).transpose().map_err(name)?,
            root: parsed("root").map(|text| task_id(&text)).transpose()?,
            since: number("since")?.map(Timestamp),
            limit: limit.map_or(LIST_DEFAULT, |limit| usize::try_from(limit).unwrap_or(0).clamp(1, LIST_MAX)),
            cursor: parsed("cursor").map(Cursor),
        };
        json(StatusCode::OK, &self.shared.backend.tasks().list(&filter).await?)
    }

    async fn task(&self, id: &str) -> Answer {
        let id = task_id(id)?;
        let found = self.shared.backend.tasks().read(&[id]).await?;
        let detail = found.into_iter().flatten().next().ok_or(StoreError::NoTask(id))?;
        json(StatusCode::OK, &detail)
    }

    /// Refuses unless a task that this process runs is on a queue that allows it.
    fn allowed(&self, grant: Grant, word: &str) -> Result<(), Refusal> {
        if self.attempts().values().any(|attempt| attempt.queue.allows(grant)) {
            return Ok(());
        }
        let message =
            format!("the queue of this task does not allow it: set allow = [\"{word}\"] in its [queues.NAME]");
        Err(Refusal::new(StatusCode::FORBIDDEN, "NotAllowed", message))
    }

    async fn sweep(&self) -> Answer {
        self.allowed(Grant::Sweep, "sweep")?;
        let Shared { backend, config, worker, sweep, .. } = &*self.shared;
        json(StatusCode::OK, &sweep.lock().await.run(&**backend, config, worker, now()).await?)
    }

    async fn redrive(&self, id: &str) -> Answer {
        self.allowed(Grant::Redrive, "redrive")?;
        let answers = self.shared.backend.redrive(&[task_id(id)?]).await;
        match answers.into_iter().next() {
            Some(Ok(settled)) => json(StatusCode::OK, &serde_json::json!({ "state": settled.state })),
            Some(Err(StoreError::Refused(refused))) => {
                let message = format!("only a failed task is redriven; this one is {}", refused.state);
                Err(Refusal::new(StatusCode::CONFLICT, "NotFailed", message))
            }
            Some(Err(error)) => Err(error.into()),
            None => {
                Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "BackendUnavailable", "the backend gave no answer"))
            }
        }
    }

    async fn blobs(&self, request: &Request<Bytes>) -> Answer {
        let prefix = query(request, "prefix").filter(|prefix| !prefix.is_empty());
        let prefix = prefix.map(|prefix| BlobKey::new(prefix.trim_end_matches('/'))).transpose()?;
        json(StatusCode::OK, &self.shared.backend.blobs().list(prefix.as_ref()).await?)
    }

    async fn blob(&self, key: &BlobKey, request: &Request<Bytes>) -> Answer {
        if query(request, "locate").is_some() {
            return json(StatusCode::OK, &serde_json::json!({ "location": self.shared.backend.blobs().locate(key) }));
        }
        Ok(respond(StatusCode::OK, self.shared.backend.blobs().get(key).await?))
    }

    async fn put_blob(&self, key: &BlobKey, content: Bytes) -> Answer {
        json(StatusCode::OK, &self.shared.backend.blobs().check_in(key, content).await?)
    }

    async fn delete_blob(&self, key: &BlobKey) -> Answer {
        let answers = self.shared.backend.blobs().delete(std::slice::from_ref(key)).await;
        answers.into_iter().try_for_each(|answer| answer.map_err(Refusal::from))?;
        Ok(respond(StatusCode::NO_CONTENT, Bytes::new()))
    }
}
