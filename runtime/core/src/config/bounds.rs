//! Every default and every bound of the configuration, written once. The reference shows them, the
//! readers use them. What other parts of the system share is in [`crate::limits`].

use std::{ops::RangeInclusive, time::Duration};

use super::ByteSize;
use crate::limits::{LAMBDA_INVOCATION_MAX, LEASE_DEFAULT, LEASE_MIN, Limits, MESSAGE_MODE_TIMEOUT_MAX};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn days(days: u64) -> Duration {
    Duration::from_secs(days * 24 * 60 * 60)
}

pub(super) const STAGE_DEFAULT: &str = "dev";
pub(super) const DIR_DEFAULT: &str = ".rhubarb";
/// The exporters for Prometheus of OpenTelemetry have it by default.
pub(super) const METRICS_PORT_DEFAULT: u16 = 9464;
pub(super) const DEFAULT_NAME: &str = "default";
pub(super) const TIMEZONE_DEFAULT: &str = "UTC";

/// The application's name and its stage are part of every name on AWS.
pub(super) const APP_CHARS_MAX: usize = 32;
pub(super) const STAGE_CHARS_MAX: usize = 16;
pub(super) const LINE_CHARS_MAX: usize = 256;
pub(super) const URL_CHARS_MAX: usize = 1024;
pub(super) const PATH_CHARS_MAX: usize = 1024;
/// SQS: characters of a queue's name, with `.fifo`.
pub(super) const AWS_QUEUE_NAME_CHARS_MAX: usize = 80;
/// Lambda: bytes of all environment variables of a function.
pub(super) const LAMBDA_ENV_BYTES_MAX: usize = 4 * 1024;
/// Linux refuses an environment much larger than this long before it is full.
pub(super) const ENV_BYTES_MAX: usize = 64 * 1024;

pub(super) const TIMEOUT_ECS_DEFAULT: Duration = seconds(60 * 60);
pub(super) const TIMEOUT_LAMBDA_DEFAULT: Duration = seconds(5 * 60);
pub(super) const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=days(30);
/// How long before its timeout a function is told: this part of the timeout, …
pub(super) const SOFT_NOTICE_PART: u32 = 10;
/// … but no longer than this.
pub(super) const SOFT_NOTICE_MAX: Duration = seconds(5 * 60);
pub(super) const ATTEMPTS: RangeInclusive<u32> = 1..=100;
pub(super) const BACKOFF: RangeInclusive<Duration> = Duration::from_millis(1)..=days(7);
pub(super) const BACKOFF_FACTOR: RangeInclusive<f64> = 1.0..=100.0;
pub(super) const LEASE: RangeInclusive<Duration> = LEASE_MIN..=Limits::AWS.visibility_max;

pub(super) const CPU_GPU_DEFAULT: f64 = 8.0;
pub(super) const CPU_DEFAULT: f64 = 4.0;
pub(super) const CPU: RangeInclusive<f64> = 0.25..=1024.0;
pub(super) const MEMORY_GPU_DEFAULT: ByteSize = ByteSize::gib(32);
pub(super) const MEMORY_ECS_DEFAULT: ByteSize = ByteSize::gib(8);
pub(super) const MEMORY_LAMBDA_DEFAULT: ByteSize = ByteSize::mib(256);
pub(super) const MEMORY: RangeInclusive<ByteSize> = ByteSize::mib(1)..=ByteSize::gib(24 * 1024);
pub(super) const MEMORY_LAMBDA: RangeInclusive<ByteSize> = ByteSize::mib(128)..=ByteSize::mib(10_240);
pub(super) const GPUS: RangeInclusive<u32> = 0..=64;
pub(super) const GPU_SHARE_DEFAULT: u32 = 1;
pub(super) const GPU_SHARE: RangeInclusive<u32> = 1..=64;

pub(super) const BATCH_DEFAULT: u32 = 1;
/// Lambda's event source mapping goes this far, with a window.
pub(super) const BATCH: RangeInclusive<u32> = 1..=10_000;
/// Lambda without a window, and any FIFO queue: what one receive can bring.
pub(super) const BATCH_RECEIVE_MAX: u32 = 10;
/// What an agent gathers into one event at most.
pub(super) const BATCH_AGENT_MAX: u32 = 1_000;
pub(super) const BATCH_WINDOW: RangeInclusive<Duration> = Duration::ZERO..=seconds(5 * 60);
/// Lambda: `MaximumConcurrency` of an event source mapping.
pub(super) const INVOCATIONS: RangeInclusive<u32> = 2..=1_000;
pub(super) const INVOCATIONS_DEFAULT: u32 = 10;
pub(super) const PARALLEL_DEFAULT: u32 = 1;
/// Tasks at once, or starts in a period.
pub(super) const RUNNING: RangeInclusive<u32> = 1..=100_000;
pub(super) const RATE_PERIOD: RangeInclusive<Duration> = seconds(1)..=days(1);
pub(super) const KEEP: RangeInclusive<Duration> = seconds(1)..=days(3650);
pub(super) const EXPIRES: RangeInclusive<Duration> = seconds(1)..=days(365);
pub(super) const RECEIVES: RangeInclusive<u32> = 1..=1_000;

pub(super) const CONCURRENCY: RangeInclusive<u32> = 1..=4_096;
pub(super) const TASKS_PER_CHILD: RangeInclusive<u32> = 1..=1_000_000_000;
pub(super) const PREFETCH_DEFAULT: u32 = 0;
pub(super) const PREFETCH: RangeInclusive<u32> = 0..=1_000;
pub(super) const WEIGHT_DEFAULT: u32 = 1;
pub(super) const WEIGHT: RangeInclusive<u32> = 1..=100;
/// ECS kills 30 s after it asked, unless told otherwise.
pub(super) const GRACE_DEFAULT: Duration = seconds(25);
pub(super) const GRACE: RangeInclusive<Duration> = Duration::ZERO..=days(1);

/// Lambda gives a function's start the same time.
pub(super) const INIT_TIMEOUT_DEFAULT: Duration = seconds(10);
pub(super) const INIT_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=seconds(60 * 60);
pub(super) const SHUTDOWN_GRACE_DEFAULT: Duration = seconds(2);
pub(super) const SHUTDOWN_GRACE: RangeInclusive<Duration> = Duration::ZERO..=seconds(10 * 60);
pub(super) const IN_FLIGHT_DEFAULT: u32 = 1;
pub(super) const IN_FLIGHT: RangeInclusive<u32> = 1..=1_000;

pub(super) const RATE: RangeInclusive<Duration> = seconds(1)..=days(366);
/// EventBridge Scheduler: the longest flexible window.
pub(super) const JITTER: RangeInclusive<Duration> = Duration::ZERO..=days(1);

const _: () = {
    assert!(TIMEOUT_LAMBDA_DEFAULT.as_secs() < LAMBDA_INVOCATION_MAX.as_secs());
    assert!(TIMEOUT_ECS_DEFAULT.as_secs() < MESSAGE_MODE_TIMEOUT_MAX.as_secs(), "also without ack = \"lease\"");
    assert!(LEASE_DEFAULT.as_secs() >= LEASE_MIN.as_secs());
    assert!(APP_CHARS_MAX + STAGE_CHARS_MAX + 2 < AWS_QUEUE_NAME_CHARS_MAX, "a queue's name has room");
    assert!(BATCH_RECEIVE_MAX as usize == Limits::AWS.batch_max);
    assert!(BATCH_RECEIVE_MAX <= BATCH_AGENT_MAX && BATCH_AGENT_MAX <= 10_000);
};
