//! What the workers' rows owe.

use std::time::Duration;

use rhubarb_core::{
    backend::{EcsTask, Heard, StoreError, WorkerGpu, WorkerGpuState, WorkerRecord, WorkerState, Workers},
    config::{ByteSize, ComputeCapability},
    gpu::{GpuAsk, GpuDevice},
    ids::{QueueName, TaskId, WorkerId},
};

use super::{DAY, SECOND, eventually, eventually_so, unique};
use crate::clock::Clockwork;

const SILENT_AFTER: Duration = Duration::from_secs(10);

/// Exercises the workers' rows.
///
/// # Panics
///
/// They do not do what they owe.
pub async fn workers(workers: &dyn Workers, time: &dyn Clockwork) {
    a_worker_is_listed_as_it_describes_itself(workers, time).await;
    a_heartbeat_replaces_the_one_before(workers, time).await;
    a_silent_worker_is_listed_as_gone_until_it_is_heard_again(workers, time).await;
    a_worker_silent_for_a_day_is_left_out(workers, time).await;
    the_name_of_a_live_worker_is_refused(workers, time).await;
    the_name_of_a_silent_worker_is_free(workers, time).await;
    a_worker_that_leaves_frees_its_name_and_its_roles(workers, time).await;
    an_older_instance_cannot_take_a_newer_one_away(workers, time).await;
    a_role_has_one_holder(workers).await;
    a_role_that_is_not_kept_is_free(workers, time).await;
    a_role_that_is_held_for_no_time_at_all_is_free(workers).await;
}

fn new_worker(time: &dyn Clockwork) -> WorkerRecord {
    WorkerRecord {
        id: WorkerId::new(&unique("worker")).unwrap(),
        instance: unique("instance"),
        // No machine has this name, so that nobody looks the process up.
        host: "exercise.invalid".into(),
        pid: std::process::id(),
        started: time.now(),
        version: "1.2.3".into(),
        state: WorkerState::Running,
        queues: vec![QueueName::new("b").unwrap(), QueueName::new("a").unwrap()],
        concurrency: 4,
        prefetch: 1,
        functions: Vec::new(),
        tasks: Default::default(),
        gpus: vec![
            gpu(0, WorkerGpuState::Free),
            gpu(1, WorkerGpuState::Held { tasks: vec![TaskId::mint()] }),
            gpu(2, WorkerGpuState::Checking),
            gpu(3, WorkerGpuState::Quarantined { reason: "the driver reported Xid 79".into() }),
        ],
        gpu_asks: [(QueueName::new("b").unwrap(), asked())].into(),
        ecs: Some(EcsTask { task: "arn:aws:ecs:eu-west-1:123456789012:task/c/1".into(), ..EcsTask::default() }),
        holds: vec![TaskId::mint()],
        silent_after: SILENT_AFTER,
    }
}

fn gpu(index: u32, state: WorkerGpuState) -> WorkerGpu {
    let (name, driver) = ("NVIDIA L4".into(), "580.0".into());
    let uuid = format!("GPU-{index}");
    WorkerGpu {
        device: GpuDevice { uuid, index, name, memory: 24 << 30, compute: (8, 9), parent: None, driver },
        state,
    }
}

fn asked() -> GpuAsk {
    let compute = Some(ComputeCapability { major: 8, minor: 0 });
    GpuAsk { count: 2, memory: Some(ByteSize::gib(40)), name: Some("H200".into()), compute, share: 1 }
}

async fn listed(workers: &dyn Workers, id: &WorkerId) -> Option<Heard> {
    workers.list().await.unwrap().into_iter().find(|heard| heard.worker.id == *id)
}

async fn a_worker_is_listed_as_it_describes_itself(workers: &dyn Workers, time: &dyn Clockwork) {
    let worker = new_worker(time);
    workers.beat(&worker).await.unwrap();
    let heard = eventually(time, "the worker is not listed", async || listed(workers, &worker.id).await).await;
    assert_eq!(heard.worker, worker);
    assert!(heard.alive && heard.heard.since(time.now()) < SECOND);
}

async fn a_heartbeat_replaces_the_one_before(workers: &dyn Workers, time: &dyn Clockwork) {
    let first = new_worker(time);
    let second = WorkerRecord { state: WorkerState::Draining, holds: Vec::new(), ..first.clone() };
    workers.beat(&first).await.unwrap();
    workers.beat(&second).await.unwrap();
    eventually_so(time, "the second heartbeat is not shown", async || {
        listed(workers, &first.id).await.is_some_and(|heard| heard.worker == second)
    })
    .await;
}

async fn a_silent_worker_is_listed_as_gone_until_it_is_heard_again(workers: &dyn Workers, time: &dyn Clockwork) {
    let worker = new_worker(time);
    workers.beat(&worker).await.unwrap();
    let alive = async || listed(workers, &worker.id).await.map(|heard| heard.alive);
    time.advance(SILENT_AFTER - 2 * SECOND).await;
    assert_eq!(alive().await, Some(true));
    time.advance(2 * SECOND).await;
    assert_eq!(alive().await, Some(false));
    workers.beat(&worker).await.unwrap();
    eventually_so(time, "it was heard again", async || alive().await == Some(true)).await;
}

