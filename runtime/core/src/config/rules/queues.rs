//! What must hold for a queue.

use std::time::Duration;

use super::{Entry, env_bytes};
use crate::{
    config::{
        Backend, Config, QueueClass, QueueConfig, Track,
        bounds::{AWS_QUEUE_NAME_CHARS_MAX, BATCH_AGENT_MAX, BATCH_RECEIVE_MAX, LAMBDA_ENV_BYTES_MAX, MEMORY_LAMBDA},
        mistake::Problem,
        retry_on,
        sheet::Sheet,
        units::show_duration,
        value::too_much,
    },
    limits::{CLOCKS_APART_AWS_MAX, LAMBDA_INVOCATION_MAX, LEASE_AWS_MIN, MESSAGE_MODE_TIMEOUT_MAX},
    row::AckMode,
};

pub(super) fn check(config: &Config, queue: &QueueConfig, sheet: &Sheet) {
    let rules = Rules { config, queue, entry: Entry::new(sheet, "queues", &queue.name) };
    rules.functions();
    rules.name();
    rules.time();
    rules.lease();
    rules.ack();
    rules.track();
    rules.batch();
    rules.gpus();
    rules.fifo();
    rules.limits();
    rules.retry();
    if queue.class == QueueClass::Lambda {
        rules.lambda();
        rules.lambda_functions();
    }
}

struct Rules<'a> {
    config: &'a Config,
    queue: &'a QueueConfig,
    entry: Entry<'a>,
}

