//! The names of spans, attributes and instruments: a public contract, so they stand in one place.
//!
//! OpenTelemetry's own come from its semantic conventions (version of the crate that holds them); ours add what
//! a queue does not know: tasks, attempts, leases, workers.

pub use opentelemetry_semantic_conventions::attribute::{
    AWS_SQS_QUEUE_URL, CLOUD_PLATFORM, CLOUD_PROVIDER, CLOUD_REGION, ERROR_TYPE, FAAS_COLDSTART, FAAS_INSTANCE,
    FAAS_INVOCATION_ID, FAAS_MAX_MEMORY, FAAS_NAME, FAAS_TRIGGER, FAAS_VERSION, MESSAGING_BATCH_MESSAGE_COUNT,
    MESSAGING_DESTINATION_NAME, MESSAGING_MESSAGE_ID, MESSAGING_OPERATION_NAME, MESSAGING_OPERATION_TYPE,
    MESSAGING_SYSTEM, SERVICE_NAME, SERVICE_VERSION,
};

/// The instrumentation scope of everything that Rhubarb itself records.
pub const SCOPE: &str = "rhubarb";

/// `messaging.system` of queues on SQS, as the conventions name it.
pub const AWS_SQS: &str = "aws_sqs";
/// `messaging.system` of queues in the embedded store, which no convention knows.
pub const EMBEDDED: &str = "rhubarb";

/// A task's message is sent: span `send <queue>`, a producer's.
pub const SEND: &str = "send";
/// Messages are received: span `receive <queue>`, a client's.
pub const RECEIVE: &str = "receive";
/// One attempt: span `process <queue>`, a consumer's.
pub const PROCESS: &str = "process";
/// Outcomes are written and messages put away: span `settle <queue>`, a client's.
pub const SETTLE: &str = "settle";

/// The task's id.
pub const TASK_ID: &str = "task.id";
/// The kind of task.
pub const TASK_NAME: &str = "task.name";
/// Which attempt it is, from 1.
pub const TASK_ATTEMPT: &str = "task.attempt";
/// What the attempt came to, in the glossary's word.
pub const TASK_OUTCOME: &str = "task.outcome";
/// The task that enqueued it.
pub const TASK_PARENT: &str = "task.parent";
/// The first task of its family.
pub const TASK_ROOT: &str = "task.root";
/// The schedule that made it.
pub const TASK_SCHEDULE: &str = "task.schedule";
/// Milliseconds from when it could be taken to this attempt.
pub const TASK_WAITED_MS: &str = "task.waited_ms";
/// The fencing token of the attempt's lease.
pub const LEASE_FENCE: &str = "lease.fence";
/// The worker's name.
pub const WORKER_ID: &str = "worker.id";

/// The key of a log line for the trace it belongs to, as OpenTelemetry names it for logs that are no OTLP
/// (<https://opentelemetry.io/docs/specs/otel/compatibility/logging_trace_context/>).
pub const LOG_TRACE_ID: &str = "trace_id";
/// The same for the span.
pub const LOG_SPAN_ID: &str = "span_id";
