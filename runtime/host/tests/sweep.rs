//! The sweep over a backend in memory, on a clock that stands still until it is moved.

#![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rhubarb_core::{
    backend::{Backend, ClaimPolicy, Filter, OutgoingMessage, QueueSpec, Submission, Take, TaskRecord, Window},
    config::{Config, NoVars, Overrides, QueueConfig},
    envelope::{Envelope, null},
    ids::{TaskId, TaskName, WorkerId},
    limits::DOORBELL_PATIENCE,
    outcome::Failure,
    row::{AckMode, State},
    time::Timestamp,
};
use rhubarb_host::sweep::{Sweep, Swept};
use rhubarb_testkit::{Clock, Fault, MemoryBackend, MemoryOptions, Verb};

const SECOND: Duration = Duration::from_secs(1);

struct World {
    backend: MemoryBackend,
    config: Config,
    clock: Clock,
    sweep: Sweep,
    worker: WorkerId,
    loses: Arc<AtomicBool>,
}

impl World {
    async fn new(queue: &str) -> Self {
        let text = format!("[app]\nname = \"tests\"\n[functions.f]\npackage = \"f\"\n[queues.q]\n{queue}\n");
        let config = Config::parse(&text, &NoVars, &Overrides::default()).unwrap();
        let loses = Arc::new(AtomicBool::new(false));
        let lossy = Arc::clone(&loses);
        let faults = move |verb| {
            if verb == Verb::Send && lossy.load(Ordering::SeqCst) { Fault::Lose } else { Fault::None }
        };
        let clock = Clock::tokio();
        let options =
            MemoryOptions { clock: clock.clone(), faults: Some(Arc::new(faults)), ..MemoryOptions::default() };
        let backend = MemoryBackend::new(options);
        let aside = |queue: &QueueConfig| {
            Some(QueueSpec { queue: queue.dead_letters()?, max_receives: None, dead_letters: None })
        };
        let specs: Vec<QueueSpec> =
            config.queues.values().flat_map(|queue| [Some(spec_of(queue)), aside(queue)]).flatten().collect();
        backend.broker().declare(&specs).await.unwrap();
        Self { backend, config, clock, sweep: Sweep::default(), worker: WorkerId::new("w").unwrap(), loses }
    }

    fn queue(&self) -> &QueueConfig {
        &self.config.queues["q"]
    }

    fn now(&self) -> Timestamp {
        self.clock.now().epoch
    }

    async fn sweep(&mut self) -> Swept {
        let now = self.now();
        self.sweep.run(&self.backend, &self.config, &self.worker, now).await.unwrap()
    }

    /// Takes what there is: how many.
    async fn take_all(&self) -> usize {
        let queue = self.queue();
        let policy = ClaimPolicy {
            lease: queue.lease,
            keep: (queue.keep, queue.keep_failed),
            ..ClaimPolicy::new(queue.name.clone(), AckMode::Lease)
        };
        let mut taken = 0;
        loop {
            let take = Take { policy: &policy, worker: &self.worker, max: 10, wait: Duration::ZERO };
            match self.backend.take(take).await.unwrap().won.len() {
                0 => return taken,
                some => taken += some,
            }
        }
    }

    /// Sends a body that is received until the broker moves it aside. Returns the task's id.
    async fn moved_aside(&self, body: &str) -> TaskId {
        let (broker, queue) = (self.backend.broker(), &self.queue().name);
        let message = OutgoingMessage { body: body.into(), ..OutgoingMessage::default() };
        let sent = broker.send(queue, &[message]).await.pop().unwrap().unwrap();
        for _ in 0..=self.queue().max_receives {
            broker.receive(queue, 10, Duration::ZERO, Duration::ZERO).await.unwrap();
        }
        TaskId::of_message(&sent)
    }

    async fn dead_messages(&self) -> u64 {
        let dead = self.queue().dead_letters().unwrap();
        self.backend.broker().counts(&dead).await.map_or(0, |counts| counts.visible + counts.in_flight)
    }

    async fn record(&self, id: TaskId) -> TaskRecord {
        self.backend.tasks().read(&[id]).await.unwrap().pop().unwrap().unwrap().record
    }
}

fn spec_of(queue: &QueueConfig) -> QueueSpec {
    QueueSpec { queue: queue.name.clone(), max_receives: Some(queue.max_receives), dead_letters: queue.dead_letters() }
}

