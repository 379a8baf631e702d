//! What the holder of the sweep's role looks at for the metrics, at a slow beat.
//!
//! Only one worker tells of queues and of all workers, so that nothing is counted twice; and only where
//! somebody counts at all. A look costs one request for the workers and a few look-ups a queue, however many
//! tasks there are. What cannot be looked at is left as it was seen last.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant, SystemTime},
};

use rhubarb_core::{
    backend::{Backend, Counts, Glance, Heard, StoreError, WorkerState},
    config::{self, Config, QueueClass, QueueConfig},
    ids::QueueName,
    permit::{PermitCounts, QueueLimits, ScopeCounts, ScopeLimits},
    time::Timestamp,
};
use rhubarb_telemetry::metrics::{PermitsSeen, QueueSeen, Seen, WorkerShown};

/// How often.
const EVERY: Duration = Duration::from_secs(5);
/// Where each look is a request that costs.
const EVERY_WHERE_IT_COSTS: Duration = Duration::from_secs(30);

/// Looks while its worker holds the role.
pub(crate) struct Looks {
    every: Duration,
    last: Option<Instant>,
}

impl Looks {
    pub(crate) const fn new(costs: bool) -> Self {
        Self { every: if costs { EVERY_WHERE_IT_COSTS } else { EVERY }, last: None }
    }

    /// Looks, if it is time.
    pub(crate) async fn look(
        &mut self,
        backend: &dyn Backend,
        config: &Config,
        messages: &HashMap<QueueName, Counts>,
        shown: &WorkerShown,
    ) -> Result<(), StoreError> {
        if self.last.is_some_and(|last| last.elapsed() < self.every) {
            return Ok(());
        }
        self.last = Some(Instant::now());
        let names: Vec<QueueName> = config.queues.keys().cloned().collect();
        let workers = backend.workers().list().await?;
        let glances = backend.tasks().glance(&names).await?;
        let limited: Vec<(QueueName, QueueLimits)> = limited(config).map(|of| (of.name.clone(), of.limits)).collect();
        let permits = if limited.is_empty() { Vec::new() } else { backend.tasks().permits(&limited).await? };
        let now = Timestamp::from_system(SystemTime::now());
        shown.seen(Some(seen(config, &glances, &permits, messages, &workers, now)));
        Ok(())
    }

    /// It does not hold the role any more.
    pub(crate) fn stop(&mut self, shown: &WorkerShown) {
        if self.last.take().is_some() {
            shown.seen(None);
        }
    }
}

fn seen(
    config: &Config,
    glances: &[Glance],
    permits: &[PermitCounts],
    messages: &HashMap<QueueName, Counts>,
    workers: &[Heard],
    now: Timestamp,
) -> Seen {
    let on_aws = config.app.backend == config::Backend::Aws;
    let serving = |queue: &QueueConfig| {
        let takes = |heard: &&Heard| heard.alive && heard.worker.queues.contains(&queue.name);
        let count = workers.iter().filter(takes).count() as u64;
        // Lambda itself feeds these, and no worker need.
        (count > 0 || !(on_aws && queue.class == QueueClass::Lambda)).then_some(count)
    };
    let permits: HashMap<&QueueName, &PermitCounts> = limited(config).map(|of| &of.name).zip(permits).collect();
    let of_queue = |(config, glance): (&QueueConfig, &Glance)| {
        let queue = &config.name;
        let counts = messages.get(queue).copied().unwrap_or_default();
        let age = |at: Timestamp| u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX);
        let seen = QueueSeen {
            messages: vec![("visible", counts.visible), ("in_flight", counts.in_flight), ("delayed", counts.delayed)],
            tasks: glance.states.iter().map(|(state, count)| (state.as_str(), *count)).collect(),
            oldest_ms: glance.oldest.map(age),
            permits: permits.get(queue).map(|counts| of_limits(&config.limits, counts)).unwrap_or_default(),
            workers: serving(config),
        };
        (queue.clone(), seen)
    };
    let mut by_state = BTreeMap::from([("starting", 0), ("running", 0), ("draining", 0), ("silent", 0)]);
    for heard in workers {
        *by_state.entry(word(heard)).or_default() += 1;
    }
    Seen {
        queues: config.queues.values().zip(glances).map(of_queue).collect(),
        workers: by_state.into_iter().collect(),
    }
}

/// The queues that have limits: the store need not look at the others.
fn limited(config: &Config) -> impl Iterator<Item = &QueueConfig> {
    config.queues.values().filter(|queue| !queue.limits.is_none())
}

fn of_limits(limits: &QueueLimits, counts: &PermitCounts) -> Vec<(&'static str, PermitsSeen)> {
    let of_scope = |word, limits: ScopeLimits, counts: Option<ScopeCounts>| {
        let ScopeCounts { taken, parked } = counts?;
        Some((word, PermitsSeen { limit: limits.max_running, taken, parked }))
    };
    let (queue, key) = (of_scope("queue", limits.queue, counts.queue), of_scope("key", limits.key, counts.key));
    queue.into_iter().chain(key).collect()
}

const fn word(heard: &Heard) -> &'static str {
    match (heard.alive, heard.worker.state) {
        (false, _) => "silent",
        (true, WorkerState::Starting) => "starting",
        (true, WorkerState::Running) => "running",
        (true, WorkerState::Draining) => "draining",
    }
}
