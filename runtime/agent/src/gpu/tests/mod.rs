//! Leases, guards and usage over scripted devices, on a clock that the tests move.

mod looks;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use proptest::prelude::*;
use rhubarb_core::{
    backend::{Backend, WorkerGpuState},
    gpu::{GpuAsk, GpuDevice, GpuError, GpuHold as _, GpuReading, GpuSource},
    ids::{TaskId, WorkerId},
};
use rhubarb_testkit::{
    Fault, MemoryBackend, MemoryOptions, Verb,
    gpus::{GpuScript, ScriptedGpus},
};
use tempfile::TempDir;
use tokio::{
    sync::Notify,
    time::{advance, sleep},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::gpu::pool::GpuPool;

const A_MOMENT: Duration = Duration::from_millis(10);
/// Longer than another agent's device is left alone, and than a store's row holds.
const LONG: Duration = Duration::from_secs(40);

/// A machine with GPUs, whose agents share a folder and a store, or only one of them.
struct Machine {
    gpus: ScriptedGpus,
    folder: TempDir,
    store: Arc<MemoryBackend>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shared {
    Both,
    FolderOnly,
    StoreOnly,
}

impl Machine {
    fn with(count: u32) -> Self {
        let store = Arc::new(MemoryBackend::new(MemoryOptions::default()));
        Self { gpus: ScriptedGpus::new(GpuScript::of(count)), folder: tempfile::tempdir().unwrap(), store }
    }

    async fn agent(&self, name: &str, shared: Shared) -> GpuPool {
        let store = match shared {
            Shared::FolderOnly => Arc::new(MemoryBackend::new(MemoryOptions::default())),
            Shared::Both | Shared::StoreOnly => Arc::clone(&self.store),
        };
        self.agent_over(name, shared, store).await.unwrap()
    }

    async fn agent_over(&self, name: &str, shared: Shared, store: Arc<MemoryBackend>) -> Result<GpuPool, NoGuard> {
        let taker = Taker { backend: store, worker: WorkerId::new(name).unwrap(), instance: name.to_owned() };
        let parts = PoolParts { source: Arc::new(self.gpus.clone()), folder: self.folder_of(shared), taker };
        let pool = GpuPool::open(parts).await?.unwrap();
        // Every device was probed, or is looked after by another agent.
        pool.0.tracker.close();
        pool.0.tracker.wait().await;
        Ok(pool)
    }

    fn folder_of(&self, shared: Shared) -> PathBuf {
        if shared == Shared::StoreOnly {
            let file = self.folder.path().join("a-file");
            std::fs::write(&file, "").unwrap();
            return file.join("locks");
        }
        self.folder.path().join("locks")
    }

    fn confined(&self, uuid: &str) -> Option<String> {
        quarantine_of(&self.folder_of(Shared::Both), uuid).map(|told| told.reason)
    }
}

fn ask(count: u32) -> GpuAsk {
    GpuAsk { count, memory: None, name: None, compute: None, share: 1 }
}

/// Waits for what was given back to be looked at.
async fn looked_at(pool: &GpuPool) {
    pool.close().await;
}

fn stands(pool: &GpuPool, uuid: &str) -> WorkerGpuState {
    pool.snapshot().into_iter().find(|gpu| gpu.device.uuid == uuid).unwrap().state
}

/// A lease whose devices a process had.
async fn used(pool: &GpuPool, count: u32) -> GpuLease {
    let lease = pool.lease(&ask(count)).await.unwrap();
    lease.begin().await.unwrap();
    lease
}

async fn two_agents_are_kept_apart(shared: Shared) {
    let machine = Machine::with(1);
    let one = machine.agent("one", shared).await;
    let two = machine.agent("two", shared).await;
    let lease = used(&one, 1).await;
    assert!(two.lease(&ask(1)).await.is_none());
    assert_eq!(stands(&two, "GPU-0"), WorkerGpuState::Held { tasks: Vec::new() });
    drop(lease);
    looked_at(&one).await;
    let mut changes = two.changes();
    changes.borrow_and_update();
    two.wait(&mut changes).await;
    let lease = two.lease(&ask(1)).await.expect("it is free for the other");
    assert!(one.lease(&ask(1)).await.is_none());
    drop(lease);
    looked_at(&two).await;
    sleep(LONG).await;
    assert!(one.lease(&ask(1)).await.is_some(), "also one that was not used");
}

#[tokio::test(start_paused = true)]
async fn agents_that_share_a_folder_and_a_store_never_share_a_device() {
    two_agents_are_kept_apart(Shared::Both).await;
}

#[tokio::test(start_paused = true)]
async fn agents_that_share_only_a_folder_never_share_a_device() {
    two_agents_are_kept_apart(Shared::FolderOnly).await;
}

#[tokio::test(start_paused = true)]
async fn agents_that_share_only_a_store_never_share_a_device() {
    two_agents_are_kept_apart(Shared::StoreOnly).await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_can_use_neither_guard_is_refused_with_the_way_out() {
    let machine = Machine::with(1);
    let faults = |verb| if verb == Verb::Worker { Fault::Refuse } else { Fault::None };
    let options = || MemoryOptions { faults: Some(Arc::new(faults)), ..MemoryOptions::default() };
    let store = || Arc::new(MemoryBackend::new(options()));
    let refused = machine.agent_over("one", Shared::StoreOnly, store()).await.err().unwrap().to_string();
    assert!(refused.contains("gpu_locks") && refused.contains("RHUBARB_GPU_LOCKS"), "{refused}");
    let pool = machine.agent_over("one", Shared::Both, store()).await.unwrap();
    assert!(pool.lease(&ask(1)).await.is_some(), "one guard is enough");
}

#[tokio::test(start_paused = true)]
async fn a_machine_without_devices_needs_no_guard() {
    let machine = Machine::with(0);
    let taker = Taker {
        backend: Arc::clone(&machine.store) as Arc<dyn Backend>,
        worker: WorkerId::new("one").unwrap(),
        instance: "one".into(),
    };
    let parts =
        PoolParts { source: Arc::new(machine.gpus.clone()), folder: machine.folder_of(Shared::StoreOnly), taker };
    assert!(GpuPool::open(parts).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_shared_device_is_looked_at_when_the_last_of_its_tasks_has_ended() {
    let machine = Machine::with(1);
    let pool = machine.agent("one", Shared::Both).await;
    let halves = GpuAsk { share: 2, ..ask(1) };
    let first = pool.lease(&halves).await.unwrap();
    first.begin().await.unwrap();
    machine.gpus.script().leak("GPU-0", 1 << 30);
    let second = pool.lease(&halves).await.unwrap();
    second.begin().await.unwrap();
    assert!(pool.lease(&halves).await.is_none() && pool.lease(&ask(1)).await.is_none());
    drop(first);
    looked_at(&pool).await;
    assert!(matches!(stands(&pool, "GPU-0"), WorkerGpuState::Held { .. }));
    drop(second);
    looked_at(&pool).await;
    assert!(machine.confined("GPU-0").is_some(), "what the first has left counts");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_asks_for_fewer_devices_gives_the_others_back_at_once() {
    let machine = Machine::with(3);
    let pool = machine.agent("one", Shared::Both).await;
    let mut lease = pool.lease(&ask(3)).await.unwrap();
    lease.keep(1);
    assert_eq!(lease.uuids(), ["GPU-0"]);
    assert_eq!(pool.lease(&ask(2)).await.unwrap().uuids(), ["GPU-1", "GPU-2"]);
    lease.keep(0);
    assert!(lease.is_empty());
    drop(lease);
    assert!(pool.lease(&ask(3)).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_led_to_nothing_wakes_nobody_and_one_whose_task_did_not_begin_does() {
    let machine = Machine::with(1);
    let pool = machine.agent("one", Shared::Both).await;
    let mut changes = pool.changes();
    changes.borrow_and_update();
    drop(pool.lease(&ask(1)).await.unwrap());
    looked_at(&pool).await;
    assert!(!changes.has_changed().unwrap(), "who feeds would go round and round");
    let lease = pool.lease(&ask(1)).await.unwrap();
    lease.note_tasks(vec![TaskId::mint()]);
    drop(lease);
    assert!(changes.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn usage_is_read_while_a_task_holds_a_device_and_once_for_the_shortest() {
    let machine = Machine::with(1);
    let pool = machine.agent("one", Shared::Both).await;
    let lease = used(&pool, 1).await;
    lease.note_tasks(vec![TaskId::mint()]);
    assert!(matches!(stands(&pool, "GPU-0"), WorkerGpuState::Held { tasks } if tasks.len() == 1));
    lease.read().await;
    lease.read().await;
    assert_eq!(lease.usage()[0].readings, 1);
    let end = CancellationToken::new();
    let watching = tokio::spawn(pool.clone().watch(end.clone()));
    machine.gpus.script().reading("GPU-0", |reading| (reading.memory_used, reading.utilisation) = (4 << 30, Some(90)));
    sleep(Duration::from_secs(10)).await;
    let usage = lease.usage().remove(0);
    assert!(usage.readings >= 10 && usage.memory_peak == 4 << 30 && usage.utilisation_peak == Some(90), "{usage:?}");
    end.cancel();
    watching.await.unwrap();
}

/// Devices whose driver stops answering.
#[derive(Debug)]
struct Hanging {
    gpus: ScriptedGpus,
    hangs: AtomicBool,
    asked: Notify,
}

#[async_trait]
impl GpuSource for Hanging {
    async fn devices(&self) -> Result<Vec<GpuDevice>, GpuError> {
        self.gpus.devices().await
    }

    async fn read(&self) -> Result<Vec<GpuReading>, GpuError> {
        if self.hangs.load(Relaxed) {
            self.asked.notify_one();
            std::future::pending::<()>().await;
        }
        self.gpus.read().await
    }

    async fn probe(&self, uuid: &str) -> Result<(), GpuError> {
        self.gpus.probe(uuid).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_does_not_answer_holds_up_no_end() {
    let machine = Machine::with(1);
    let (hangs, asked) = (AtomicBool::new(false), Notify::new());
    let source = Arc::new(Hanging { gpus: machine.gpus.clone(), hangs, asked });
    let taker = Taker { backend: machine.store.clone(), worker: WorkerId::new("one").unwrap(), instance: "one".into() };
    let parts = PoolParts { source: source.clone(), folder: machine.folder_of(Shared::Both), taker };
    let pool = GpuPool::open(parts).await.unwrap().unwrap();
    looked_at(&pool).await;
    source.hangs.store(true, Relaxed);
    let end = CancellationToken::new();
    let watching = tokio::spawn(pool.clone().watch(end.clone()));
    source.asked.notified().await;
    end.cancel();
    watching.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_holder_whose_row_another_agent_has_taken_is_told() {
    let machine = Machine::with(1);
    let pool = machine.agent("one", Shared::StoreOnly).await;
    let lease = used(&pool, 1).await;
    // As after an outage that was longer than the row holds.
    advance(LONG).await;
    let other = WorkerId::new("other").unwrap();
    assert!(machine.store.workers().hold_role("gpu/GPU-0", &other, "other", LONG).await.unwrap());
    let end = CancellationToken::new();
    let watching = tokio::spawn(pool.clone().watch(end.clone()));
    lease.lost().await;
    end.cancel();
    watching.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_held_stays_held_for_as_long_as_the_task_takes() {
    let machine = Machine::with(1);
    let one = machine.agent("one", Shared::StoreOnly).await;
    let end = CancellationToken::new();
    let watching = tokio::spawn(one.clone().watch(end.clone()));
    let lease = used(&one, 1).await;
    let two = machine.agent("two", Shared::StoreOnly).await;
    for _ in 0..10 {
        sleep(LONG).await;
        assert!(two.lease(&ask(1)).await.is_none());
    }
    drop(lease);
    end.cancel();
    watching.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_works_on_and_on_lets_one_that_waits_have_its_turn() {
    let machine = Machine::with(1);
    let busy = machine.agent("busy", Shared::Both).await;
    let waits = machine.agent("waits", Shared::Both).await;
    let mut held = used(&busy, 1).await;
    assert!(waits.lease(&ask(1)).await.is_none());
    let mut changes = waits.changes();
    let waited = tokio::spawn(async move {
        loop {
            changes.borrow_and_update();
            if let Some(lease) = waits.lease(&ask(1)).await {
                return lease;
            }
            waits.wait(&mut changes).await;
        }
    });
    let mut turns = 0;
    let mut changes = busy.changes();
    while !waited.is_finished() {
        changes.borrow_and_update();
        drop(held);
        held = loop {
            match busy.lease(&ask(1)).await {
                Some(lease) => break lease,
                None if waited.is_finished() => return,
                None => busy.wait(&mut changes).await,
            }
        };
        held.begin().await.unwrap();
        sleep(A_MOMENT).await;
        turns += 1;
        assert!(turns < 1_000, "the other agent starves");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever three agents do, and whichever guard they share: a device is leased once at most, and nothing is lost.
    #[test]
    fn two_leases_never_overlap(
        shared in prop_oneof![Just(Shared::Both), Just(Shared::FolderOnly), Just(Shared::StoreOnly)],
        devices in 1_u32..4,
        steps in proptest::collection::vec((0_usize..3, 0_u32..4, 0_u8..4, 0_u64..4_000), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async move {
            let machine = Machine::with(devices);
            let end = CancellationToken::new();
            let mut agents = Vec::new();
            for name in ["one", "two", "three"] {
                let pool = machine.agent(name, shared).await;
                tokio::spawn(pool.clone().watch(end.clone()));
                agents.push(pool);
            }
            let mut held: Vec<(usize, GpuLease)> = Vec::new();
            for (agent, count, step, pause) in steps {
                match (step, held.iter().position(|(holder, _)| *holder == agent)) {
                    (0 | 1, _) if count > 0 => {
                        if let Some(lease) = agents[agent].lease(&ask(count)).await {
                            prop_assert_eq!(lease.uuids().len(), count as usize);
                            held.push((agent, lease));
                        }
                    }
                    (2, Some(at)) => drop(held.remove(at).1.begin().await),
                    (3, Some(at)) => drop(held.remove(at)),
                    _ => sleep(Duration::from_millis(pause)).await,
                }
                let mut uuids: Vec<&String> = held.iter().flat_map(|(_, lease)| lease.uuids()).collect();
                let all = uuids.len();
                uuids.sort();
                uuids.dedup();
                prop_assert_eq!(uuids.len(), all, "{:?}", held);
            }
            drop(held);
            sleep(LONG).await;
            prop_assert!(agents[0].lease(&ask(devices)).await.is_some(), "everything comes back");
            end.cancel();
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn under_mps_a_process_is_told_the_memory_of_its_own_devices() {
    let machine = Machine::with(2);
    let pool = machine.agent("one", Shared::Both).await;
    let without = used(&pool, 1).await;
    assert_eq!(without.memory_limits(), None);
    machine.gpus.script().limits_memory = true;
    assert_eq!(used(&pool, 1).await.memory_limits().as_deref(), Some("0=24576M"));
}
