//! The spans of the runtime, by OpenTelemetry's messaging conventions
//! (<https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/>).
//!
//! The context of a send travels in the envelope and is kept in the task's row, so every attempt of a task,
//! on whichever worker and after whatever crash, hangs under the same send: one trace for a task and all its
//! children. An attempt's own context goes to its function, and what that does hangs under the attempt.
//! Several messages that are received or settled together have no common parent: that span links to them.
//!
//! Without a provider a span is nothing but the context it was given, which is passed on unchanged.

use std::{
    borrow::Cow,
    str::FromStr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::SystemTime,
};

pub use opentelemetry::{Context, context::FutureExt};
use opentelemetry::{
    ContextGuard, KeyValue, StringValue, global,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer},
};
use rhubarb_core::{
    backend::{StoreError, Won},
    enqueue::Prepared,
    envelope::{Envelope, Trace},
    ids::{QueueName, WorkerId},
    outcome::Outcome,
    trace::Parent,
};

use crate::{family, names, queues::Queues};

/// Whether this process records spans of its own: what it would cost to describe them is then paid.
static IS_ON: AtomicBool = AtomicBool::new(false);

/// Says that there is a provider, once it is set. Sends need no such word: a producer may bring its own.
pub fn turn_on() {
    IS_ON.store(true, Relaxed);
}

fn is_on() -> bool {
    IS_ON.load(Relaxed)
}

/// The invocation of a Lambda function that attempts run in, for their spans: a value of the current context.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// Its request id.
    pub id: String,
    /// It is the first of its sandbox.
    pub cold: bool,
    /// The X-Ray header that came with it: the parent of tasks that have no trace of their own.
    pub xray: Option<String>,
}

/// A task that is being sent.
#[derive(Debug)]
#[must_use = "a send that is not ended lasts until it is dropped"]
pub struct Send {
    cx: Context,
}

impl Send {
    /// Begins the span of a send under `parent`, and writes its context into the envelope. A trace that the
    /// producer named itself is the parent instead.
    pub fn begin(queues: &Queues, prepared: &mut Prepared, parent: &Context) -> Self {
        let named = prepared.envelope.trace.as_ref().and_then(context_of);
        let begin = || start(names::SEND, SpanKind::Producer, None, named.as_ref().unwrap_or(parent));
        let cx = family::in_trace_of(&prepared.envelope, begin);
        let span = cx.span();
        if span.is_recording() {
            describe(&cx, queues, &prepared.queue, names::SEND);
            span.set_attributes(task_attributes(&prepared.envelope));
        }
        if let Some(trace) = trace_of(&cx) {
            prepared.envelope.trace = Some(trace);
        }
        Self { cx }
    }

    /// Ends it with what the backend said.
    pub fn end<T>(self, answer: &Result<T, StoreError>) {
        end_with(&self.cx, answer.as_ref().err().map(error_type));
    }
}

/// One attempt, from its claim to its outcome.
#[derive(Clone, Debug, Default)]
pub struct Attempt {
    cx: Context,
}

impl Attempt {
    /// Begins the span of an attempt that was won.
    #[must_use]
    pub fn begin(queues: &Queues, queue: &QueueName, worker: &WorkerId, won: &Won, envelope: &Envelope) -> Self {
        let invocation = Context::map_current(|cx| cx.get::<Invocation>().cloned());
        let of_invocation = || invocation.as_ref().and_then(|invocation| of_xray(invocation.xray.as_deref()?));
        let parent = envelope.trace.as_ref().and_then(context_of).or_else(of_invocation).unwrap_or_default();
        if !is_on() {
            return Self { cx: parent };
        }
        let cx = family::in_trace_of(envelope, || start(names::PROCESS, SpanKind::Consumer, None, &parent));
        let span = cx.span();
        if span.is_recording() {
            describe(&cx, queues, queue, names::PROCESS);
            span.set_attributes(task_attributes(envelope));
            span.set_attributes(attempt_attributes(worker, won));
            span.set_attributes(invocation.iter().flat_map(Invocation::attributes));
        }
        Self { cx }
    }

    /// The context that its function, its children and its log lines hang under.
    #[must_use]
    pub const fn context(&self) -> &Context {
        &self.cx
    }

    /// The same as it travels; `None` where there is no trace.
    #[must_use]
    pub fn trace(&self) -> Option<Trace> {
        trace_of(&self.cx)
    }

