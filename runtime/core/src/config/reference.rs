//! Every key of the configuration, written once: unknown keys are checked against this list, and
//! the documentation prints it. Defaults and bounds come from where the readers take them.

use std::{fmt::Display, sync::LazyLock, time::Duration};

use super::{
    Backend, Durability, QueueClass, Track, VARIABLES, Variable, WithoutGpu,
    bounds::{
        BATCH_DEFAULT, CPU_DEFAULT, CPU_GPU_DEFAULT, DEFAULT_NAME, DIR_DEFAULT, GPU_SHARE_DEFAULT, GRACE_DEFAULT,
        IN_FLIGHT_DEFAULT, INIT_TIMEOUT_DEFAULT, INVOCATIONS_DEFAULT, MEMORY_ECS_DEFAULT, MEMORY_GPU_DEFAULT,
        MEMORY_LAMBDA_DEFAULT, METRICS_PORT_DEFAULT, PARALLEL_DEFAULT, PREFETCH_DEFAULT, SHUTDOWN_GRACE_DEFAULT,
        SOFT_NOTICE_MAX, SOFT_NOTICE_PART, STAGE_DEFAULT, TIMEOUT_ECS_DEFAULT, TIMEOUT_LAMBDA_DEFAULT,
        TIMEZONE_DEFAULT, WEIGHT_DEFAULT,
    },
    queue::Grant,
    schedule::{CatchUp, Overlap},
    units::show_duration,
    value::Word,
};
use crate::{
    limits::{KEEP_DEFAULT, KEEP_FAILED_DEFAULT, LEASE_DEFAULT},
    retry::RetryPolicy,
    row::AckMode,
};

/// One key: what it takes, what holds without it, and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The section: `app`, `queues.NAME`, …; `backoff` is the inline table of queues and tasks.
    pub section: &'static str,
    /// The key.
    pub key: &'static str,
    /// What kind of value it takes.
    pub kind: String,
    /// What holds without it.
    pub default: String,
    /// What it means.
    pub meaning: &'static str,
}

static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    [app(), queues(), queues_more(), backoff(), workers(), functions(), tasks(), schedules()].concat()
});

/// Returns every key of the configuration, section by section.
#[must_use]
pub fn reference() -> &'static [Key] {
    &KEYS
}

/// Returns the reference as Markdown: one table for each section, and one of the variables.
#[must_use]
pub fn reference_markdown() -> String {
    let mut parts = Vec::new();
    for group in reference().chunk_by(|one, next| one.section == next.section) {
        parts.extend(group.first().map(|key| heading(key.section)));
        parts.push("| key | type | default | meaning |".to_owned());
        parts.push("|---|---|---|---|".to_owned());
        parts.extend(
            group
                .iter()
                .map(|Key { key, kind, default, meaning, .. }| format!("| `{key}` | {kind} | {default} | {meaning} |")),
        );
        parts.push(String::new());
    }
    parts.push("| variable | option that beats it | in place of |".to_owned());
    parts.push("|---|---|---|".to_owned());
    parts.extend(VARIABLES.iter().map(|Variable { name, flag, key }| {
        let flag = flag.map_or_else(|| "none".to_owned(), code);
        format!("| `{name}` | {flag} | `app.{key}` |")
    }));
    parts.join("\n") + "\n"
}

fn heading(section: &str) -> String {
    if section == "backoff" { "`backoff = { … }`\n".to_owned() } else { format!("`[{section}]`\n") }
}

/// The keys of a section.
pub(super) fn keys(section: &str) -> Vec<&'static str> {
    reference().iter().filter(|key| key.section == section).map(|key| key.key).collect()
}

/// The tables of the document.
pub(super) fn tables() -> Vec<&'static str> {
    let mut tables = Vec::new();
    for key in reference().iter().filter(|key| key.section != "backoff") {
        let table = key.section.split('.').next().unwrap_or(key.section);
        if !tables.contains(&table) {
            tables.push(table);
        }
    }
    tables
}