fn submission(queue: &QueueConfig) -> Submission {
    let envelope = Envelope::new(TaskId::mint(), TaskName::new("t").unwrap(), null());
    Submission::new(&envelope, queue.name.clone(), Window::DEFAULT)
}

#[tokio::test(start_paused = true)]
async fn a_queue_whose_doorbells_were_all_lost_is_rung_again_once_it_has_stood_empty() {
    const TASKS: usize = 700;
    let mut world = World::new("").await;
    world.loses.store(true, Ordering::SeqCst);
    let submissions: Vec<Submission> = (0..TASKS).map(|_| submission(world.queue())).collect();
    for answer in world.backend.submit(&submissions, world.now()).await {
        answer.unwrap();
    }
    world.loses.store(false, Ordering::SeqCst);
    assert_eq!((world.take_all().await, world.sweep().await.rung), (0, 0), "a bell may yet be on its way");
    tokio::time::advance(DOORBELL_PATIENCE + SECOND).await;
    let swept = world.sweep().await;
    assert_eq!((swept.lost, swept.rung), (TASKS as u64, TASKS));
    assert_eq!(world.take_all().await, TASKS);
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_moved_aside_becomes_failed_rows() {
    let mut world = World::new("max_receives = 4").await;
    let poison = world.moved_aside("{\"args\": 7").await;
    let plain = world.moved_aside(r#"{"task":"t","args":{}}"#).await;
    assert_eq!(world.dead_messages().await, 2);
    assert_eq!(world.sweep().await.adopted, 2);
    assert_eq!(world.dead_messages().await, 0);
    for (id, kind) in [(poison, Failure::POISON), (plain, Failure::MOVED_ASIDE)] {
        let record = world.record(id).await;
        assert_eq!((record.state, record.failure.unwrap().kind.as_str()), (State::Failed, kind));
    }
    let failed = Filter { state: Some(State::Failed), limit: 10, ..Filter::default() };
    assert_eq!(world.backend.tasks().list(&failed).await.unwrap().items.len(), 2);
    let redriven = world.backend.redrive(&[plain]).await.pop().unwrap().unwrap();
    assert_eq!((redriven.state, world.take_all().await), (State::Queued, 1));
}

/// Its row is settled by another message, or held by somebody: the one that was moved aside is only in the way.
#[tokio::test(start_paused = true)]
async fn a_message_that_was_moved_aside_harms_no_task_that_is_held_or_settled() {
    let mut world = World::new("max_receives = 4").await;
    let held = submission(world.queue());
    world.backend.submit(std::slice::from_ref(&held), world.now()).await.pop().unwrap().unwrap();
    assert_eq!(world.take_all().await, 1);
    world.moved_aside(&held.spec).await;
    assert_eq!(world.sweep().await.adopted, 1);
    assert_eq!(world.record(held.id).await.state, State::Running, "its holder goes on");
    assert_eq!(world.dead_messages().await, 0);
}

/// A worker has met it, and whoever gives a permit back rings it: a message more of it says nothing about it.
#[tokio::test(start_paused = true)]
async fn a_message_that_was_moved_aside_buries_no_task_that_is_parked() {
    let mut world = World::new("max_receives = 4\nmax_running = 1").await;
    let tasks = [submission(world.queue()), submission(world.queue())];
    for answer in world.backend.submit(&tasks, world.now()).await {
        answer.unwrap();
    }
    let policy =
        ClaimPolicy { limits: world.queue().limits, ..ClaimPolicy::new(world.queue().name.clone(), AckMode::Lease) };
    let take = Take { policy: &policy, worker: &world.worker, max: 10, wait: Duration::ZERO };
    assert_eq!(world.backend.take(take).await.unwrap().won.len(), 1);
    world.moved_aside(&tasks[1].spec).await;
    assert_eq!(world.sweep().await.adopted, 1);
    assert_eq!((world.record(tasks[1].id).await.state, world.dead_messages().await), (State::Waiting, 0));
}

#[tokio::test(start_paused = true)]
async fn the_dead_letters_of_a_queue_without_rows_are_left_alone() {
    let mut world = World::new("track = \"none\"\nack = \"message\"\nmax_receives = 4").await;
    world.moved_aside(r#"{"task":"t","args":{}}"#).await;
    assert_eq!((world.sweep().await.adopted, world.dead_messages().await), (0, 1));
}
