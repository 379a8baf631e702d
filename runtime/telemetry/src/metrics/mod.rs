//! The instruments of the runtime: what libraries tell, one line at each place.
//!
//! A program that wants metrics installs a meter once; until then [`get`] is one look at an empty place, and
//! nothing is counted, made or kept. Numbers live in the process and end with it: the truth about tasks is in
//! the store.

mod gauges;
pub mod table;
mod usual;
mod words;

use std::{collections::BTreeMap, sync::OnceLock, time::Duration};

use opentelemetry::{
    KeyValue, Value,
    metrics::{Counter, Histogram, Meter},
};
use rhubarb_core::{
    backend::{WorkerGpu, WorkerGpuState},
    gpu::GpuReading,
    ids::{FunctionName, QueueName, TaskName, WorkerId},
    row,
};

pub use self::gauges::{PermitsSeen, QueueSeen, Seen, Used, WorkerShown};
use self::{
    gauges::{Gauges, State, Worker},
    table::{Instrument, attributes as by},
    usual::Usuals,
    words::Words,
};
use crate::{names, queues::Queues};

static METRICS: OnceLock<Metrics> = OnceLock::new();

/// The instruments, if this process has any.
#[must_use]
pub fn get() -> Option<&'static Metrics> {
    METRICS.get()
}

/// Gives this process its instruments, once: a second meter is not used.
pub fn install(meter: &Meter) {
    METRICS.get_or_init(|| Metrics::new(meter));
}

/// The instruments.
pub struct Metrics {
    tasks: Words,
    errors: Words,
    others: Words,
    gauges: Gauges,
    usuals: Usuals,
    process_duration: Histogram<f64>,
    wait_duration: Histogram<f64>,
    attempts: Counter<u64>,
    settled: Counter<u64>,
    retries: Counter<u64>,
    leases_lost: Counter<u64>,
    reaped: Counter<u64>,
    dead_letters: Counter<u64>,
    function_starts: Counter<u64>,
    aws_requests: Counter<u64>,
    log_dropped: Counter<u64>,
}

impl Metrics {
    /// Makes every instrument of the table.
    #[must_use]
    pub fn new(meter: &Meter) -> Self {
        let gauges = Gauges::default();
        observe(meter, &gauges);
        Self {
            tasks: Words::default(),
            errors: Words::default(),
            others: Words::default(),
            gauges,
            usuals: Usuals::default(),
            process_duration: histogram(meter, table::PROCESS_DURATION),
            wait_duration: histogram(meter, table::WAIT_DURATION),
            attempts: counter(meter, table::ATTEMPTS),
            settled: counter(meter, table::SETTLED),
            retries: counter(meter, table::RETRIES),
            leases_lost: counter(meter, table::LEASES_LOST),
            reaped: counter(meter, table::REAPED),
            dead_letters: counter(meter, table::DEAD_LETTERS),
            function_starts: counter(meter, table::FUNCTION_STARTS),
            aws_requests: counter(meter, table::AWS_REQUESTS),
            log_dropped: counter(meter, table::LOG_DROPPED),
        }
    }

    /// A task's first attempt has begun after so long.
    pub fn waited(&self, queue: &QueueName, task: &TaskName, wait: Duration) {
        let (seconds, attributes) = (wait.as_secs_f64(), || [self.queue(queue), self.task(task)]);
        match self.usuals.of(queue, task) {
            Some(usual) => usual.waited.get_or_init(|| self.wait_duration.bind(&attributes())).record(seconds),
            None => self.wait_duration.record(seconds, &attributes()),
        }
    }

    /// An attempt has run for so long; `error` is the kind of its failure, if it failed.
    pub fn ran(&self, queues: &Queues, queue: &QueueName, task: &TaskName, ran: Duration, error: Option<&str>) {
        let seconds = ran.as_secs_f64();
        let attributes = || {
            let [system, operation, destination] = queues.process(queue);
            [system, operation, destination, self.queue(queue), self.task(task)]
        };
        match (error, self.usuals.of(queue, task)) {
            (None, Some(usual)) => usual.ran.get_or_init(|| self.process_duration.bind(&attributes())).record(seconds),
            (None, None) => self.process_duration.record(seconds, &attributes()),
            (Some(kind), _) => {
                let mut attributes = attributes().to_vec();
                attributes.push(KeyValue::new(names::ERROR_TYPE, Value::String(self.errors.word(kind))));
                self.process_duration.record(seconds, &attributes);
            }
        }
    }

    /// An attempt has ended; `state` is the task's now, and `retried` says that it is tried again.
    pub fn ended(
        &self,
        queue: &QueueName,
        task: &TaskName,
        outcome: &'static str,
        settled: Option<&'static str>,
        retried: bool,
    ) {
        let with =
            |key: &'static str, word: &'static str| [self.queue(queue), self.task(task), KeyValue::new(key, word)];
        let success = row::State::Succeeded.as_str();
        let usual = (outcome == success).then(|| self.usuals.of(queue, task)).flatten();
        match &usual {
            Some(usual) => {
                usual.succeeded.get_or_init(|| self.attempts.bind(&with(names::TASK_OUTCOME, outcome))).add(1);
            }
            None => self.attempts.add(1, &with(names::TASK_OUTCOME, outcome)),
        }
        match (settled, &usual) {
            (Some(state), Some(usual)) if state == success => {
                usual.settled.get_or_init(|| self.settled.bind(&with(by::STATE, state))).add(1);
            }
            (Some(state), _) => self.settled.add(1, &with(by::STATE, state)),
            (None, _) => {}
        }
        if retried {
            self.retries.add(1, &[self.queue(queue), self.task(task)]);
        }
    }