fn app() -> Vec<Key> {
    section(
        "app",
        vec![
            ("name", text(), required(), "the application; AWS names are `<app>-<stage>-<queue>`"),
            ("stage", text(), code(quote(STAGE_DEFAULT)), "keeps several installations apart"),
            ("backend", words::<Backend>(), word(Backend::Local), "the embedded store, or AWS (also an emulator)"),
            ("dir", path(), code(quote(DIR_DEFAULT)), "the folder of the embedded store, beside this file"),
            (
                "durability",
                words::<Durability>(),
                word(Durability::Normal),
                "what a power cut may take from the embedded store: the last moments (`normal`) or nothing (`full`, slower); a crash takes nothing from either",
            ),
            ("table", text(), "named `<app>-<stage>`".to_owned(), "the DynamoDB table"),
            ("bucket", text(), "named `<app>-<stage>-<account>`".to_owned(), "the S3 bucket"),
            (
                "metrics",
                "`IP:PORT`, or `off`".to_owned(),
                format!("`127.0.0.1:{METRICS_PORT_DEFAULT}`"),
                "where an agent shows metrics and health; taken ports are skipped, 16 of them at most",
            ),
            (
                "traces",
                text(),
                "nowhere".to_owned(),
                "the URL of a Tempo, e.g. `http://127.0.0.1:3200`: `rhubarb trace` shows its spans too",
            ),
        ],
    )
}

fn queues() -> Vec<Key> {
    let by_class = |ecs: &dyn Display, lambda: &dyn Display| format!("`{ecs}` on `ecs`, `{lambda}` on `lambda`");
    let memory =
        format!("{MEMORY_GPU_DEFAULT} with GPUs, {MEMORY_ECS_DEFAULT} without, {MEMORY_LAMBDA_DEFAULT} on `lambda`");
    let soft = format!("{} % of `timeout` earlier, at most {}", 100 / SOFT_NOTICE_PART, show_duration(SOFT_NOTICE_MAX));
    section(
        "queues.NAME",
        vec![
            (
                "class",
                words::<QueueClass>(),
                word(QueueClass::Ecs),
                "who feeds the functions: an agent, wherever it runs (`ecs`), or AWS Lambda",
            ),
            (
                "functions",
                "list of functions".into(),
                "every function of the file".into(),
                "who runs the tasks, chosen by task name; class `lambda` has exactly one",
            ),
            ("gpus", whole(), code(0), "GPUs that each invocation has for itself; class `ecs`"),
            ("gpu_memory", size(), "any".into(), "the least memory of each GPU"),
            ("gpu_name", text(), "any".into(), "part of the GPU's name, e.g. `\"H200\"`"),
            ("compute_capability", text(), "any".into(), "the least CUDA compute capability, e.g. `\">=8.0\"`"),
            ("gpu_share", whole(), code(GPU_SHARE_DEFAULT), "invocations that may share one GPU"),
            (
                "without_gpu",
                words::<WithoutGpu>(),
                word(WithoutGpu::Wait),
                "where no worker has a GPU: the task waits, or runs on the CPU",
            ),
            (
                "cpu",
                "number".into(),
                format!("{CPU_GPU_DEFAULT} with GPUs, {CPU_DEFAULT} without"),
                "virtual CPUs of the container; class `ecs`",
            ),
            ("memory", size(), memory, "memory of the container or of the Lambda function"),
            (
                "timeout",
                duration(),
                by_class(&show_duration(TIMEOUT_ECS_DEFAULT), &show_duration(TIMEOUT_LAMBDA_DEFAULT)),
                "hard limit of one attempt: its process group is killed",
            ),
            ("soft_timeout", duration(), soft, "when the function is told that its time is nearly over"),
            (
                "max_attempts",
                whole(),
                code(RetryPolicy::default().max_attempts),
                "attempts in all; then the task is `failed`",
            ),
            ("backoff", "table".into(), "see below".into(), "the pauses between attempts"),
            (
                "retry_on",
                kinds(),
                "any".into(),
                "failures of these kinds alone are tried again; the kind is what `rhubarb task` shows before the colon, or the end of its path",
            ),
            (
                "never_retry_on",
                kinds(),
                "none".into(),
                "failures of these kinds bury the task at once; this or `retry_on`",
            ),
            (
                "ack",
                words::<AckMode>(),
                "`\"message\"`; `\"lease\"` on `ecs` without `fifo`, at `track = \"full\"`".into(),
                "when the message of a running task is deleted: after the outcome is written (`message`), or after the claim is (`lease`: any length of task)",
            ),
            (
                "track",
                words::<Track>(),
                word(Track::Full),
                "which tasks get a row: every one, failed ones, none; less than `full` is cheaper and gives fewer guarantees ([Track levels](#track-levels))",
            ),
            (
                "lease",
                duration(),
                shown(LEASE_DEFAULT),
                "how long a claim holds without its heartbeat; from `1s`, on AWS from `3s`",
            ),
        ],
    )
}

