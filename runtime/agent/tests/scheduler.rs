//! What a scheduler fires, by a clock that the test moves.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rhubarb_agent::scheduler::Scheduler;
use rhubarb_core::{
    backend::{Backend, Filter, QueueSpec, ScheduleRecord, TaskRecord},
    config::{Config, Definition, NoVars, Overlap, Overrides},
    envelope::Envelope,
    ids::{ScheduleName, TaskId},
    row::State,
    schedule::{self, Tick, Verdict},
    time::Timestamp,
};
use rhubarb_testkit::{Clock, Fault, ManualClock, MemoryBackend, MemoryOptions, Verb};
use tokio::sync::Notify;

const MINUTE: i64 = 60_000;

struct World {
    backend: Arc<dyn Backend>,
    config: Arc<Config>,
    /// The wall clock at the beginning: a whole minute, by the store's clock too.
    begin: Timestamp,
    broken: Arc<AtomicBool>,
}

impl World {
    fn new(toml: &str) -> Self {
        let clock = Clock::Manual(ManualClock::new());
        let begin = clock.now().epoch;
        let begin = Timestamp((begin.0 / MINUTE + 1) * MINUTE);
        let broken = Arc::new(AtomicBool::new(false));
        let breaks = Arc::clone(&broken);
        // Notes are lost, submissions are not.
        let faults = move |verb: Verb| {
            let breaks = verb == Verb::Schedule && breaks.load(Ordering::Relaxed);
            if breaks { Fault::Refuse } else { Fault::None }
        };
        let options = MemoryOptions { clock, faults: Some(Arc::new(faults)), ..MemoryOptions::default() };
        Self { backend: Arc::new(MemoryBackend::new(options)), config: Arc::new(config(toml)), begin, broken }
    }

    fn at(&self, minutes: i64) -> Timestamp {
        Timestamp(self.begin.0 + minutes * MINUTE)
    }

    async fn put(&self, name: &str, change: impl FnOnce(&mut Definition)) -> ScheduleName {
        let queue = QueueSpec { queue: "default".parse().unwrap(), max_receives: None, dead_letters: None };
        self.backend.broker().declare(&[queue]).await.unwrap();
        let mut definition = Definition { task: "t".into(), ..Definition::default() };
        change(&mut definition);
        let name = ScheduleName::new(name).unwrap();
        let record = ScheduleRecord::new(name.clone(), false, definition.to_value(), self.begin);
        self.backend.schedules().put(&[record]).await.pop().unwrap().unwrap();
        name
    }

    fn scheduler(&self) -> Scheduler {
        Scheduler::new(Arc::clone(&self.backend), Arc::clone(&self.config))
    }

    /// Fires until nothing is due. Returns how many ticks that were.
    async fn fire(&self, scheduler: &mut Scheduler, now: Timestamp) -> usize {
        let mut ticks = 0;
        scheduler.refresh().await.unwrap();
        loop {
            let fired = scheduler.fire(now).await.unwrap();
            ticks += fired.ticks;
            if fired.next.is_none_or(|next| next > now) {
                return ticks;
            }
        }
    }

    async fn tasks(&self) -> Vec<TaskRecord> {
        let filter = Filter { limit: 10_000, ..Filter::default() };
        self.backend.tasks().list(&filter).await.unwrap().items
    }

    /// The ticks whose tasks are there, in minutes from the beginning.
    async fn ticks(&self) -> Vec<i64> {
        let ids: Vec<TaskId> = self.tasks().await.iter().map(|task| task.id).collect();
        let details = self.backend.tasks().read(&ids).await.unwrap();
        let tick = |spec: Envelope| spec.tick.map(|tick| (tick.0 - self.begin.0) / MINUTE);
        let mut ticks: Vec<i64> = details.into_iter().flatten().filter_map(|detail| tick(detail.spec?)).collect();
        ticks.sort_unstable();
        ticks
    }
}

fn config(toml: &str) -> Config {
    let text = format!(
        "[app]\nname = \"shop\"\n[functions.f]\npackage = \"f\"\n[queues.default]\nfunctions = [\"f\"]\n{toml}"
    );
    Config::parse(&text, &NoVars, &Overrides::default()).unwrap()
}

fn every_minute(it: &mut Definition) {
    it.rate = Some("1 minute".into());
}

