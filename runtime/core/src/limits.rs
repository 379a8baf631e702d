//! What a broker may be asked for, as a value, so that tests can bring smaller limits and emulators,
//! which accept what AWS refuses, change nothing.

use std::time::Duration;

/// The limits of a broker and its store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one message: body and attributes.
    pub message_bytes_max: usize,
    /// Messages of one send, receive or delete.
    pub batch_max: usize,
    /// Bytes of all messages of one send.
    pub batch_bytes_max: usize,
    /// Message attributes of one message.
    pub attributes_max: usize,
    /// The longest delay of a message.
    pub delay_max: Duration,
    /// The longest time a message stays hidden, counted from its receive; no extension passes it.
    pub visibility_max: Duration,
    /// The longest long poll.
    pub wait_max: Duration,
    /// How long an undelivered message is kept.
    pub retention: Duration,
    /// Arguments and results over this size travel as a claim check.
    pub inline_bytes_max: usize,
    /// Bytes of a function's event and of its answer (AWS Lambda: 6 MB, synchronous).
    pub event_bytes_max: usize,
    /// Characters of an idempotency, ordering, fairness or concurrency key (SQS: group and
    /// deduplication ids have 128).
    pub key_chars_max: usize,
    /// Bytes of a schedule's input (EventBridge Scheduler).
    pub schedule_input_bytes_max: usize,
}

impl Limits {
    /// What AWS allows. SQS: quotas "message" and "standard queues" of the developer guide (1 MiB
    /// messages since August 2025); Lambda: synchronous payload; EventBridge Scheduler: quotas.
    pub const AWS: Self = Self {
        message_bytes_max: 1024 * 1024,
        batch_max: 10,
        batch_bytes_max: 1024 * 1024,
        attributes_max: 10,
        delay_max: Duration::from_secs(900),
        visibility_max: Duration::from_secs(12 * 60 * 60),
        wait_max: Duration::from_secs(20),
        retention: Duration::from_secs(14 * 24 * 60 * 60),
        inline_bytes_max: 192 * 1024,
        event_bytes_max: 6 * 1024 * 1024,
        key_chars_max: 128,
        schedule_input_bytes_max: 256 * 1024,
    };
}

/// The longest timeout of a task whose message is kept and extended (ack mode `message`): an hour
/// under the 12 hours that SQS hides a message, to settle in.
pub const MESSAGE_MODE_TIMEOUT_MAX: Duration = Duration::from_secs(11 * 60 * 60);
/// The longest invocation on AWS Lambda.
pub const LAMBDA_INVOCATION_MAX: Duration = Duration::from_secs(15 * 60);
/// What an invocation gets beyond its tasks' timeouts, to settle in.
pub const SETTLE_ALLOWANCE: Duration = Duration::from_secs(10);
/// A lease where the queue names none.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(30);
/// A shorter lease would be lost to an ordinary pause of a busy machine.
pub const LEASE_MIN: Duration = Duration::from_secs(1);
/// A lease is renewed when this part of it has passed: one renewal may be lost.
pub const RENEWALS_PER_LEASE: u32 = 3;
/// So far apart two processes may judge one moment on AWS: each learns the time of the server from answers whose
/// `Date` tells whole seconds, to half a second at first.
pub const CLOCKS_APART_AWS_MAX: Duration = Duration::from_secs(1);
/// A shorter lease is a mistake on AWS: with one renewal lost, what is left of it must not be less than the clocks
/// may be apart, or a sweep could end a lease that is about to be renewed.
pub const LEASE_AWS_MIN: Duration = Duration::from_secs(CLOCKS_APART_AWS_MAX.as_secs() * RENEWALS_PER_LEASE as u64);
/// Interruptions (shutdown, Spot) after which a task fails with that reason.
pub const INTERRUPTIONS_MAX: u32 = 100;
/// Snoozes after which a task fails with that reason.
pub const SNOOZES_MAX: u32 = 10_000;
/// How long a task that no function knows, or an envelope newer than we read, is released and tried
/// again before it is buried: a newer worker may be on its way.
pub const UNKNOWN_TASK_PATIENCE: Duration = Duration::from_secs(60 * 60);
/// So much before its time a task without a row, which waited outside its queue, is sent to it: EventBridge Scheduler
/// sends within a minute after what it was told, and the queue's own delay is exact.
pub const LATE_LEAD: Duration = Duration::from_secs(60);
/// How long a queue must stand empty before its rung rows are rung again.
pub const DOORBELL_PATIENCE: Duration = Duration::from_secs(60);
/// A waiting task's doorbell is rung again when it nears the queue's retention.
pub const DOORBELL_AGE_MAX: Duration = Duration::from_secs(13 * 24 * 60 * 60);
/// How long the id of a settled task is remembered: longer than any message that could name it.
pub const TOMBSTONE_AGE: Duration = Duration::from_secs(15 * 24 * 60 * 60);
/// How long what a task gave (output, history, logs) is kept after it succeeded or was cancelled.
pub const KEEP_DEFAULT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How long it is kept after it failed.
pub const KEEP_FAILED_DEFAULT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Characters of an error message that are kept.
pub const ERROR_CHARS_MAX: usize = 8 * 1024;
/// Progress of one task is written at most once in this time, the last one always.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// What a Held delivery stays hidden beyond the holder's lease.
pub const HELD_MARGIN: Duration = Duration::from_secs(1);

const _: () = {
    let aws = Limits::AWS;
    assert!(aws.inline_bytes_max * 2 < aws.message_bytes_max, "an inline payload and its escapes fit a message");
    assert!(aws.message_bytes_max <= aws.event_bytes_max, "any one message fits an event");
    assert!(aws.batch_bytes_max >= aws.message_bytes_max);
    assert!(LATE_LEAD.as_secs() <= aws.delay_max.as_secs(), "a queue holds the rest of the delay");
    assert!(MESSAGE_MODE_TIMEOUT_MAX.as_secs() < aws.visibility_max.as_secs());
    assert!(LEASE_DEFAULT.as_secs() < aws.visibility_max.as_secs());
    assert!(LEASE_MIN.as_secs() <= LEASE_DEFAULT.as_secs());
    assert!(LEASE_MIN.as_secs() <= LEASE_AWS_MIN.as_secs() && LEASE_AWS_MIN.as_secs() <= LEASE_DEFAULT.as_secs());
    assert!(RENEWALS_PER_LEASE >= 3, "one heartbeat may be lost and the next still lands in time");
    assert!(DOORBELL_AGE_MAX.as_secs() < aws.retention.as_secs(), "rung again before the queue forgets");
    assert!(TOMBSTONE_AGE.as_secs() > aws.retention.as_secs(), "a tombstone outlives every message");
    assert!(DOORBELL_PATIENCE.as_secs() < UNKNOWN_TASK_PATIENCE.as_secs());
};