impl Rules<'_> {
    fn functions(&self) {
        for function in &self.queue.functions {
            self.entry.defined("functions", "function", function, &self.config.functions);
        }
    }

    fn name(&self) {
        let name = self.config.app.aws_queue_name(self.queue);
        if self.queue.url.is_none() && name.len() > AWS_QUEUE_NAME_CHARS_MAX {
            let what = format!("its name on AWS, `{name}`, has {} characters", name.len());
            let fix = format!("shorten it to {AWS_QUEUE_NAME_CHARS_MAX}, or give the queue a `url`");
            self.entry.sheet.mistake(&self.entry.path, Problem::new(what, fix));
        }
        if let Some(url) = &self.queue.url
            && url.ends_with(".fifo") != self.queue.fifo
        {
            let (what, fix) = if self.queue.fifo {
                ("the queue is fifo, but this URL does not end in .fifo", "leave out fifo, or name a FIFO queue")
            } else {
                ("this is the URL of a FIFO queue", "add fifo = true")
            };
            self.entry.mistake("url", what, fix);
        }
    }

    fn time(&self) {
        let (soft, hard) = (self.queue.soft_timeout, self.queue.timeout);
        if soft >= hard {
            let what = format!(
                "the function would be told after {}, when it is killed after {}",
                show_duration(soft),
                show_duration(hard),
            );
            self.entry.mistake("soft_timeout", what, "write less than timeout, or leave it out");
        }
    }

    fn lease(&self) {
        if self.config.app.backend == Backend::Aws && self.queue.lease < LEASE_AWS_MIN {
            let what = format!(
                "{} is too short on AWS, where two processes may judge the time {} apart",
                show_duration(self.queue.lease),
                show_duration(CLOCKS_APART_AWS_MAX),
            );
            self.entry.mistake("lease", what, format!("write at least {}", show_duration(LEASE_AWS_MIN)));
        }
    }

    fn ack(&self) {
        let queue = self.queue;
        match (queue.ack, queue.class) {
            (AckMode::Lease, QueueClass::Lambda) => {
                self.refuse_lease("AWS deletes the messages of a Lambda function itself");
            }
            (AckMode::Lease, QueueClass::Ecs) if queue.fifo => {
                self.refuse_lease("a FIFO queue keeps its order only by messages that stay");
            }
            (AckMode::Lease, QueueClass::Ecs) | (AckMode::Message, QueueClass::Lambda) => {}
            (AckMode::Message, QueueClass::Ecs) => self.message_mode_timeout(),
        }
    }

    fn refuse_lease(&self, because: &str) {
        let what = format!("\"lease\" does not go here: {because}");
        self.entry.mistake("ack", what, "write \"message\", or leave it out");
    }

    fn message_mode_timeout(&self) {
        let because = "and SQS hides a message for 12h at most (ack is \"message\")";
        if self.queue.timeout > MESSAGE_MODE_TIMEOUT_MAX {
            let (timeout, most) = (self.queue.timeout, MESSAGE_MODE_TIMEOUT_MAX);
            let problem = too_much(show_duration(timeout), show_duration(most), because);
            let can_lease = !self.queue.fifo && self.queue.track == Track::Full;
            let or = if can_lease { ", or ack = \"lease\"" } else { "" };
            self.entry.mistake("timeout", problem.what, problem.fix + or);
        }
    }

    /// A level below `full` has no claim, so nothing that needs the row can be had.
    fn track(&self) {
        let track = self.queue.track;
        if track == Track::Full {
            return;
        }
        if track == Track::None && (self.queue.dead_letters().is_none() || self.queue.url.is_some()) {
            let because =
                if self.queue.url.is_some() { "a queue with a `url` of its own" } else { "a queue of so long a name" };
            let what =
                format!("with track = \"none\" failed tasks go to its dead-letter queue, and {because} has none");
            self.entry.mistake(
                "track",
                what,
                "write \"failures\" or \"full\", or let Rhubarb make a queue of a shorter name",
            );
        }
        if self.queue.ack == AckMode::Lease {
            self.refuse_lease(&format!("with track = \"{track}\" there is no row to lease"));
        }
        let unkept: &[&str] = if track == Track::None { &["keep", "keep_failed"] } else { &["keep"] };
        let impossible = ["lease", "expires"].iter().chain(unkept);
        for key in impossible.filter(|key| self.entry.is_given(key)) {
            let what = format!("with track = \"{track}\" nothing is written that this could hold for");
            self.entry.mistake(key, what, "leave it out, or write track = \"full\"");
        }
    }

    fn batch(&self) {
        let queue = self.queue;
        let (most, because) = self.batch_max();
        if queue.batch > most {
            let problem = too_much(queue.batch, most, because);
            self.entry.mistake("batch", problem.what, problem.fix);
        }
        if queue.parallel > queue.batch {
            let problem = too_much(queue.parallel, queue.batch, "the size of a batch");
            self.entry.mistake("parallel", problem.what, problem.fix + ", or raise batch");
        }
        if queue.batch == 1 && !queue.batch_window.is_zero() {
            self.entry.mistake("batch_window", "a batch of 1 is never waited for", "raise batch, or leave it out");
        }
    }

    fn batch_max(&self) -> (u32, &'static str) {
        let queue = self.queue;
        let windowed = !queue.batch_window.is_zero();
        match queue.class {
            _ if queue.gpus > 0 => (1, "because a queue with GPUs hands over one task at a time"),
            _ if queue.fifo => (BATCH_RECEIVE_MAX, "the limit of a FIFO queue"),
            QueueClass::Lambda if !windowed => (BATCH_RECEIVE_MAX, "the limit of class lambda without a batch_window"),
            QueueClass::Lambda if self.config.app.backend == Backend::Aws => (10_000, "the limit of Lambda"),
            QueueClass::Lambda | QueueClass::Ecs => (BATCH_AGENT_MAX, "the limit of an agent"),
        }
    }

    fn gpus(&self) {
        let queue = self.queue;
        if queue.class == QueueClass::Ecs && self.entry.is_given("max_concurrency") {
            let fix = "give its worker so many slots (concurrency), or write class = \"lambda\"";
            self.entry.mistake("max_concurrency", "it limits AWS Lambda, and an agent feeds this queue", fix);
        }
        if queue.gpus > 0 && queue.class == QueueClass::Lambda {
            self.entry.mistake("gpus", "Lambda has no GPUs", "write class = \"ecs\", or leave gpus out");
        }
        let keys = ["gpu_memory", "gpu_name", "compute_capability", "gpu_share", "without_gpu"];
        for key in keys.into_iter().filter(|key| queue.gpus == 0 && self.entry.is_given(key)) {
            self.entry.mistake(key, "the queue asks for no GPU", "add gpus = 1, or leave it out");
        }
        for function in queue.functions.iter().filter(|_| queue.gpus > 0) {
            let in_flight = self.config.functions.get(function).map_or(1, |function| function.in_flight);
            if in_flight > 1 {
                let what = format!(
                    "`{function}` takes {in_flight} invocations at once (in_flight), which would share one GPU"
                );
                self.entry.mistake("functions", what, "give the queue a function with in_flight = 1");
            }
        }
    }

    fn fifo(&self) {
        if !self.queue.fifo {
            return;
        }
        if self.queue.parallel > 1 {
            self.entry.mistake("parallel", "a FIFO queue's tasks run in order", "write 1, or leave it out");
        }
        if !self.queue.batch_window.is_zero() {
            self.entry.mistake("batch_window", "SQS has none for FIFO queues", "leave it out");
        }
    }

    /// A task that finds no permit waits without its message, by its row.
    fn limits(&self) {
        let queue = self.queue;
        let keys = ["max_running", "max_running_per_key", "rate_limit", "rate_limit_per_key"];
        for key in keys.into_iter().filter(|key| self.entry.is_given(key)) {
            if queue.fifo {
                let what = "a task that waits for a permit would be overtaken by the next of its ordering key";
                self.entry.mistake(key, what, "leave it out, or fifo");
            }
            if queue.track != Track::Full {
                let what = format!("with track = \"{}\" no row counts what runs", queue.track);
                self.entry.mistake(key, what, "leave it out, or write track = \"full\"");
            }
        }
        if let (Some(all), Some(of_key)) = (queue.limits.queue.max_running, queue.limits.key.max_running)
            && of_key > all
        {
            let problem = too_much(of_key, all, "the limit of the whole queue (max_running)");
            self.entry.mistake("max_running_per_key", problem.what, problem.fix + ", or raise max_running");
        }
    }

    fn retry(&self) {
        let (queue, retry) = (self.queue, &self.queue.retry);
        if retry.initial > retry.max {
            let (initial, max) = (show_duration(retry.initial), show_duration(retry.max));
            let problem = too_much(initial, max, "the longest pause (backoff.max)");
            let key = if self.entry.is_given("backoff.initial") { "backoff.initial" } else { "backoff.max" };
            self.entry.mistake(key, problem.what, problem.fix + ", or raise max");
        }
        self.entry.only_one_of(retry_on::KEYS);
        if queue.max_receives <= retry.max_attempts {
            let what = format!(
                "after {} receives SQS would take a task away that has {} attempts",
                queue.max_receives, retry.max_attempts,
            );
            self.entry.mistake("max_receives", what, "leave it out, or write far more than max_attempts");
        }
    }

    fn lambda(&self) {
        let queue = self.queue;
        if self.entry.is_given("cpu") {
            self.entry.mistake("cpu", "Lambda derives CPUs from the memory", "leave it out, or raise memory");
        }
        if !MEMORY_LAMBDA.contains(&queue.memory) || !queue.memory.as_bytes().is_multiple_of(1 << 20) {
            let (least, most) = (MEMORY_LAMBDA.start(), MEMORY_LAMBDA.end());
            let what = format!("{} is no memory of a Lambda function", queue.memory);
            self.entry.mistake("memory", what, format!("write whole MiB from {least} to {most}"));
        }
        let limit = queue.invocation_limit();
        if limit > LAMBDA_INVOCATION_MAX {
            let what = format!(
                "an invocation may take {}: {} x ceil({} / {}) and 10s to settle; Lambda allows {}",
                show_duration(limit),
                show_duration(queue.timeout),
                queue.batch,
                queue.parallel,
                show_duration(LAMBDA_INVOCATION_MAX),
            );
            self.entry.mistake("timeout", what, self.mend_invocation());
        }
    }

    fn mend_invocation(&self) -> String {
        let rounds = self.queue.batch.div_ceil(self.queue.parallel.max(1));
        let most = (LAMBDA_INVOCATION_MAX - crate::limits::SETTLE_ALLOWANCE) / rounds.max(1);
        let most = Duration::from_secs(most.as_secs());
        let batch = if rounds > 1 { ", a smaller batch" } else { "" };
        format!("write at most {}{batch}, or class = \"ecs\"", show_duration(most))
    }

    fn lambda_functions(&self) {
        let [function] = self.queue.functions.as_slice() else {
            let what = format!("class lambda needs exactly one function, not {}", self.queue.functions.len());
            self.entry.mistake("functions", what, "name the one, or write class = \"ecs\"");
            return;
        };
        let env = self.config.functions.get(function).map_or(0, |function| env_bytes(&function.env));
        if env > LAMBDA_ENV_BYTES_MAX {
            let what = format!("the env of `{function}` has {env} bytes; Lambda allows {LAMBDA_ENV_BYTES_MAX}");
            self.entry.mistake("functions", what, "shorten its env, or write class = \"ecs\"");
        }
    }
}