#[tokio::test]
async fn a_tick_makes_a_task_that_names_it() {
    let world = World::new("");
    let name = world.put("nightly", every_minute).await;
    let mut scheduler = world.scheduler();
    assert_eq!(world.fire(&mut scheduler, world.at(0)).await, 1);
    let tick = Tick { schedule: name.clone(), at: world.at(0) };
    let detail = world.backend.tasks().read(&[tick.task("shop")]).await.unwrap().pop().flatten().unwrap();
    let envelope = detail.spec.unwrap();
    assert_eq!((envelope.schedule, envelope.tick), (Some(name.clone()), Some(world.at(0))));
    assert_eq!(envelope.idempotency_key, Some(schedule::key(&name, world.at(0))));
    let record = world.backend.schedules().read(&[name]).await.unwrap().pop().flatten().unwrap();
    assert_eq!((record.last_tick, record.passed), (Some(world.at(0)), world.at(0)));
}

#[tokio::test]
async fn two_schedulers_that_both_believe_they_hold_the_role_make_one_task_a_tick() {
    let world = World::new("");
    world.put("nightly", every_minute).await;
    let (mut first, mut second) = (world.scheduler(), world.scheduler());
    first.refresh().await.unwrap();
    second.refresh().await.unwrap();
    for minute in 0..5 {
        let (one, two) =
            tokio::join!(world.fire(&mut first, world.at(minute)), world.fire(&mut second, world.at(minute)));
        assert!(one + two >= 1);
    }
    assert_eq!(world.ticks().await, [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn two_schedules_of_the_same_minute_both_fire() {
    let world = World::new("");
    world.put("one", every_minute).await;
    world.put("two", every_minute).await;
    assert_eq!(world.fire(&mut world.scheduler(), world.at(0)).await, 2);
    assert_eq!(world.ticks().await, [0, 0]);
}

#[tokio::test]
async fn a_holder_that_dies_between_the_task_and_its_note_loses_and_doubles_nothing() {
    let world = World::new("");
    let name = world.put("nightly", every_minute).await;
    let schedule = Definition { task: "t".into(), rate: Some("1 minute".into()), ..Definition::default() };
    let schedule = schedule.read(name.clone()).unwrap();
    let limits = world.backend.broker().limits();
    // What it had done: the tasks are there, the note is not.
    for minute in 0..3 {
        let prepared =
            schedule::prepare(&schedule, Some(world.at(minute)), &world.config, limits, world.at(minute)).unwrap();
        world.backend.submit(&[prepared.submission()], world.at(minute)).await.pop().unwrap().unwrap();
    }
    world.fire(&mut world.scheduler(), world.at(3)).await;
    assert_eq!(world.ticks().await, [0, 1, 2, 3]);
}

/// Kills the holder before or after its verb of this number, and lets another take over. Returns the ticks that made
/// tasks, and whether the holder lived to that verb.
async fn killed_at(verb: usize, fault: Fault) -> (Vec<i64>, bool) {
    let mut world = World::new("");
    let (left, killed) = (Arc::new(AtomicUsize::new(usize::MAX)), Arc::new(Notify::new()));
    let (counts, tells) = (Arc::clone(&left), Arc::clone(&killed));
    let faults = move |_: Verb| {
        if counts.fetch_sub(1, Ordering::SeqCst) > 0 {
            return Fault::None;
        }
        tells.notify_one();
        fault
    };
    let clock = Clock::Manual(ManualClock::new());
    let options = MemoryOptions { clock, faults: Some(Arc::new(faults)), ..MemoryOptions::default() };
    world.backend = Arc::new(MemoryBackend::new(options));
    for name in ["one", "two"] {
        world.put(name, |it| (it.rate, it.catch_up) = (Some("1 minute".into()), Some("all".into()))).await;
    }
    left.store(verb, Ordering::SeqCst);
    let mut holder = world.scheduler();
    let died = tokio::select! {
        biased;
        _ = world.fire(&mut holder, world.at(2)) => false,
        () = killed.notified() => true,
    };
    left.store(usize::MAX, Ordering::SeqCst);
    world.fire(&mut world.scheduler(), world.at(3)).await;
    (world.ticks().await, died)
}

#[tokio::test]
async fn a_holder_that_is_killed_at_any_step_loses_and_doubles_nothing() {
    for fault in [Fault::CrashBefore, Fault::CrashAfter] {
        let mut verb = 0;
        loop {
            let (ticks, died) = killed_at(verb, fault).await;
            assert_eq!(ticks, [0, 0, 1, 1, 2, 2, 3, 3], "{fault:?}, verb {verb}");
            if !died {
                break;
            }
            verb += 1;
        }
        // It looks, reads, submits and notes at the least.
        assert!(verb >= 5, "it was killed {verb} times only");
    }
}

#[tokio::test]
async fn a_store_that_is_away_delays_a_tick_and_loses_none() {
    let world = World::new("");
    world.put("nightly", every_minute).await;
    let mut scheduler = world.scheduler();
    scheduler.refresh().await.unwrap();
    world.broken.store(true, Ordering::Relaxed);
    assert!(scheduler.fire(world.at(0)).await.is_err());
    world.broken.store(false, Ordering::Relaxed);
    assert_eq!(world.fire(&mut scheduler, world.at(0).after(Duration::from_secs(1))).await, 1);
    assert_eq!(world.ticks().await, [0]);
}

#[tokio::test]
async fn after_an_hour_without_any_agent_each_schedule_does_as_its_rule_says() {
    for (rule, expected) in [("none", vec![0]), ("one", vec![0, 60]), ("all", (0..=60).collect())] {
        let world = World::new("");
        world.put("nightly", |it| (it.rate, it.catch_up) = (Some("1 minute".into()), Some(rule.into()))).await;
        world.fire(&mut world.scheduler(), world.at(0)).await;
        world.fire(&mut world.scheduler(), world.at(60).after(Duration::from_secs(30))).await;
        assert_eq!(world.ticks().await, expected, "{rule}");
    }
}

#[tokio::test]
async fn a_paused_schedule_does_not_fire_and_its_rule_says_what_follows() {
    for (rule, expected) in [("none", vec![0, 3]), ("one", vec![0, 2, 3]), ("all", vec![0, 1, 2, 3])] {
        let clock = ManualClock::new();
        let mut world = World::new("");
        let options = MemoryOptions { clock: Clock::Manual(Arc::clone(&clock)), ..MemoryOptions::default() };
        world.backend = Arc::new(MemoryBackend::new(options));
        let name =
            world.put("nightly", |it| (it.rate, it.catch_up) = (Some("1 minute".into()), Some(rule.into()))).await;
        let mut scheduler = world.scheduler();
        world.fire(&mut scheduler, world.at(0)).await;
        world.backend.schedules().pause(&name, true).await.unwrap();
        assert_eq!(world.fire(&mut scheduler, world.at(2)).await, 0);
        // By the store's clock it is resumed half a minute after the second tick that it held back.
        let now = Clock::Manual(Arc::clone(&clock)).now().epoch;
        clock.advance(world.at(2).after(Duration::from_secs(30)).since(now));
        world.backend.schedules().pause(&name, false).await.unwrap();
        world.fire(&mut scheduler, world.at(2).after(Duration::from_secs(31))).await;
        world.fire(&mut scheduler, world.at(3)).await;
        assert_eq!(world.ticks().await, expected, "{rule}");
    }
}

#[tokio::test]
async fn what_is_disabled_deleted_or_over_does_not_fire() {
    let world = World::new("");
    world.put("disabled", |it| (it.rate, it.enabled) = (Some("1m".into()), Some(false))).await;
    let gone = world.put("gone", every_minute).await;
    world.put("over", |it| (it.rate, it.end) = (Some("1m".into()), Some("2000-01-01T00:00:00".into()))).await;
    let mut scheduler = world.scheduler();
    scheduler.refresh().await.unwrap();
    // Deleted after it was read: it is read again when it is due.
    world.backend.schedules().delete(&[gone]).await.pop().unwrap().unwrap();
    assert_eq!(scheduler.fire(world.at(5)).await.unwrap().ticks, 0);
    assert_eq!(world.ticks().await, [0; 0]);
}

#[tokio::test]
async fn the_files_schedules_are_taken_over_once_and_removed_with_the_file() {
    let world = World::new("");
    let own = world.put("own", every_minute).await;
    let file =
        config("[schedules.a]\nrate = \"1m\"\ntask = \"t\"\n[schedules.b]\ncron = \"0 3 * * *\"\ntask = \"t\"\n");
    let schedules = world.backend.schedules();
    let first = schedule::reconcile(schedules, &file, world.at(0)).await.unwrap();
    assert_eq!(first.put.len(), 2);
    let kept = schedules.list().await.unwrap();
    let again = schedule::reconcile(schedules, &file, world.at(9)).await.unwrap();
    assert_eq!(again, schedule::Reconciled::default(), "the same file again writes nothing");
    assert_eq!(schedules.list().await.unwrap(), kept);

    let other = config("[schedules.a]\nrate = \"1m\"\ntask = \"other\"\n");
    let third = schedule::reconcile(schedules, &other, world.at(10)).await.unwrap();
    assert_eq!((third.put.len(), third.deleted.len()), (1, 1));
    let left = schedules.list().await.unwrap();
    let names: Vec<&ScheduleName> = left.iter().map(|record| &record.name).collect();
    assert_eq!(names, [&ScheduleName::new("a").unwrap(), &own], "those made at run time stay");
    assert_eq!(left[0].since, kept[0].since, "another task is no reason to begin anew");
}

#[tokio::test]
async fn a_time_of_the_file_that_has_passed_fires_only_what_was_known_before() {
    let world = World::new("");
    let at = |minutes: i64| {
        let time = jiff_text(world.at(minutes));
        config(&format!("[schedules.once]\nat = \"{time}\"\ntask = \"t\"\n"))
    };
    let schedules = world.backend.schedules();
    let new = schedule::reconcile(schedules, &at(-5), world.at(0)).await.unwrap();
    assert_eq!(new.too_late.len(), 1);
    world.fire(&mut world.scheduler(), world.at(0)).await;
    assert_eq!(world.ticks().await, [0; 0]);
    schedule::reconcile(schedules, &at(5), world.at(1)).await.unwrap();
    world.fire(&mut world.scheduler(), world.at(5)).await;
    let again = schedule::reconcile(schedules, &at(5), world.at(9)).await.unwrap();
    assert_eq!(again, schedule::Reconciled::default(), "one that has fired is no mistake");
    world.fire(&mut world.scheduler(), world.at(9)).await;
    assert_eq!(world.ticks().await, [5]);
}

fn jiff_text(at: Timestamp) -> String {
    at.to_string().trim_end_matches('Z').to_owned()
}

fn tick_of(name: &ScheduleName, minute: i64, overlap: Overlap) -> Envelope {
    let args = serde_json::value::RawValue::from_string("{}".into()).unwrap();
    let at = Timestamp(minute * MINUTE);
    let id = Tick { schedule: name.clone(), at }.task("shop");
    let mut envelope = Envelope::new(id, "t".parse().unwrap(), args);
    (envelope.schedule, envelope.tick, envelope.overlap) = (Some(name.clone()), Some(at), Some(overlap));
    envelope
}

async fn submit(world: &World, envelope: &Envelope) {
    let queue = "default".parse().unwrap();
    let window = rhubarb_core::backend::Window::DEFAULT;
    let submission = rhubarb_core::backend::Submission::new(envelope, queue, window);
    world.backend.submit(&[submission], world.begin).await.pop().unwrap().unwrap();
}

#[tokio::test]
async fn a_claim_is_judged_by_the_task_that_is_in() {
    let world = World::new("");
    let backend = &*world.backend;
    let name = world.put("nightly", every_minute).await;
    let [first, second, third] = [1, 2, 3].map(|minute| tick_of(&name, minute, Overlap::Skip));
    for envelope in [&first, &second, &third] {
        submit(&world, envelope).await;
    }
    assert_eq!(schedule::judge(backend, &first, &world.config).await.unwrap(), Verdict::Begin);
    assert_eq!(schedule::judge(backend, &first, &world.config).await.unwrap(), Verdict::Begin, "its own next attempt");
    assert_eq!(schedule::judge(backend, &second, &world.config).await.unwrap(), Verdict::LeftOut(first.id));
    backend.tasks().cancel(&[second.id]).await;
    // The one that was left out is settled; the first is what counts.
    assert_eq!(schedule::judge(backend, &third, &world.config).await.unwrap(), Verdict::LeftOut(first.id));
    backend.tasks().cancel(&[first.id]).await;
    assert_eq!(schedule::judge(backend, &third, &world.config).await.unwrap(), Verdict::Begin);
}

#[tokio::test]
async fn the_later_tick_replaces_the_earlier_one_in_whatever_order_they_are_claimed() {
    let world = World::new("");
    let backend = &*world.backend;
    let name = world.put("nightly", every_minute).await;
    let [first, second, third] = [1, 2, 3].map(|minute| tick_of(&name, minute, Overlap::CancelPrevious));
    for envelope in [&first, &second, &third] {
        submit(&world, envelope).await;
    }
    assert_eq!(schedule::judge(backend, &first, &world.config).await.unwrap(), Verdict::Begin);
    assert_eq!(schedule::judge(backend, &third, &world.config).await.unwrap(), Verdict::Replaces(first.id));
    let state = |id| async move { backend.tasks().read(&[id]).await.unwrap().pop().flatten().unwrap().record.state };
    assert_eq!(state(first.id).await, State::Cancelled);
    assert_eq!(
        schedule::judge(backend, &second, &world.config).await.unwrap(),
        Verdict::LeftOut(third.id),
        "it is the earlier one"
    );
    assert_eq!(state(third.id).await, State::Queued);
}
