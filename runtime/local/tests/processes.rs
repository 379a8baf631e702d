//! Several processes on one folder: the tests start their own binary again as a child.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper that fails is a failed test")]

mod common;

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use common::{broken_invariants, finish, policy, queue, spec, worker};
use rhubarb_core::{
    backend::{Backend as _, StoreError, Take},
    ids::TaskId,
    outcome::{Failure, Outcome},
    row::{AckMode, State},
    time::Timestamp,
};
use rhubarb_local::{LocalBackend, Options};

const ROLE: &str = "RHUBARB_LOCAL_TEST_CHILD";
const FOLDER: &str = "RHUBARB_LOCAL_TEST_FOLDER";

fn open(folder: &Path) -> LocalBackend {
    LocalBackend::open(folder, Options::default()).unwrap()
}

fn start(role: &str, folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["the_child_of_the_other_tests", "--exact", "--nocapture"])
        .env(ROLE, role)
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The other process; alone, it has nothing to do.
#[test]
fn the_child_of_the_other_tests() {
    let (Ok(role), Ok(folder)) = (std::env::var(ROLE), std::env::var(FOLDER)) else { return };
    if role == "holder" {
        hold(Path::new(&folder));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let backend = open(Path::new(&folder));
    match role.as_str() {
        "all" => runtime.block_on(work_on_everything(&backend)),
        "producer" => runtime.block_on(produce(&backend, 500)),
        "taker" => runtime.block_on(take_forever(&backend)),
        other => panic!("no such child: {other}"),
    }
}

/// Holds the writer lock, as in the middle of a write, until it is killed.
fn hold(folder: &Path) -> ! {
    let lock = std::fs::File::options().create(true).truncate(false).write(true).open(folder.join("write.lock"));
    lock.as_ref().unwrap().lock().unwrap();
    println!("accepted the lock");
    loop {
        std::thread::park();
    }
}

/// A process that holds the writer lock and is stopped; killed at the end.
struct Stopped(Child);

impl Stopped {
    fn start(folder: &Path) -> Self {
        let mut holder = Self(start("holder", folder));
        let mut said = BufReader::new(holder.0.stdout.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap().contains("accepted the lock")));
        let pid = rustix::process::Pid::from_child(&holder.0);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        // The signal is on its way.
        while !std::fs::read_to_string(format!("/proc/{}/stat", holder.0.id())).unwrap().contains(") T ") {
            std::thread::yield_now();
        }
        holder
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Submits, takes and finishes until it is killed, and says which tasks were accepted.
async fn work_on_everything(backend: &LocalBackend) {
    let mut round = 0_usize;
    loop {
        round += 1;
        let submissions: Vec<_> = (0..5).map(|_| spec("q", "null")).collect();
        for answer in backend.submit(&submissions, Timestamp(0)).await {
            answer.unwrap();
        }
        for submission in &submissions {
            println!("accepted {}", submission.id);
        }
        let ack = if round.is_multiple_of(2) { AckMode::Lease } else { AckMode::Message };
        let (policy, worker) = (short_lease(ack), worker("child"));
        let take = Take { policy: &policy, worker: &worker, max: 5, wait: Duration::ZERO };
        for won in backend.take(take).await.unwrap().won {
            let failed =
                Outcome::Failed { failure: Failure::new("oops", "again"), retry_in: Some(Duration::from_millis(1)) };
            let outcome = if round.is_multiple_of(3) { failed } else { Outcome::Succeeded(None) };
            // Its lease is so short that the sweep of the parent may have been first.
            let _ = backend.finish(&[finish(&won, "q", outcome)]).await;
        }
    }
}

async fn produce(backend: &LocalBackend, count: usize) {
    for _ in 0..count {
        backend.submit(&[spec("q", "null")], Timestamp(0)).await.remove(0).unwrap();
    }
}

async fn take_forever(backend: &LocalBackend) {
    let (policy, worker) = (policy("q", AckMode::Lease), worker("taker"));
    println!("accepted nothing");
    loop {
        let take = Take { policy: &policy, worker: &worker, max: 10, wait: Duration::from_secs(20) };
        for won in backend.take(take).await.unwrap().won {
            backend.finish(&[finish(&won, "q", Outcome::Succeeded(None))]).await.remove(0).unwrap();
        }
    }
}

fn short_lease(ack: AckMode) -> rhubarb_core::backend::ClaimPolicy {
    rhubarb_core::backend::ClaimPolicy { lease: Duration::from_millis(1), max_attempts: 1_000, ..policy("q", ack) }
}

/// What is accepted is kept, and what was held comes back, wherever the kill hits.
#[tokio::test]
async fn a_killed_process_loses_no_task() {
    for lines in [1, 40, 200, 333] {
        let folder = tempfile::tempdir().unwrap();
        let mut child = start("all", folder.path());
        let said = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let accepted: Vec<TaskId> =
            said.filter_map(|line| line.split("accepted ").nth(1).and_then(|id| id.parse().ok())).take(lines).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(accepted.len(), lines);
        let backend = open(folder.path());
        assert_eq!(broken_invariants(folder.path()), Vec::<String>::new());
        let found = backend.tasks().read(&accepted).await.unwrap();
        assert!(found.iter().all(Option::is_some), "an accepted task is gone");
        settle_all(&backend).await;
        for detail in backend.tasks().read(&accepted).await.unwrap() {
            assert_eq!(detail.unwrap().record.state, State::Succeeded);
        }
    }
}

/// Sweeps and works until every task is settled.
async fn settle_all(backend: &LocalBackend) {
    let (policy, worker) = (short_lease(AckMode::Lease), worker("parent"));
    for _ in 0..10_000 {
        let due = backend.tasks().due_leases(1_000).await.unwrap();
        backend.tasks().reap(&due).await;
        let rings = backend.tasks().due_rings(1_000).await.unwrap();
        backend.ring(&rings, Timestamp(0)).await;
        // Waits for what becomes visible later: a message that the killed process had hidden.
        let take = Take { policy: &policy, worker: &worker, max: 1_000, wait: Duration::from_millis(20) };
        for won in backend.take(take).await.unwrap().won {
            backend.finish(&[finish(&won, "q", Outcome::Succeeded(None))]).await.remove(0).ok();
        }
        let counts = backend.tasks().count().await.unwrap();
        if counts.iter().all(|count| count.state.is_settled()) {
            return;
        }
    }
    panic!("tasks are stuck: {:?}", backend.tasks().count().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_processes_write_at_once_and_nobody_hears_of_a_lock() {
    let folder = tempfile::tempdir().unwrap();
    let backend = open(folder.path());
    let mut producers: Vec<Child> = (0..3).map(|_| start("producer", folder.path())).collect();
    produce(&backend, 500).await;
    for producer in &mut producers {
        assert!(producer.wait().unwrap().success());
    }
    let counts = backend.tasks().count().await.unwrap();
    assert_eq!(counts.iter().map(|count| (count.state, count.count)).collect::<Vec<_>>(), [(State::Queued, 2_000)]);
    assert_eq!(broken_invariants(folder.path()), Vec::<String>::new());
}

/// Each task is sent only when the one before is settled, so that the taker waits each time: were a bell
/// lost, the slow look would bring it, and three hundred of those would take minutes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_process_is_woken_by_each_task_and_wakes_who_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let backend = open(folder.path());
    let mut taker = start("taker", folder.path());
    let mut said = BufReader::new(taker.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains("accepted nothing")));
    let began = std::time::Instant::now();
    for _ in 0..300 {
        let submission = spec("q", "null");
        backend.submit(std::slice::from_ref(&submission), Timestamp(0)).await.remove(0).unwrap();
        let states = backend.tasks().wait_settled(&[submission.id], Duration::from_secs(20)).await.unwrap();
        assert_eq!(states, [Some(State::Succeeded)]);
    }
    assert!(began.elapsed() < Duration::from_secs(60), "bells are lost: {:?} for 300 tasks", began.elapsed());
    taker.kill().unwrap();
    taker.wait().unwrap();
    // What the killed one has left in the folder of bells is removed by the next who rings.
    backend.submit(&[spec("q", "null")], Timestamp(0)).await.remove(0).unwrap();
    backend.submit(&[spec("q", "null")], Timestamp(0)).await.remove(0).unwrap();
    let bells: Vec<_> =
        std::fs::read_dir(folder.path().join("bells")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(bells.iter().all(|name| !name.to_string_lossy().starts_with("sent-")), "{bells:?}");
    assert_eq!(backend.broker().counts(&queue("q")).await.unwrap().visible, 2);
}

/// Four takers on two openings wait for tasks that come one by one: each goes to one of them, and none
/// is left lying until the slow look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn takers_that_wait_together_get_each_task_once() {
    const TASKS: usize = 200;
    let folder = tempfile::tempdir().unwrap();
    let stores = [open(folder.path()), open(folder.path())];
    let (won, mut wins) = tokio::sync::mpsc::unbounded_channel();
    let takers: Vec<_> = (0..4)
        .map(|index| {
            let (backend, won) = (stores[index % 2].clone(), won.clone());
            tokio::spawn(async move {
                let (policy, worker) = (policy("q", AckMode::Lease), worker(&format!("taker-{index}")));
                loop {
                    let take = Take { policy: &policy, worker: &worker, max: 1, wait: Duration::from_secs(20) };
                    for task in backend.take(take).await.unwrap().won {
                        backend.finish(&[finish(&task, "q", Outcome::Succeeded(None))]).await.remove(0).unwrap();
                        won.send(task.id).unwrap();
                    }
                }
            })
        })
        .collect();
    let began = std::time::Instant::now();
    let mut seen = std::collections::HashSet::new();
    for index in 0..TASKS {
        stores[index % 2].submit(&[spec("q", "null")], Timestamp(0)).await.remove(0).unwrap();
        assert!(seen.insert(wins.recv().await.unwrap()), "a task was won twice");
    }
    assert!(began.elapsed() < Duration::from_secs(50), "bells are lost: {:?} for {TASKS} tasks", began.elapsed());
    for taker in takers {
        taker.abort();
    }
}

fn impatient() -> Options {
    Options { patience: Duration::from_millis(20), ..Options::default() }
}

fn names(error: &StoreError, holder: &Stopped) -> bool {
    let why = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    why.contains(&format!("process {} ", holder.0.id())) && why.contains("is stopped: continue it with `kill -CONT ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_process_that_holds_the_store_is_named_and_what_was_refused_is_not_done() {
    let folder = tempfile::tempdir().unwrap();
    let backend = LocalBackend::open(folder.path(), impatient()).unwrap();
    let known = spec("q", "null");
    backend.submit(std::slice::from_ref(&known), Timestamp(0)).await.remove(0).unwrap();
    let mut holder = Stopped::start(folder.path());
    let refused = spec("q", "null");
    let submitted = backend.submit(std::slice::from_ref(&refused), Timestamp(0)).await.remove(0);
    assert!(names(submitted.as_ref().unwrap_err(), &holder), "{submitted:?}");
    let (policy, worker) = (policy("q", AckMode::Lease), worker("w"));
    let take = Take { policy: &policy, worker: &worker, max: 10, wait: Duration::ZERO };
    assert!(names(&backend.take(take).await.unwrap_err(), &holder));
    // Who only reads waits for nobody, and opens the store as well.
    let reader = LocalBackend::open(folder.path(), impatient()).unwrap();
    assert!(reader.tasks().read(&[known.id]).await.unwrap()[0].is_some());
    holder.kill();
    let won = loop {
        match backend.take(take).await {
            Ok(taken) => break taken.won,
            Err(error) => assert!(names(&error, &holder), "{error}"),
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(won.iter().map(|won| won.id).collect::<Vec<_>>(), [known.id]);
    assert!(backend.tasks().read(&[refused.id]).await.unwrap()[0].is_none());
}

#[test]
fn a_store_that_a_stopped_process_is_making_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let holder = Stopped::start(folder.path());
    let opened = LocalBackend::open(folder.path(), impatient()).map(|_| ());
    assert!(names(opened.as_ref().unwrap_err(), &holder), "{opened:?}");
    drop(holder);
    LocalBackend::open(folder.path(), impatient()).unwrap();
}
