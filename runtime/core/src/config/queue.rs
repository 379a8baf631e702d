//! A queue: who runs its tasks, with what, how long, how often, and what is kept of them.

use std::time::Duration;

use super::{
    backoff::BackoffConfig,
    bounds::{
        ATTEMPTS, BATCH, BATCH_DEFAULT, BATCH_WINDOW, CPU, CPU_DEFAULT, CPU_GPU_DEFAULT, EXPIRES, GPU_SHARE,
        GPU_SHARE_DEFAULT, GPUS, INVOCATIONS, INVOCATIONS_DEFAULT, KEEP, LEASE, LINE_CHARS_MAX, MEMORY,
        MEMORY_ECS_DEFAULT, MEMORY_GPU_DEFAULT, MEMORY_LAMBDA_DEFAULT, PARALLEL_DEFAULT, RATE_PERIOD, RECEIVES,
        RUNNING, SOFT_NOTICE_MAX, SOFT_NOTICE_PART, TIMEOUT, TIMEOUT_ECS_DEFAULT, TIMEOUT_LAMBDA_DEFAULT,
        URL_CHARS_MAX,
    },
    gpu::{ComputeCapability, WithoutGpu, compute_capability},
    mistake::{Problem, quoted},
    retry_on,
    sheet::Table,
    units::{ByteSize, duration as duration_of},
    value::{self, Reading, decimal, distinct, duration, flag, line, size, text_as, whole, word, words},
};
use crate::{
    ids::{FunctionName, QueueName, TaskName},
    limits::{KEEP_DEFAULT, KEEP_FAILED_DEFAULT, LEASE_DEFAULT, SETTLE_ALLOWANCE},
    permit::{QueueLimits, Rate, ScopeLimits},
    retry::RetryPolicy,
    row::AckMode,
};

/// A section `[queues.NAME]` with every default filled in.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct QueueConfig {
    /// The queue's name.
    pub name: QueueName,
    /// Who feeds its functions.
    pub class: QueueClass,
    /// Who runs its tasks. Class `lambda`: exactly one.
    pub functions: Vec<FunctionName>,
    /// Devices that each invocation gets for itself.
    pub gpus: u32,
    /// The least memory of each device.
    pub gpu_memory: Option<ByteSize>,
    /// Part of the device's name.
    pub gpu_name: Option<String>,
    /// The least compute capability.
    pub compute_capability: Option<ComputeCapability>,
    /// How many invocations may share one device; 1 is none.
    pub gpu_share: u32,
    /// What happens where no worker has such a device.
    pub without_gpu: WithoutGpu,
    /// Virtual CPUs of the container; none for class `lambda`, which derives them from the memory.
    pub cpu: Option<f64>,
    /// Memory of the container or the Lambda function.
    pub memory: ByteSize,
    /// The hard limit of one attempt: its process group is then killed.
    pub timeout: Duration,
    /// When the function is told that its time is nearly over.
    pub soft_timeout: Duration,
    /// Attempts and the pauses between them.
    pub retry: RetryPolicy,
    /// When the message of a running task is deleted.
    pub ack: AckMode,
    /// What is written about each task.
    pub track: Track,
    /// How long a claim holds without being renewed.
    pub lease: Duration,
    /// How many tasks may run at once, and start in a period.
    pub limits: QueueLimits,
    /// Whether tasks of one ordering key run in order.
    pub fifo: bool,
    /// Tasks handed over together at most.
    pub batch: u32,
    /// How long a batch may be waited for.
    pub batch_window: Duration,
    /// Batches that AWS Lambda runs at the same time at most; class `lambda`. An agent has its slots.
    pub max_concurrency: u32,
    /// Tasks of one batch that the function runs at the same time.
    pub parallel: u32,
    /// How long results and history of succeeded and cancelled tasks are kept.
    pub keep: Duration,
    /// How long those of failed tasks are kept.
    pub keep_failed: Duration,
    /// After how long a task that no attempt has begun is given up.
    pub expires: Option<Duration>,
    /// The task that a body which is no envelope is wrapped into.
    pub raw_task: Option<TaskName>,
    /// What its functions may ask of the host beyond their own tasks.
    pub allow: Vec<Grant>,
    /// The URL of a queue that exists already.
    pub url: Option<String>,
    /// Receives after which SQS moves a message to the dead-letter queue.
    pub max_receives: u32,
    /// Whether the file declares it: the queue `default` exists also where no file mentions it.
    pub is_declared: bool,
}