async fn a_worker_silent_for_a_day_is_left_out(workers: &dyn Workers, time: &dyn Clockwork) {
    if time.reach() < DAY {
        return;
    }
    let worker = new_worker(time);
    workers.beat(&worker).await.unwrap();
    time.advance(DAY - SECOND).await;
    assert!(listed(workers, &worker.id).await.is_some());
    time.advance(2 * SECOND).await;
    assert!(listed(workers, &worker.id).await.is_none());
}

async fn the_name_of_a_live_worker_is_refused(workers: &dyn Workers, time: &dyn Clockwork) {
    let first = new_worker(time);
    let second = WorkerRecord { instance: unique("instance"), ..first.clone() };
    workers.beat(&first).await.unwrap();
    let refused = workers.beat(&second).await;
    assert!(matches!(&refused, Err(StoreError::NameTaken { worker, .. }) if *worker == first.id), "{refused:?}");
    workers.beat(&first).await.unwrap();
}

async fn the_name_of_a_silent_worker_is_free(workers: &dyn Workers, time: &dyn Clockwork) {
    let first = new_worker(time);
    let second = WorkerRecord { instance: unique("instance"), ..first.clone() };
    workers.beat(&first).await.unwrap();
    time.advance(SILENT_AFTER).await;
    workers.beat(&second).await.unwrap();
    let refused = workers.beat(&first).await;
    assert!(matches!(refused, Err(StoreError::NameTaken { .. })), "{refused:?}");
}

async fn a_worker_that_leaves_frees_its_name_and_its_roles(workers: &dyn Workers, time: &dyn Clockwork) {
    let (first, role) = (new_worker(time), unique("role"));
    let second = WorkerRecord { instance: unique("instance"), ..first.clone() };
    workers.beat(&first).await.unwrap();
    assert!(workers.hold_role(&role, &first.id, &first.instance, SILENT_AFTER).await.unwrap());
    workers.leave(&first.id, &first.instance).await.unwrap();
    eventually_so(time, "it has left", async || listed(workers, &first.id).await.is_none()).await;
    workers.beat(&second).await.unwrap();
    assert!(workers.hold_role(&role, &second.id, &second.instance, SILENT_AFTER).await.unwrap());
}

async fn an_older_instance_cannot_take_a_newer_one_away(workers: &dyn Workers, time: &dyn Clockwork) {
    let (first, role) = (new_worker(time), unique("role"));
    let second = WorkerRecord { instance: unique("instance"), ..first.clone() };
    workers.beat(&second).await.unwrap();
    assert!(workers.hold_role(&role, &second.id, &second.instance, SILENT_AFTER).await.unwrap());
    workers.leave(&first.id, &first.instance).await.unwrap();
    eventually_so(time, "it has not left", async || listed(workers, &second.id).await.is_some()).await;
    assert!(!workers.hold_role(&role, &first.id, &first.instance, SILENT_AFTER).await.unwrap());
}

async fn a_role_has_one_holder(workers: &dyn Workers) {
    let (role, other) = (unique("role"), unique("role"));
    let (one, two) = (WorkerId::new(&unique("one")).unwrap(), WorkerId::new(&unique("two")).unwrap());
    assert!(workers.hold_role(&role, &one, "1", SILENT_AFTER).await.unwrap());
    assert!(!workers.hold_role(&role, &two, "2", SILENT_AFTER).await.unwrap());
    assert!(workers.hold_role(&role, &one, "1", SILENT_AFTER).await.unwrap());
    assert!(workers.hold_role(&other, &two, "2", SILENT_AFTER).await.unwrap());
}

async fn a_role_that_is_not_kept_is_free(workers: &dyn Workers, time: &dyn Clockwork) {
    let role = unique("role");
    let (one, two) = (WorkerId::new(&unique("one")).unwrap(), WorkerId::new(&unique("two")).unwrap());
    assert!(workers.hold_role(&role, &one, "1", SILENT_AFTER).await.unwrap());
    time.advance(SILENT_AFTER - 2 * SECOND).await;
    assert!(workers.hold_role(&role, &one, "1", SILENT_AFTER).await.unwrap());
    time.advance(SILENT_AFTER - 2 * SECOND).await;
    assert!(!workers.hold_role(&role, &two, "2", SILENT_AFTER).await.unwrap());
    time.advance(2 * SECOND).await;
    assert!(workers.hold_role(&role, &two, "2", SILENT_AFTER).await.unwrap());
    assert!(!workers.hold_role(&role, &one, "1", SILENT_AFTER).await.unwrap());
}

/// That is how it is given up before its time.
async fn a_role_that_is_held_for_no_time_at_all_is_free(workers: &dyn Workers) {
    let role = unique("role");
    let [one, two] = ["one", "two"].map(|name| WorkerId::new(&unique(name)).unwrap());
    assert!(workers.hold_role(&role, &one, "1", SILENT_AFTER).await.unwrap());
    assert!(workers.hold_role(&role, &one, "1", Duration::ZERO).await.unwrap());
    assert!(workers.hold_role(&role, &two, "2", SILENT_AFTER).await.unwrap());
    assert!(!workers.hold_role(&role, &one, "1", Duration::ZERO).await.unwrap(), "it is another's by now");
}