    /// A holder has learnt that it is none any more.
    pub fn lease_lost(&self, queue: &QueueName) {
        self.leases_lost.add(1, &[self.queue(queue)]);
    }

    /// The sweep has taken a task from a silent worker.
    pub fn reaped(&self, queue: &QueueName) {
        self.reaped.add(1, &[self.queue(queue)]);
    }

    /// The sweep has put messages into rows that the broker had moved aside.
    pub fn dead_letters(&self, queue: &QueueName, messages: u64) {
        self.dead_letters.add(messages, &[self.queue(queue)]);
    }

    /// A function's process was started, or could not be.
    pub fn function_started(&self, function: &FunctionName, started: bool) {
        let function = KeyValue::new(by::FUNCTION, self.other(function.as_str()));
        match started {
            true => self.function_starts.add(1, &[function]),
            false => self.function_starts.add(1, &[function, KeyValue::new(names::ERROR_TYPE, "init")]),
        }
    }

    /// A request to AWS was answered, or was not; `error` is the status of a refusal, or `connection`.
    pub fn aws_request(&self, service: &str, method: &str, error: Option<&str>) {
        let service = KeyValue::new(by::SERVICE, self.other(service));
        let method = KeyValue::new(by::METHOD, self.other(method));
        match error {
            None => self.aws_requests.add(1, &[service, method]),
            Some(error) => {
                self.aws_requests.add(1, &[service, method, KeyValue::new(names::ERROR_TYPE, self.other(error))]);
            }
        }
    }

    /// Log records were dropped.
    pub fn log_dropped(&self, records: u64) {
        self.log_dropped.add(records, &[]);
    }

    /// Shows a worker's slots until what is returned is dropped.
    #[must_use]
    pub fn show_worker(&self, id: WorkerId, slots: u64, used: Used) -> WorkerShown {
        let worker = Worker { slots, used, heartbeat_ms: 0, gpus: Vec::new(), leased: BTreeMap::new() };
        self.gauges.state().workers.insert(id.clone(), worker);
        WorkerShown { id, gauges: self.gauges.clone() }
    }

    fn queue(&self, queue: &QueueName) -> KeyValue {
        KeyValue::new(by::QUEUE, self.other(queue.as_str()))
    }

    fn task(&self, task: &TaskName) -> KeyValue {
        KeyValue::new(names::TASK_NAME, Value::String(self.tasks.word(task.as_str())))
    }

    fn other(&self, text: &str) -> Value {
        Value::String(self.others.word(text))
    }
}

fn counter(meter: &Meter, Instrument { name, unit, meaning, .. }: Instrument) -> Counter<u64> {
    meter.u64_counter(name).with_unit(unit).with_description(meaning).build()
}

fn histogram(meter: &Meter, Instrument { name, unit, meaning, .. }: Instrument) -> Histogram<f64> {
    let builder = meter.f64_histogram(name).with_unit(unit).with_description(meaning);
    builder.with_boundaries(table::SECONDS.to_vec()).build()
}

/// Makes the gauges, each of which reads the state when somebody asks.
fn observe(meter: &Meter, gauges: &Gauges) {
    gauge(meter, gauges, table::SLOTS, |state, tell| {
        state.workers.iter().for_each(|(id, worker)| tell(worker.slots as f64, &[worker_id(id)]));
    });
    gauge(meter, gauges, table::SLOTS_USED, |state, tell| {
        state.workers.iter().for_each(|(id, worker)| tell((worker.used)() as f64, &[worker_id(id)]));
    });
    gauge(meter, gauges, table::HEARTBEAT_TIME, |state, tell| {
        state.workers.iter().for_each(|(id, worker)| tell(worker.heartbeat_ms as f64 / 1000.0, &[worker_id(id)]));
    });
    gauge(meter, gauges, table::WORKERS, |state, tell| {
        for (word, count) in state.seen.values().flat_map(|seen| &seen.workers) {
            tell(*count as f64, &[KeyValue::new(by::WORKER_STATE, *word)]);
        }
    });
    of_queues(meter, gauges, table::QUEUE_MESSAGES, |queue, seen, tell| {
        for (word, count) in &seen.messages {
            tell(*count as f64, &[queue.clone(), KeyValue::new(by::MESSAGE_STATE, *word)]);
        }
    });
    of_queues(meter, gauges, table::QUEUE_TASKS, |queue, seen, tell| {
        for (word, count) in &seen.tasks {
            tell(*count as f64, &[queue.clone(), KeyValue::new(by::STATE, *word)]);
        }
    });
    of_queues(meter, gauges, table::OLDEST_AGE, |queue, seen, tell| {
        tell(seen.oldest_ms.unwrap_or(0) as f64 / 1000.0, &[queue]);
    });
    of_queues(meter, gauges, table::QUEUE_WORKERS, |queue, seen, tell| {
        if let Some(workers) = seen.workers {
            tell(workers as f64, &[queue]);
        }
    });
    of_permits(meter, gauges, table::PERMIT_LIMIT, |seen| seen.limit.map(f64::from));
    of_permits(meter, gauges, table::PERMITS_TAKEN, |seen| Some(seen.taken? as f64));
    of_permits(meter, gauges, table::PERMITS_AWAITED, |seen| Some(seen.parked as f64));
    observe_gpus(meter, gauges);
}

