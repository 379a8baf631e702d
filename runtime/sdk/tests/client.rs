//! The producer's side over a backend in memory; where a worker is needed, the test is one.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use rhubarb::{
    Client, ClientError, Handle, NewTask, OutputError, Task, TaskId,
    client::{ENQUEUE_WINDOW, WaitReason},
    core::{
        backend::{
            Backend, ClaimPolicy, Filter, Finish, Log, Progress, Report, Settlement, Submission, Take, Window, Won,
            WorkerGpu, WorkerRecord, WorkerState,
        },
        config::{Config, NoVars, Overrides},
        envelope::{Envelope, null},
        gpu::GpuAsk,
        ids::{QueueName, TaskName, WorkerId},
        outcome::{Failure, Outcome, Output},
        row::{AckMode, State},
        time::Timestamp,
    },
};
use rhubarb_testkit::{Clock, ManualClock, MemoryBackend, MemoryOptions};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

const CONFIG: &str = r#"
    [app]
    name = "shop"
    [functions.f]
    package = "f"
    [queues.high]
    functions = ["f"]
    timeout = "1m"
    max_attempts = 3
    [queues.low]
    functions = ["f"]
    [workers.all]
    queues = ["high", "low"]
    [tasks.configured]
    queue = "low"
"#;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Work {
    n: u32,
}

impl Task for Work {
    const NAME: &'static str = "work";
    const QUEUE: &'static str = "high";
    type Output = String;
}

/// A client, and the worker that the test plays.
struct Shop {
    client: Client,
    backend: MemoryBackend,
    worker: WorkerId,
}

impl Shop {
    async fn open() -> Self {
        Self::over(MemoryBackend::new(MemoryOptions::default())).await
    }

    async fn over(backend: MemoryBackend) -> Self {
        let config = Config::parse(CONFIG, &NoVars, &Overrides::default()).unwrap();
        let specs: Vec<_> = config.queues.keys().map(spec).collect();
        backend.broker().declare(&specs).await.unwrap();
        let client = Client::new(Arc::new(backend.clone()), Arc::new(config));
        // The time at which the clocks of tests start.
        let client = client.with_clock(|| Timestamp(1_800_000_000_000));
        Self { client, backend, worker: WorkerId::new("w1").unwrap() }
    }

    async fn take(&self, queue: &str) -> Vec<Won> {
        let policy = policy(queue);
        let take = Take { policy: &policy, worker: &self.worker, max: 10, wait: Duration::ZERO };
        self.backend.take(take).await.unwrap().won
    }

    async fn settle(&self, won: Won, outcome: Outcome) {
        let keep = (Duration::from_secs(60), Duration::from_secs(60));
        let settlement = Settlement { id: won.id, fence: won.row.fence, outcome, log: log("printed"), keep };
        let finish =
            Finish { queue: queue("high"), settlement, receipt: won.receipt, hideable: Duration::from_secs(60) };
        self.backend.finish(&[finish]).await.remove(0).unwrap();
    }

    async fn beat(&self, queues: &[&str]) {
        self.beat_with(queues, Vec::new(), Default::default()).await;
    }

    async fn beat_with(&self, queues: &[&str], gpus: Vec<WorkerGpu>, gpu_asks: BTreeMap<QueueName, GpuAsk>) {
        let record = WorkerRecord {
            id: self.worker.clone(),
            instance: "i".into(),
            host: "h".into(),
            pid: 1,
            started: Timestamp(0),
            version: "0".into(),
            state: WorkerState::Running,
            queues: queues.iter().copied().map(queue).collect(),
            concurrency: 1,
            prefetch: 0,
            functions: Vec::new(),
            tasks: Default::default(),
            gpus,
            gpu_asks,
            ecs: None,
            holds: Vec::new(),
            silent_after: Duration::from_secs(30),
        };
        self.backend.workers().beat(&record).await.unwrap();
    }