fn queues_more() -> Vec<Key> {
    section(
        "queues.NAME",
        vec![
            (
                "max_running",
                whole(),
                "any number".into(),
                "tasks of the queue that run at once at most, over all workers; the others wait for a permit",
            ),
            (
                "max_running_per_key",
                whole(),
                "any number".into(),
                "tasks of one concurrency key that run at once at most; tasks without a key are not limited",
            ),
            (
                "rate_limit",
                rate(),
                "any rate".into(),
                "attempts of the queue's tasks that start in any such period at most, over all workers, e.g. `\"100/minute\"`",
            ),
            (
                "rate_limit_per_key",
                rate(),
                "any rate".into(),
                "attempts of one concurrency key's tasks that start in any such period at most",
            ),
            ("fifo", flag(), code(false), "tasks of one ordering key run in order"),
            ("batch", whole(), code(BATCH_DEFAULT), "tasks handed to a function together at most; 1 with GPUs"),
            ("batch_window", duration(), code("0s"), "how long a batch may be waited for"),
            (
                "max_concurrency",
                whole(),
                code(INVOCATIONS_DEFAULT),
                "batches that AWS Lambda runs at the same time at most; class `lambda`",
            ),
            ("parallel", whole(), code(PARALLEL_DEFAULT), "tasks of one batch that the function runs at the same time"),
            (
                "keep",
                duration(),
                shown(KEEP_DEFAULT),
                "how long results, output and history of succeeded and cancelled tasks are kept",
            ),
            ("keep_failed", duration(), shown(KEEP_FAILED_DEFAULT), "the same for failed tasks"),
            (
                "expires",
                duration(),
                "never".into(),
                "after so long no attempt begins any more, neither the first nor another: the task is `expired`",
            ),
            (
                "raw_task",
                "task name".into(),
                "none".into(),
                "wraps bodies that are no envelopes into this task, so that an existing handler runs unchanged",
            ),
            (
                "allow",
                list_of::<Grant>(),
                code("[]"),
                "what its functions may ask of the host: sweep once, redrive failed tasks",
            ),
            ("url", text(), "made from the names".into(), "the URL of an existing SQS queue"),
            (
                "max_receives",
                whole(),
                "100 + 10 x `max_attempts`, at most 1000".into(),
                "receives after which SQS itself moves a message to the dead-letter queue",
            ),
        ],
    )
}

fn backoff() -> Vec<Key> {
    let policy = RetryPolicy::default();
    section(
        "backoff",
        vec![
            ("initial", duration(), shown(policy.initial), "the first pause is drawn evenly from zero to this"),
            ("max", duration(), shown(policy.max), "no pause is longer"),
            ("factor", "number".into(), code(policy.factor), "how much the bound grows with each attempt"),
        ],
    )
}

fn workers() -> Vec<Key> {
    section(
        "workers.NAME",
        vec![
            ("queues", "list of queues".into(), format!("`[{}]`", quote(DEFAULT_NAME)), "what it serves"),
            (
                "concurrency",
                whole(),
                "1 where there are GPUs, else the number of CPUs".into(),
                "its slots, shared by its queues",
            ),
            (
                "max_tasks_per_child",
                whole(),
                "1 for queues with GPUs, else no limit".into(),
                "after how many tasks a function process is replaced; one that holds a GPU always ends with its task",
            ),
            (
                "max_memory_per_child",
                size(),
                "no limit".into(),
                "a function process over this is replaced once its task has ended",
            ),
            ("prefetch", whole(), code(PREFETCH_DEFAULT), "messages held without a slot"),
            (
                "weights",
                "table of queue = number".into(),
                format!("`{WEIGHT_DEFAULT}` each"),
                "turns of a queue for one turn of the others",
            ),
            (
                "grace",
                duration(),
                shown(GRACE_DEFAULT),
                "how long running attempts may go on after a stop; keep it under the platform's kill delay, which `RHUBARB_KILL_DELAY` tells the agent to check",
            ),
            (
                "gpu_locks",
                path(),
                "/run/lock/rhubarb-gpus".into(),
                "the folder by which all agents of a machine, containers too, keep off each other's GPUs; also `RHUBARB_GPU_LOCKS`",
            ),
        ],
    )
}