fn of_permits(
    meter: &Meter,
    gauges: &Gauges,
    instrument: Instrument,
    value: impl Fn(&PermitsSeen) -> Option<f64> + Send + Sync + 'static,
) {
    of_queues(meter, gauges, instrument, move |queue, seen, tell| {
        for (scope, permits) in &seen.permits {
            if let Some(value) = value(permits) {
                tell(value, &[queue.clone(), KeyValue::new(by::PERMIT_SCOPE, *scope)]);
            }
        }
    });
}

fn observe_gpus(meter: &Meter, gauges: &Gauges) {
    of_gpus(meter, gauges, table::GPU_UTILISATION, |_, read| Some(f64::from(read?.utilisation?) / 100.0));
    of_gpus(meter, gauges, table::GPU_MEMORY_USED, |_, read| Some(read?.memory_used as f64));
    of_gpus(meter, gauges, table::GPU_MEMORY, |gpu, _| Some(gpu.device.memory as f64));
    of_gpus(meter, gauges, table::GPU_POWER, |_, read| Some(f64::from(read?.power?) / 1000.0));
    of_gpus(meter, gauges, table::GPU_TEMPERATURE, |_, read| Some(f64::from(read?.temperature?)));
    gauge(meter, gauges, table::GPU_DEVICES, |state, tell| {
        for (id, worker) in &state.workers {
            for (gpu, _) in &worker.gpus {
                let stands = KeyValue::new(by::GPU_STATE, word(&gpu.state));
                tell(1.0, &[worker_id(id), gpu_uuid(&gpu.device.uuid), stands]);
            }
        }
    });
    let Instrument { name, unit, meaning, .. } = table::GPU_LEASED;
    let state = gauges.clone();
    let leased = meter.f64_observable_counter(name).with_unit(unit).with_description(meaning);
    leased
        .with_callback(move |observer| {
            for (id, worker) in &state.state().workers {
                for (uuid, leased) in &worker.leased {
                    observer.observe(leased.as_secs_f64(), &[worker_id(id), gpu_uuid(uuid)]);
                }
            }
        })
        .build();
}

fn of_gpus(
    meter: &Meter,
    gauges: &Gauges,
    instrument: Instrument,
    value: impl Fn(&WorkerGpu, Option<&GpuReading>) -> Option<f64> + Send + Sync + 'static,
) {
    gauge(meter, gauges, instrument, move |state, tell| {
        for (id, worker) in &state.workers {
            for (gpu, reading) in &worker.gpus {
                if let Some(value) = value(gpu, reading.as_ref()) {
                    tell(value, &[worker_id(id), gpu_uuid(&gpu.device.uuid)]);
                }
            }
        }
    });
}

const fn word(state: &WorkerGpuState) -> &'static str {
    match state {
        WorkerGpuState::Free => "free",
        WorkerGpuState::Held { .. } => "held",
        WorkerGpuState::Checking => "checking",
        WorkerGpuState::Quarantined { .. } => "quarantined",
    }
}

fn gpu_uuid(uuid: &str) -> KeyValue {
    KeyValue::new(by::GPU, uuid.to_owned())
}

type Tell<'t> = &'t dyn Fn(f64, &[KeyValue]);

fn gauge(
    meter: &Meter,
    gauges: &Gauges,
    Instrument { name, unit, meaning, .. }: Instrument,
    read: impl Fn(&State, Tell<'_>) + Send + Sync + 'static,
) {
    let gauges = gauges.clone();
    let gauge = meter.f64_observable_gauge(name).with_unit(unit).with_description(meaning);
    gauge
        .with_callback(move |observer| read(&gauges.state(), &|value, attributes| observer.observe(value, attributes)))
        .build();
}

fn of_queues(
    meter: &Meter,
    gauges: &Gauges,
    instrument: Instrument,
    read: impl Fn(KeyValue, &QueueSeen, Tell<'_>) + Send + Sync + 'static,
) {
    gauge(meter, gauges, instrument, move |state, tell| {
        for (queue, seen) in state.seen.values().flat_map(|seen| &seen.queues) {
            read(KeyValue::new(by::QUEUE, queue.as_str().to_owned()), seen, tell);
        }
    });
}

fn worker_id(id: &WorkerId) -> KeyValue {
    KeyValue::new(names::WORKER_ID, id.as_str().to_owned())
}
