//! Every instrument, described once: the code is made from this table, and the README's is checked against it.

/// What an instrument does with what it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// The value of now.
    Gauge,
    /// How values spread.
    Histogram,
}

/// An instrument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instrument {
    /// Its name by OTLP.
    pub name: &'static str,
    /// What it does.
    pub kind: Kind,
    /// Its unit, in the words of UCUM.
    pub unit: &'static str,
    /// What its values are told apart by.
    pub attributes: &'static [&'static str],
    /// What it means.
    pub meaning: &'static str,
}

/// The attributes of instruments, beside those of [`crate::names`].
pub mod attributes {
    /// The queue as the configuration names it.
    pub const QUEUE: &str = "queue.name";
    /// Where a task stands.
    pub const STATE: &str = "task.state";
    /// `visible`, `in_flight` or `delayed`.
    pub const MESSAGE_STATE: &str = "message.state";
    /// `queue`, or `key` for all concurrency keys of the queue together.
    pub const PERMIT_SCOPE: &str = "permit.scope";
    /// `starting`, `running`, `draining`, or `silent`.
    pub const WORKER_STATE: &str = "worker.state";
    /// A function of the configuration.
    pub const FUNCTION: &str = "function.name";
    /// A GPU's UUID.
    pub const GPU: &str = "gpu.uuid";
    /// `free`, `held`, `checking` or `quarantined`.
    pub const GPU_STATE: &str = "gpu.state";
    /// The service of AWS, as its client names it.
    pub const SERVICE: &str = "rpc.service";
    /// Its operation.
    pub const METHOD: &str = "rpc.method";
}

use Kind::{Counter, Gauge, Histogram};
use attributes::{FUNCTION, GPU, GPU_STATE, MESSAGE_STATE, METHOD, PERMIT_SCOPE, QUEUE, SERVICE, STATE, WORKER_STATE};

use crate::names::{
    ERROR_TYPE, MESSAGING_DESTINATION_NAME, MESSAGING_OPERATION_NAME, MESSAGING_SYSTEM, TASK_NAME, TASK_OUTCOME,
    WORKER_ID,
};

macro_rules! instruments {
    ($($constant:ident = $kind:ident $name:literal, $unit:literal, [$($attribute:ident),*], $meaning:literal;)*) => {
        $(
            #[doc = $meaning]
            pub const $constant: Instrument = Instrument {
                name: $name,
                kind: $kind,
                unit: $unit,
                attributes: &[$($attribute),*],
                meaning: $meaning,
            };
        )*
        /// Every instrument.
        pub const INSTRUMENTS: &[Instrument] = &[$($constant),*];
    };
}