    /// Log lines belong to it until the guard is dropped. The guard must not be held over an `await`.
    #[must_use]
    pub fn enter(&self) -> Option<ContextGuard> {
        self.cx.has_active_span().then(|| self.cx.clone().attach())
    }

    /// Ends it with its outcome.
    pub fn end(&self, outcome: &Outcome) {
        let span = self.cx.span();
        if span.is_recording() {
            span.set_attribute(KeyValue::new(names::TASK_OUTCOME, outcome.word()));
            end_with(&self.cx, outcome.failure().map(|failure| failure.kind.clone().into()));
        }
    }
}

/// Notes a receive that began at `began` and brought these. One that brought nothing leaves no span.
pub fn received(queues: &Queues, queue: &QueueName, began: SystemTime, won: &[Won]) {
    if won.is_empty() || !is_on() {
        return;
    }
    let contexts =
        won.iter().map(|won| Envelope::decode_full(&won.spec).ok().and_then(|read| context_of(&read.trace?)));
    let cx = of_several(names::RECEIVE, queues, queue, Some(began), contexts.flatten().collect());
    count(&cx, won.len(), won.first().map(|won| won.message.to_string()));
    cx.span().end();
}

/// Outcomes that are being written.
#[derive(Debug, Default)]
#[must_use = "a settlement that is not ended lasts until it is dropped"]
pub struct Settle {
    cx: Context,
}

impl Settle {
    /// Begins the span of writing the outcomes of these attempts of one queue.
    pub fn begin<'a>(queues: &Queues, queue: &QueueName, attempts: impl Iterator<Item = &'a Attempt>) -> Self {
        if !is_on() {
            return Self { cx: Context::default() };
        }
        let contexts: Vec<Context> = attempts.map(|attempt| attempt.cx.clone()).collect();
        let messages = contexts.len();
        let cx = of_several(names::SETTLE, queues, queue, None, contexts);
        count(&cx, messages, None);
        Self { cx }
    }

    /// Ends it with the first thing that went wrong, if one did.
    pub fn end(self, error: Option<&StoreError>) {
        end_with(&self.cx, error.map(error_type));
    }
}

/// The context that a trace names, as a parent from elsewhere.
#[must_use]
pub fn context_of(trace: &Trace) -> Option<Context> {
    let state = trace.tracestate.as_deref().and_then(|state| TraceState::from_str(state).ok()).unwrap_or_default();
    Some(remote(trace.parent()?, state))
}

/// The id of the trace that a task's spans are in, where there are any: its producer's, or else its family's.
#[must_use]
pub fn trace_id(envelope: &Envelope) -> String {
    let named = envelope.trace.as_ref().and_then(Trace::parent).map(|parent| parent.trace_id);
    format!("{:032x}", named.unwrap_or_else(|| family::of(envelope)))
}

/// The context as it travels; `None` where there is no trace.
#[must_use]
pub fn trace_of(cx: &Context) -> Option<Trace> {
    let span = cx.span();
    let context = span.span_context();
    context.is_valid().then(|| {
        let parent = Parent {
            trace_id: u128::from_be_bytes(context.trace_id().to_bytes()),
            span_id: u64::from_be_bytes(context.span_id().to_bytes()),
            sampled: context.is_sampled(),
        };
        let tracestate = Some(context.trace_state().header()).filter(|state| !state.is_empty());
        Trace { tracestate, ..Trace::of(parent) }
    })
}

fn of_xray(header: &str) -> Option<Context> {
    Some(remote(Parent::read_xray(header)?, TraceState::default()))
}

fn remote(parent: Parent, state: TraceState) -> Context {
    let flags = if parent.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let (trace, span) = (TraceId::from(parent.trace_id), SpanId::from(parent.span_id));
    Context::new().with_remote_span_context(SpanContext::new(trace, span, flags, true, state))
}

/// Starts a span. Its name and attributes come after: without a provider they need not be made.
fn start(operation: &'static str, kind: SpanKind, at: Option<SystemTime>, parent: &Context) -> Context {
    let tracer = global::tracer(names::SCOPE);
    let mut builder = tracer.span_builder(operation).with_kind(kind);
    builder.start_time = at;
    parent.with_span(tracer.build_with_context(builder, parent))
}