    /// Runs every waiting task of a queue with this outcome.
    async fn work(&self, outcome: impl Fn() -> Outcome) {
        for won in self.take("high").await {
            self.settle(won, outcome()).await;
        }
    }
}

fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

fn spec(queue: &QueueName) -> rhubarb::core::backend::QueueSpec {
    rhubarb::core::backend::QueueSpec { queue: queue.clone(), max_receives: None, dead_letters: None }
}

fn policy(name: &str) -> ClaimPolicy {
    ClaimPolicy {
        keep: (Duration::from_secs(60), Duration::from_secs(60)),
        ..ClaimPolicy::new(queue(name), AckMode::Lease)
    }
}

fn log(text: &str) -> Log {
    Log { text: text.into(), dropped: 0, ..Log::default() }
}

fn gave(json: &str) -> Outcome {
    Outcome::Succeeded(Some(Output::Inline(RawValue::from_string(json.into()).unwrap())))
}

#[tokio::test(start_paused = true)]
async fn a_producer_needs_only_the_type() {
    let shop = Shop::open().await;
    let handle = shop.client.enqueue(Work { n: 1 }).await.unwrap();
    assert!(matches!(
        shop.client.output::<String>(handle.id()).await,
        Err(OutputError::NotSettled { state: State::Queued, .. })
    ));
    let waiting = tokio::spawn(async move { handle.output().await });
    shop.work(|| gave(r#""done""#)).await;
    assert_eq!(waiting.await.unwrap().unwrap(), "done");
}

#[tokio::test(start_paused = true)]
async fn the_call_beats_the_configuration_which_beats_the_type() {
    #[derive(Serialize, Deserialize)]
    struct Configured;
    impl Task for Configured {
        const NAME: &'static str = "configured";
        const QUEUE: &'static str = "high";
        type Output = ();
    }
    let shop = Shop::open().await;
    let queue_of = async |id| shop.client.task(id).await.unwrap().record.queue.to_string();
    assert_eq!(queue_of(shop.client.enqueue(Configured).await.unwrap().id()).await, "low");
    assert_eq!(queue_of(shop.client.enqueue(Configured).queue("high").await.unwrap().id()).await, "high");
    assert_eq!(queue_of(shop.client.enqueue(Work { n: 1 }).await.unwrap().id()).await, "high");
    let error = shop.client.enqueue(Configured).queue("hihg").await.unwrap_err();
    assert!(matches!(&error, ClientError::Invalid(text) if text.contains("did you mean \"high\"")), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_id_that_is_taken_is_an_error_that_shows_the_task() {
    let shop = Shop::open().await;
    let id = TaskId::mint();
    assert_eq!(shop.client.enqueue(Work { n: 1 }).id(id).await.unwrap().id(), id);
    let error = shop.client.enqueue(Work { n: 2 }).id(id).await.unwrap_err();
    assert!(matches!(error, ClientError::AlreadyExists { id: taken, state: State::Queued } if taken == id));
}

#[tokio::test(start_paused = true)]
async fn a_second_task_with_the_same_key_is_the_first() {
    let shop = Shop::open().await;
    let first = shop.client.enqueue(Work { n: 1 }).idempotency_key("k").await.unwrap();
    let second = shop.client.enqueue(Work { n: 1 }).idempotency_key("k").await.unwrap();
    assert_eq!((second.id(), first.existing(), second.existing()), (first.id(), false, true));
    assert!(shop.client.enqueue(Work { n: 2 }).idempotency_key("k").await.is_err(), "other arguments");
}

#[tokio::test(start_paused = true)]
async fn a_task_may_not_raise_its_queues_policy() {
    let shop = Shop::open().await;
    let error = shop.client.enqueue(Work { n: 1 }).max_attempts(9).await.unwrap_err();
    assert!(error.to_string().contains("`max_attempts`"), "{error}");
    let error = shop.client.enqueue(Work { n: 1 }).timeout(Duration::from_secs(61)).await.unwrap_err();
    assert!(error.to_string().contains("`timeout`"), "{error}");
    let error = shop.client.enqueue(Work { n: 1 }).ordering_key("k".repeat(129)).await.unwrap_err();
    assert!(error.to_string().contains("`ordering_key`"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn large_arguments_and_outputs_travel_as_claim_checks() {
    let shop = Shop::open().await;
    let text = "x".repeat(200 * 1024);
    let args = serde_json::value::to_raw_value(&text).unwrap();
    let handle = shop.client.enqueue_named(TaskName::new("named").unwrap(), args).queue("high").await.unwrap();
    let spec = shop.client.task(handle.id()).await.unwrap().spec.unwrap();
    assert_eq!(spec.args.get(), "null");
    let blob = shop.backend.blobs().check_out(&spec.blob.unwrap()).await.unwrap();
    assert_eq!(serde_json::from_slice::<String>(&blob).unwrap(), text);

    let key = rhubarb::core::backend::BlobKey::new("out").unwrap();
    let blob = shop.backend.blobs().check_in(&key, blob).await.unwrap();
    shop.work(|| Outcome::Succeeded(Some(Output::Blob(blob.clone())))).await;
    assert_eq!(handle.output().await.unwrap().get().len(), text.len() + 2);
}

#[tokio::test(start_paused = true)]
async fn what_a_task_came_to_is_told_apart() {
    let shop = Shop::open().await;
    let handle = shop.client.enqueue(Work { n: 1 }).await.unwrap();
    shop.work(|| gave("7")).await;
    assert!(matches!(handle.output().await, Err(OutputError::Type { .. })), "a number is no text");

    let handle = shop.client.enqueue(Work { n: 2 }).await.unwrap();
    shop.work(|| Outcome::Failed { failure: Failure::new("k", "broken"), retry_in: None }).await;
    let error = handle.output().await.unwrap_err();
    assert_eq!(error.to_string(), format!("task {} failed: k: broken", handle.id()));

    let handle = shop.client.enqueue(Work { n: 3 }).await.unwrap();
    assert_eq!(handle.cancel().await.unwrap(), State::Cancelled);
    assert!(matches!(handle.output().await, Err(OutputError::Cancelled(_))));
    assert!(handle.cancel().await.is_err(), "it is settled");

    let nobody: Handle<String> = shop.client.handle(TaskId::mint());
    assert!(matches!(nobody.state().await, Err(ClientError::NoTask(_))));
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_after_its_time() {
    let shop = Shop::open().await;
    let handle = shop.client.enqueue(Work { n: 1 }).await.unwrap();
    let began = tokio::time::Instant::now();
    assert_eq!(shop.client.wait(handle.id(), Duration::from_secs(50)).await.unwrap(), State::Queued);
    assert_eq!(began.elapsed().as_secs(), 50);
}

#[tokio::test(start_paused = true)]
async fn progress_is_a_stream_that_ends_when_the_task_is_settled() {
    let shop = Shop::open().await;
    let handle = shop.client.enqueue(Work { n: 1 }).await.unwrap();
    let mut progress = Box::pin(handle.progress());
    assert_eq!(progress.next().await.unwrap().unwrap().state, State::Queued);
    let won = shop.take("high").await.remove(0);
    let update = progress.next().await.unwrap().unwrap();
    assert_eq!((update.state, update.attempt), (State::Running, 1));
    let step = Progress { done: 3, total: 9, message: None };
    let report = Report { id: won.id, fence: won.row.fence, progress: Some(step.clone()), checkpoint: None, log: None };
    shop.backend.tasks().report(&[report]).await.remove(0).unwrap();
    assert_eq!(progress.next().await.unwrap().unwrap().progress, Some(step));
    shop.settle(won, gave("1")).await;
    assert_eq!(progress.next().await.unwrap().unwrap().state, State::Succeeded);
    assert!(progress.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_tasks_comes_in_whole_and_in_order() {
    let shop = Shop::open().await;
    let count = ENQUEUE_WINDOW * 2 + 7;
    let ids: Vec<TaskId> = (0..count).map(|_| TaskId::mint()).collect();
    let tasks = || {
        let ids = ids.clone();
        stream::iter(ids.into_iter().enumerate().map(|(n, id)| NewTask::new(&Work { n: n as u32 }).id(id)))
    };
    let results: Vec<_> = shop.client.enqueue_all(tasks()).map(Result::unwrap).collect().await;
    assert!(results.iter().map(|enqueued| enqueued.id).eq(ids.iter().copied()));
    assert!(results.iter().all(|enqueued| !enqueued.existing));
    let again: Vec<_> = shop.client.enqueue_all(tasks()).map(Result::unwrap).collect().await;
    assert!(again.iter().all(|enqueued| enqueued.existing), "the same ids change nothing");
    let counts = shop.client.queues().await.unwrap();
    assert_eq!(counts.iter().find(|status| status.queue.as_str() == "high").unwrap().waiting, count as u64);
}

#[tokio::test(start_paused = true)]
async fn one_window_is_written_while_the_results_of_the_last_one_are_read_and_no_more() {
    let shop = Shop::open().await;
    let count = ENQUEUE_WINDOW * 3;
    let mut results = shop.client.enqueue_all(stream::iter((0..count).map(|n| Work { n: n as u32 })));
    for windows in [2, 3, 3] {
        for _ in 0..ENQUEUE_WINDOW {
            results.next().await.unwrap().unwrap();
            let queues = shop.client.queues().await.unwrap();
            let high = queues.iter().find(|status| status.queue.as_str() == "high").unwrap();
            assert_eq!(high.waiting, (ENQUEUE_WINDOW * windows) as u64);
        }
    }
    assert!(results.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn one_bad_task_of_a_stream_fails_alone() {
    let shop = Shop::open().await;
    let tasks = [NewTask::from(Work { n: 1 }), NewTask::from(Work { n: 2 }).queue("none"), Work { n: 3 }.into()];
    let results: Vec<bool> = shop.client.enqueue_all(stream::iter(tasks)).map(|result| result.is_ok()).collect().await;
    assert_eq!(results, [true, false, true]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_stream_does_not_hold_back_what_it_has_given() {
    let shop = Shop::open().await;
    let (give, take) = tokio::sync::mpsc::unbounded_channel();
    let tasks = stream::unfold(take, |mut take| async { take.recv().await.map(|task: Work| (task, take)) });
    let mut results = shop.client.enqueue_all(tasks);
    give.send(Work { n: 1 }).unwrap();
    assert!(results.next().await.unwrap().is_ok());
    give.send(Work { n: 2 }).unwrap();
    assert!(results.next().await.unwrap().is_ok());
    drop(give);
    assert!(results.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_task_says_why_it_waits() {
    let shop = Shop::open().await;
    let id = shop.client.enqueue(Work { n: 1 }).await.unwrap().id();
    let why = async |id| shop.client.why_waiting(id).await.unwrap();
    assert_eq!(why(id).await.unwrap().to_string(), "no worker serves queue high");
    shop.beat(&["low"]).await;
    assert_eq!(why(id).await, Some(WaitReason::NoWorker(queue("high"))));
    shop.beat(&["high"]).await;
    assert_eq!(why(id).await, Some(WaitReason::Busy(queue("high"))));
    shop.client.pause(&queue("high")).await.unwrap();
    assert_eq!(why(id).await, Some(WaitReason::Paused(queue("high"))));
    shop.client.resume(&queue("high")).await.unwrap();
    let late = shop.client.enqueue(Work { n: 1 }).delay(Duration::from_secs(60)).await.unwrap().id();
    assert_eq!(why(late).await, Some(WaitReason::Scheduled(Timestamp(1_800_000_060_000))));
    shop.take("high").await;
    assert_eq!(why(id).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_waits_for_gpus_says_which_and_so_does_its_queue() {
    let shop = Shop::open().await;
    let id = shop.client.enqueue(Work { n: 1 }).await.unwrap().id();
    let ask = GpuAsk { count: 1, memory: None, name: Some("H200".into()), compute: None, share: 1 };
    shop.beat_with(&["low"], Vec::new(), [(queue("high"), ask)].into()).await;
    let Some(WaitReason::Gpus(wait)) = shop.client.why_waiting(id).await.unwrap() else { panic!("another reason") };
    let told = "no worker has 1 GPU with \"H200\" in its name: w serves queue high and has no GPU";
    assert_eq!(wait.to_string().replace(shop.worker.as_str(), "w"), told);
    let queues = shop.client.queues().await.unwrap();
    let high = queues.iter().find(|status| status.queue == queue("high")).unwrap();
    assert_eq!((high.gpu_wait.as_ref(), high.served_by.len()), (Some(&wait), 0));
}

#[tokio::test(start_paused = true)]
async fn queues_show_what_waits_and_who_serves_it() {
    let shop = Shop::open().await;
    for n in 0..3 {
        shop.client.enqueue(Work { n }).await.unwrap();
    }
    shop.client.enqueue(Work { n: 9 }).delay(Duration::from_secs(60)).await.unwrap();
    shop.beat(&["high"]).await;
    shop.client.pause(&queue("low")).await.unwrap();
    let queues = shop.client.queues().await.unwrap();
    let of = |name: &str| queues.iter().find(|status| status.queue.as_str() == name).unwrap();
    let high = of("high");
    assert_eq!((high.waiting, high.delayed, high.running, high.paused), (3, 1, 0, false));
    assert_eq!(high.served_by, [WorkerId::new("w1").unwrap()]);
    assert!(of("low").paused && of("low").served_by.is_empty());
    assert_eq!(serde_json::to_value(high).unwrap()["class"], "ecs");
    let error = shop.client.pause(&queue("none")).await.unwrap_err();
    assert!(error.to_string().contains("default, high, low"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_purge_cancels_what_waits_and_redrive_brings_back_what_failed() {
    let shop = Shop::open().await;
    let failed = shop.client.enqueue(Work { n: 1 }).await.unwrap();
    shop.work(|| Outcome::Failed { failure: Failure::new("k", "m"), retry_in: None }).await;
    assert_eq!(shop.client.redrive(&[failed.id()]).await.remove(0).unwrap(), State::Queued);
    let purged = shop.client.purge(&[queue("high")]).await.unwrap();
    assert_eq!(purged[0].1.count, 1);
    assert_eq!(failed.state().await.unwrap(), State::Cancelled);
    let logs = shop.client.logs(failed.id()).await.unwrap();
    assert_eq!(logs[0].log.text, "printed");
}

#[tokio::test(start_paused = true)]
async fn tasks_are_listed_by_page() {
    let shop = Shop::open().await;
    for n in 0..5 {
        shop.client.enqueue(Work { n }).await.unwrap();
    }
    let mut filter = Filter { queue: Some(queue("high")), limit: 2, ..Filter::default() };
    let mut seen = 0;
    loop {
        let page = shop.client.tasks(&filter).await.unwrap();
        seen += page.items.len();
        filter.cursor = page.next;
        if filter.cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, 5);
}

#[tokio::test(start_paused = true)]
async fn a_tree_is_read_from_any_of_its_tasks() {
    let shop = Shop::open().await;
    let root = shop.client.enqueue(Work { n: 0 }).await.unwrap().id();
    let child_of = async |parent| {
        let envelope = Envelope {
            root: Some(root),
            parent: Some(parent),
            ..Envelope::new(TaskId::mint(), TaskName::new(Work::NAME).unwrap(), null())
        };
        let submission = Submission::new(&envelope, queue("high"), Window::DEFAULT);
        shop.client.backend().tasks().submit(&[submission]).await.remove(0).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        envelope.id
    };
    let first = child_of(root).await;
    let below_first = child_of(first).await;
    let second = child_of(root).await;
    let places = async |id, limit| {
        let tree = shop.client.tree(id, limit).await.unwrap();
        (tree.tasks.iter().map(|task| (task.depth, task.task.record.id)).collect::<Vec<_>>(), tree.cut)
    };
    assert_eq!(places(root, 10).await, (vec![(0, root), (1, first), (2, below_first), (1, second)], false));
    assert_eq!(places(first, 10).await, (vec![(0, first), (1, below_first)], false));
    assert_eq!(places(root, 4).await.0.len(), 4);
    let (cut, is_cut) = places(root, 2).await;
    assert_eq!((cut, is_cut), (vec![(0, root), (1, second)], true));
    assert_eq!(places(root, 1).await, (vec![(0, root)], true));
}

/// By its time a child may have been accepted before its root: where the store's clock was set back in between.
#[tokio::test]
async fn a_child_that_is_older_than_its_root_by_the_stores_clock_is_in_the_tree() {
    let clock = ManualClock::new();
    let options = MemoryOptions { clock: Clock::Manual(Arc::clone(&clock)), ..MemoryOptions::default() };
    let shop = Shop::over(MemoryBackend::new(options)).await;
    let root = shop.client.enqueue(Work { n: 0 }).await.unwrap().id();
    clock.step_wall(-3_600_000);
    let child = Envelope {
        root: Some(root),
        parent: Some(root),
        ..Envelope::new(TaskId::mint(), TaskName::new(Work::NAME).unwrap(), null())
    };
    let submission = Submission::new(&child, queue("high"), Window::DEFAULT);
    shop.backend.tasks().submit(&[submission]).await.remove(0).unwrap();
    let tree = shop.client.tree(root, 10).await.unwrap();
    let [first, second] = &tree.tasks[..] else { panic!("{:?}", tree.tasks) };
    assert_eq!((first.task.record.id, second.task.record.id, second.depth), (root, child.id, 1));
    assert!(second.task.record.submitted < first.task.record.submitted, "the child is the older one");
}

/// A delay becomes a time by the clock of whoever enqueues; the store goes by its own.
#[tokio::test(start_paused = true)]
async fn a_late_task_goes_by_the_clock_of_its_producer() {
    let shop = Shop::open().await;
    let minutes = |count: u64| Duration::from_secs(count * 60);
    let slow = shop.client.clone().with_clock(|| Timestamp(1_800_000_000_000 - 3_600_000));
    let fast = shop.client.clone().with_clock(|| Timestamp(1_800_000_000_000 + 3_600_000));
    // The queue itself holds its message back for so long.
    let early = slow.enqueue(Work { n: 1 }).delay(minutes(10)).await.unwrap().id();
    let late = fast.enqueue(Work { n: 2 }).delay(minutes(10)).await.unwrap().id();
    assert_eq!(shop.client.state(early).await.unwrap(), State::Queued);
    assert_eq!(shop.client.state(late).await.unwrap(), State::Scheduled);
    tokio::time::advance(minutes(10)).await;
    assert_eq!(shop.take("high").await.iter().map(|won| won.id).collect::<Vec<_>>(), [early]);
    tokio::time::advance(minutes(59)).await;
    assert!(shop.take("high").await.is_empty());
    tokio::time::advance(minutes(1)).await;
    let rings = shop.backend.tasks().due_rings(10).await.unwrap();
    shop.backend.ring(&rings, shop.backend.now().epoch).await;
    assert_eq!(shop.take("high").await.iter().map(|won| won.id).collect::<Vec<_>>(), [late]);
}