words! {
    /// Who feeds the functions of a queue.
    QueueClass {
        /// An agent, wherever it runs.
        Ecs = "ecs",
        /// AWS Lambda; on one machine an agent.
        Lambda = "lambda",
    }

    /// What is written about each task.
    Track {
        /// Every task has a row: all guarantees hold.
        Full = "full",
        /// Only failed tasks get a row.
        Failures = "failures",
        /// Nothing is written.
        None = "none",
    }

    /// What the functions of a queue may ask of the host beyond their own tasks.
    Grant {
        /// To run the sweep once.
        Sweep = "sweep",
        /// To bring failed tasks back.
        Redrive = "redrive",
    }
}

impl QueueConfig {
    /// The limit of one invocation: every record's timeout, as many after one another as
    /// `parallel` leaves, and time to settle.
    #[must_use]
    pub fn invocation_limit(&self) -> Duration {
        self.timeout * self.batch.div_ceil(self.parallel.max(1)) + SETTLE_ALLOWANCE
    }

    /// The queue that the broker itself moves messages to which were received too often. None where its name would
    /// be too long for one.
    #[must_use]
    pub fn dead_letters(&self) -> Option<QueueName> {
        self.name.dead_letters()
    }

    /// Says whether the functions of this queue may ask the host for `grant`.
    #[must_use]
    pub fn allows(&self, grant: Grant) -> bool {
        self.allow.contains(&grant)
    }
}

/// When a function is told, where its queue does not say: a tenth before the timeout, at most five
/// minutes.
pub(super) fn soft_timeout_of(timeout: Duration) -> Duration {
    timeout.saturating_sub((timeout / SOFT_NOTICE_PART).min(SOFT_NOTICE_MAX))
}

/// SQS counts a receive also where no attempt was spent, so its limit stands far above ours.
fn max_receives_of(max_attempts: u32) -> u32 {
    max_attempts.saturating_mul(10).saturating_add(100).min(*RECEIVES.end())
}

/// Reads the queue; `all` are the functions of the file.
pub(super) fn read(name: QueueName, table: &Table<'_, '_>, all: &[FunctionName]) -> QueueConfig {
    let class = table.read("class", text_as(word)).unwrap_or(QueueClass::Ecs);
    let fifo = table.read("fifo", flag).unwrap_or(false);
    let track = table.read("track", text_as(word)).unwrap_or(Track::Full);
    let gpus = table.read("gpus", whole(GPUS)).unwrap_or(0);
    let timeout = table.read("timeout", duration(TIMEOUT)).unwrap_or(match class {
        QueueClass::Ecs => TIMEOUT_ECS_DEFAULT,
        QueueClass::Lambda => TIMEOUT_LAMBDA_DEFAULT,
    });
    let retry = read_retry(table);
    QueueConfig {
        name,
        class,
        functions: table.read("functions", distinct(text_as(value::name))).unwrap_or_else(|| all.to_vec()),
        gpus,
        gpu_memory: table.read("gpu_memory", size(MEMORY)),
        gpu_name: table.read("gpu_name", text_as(line(LINE_CHARS_MAX))),
        compute_capability: table.read("compute_capability", text_as(compute_capability)),
        gpu_share: table.read("gpu_share", whole(GPU_SHARE)).unwrap_or(GPU_SHARE_DEFAULT),
        without_gpu: table.read("without_gpu", text_as(word)).unwrap_or(WithoutGpu::Wait),
        cpu: table.read("cpu", decimal(CPU)).or_else(|| cpu_of(class, gpus)),
        memory: table.read("memory", size(MEMORY)).unwrap_or_else(|| memory_of(class, gpus)),
        timeout,
        soft_timeout: table.read("soft_timeout", duration(TIMEOUT)).unwrap_or_else(|| soft_timeout_of(timeout)),
        ack: table.read("ack", text_as(word)).unwrap_or_else(|| ack_of(class, fifo, track)),
        track,
        lease: table.read("lease", duration(LEASE)).unwrap_or(LEASE_DEFAULT),
        limits: read_limits(table),
        fifo,
        batch: table.read("batch", whole(BATCH)).unwrap_or(BATCH_DEFAULT),
        batch_window: table.read("batch_window", duration(BATCH_WINDOW)).unwrap_or_default(),
        max_concurrency: table.read("max_concurrency", whole(INVOCATIONS)).unwrap_or(INVOCATIONS_DEFAULT),
        parallel: table.read("parallel", whole(BATCH)).unwrap_or(PARALLEL_DEFAULT),
        keep: table.read("keep", duration(KEEP)).unwrap_or(KEEP_DEFAULT),
        keep_failed: table.read("keep_failed", duration(KEEP)).unwrap_or(KEEP_FAILED_DEFAULT),
        expires: table.read("expires", duration(EXPIRES)),
        raw_task: table.read("raw_task", text_as(value::name::<TaskName>)),
        allow: table.read("allow", distinct(text_as(word))).unwrap_or_default(),
        url: table.read("url", text_as(url)),
        max_receives: table
            .read("max_receives", whole(RECEIVES))
            .unwrap_or_else(|| max_receives_of(retry.max_attempts)),
        retry,
        is_declared: table.is_written(),
    }
}