instruments! {
    PROCESS_DURATION = Histogram "messaging.process.duration", "s",
        [MESSAGING_SYSTEM, MESSAGING_OPERATION_NAME, MESSAGING_DESTINATION_NAME, QUEUE, TASK_NAME, ERROR_TYPE],
        "how long attempts ran: from handing the task to its function to the answer, of its whole invocation; `error.type` where it failed";
    WAIT_DURATION = Histogram "rhubarb.task.wait.duration", "s", [QUEUE, TASK_NAME],
        "from when a task could be started (its enqueue, or its time) to its first attempt";
    ATTEMPTS = Counter "rhubarb.task.attempts", "{attempt}", [QUEUE, TASK_NAME, TASK_OUTCOME],
        "attempts that ended, by outcome";
    SETTLED = Counter "rhubarb.task.settled", "{task}", [QUEUE, TASK_NAME, STATE],
        "tasks that an attempt has settled, by state";
    RETRIES = Counter "rhubarb.task.retries", "{retry}", [QUEUE, TASK_NAME],
        "failed attempts whose task is tried again";
    LEASES_LOST = Counter "rhubarb.lease.lost", "{lease}", [QUEUE],
        "attempts that were stopped, or settled in vain, because a newer claim exists or the task was settled elsewhere";
    REAPED = Counter "rhubarb.sweep.reaped", "{task}", [QUEUE],
        "tasks whose worker fell silent: brought back, or failed as lost";
    DEAD_LETTERS = Counter "rhubarb.sweep.dead_letters", "{message}", [QUEUE],
        "messages that the broker had moved aside and the sweep has put into rows";
    QUEUE_MESSAGES = Gauge "rhubarb.queue.messages", "{message}", [QUEUE, MESSAGE_STATE],
        "messages in a queue, about: the broker's own count";
    QUEUE_TASKS = Gauge "rhubarb.queue.tasks", "{task}", [QUEUE, STATE],
        "rows by state, where the store keeps count of them (embedded only)";
    OLDEST_AGE = Gauge "rhubarb.queue.oldest.age", "s", [QUEUE],
        "the age of the task that was queued first and has not begun; 0 where none waits";
    PERMIT_LIMIT = Gauge "rhubarb.permit.limit", "{permit}", [QUEUE, PERMIT_SCOPE],
        "tasks of a limited queue, or of each of its concurrency keys, that may run at once";
    PERMITS_TAKEN = Gauge "rhubarb.permit.taken", "{permit}", [QUEUE, PERMIT_SCOPE],
        "permits that are held; of keys the sum over the first 1000 that have any, and that in the embedded store alone";
    PERMITS_AWAITED = Gauge "rhubarb.permit.parked", "{task}", [QUEUE, PERMIT_SCOPE],
        "tasks that wait for a permit; of keys on AWS about 1000 are counted at most";
    QUEUE_WORKERS = Gauge "rhubarb.queue.workers", "{worker}", [QUEUE],
        "workers heard of lately that serve the queue";
    WORKERS = Gauge "rhubarb.workers", "{worker}", [WORKER_STATE],
        "workers by state; `silent` ones did not say goodbye";
    HEARTBEAT_TIME = Gauge "rhubarb.worker.heartbeat.time", "s", [WORKER_ID],
        "when the store last took this worker's heartbeat, in Unix time; 0 before the first";
    SLOTS = Gauge "rhubarb.worker.slots", "{slot}", [WORKER_ID],
        "room of this worker for invocations";
    SLOTS_USED = Gauge "rhubarb.worker.slots.used", "{slot}", [WORKER_ID],
        "slots in which something runs";
    GPU_UTILISATION = Gauge "rhubarb.gpu.utilization", "1", [WORKER_ID, GPU],
        "the part of the last sample period in which a kernel ran on a GPU, as NVML tells it; none for an instance of MIG";
    GPU_MEMORY_USED = Gauge "rhubarb.gpu.memory.used", "By", [WORKER_ID, GPU],
        "memory in use on a GPU, whoever uses it";
    GPU_MEMORY = Gauge "rhubarb.gpu.memory.limit", "By", [WORKER_ID, GPU],
        "the memory of a GPU, or what MPS leaves of it";
    GPU_POWER = Gauge "rhubarb.gpu.power", "W", [WORKER_ID, GPU],
        "what a GPU draws; an instance of MIG tells its whole device's";
    GPU_TEMPERATURE = Gauge "rhubarb.gpu.temperature", "Cel", [WORKER_ID, GPU],
        "how hot a GPU is";
    GPU_DEVICES = Gauge "rhubarb.gpu.devices", "{device}", [WORKER_ID, GPU, GPU_STATE],
        "1 for the state in which this worker sees a GPU; `quarantined` ones are out of use until they are well or released";
    GPU_LEASED = Counter "rhubarb.gpu.lease.time", "s", [WORKER_ID, GPU],
        "for how long this worker has held a GPU for tasks, all its leases together; to the heartbeat";
    FUNCTION_STARTS = Counter "rhubarb.function.starts", "{process}", [FUNCTION, ERROR_TYPE],
        "function processes started; `error.type` is `init` where one could not be";
    AWS_REQUESTS = Counter "rhubarb.aws.requests", "{request}", [SERVICE, METHOD, ERROR_TYPE],
        "requests to AWS, each try one as it is billed; `error.type` is the status of a refusal, or `connection`";
    LOG_DROPPED = Counter "rhubarb.log.dropped", "{record}", [],
        "log records that were dropped because standard error was not read as fast as they came";
}

/// Boundaries of the histograms, in seconds: those that the conventions advise, and on to a day, because tasks
/// run from milliseconds to days.
pub const SECONDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0,
    14_400.0, 43_200.0, 86_400.0,
];

impl Instrument {
    /// Its name on the page for Prometheus: dots and units as that has them.
    #[must_use]
    pub fn prometheus_name(&self) -> String {
        let unit = match self.unit {
            "s" => "_seconds",
            "By" => "_bytes",
            "W" => "_watts",
            "Cel" => "_celsius",
            "1" => "_ratio",
            _ => "",
        };
        let total = if self.kind == Counter { "_total" } else { "" };
        format!("{}{unit}{total}", self.name.replace('.', "_"))
    }

    /// Its line of the README's table.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { name, unit, meaning, .. } = self;
        let unit = unit.trim_matches(['{', '}']);
        let attributes: Vec<String> = self.attributes.iter().map(|attribute| format!("`{attribute}`")).collect();
        let kind = format!("{:?}", self.kind).to_lowercase();
        format!(
            "| `{name}`<br>`{}` | {kind} | {unit} | {} | {meaning} |",
            self.prometheus_name(),
            attributes.join(", ")
        )
    }
}

/// The README's table.
#[must_use]
pub fn table() -> String {
    let lines: String = INSTRUMENTS.iter().map(|instrument| instrument.line() + "\n").collect();
    format!("| by OTLP, on the page | kind | unit | by | meaning |\n|---|---|---|---|---|\n{lines}")
}