/// A span about some messages: under the only one's context, or linked to all of theirs.
fn of_several(
    operation: &'static str,
    queues: &Queues,
    queue: &QueueName,
    at: Option<SystemTime>,
    contexts: Vec<Context>,
) -> Context {
    let cx = match contexts.as_slice() {
        [only] => start(operation, SpanKind::Client, at, only),
        several => {
            let cx = start(operation, SpanKind::Client, at, &Context::new());
            for other in several {
                let other = other.span().span_context().clone();
                if other.is_valid() {
                    cx.span().add_link(other, Vec::new());
                }
            }
            cx
        }
    };
    if cx.span().is_recording() {
        describe(&cx, queues, queue, operation);
    }
    cx
}

fn describe(cx: &Context, queues: &Queues, queue: &QueueName, operation: &'static str) {
    let span = cx.span();
    span.update_name(format!("{operation} {}", queues.name(queue)));
    span.set_attributes(queues.attributes(queue, operation));
}

fn count(cx: &Context, messages: usize, only: Option<String>) {
    let span = cx.span();
    if !span.is_recording() {
        return;
    }
    match only {
        Some(id) if messages == 1 => span.set_attribute(KeyValue::new(names::MESSAGING_MESSAGE_ID, id)),
        _ => {
            let messages = i64::try_from(messages).unwrap_or(i64::MAX);
            span.set_attribute(KeyValue::new(names::MESSAGING_BATCH_MESSAGE_COUNT, messages));
        }
    }
}

fn task_attributes(envelope: &Envelope) -> impl Iterator<Item = KeyValue> {
    let text = |name, text: String| KeyValue::new(name, StringValue::from(text));
    let always = [text(names::TASK_ID, envelope.id.to_string()), text(names::TASK_NAME, envelope.task.to_string())];
    let others = [
        envelope.parent.map(|parent| text(names::TASK_PARENT, parent.to_string())),
        envelope.root.map(|root| text(names::TASK_ROOT, root.to_string())),
        envelope.schedule.as_ref().map(|schedule| text(names::TASK_SCHEDULE, schedule.to_string())),
    ];
    always.into_iter().chain(others.into_iter().flatten())
}

fn attempt_attributes(worker: &WorkerId, won: &Won) -> [KeyValue; 5] {
    let waited = u64::try_from(won.row.started.since(won.row.queued_at).as_millis()).unwrap_or(u64::MAX);
    [
        KeyValue::new(names::MESSAGING_MESSAGE_ID, won.message.to_string()),
        KeyValue::new(names::TASK_ATTEMPT, i64::from(won.row.attempt)),
        KeyValue::new(names::TASK_WAITED_MS, i64::try_from(waited).unwrap_or(i64::MAX)),
        KeyValue::new(names::LEASE_FENCE, i64::try_from(won.row.fence.0).unwrap_or(i64::MAX)),
        KeyValue::new(names::WORKER_ID, worker.to_string()),
    ]
}

impl Invocation {
    fn attributes(&self) -> [KeyValue; 3] {
        [
            KeyValue::new(names::FAAS_INVOCATION_ID, self.id.clone()),
            KeyValue::new(names::FAAS_COLDSTART, self.cold),
            KeyValue::new(names::FAAS_TRIGGER, "pubsub"),
        ]
    }
}

/// Ends a span; `error` is a word of few, never a message: those may hold what is nobody's business.
fn end_with(cx: &Context, error: Option<Cow<'static, str>>) {
    let span = cx.span();
    if let Some(error) = error {
        span.set_status(Status::Error { description: error.clone() });
        span.set_attribute(KeyValue::new(names::ERROR_TYPE, error));
    }
    span.end();
}

fn error_type(error: &StoreError) -> Cow<'static, str> {
    Cow::Borrowed(match error {
        StoreError::Unreachable { .. } => "unreachable",
        StoreError::Broken { .. } => "broken",
        StoreError::Refused(_) => "refused",
        StoreError::NoTask(_) => "no_task",
        StoreError::NoQueue(_) => "no_queue",
        StoreError::ReceiptExpired => "receipt_expired",
        StoreError::Invalid(_) => "invalid",
        StoreError::KeyReused { .. } => "key_reused",
        // What the conventions say of an error that has no name of its own.
        _ => "_OTHER",
    })
}