fn read_limits(table: &Table<'_, '_>) -> QueueLimits {
    let limits = |max_running, rate_limit| ScopeLimits {
        max_running: table.read(max_running, whole(RUNNING)),
        rate: table.read(rate_limit, text_as(rate)),
    };
    QueueLimits { queue: limits("max_running", "rate_limit"), key: limits("max_running_per_key", "rate_limit_per_key") }
}

/// A number of starts in a period: `100/minute`, `5/10s`.
fn rate(text: &str) -> Reading<Rate> {
    let fix = r#"write a number and a period, e.g. "100/minute", "5/10s""#;
    let no_rate = || Problem::new(format!("{} is no rate", quoted(text)), fix);
    let (count, period) = text.split_once('/').ok_or_else(no_rate)?;
    let count: u32 = count.trim().parse().map_err(|_| no_rate())?;
    let period = match period.trim() {
        "second" | "s" => Duration::from_secs(1),
        "minute" | "m" => Duration::from_secs(60),
        "hour" | "h" => Duration::from_secs(60 * 60),
        "day" | "d" => Duration::from_secs(24 * 60 * 60),
        other => duration_of(other).map_err(|_| no_rate())?,
    };
    if !RUNNING.contains(&count) || !RATE_PERIOD.contains(&period) {
        let (least, most) = (RUNNING.start(), RUNNING.end());
        let what = format!("{} is out of bounds", quoted(text));
        return Err(Problem::new(what, format!("write {least} to {most} starts in 1s to 1d")));
    }
    Ok(Rate { count, period })
}

fn read_retry(table: &Table<'_, '_>) -> RetryPolicy {
    let default = RetryPolicy::default();
    let max_attempts = table.read("max_attempts", whole(ATTEMPTS));
    let policy = BackoffConfig::read(table).over(&default);
    let on = retry_on::read(table).unwrap_or_default();
    RetryPolicy { max_attempts: max_attempts.unwrap_or(default.max_attempts), on, ..policy }
}

/// The lease needs the row, and a message that may go: neither Lambda nor a FIFO queue lets it.
fn ack_of(class: QueueClass, fifo: bool, track: Track) -> AckMode {
    if class == QueueClass::Ecs && !fifo && track == Track::Full { AckMode::Lease } else { AckMode::Message }
}

fn cpu_of(class: QueueClass, gpus: u32) -> Option<f64> {
    match (class, gpus) {
        (QueueClass::Lambda, _) => None,
        (QueueClass::Ecs, 0) => Some(CPU_DEFAULT),
        (QueueClass::Ecs, _) => Some(CPU_GPU_DEFAULT),
    }
}

fn memory_of(class: QueueClass, gpus: u32) -> ByteSize {
    match (class, gpus) {
        (QueueClass::Lambda, _) => MEMORY_LAMBDA_DEFAULT,
        (QueueClass::Ecs, 0) => MEMORY_ECS_DEFAULT,
        (QueueClass::Ecs, _) => MEMORY_GPU_DEFAULT,
    }
}

fn url(text: &str) -> Reading<String> {
    let text = line(URL_CHARS_MAX)(text)?;
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match rest.and_then(|rest| rest.split_once('/')) {
        Some((host, path)) if !host.is_empty() && !path.is_empty() && !text.contains(' ') => Ok(text),
        _ => Err(Problem::new(
            format!("{} is no queue's URL", quoted(&text)),
            r#"write e.g. "https://sqs.eu-central-1.amazonaws.com/123456789012/orders""#,
        )),
    }
}