fn functions() -> Vec<Key> {
    section(
        "functions.NAME",
        vec![
            ("package", text(), "this or `command`".into(), "the cargo package whose binary it is"),
            (
                "command",
                "list of text".into(),
                "this or `package`".into(),
                "any executable that speaks the Lambda Runtime API, with its arguments",
            ),
            ("working_dir", path(), "this file's folder".into(), "where it is started"),
            ("env", "table of text".into(), code("{}"), "its environment variables, beside those that the host sets"),
            (
                "shutdown_grace",
                duration(),
                shown(SHUTDOWN_GRACE_DEFAULT),
                "how long a process may go on after it was asked to stop, before it is killed",
            ),
            ("in_flight", whole(), code(IN_FLIGHT_DEFAULT), "invocations that one process takes at the same time"),
            (
                "init_timeout",
                duration(),
                shown(INIT_TIMEOUT_DEFAULT),
                "how long a process may take from its start to its first request for work",
            ),
            (
                "max_tasks_per_child",
                whole(),
                "as the worker says".into(),
                "after how many tasks a process is replaced; the smaller one holds",
            ),
        ],
    )
}

fn tasks() -> Vec<Key> {
    section(
        "tasks.NAME",
        vec![
            (
                "queue",
                "queue".into(),
                "what its type says, else `default`".into(),
                "where it goes if the call names no queue",
            ),
            ("function", "function".into(), "the one that knows it".into(), "who of the queue's functions runs it"),
            ("timeout", duration(), "the queue's".into(), "a shorter limit of one attempt"),
            ("max_attempts", whole(), "the queue's".into(), "fewer attempts"),
            ("backoff", "table".into(), "the queue's".into(), "the pauses between attempts"),
            ("retry_on", kinds(), "the queue's".into(), "failures of these kinds alone are tried again"),
            (
                "never_retry_on",
                kinds(),
                "the queue's".into(),
                "failures of these kinds bury the task at once; this or `retry_on`, in place of what the queue says",
            ),
        ],
    )
}

fn schedules() -> Vec<Key> {
    section(
        "schedules.NAME",
        vec![
            (
                "rate",
                duration(),
                "one of the three".into(),
                "fires again and again, e.g. `\"5 minutes\"`; whole seconds",
            ),
            (
                "cron",
                text(),
                "one of the three".into(),
                "fires by five fields as in crontab, or AWS's six, e.g. `\"0 3 * * ? *\"`",
            ),
            ("at", time(), "one of the three".into(), "fires once"),
            (
                "timezone",
                text(),
                code(quote(TIMEZONE_DEFAULT)),
                "the zone of `cron`, `at`, `start` and `end`, e.g. `\"Europe/Berlin\"`",
            ),
            ("start", time(), "at once".into(), "does not fire earlier"),
            ("end", time(), "never".into(), "does not fire later"),
            ("jitter", duration(), code("0s"), "spreads each firing over this window"),
            ("task", "task name".into(), required(), "what it enqueues"),
            ("args", "table".into(), code("{}"), "the task's arguments"),
            ("queue", "queue".into(), "the task's".into(), "where the task goes"),
            (
                "overlap",
                words::<Overlap>(),
                word(Overlap::Allow),
                "what a tick does when the task of an earlier one has not settled",
            ),
            ("catch_up", words::<CatchUp>(), word(CatchUp::One), "what happens to ticks that were missed"),
            ("enabled", flag(), code(true), "whether it fires at all"),
        ],
    )
}

fn section(section: &'static str, rows: Vec<(&'static str, String, String, &'static str)>) -> Vec<Key> {
    let key = |(key, kind, default, meaning)| Key { section, key, kind, default, meaning };
    rows.into_iter().map(key).collect()
}

fn text() -> String {
    "text".to_owned()
}

fn path() -> String {
    "path".to_owned()
}

fn kinds() -> String {
    "list of text".to_owned()
}

fn flag() -> String {
    "true or false".to_owned()
}

fn whole() -> String {
    "whole number".to_owned()
}

fn rate() -> String {
    "number/period".to_owned()
}

fn duration() -> String {
    "duration".to_owned()
}

fn size() -> String {
    "size".to_owned()
}

fn time() -> String {
    "local time".to_owned()
}

fn required() -> String {
    "required".to_owned()
}

fn words<W: Word>() -> String {
    let words: Vec<String> = W::ALL.iter().map(|choice| word(*choice)).collect();
    words.join(" or ")
}

fn list_of<W: Word>() -> String {
    format!("list of {}", words::<W>())
}

fn word<W: Word>(choice: W) -> String {
    code(quote(choice.word()))
}

fn shown(duration: Duration) -> String {
    code(show_duration(duration))
}

fn quote(text: &str) -> String {
    format!("{text:?}")
}

fn code(value: impl Display) -> String {
    format!("`{value}`")
}
