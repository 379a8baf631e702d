//! Hand-over, quarantine and health.

use rhubarb_core::gpu::HAND_OVER_MAX;

use super::*;

#[tokio::test(start_paused = true)]
async fn devices_are_probed_before_their_first_lease_and_a_sick_one_is_never_leased() {
    let machine = Machine::with(2);
    machine.gpus.script().fail("GPU-0", "the kernel gave wrong numbers");
    let pool = machine.agent("one", Shared::Both).await;
    assert_eq!(machine.gpus.probes(), ["GPU-0", "GPU-1"]);
    let lease = pool.lease(&ask(1)).await.unwrap();
    assert_eq!(lease.uuids(), ["GPU-1"]);
    assert!(pool.lease(&ask(1)).await.is_none());
    assert_eq!(machine.confined("GPU-0").unwrap(), "the kernel gave wrong numbers");
}

#[tokio::test(start_paused = true)]
async fn memory_that_is_given_back_late_delays_the_next_lease_and_no_more() {
    let machine = Machine::with(1);
    let pool = machine.agent("one", Shared::Both).await;
    let lease = used(&pool, 1).await;
    machine.gpus.script().leak("GPU-0", 8 << 30);
    drop(lease);
    sleep(HAND_OVER_MAX / 2).await;
    assert_eq!(stands(&pool, "GPU-0"), WorkerGpuState::Checking);
    assert!(pool.lease(&ask(1)).await.is_none());
    let mut changes = pool.changes();
    changes.borrow_and_update();
    machine.gpus.script().leak("GPU-0", 0);
    pool.wait(&mut changes).await;
    assert!(pool.lease(&ask(1)).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn leaked_memory_quarantines_for_every_agent_and_the_device_comes_back_by_itself() {
    let machine = Machine::with(1);
    let pool = machine.agent("one", Shared::Both).await;
    let lease = used(&pool, 1).await;
    machine.gpus.script().leak("GPU-0", 8 << 30);
    drop(lease);
    looked_at(&pool).await;
    let reason = "8192 MiB of its memory were not given back".to_owned();
    assert_eq!(stands(&pool, "GPU-0"), WorkerGpuState::Quarantined { reason: reason.clone() });
    let later = machine.agent("later", Shared::Both).await;
    assert_eq!(stands(&later, "GPU-0"), WorkerGpuState::Quarantined { reason });
    assert!(later.lease(&ask(1)).await.is_none());

    let end = CancellationToken::new();
    let watching = tokio::spawn(later.clone().watch(end.clone()));
    sleep(LONG).await;
    assert!(machine.confined("GPU-0").is_some(), "it is not clean yet");
    machine.gpus.script().leak("GPU-0", 0);
    sleep(LONG * 4).await;
    assert_eq!(machine.confined("GPU-0"), None);
    assert!(later.lease(&ask(1)).await.is_some());
    end.cancel();
    watching.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_quarantined_device_comes_back_when_somebody_releases_it() {
    let machine = Machine::with(1);
    machine.gpus.script().fail("GPU-0", "wrong numbers");
    let pool = machine.agent("one", Shared::Both).await;
    let end = CancellationToken::new();
    let watching = tokio::spawn(pool.clone().watch(end.clone()));
    sleep(A_MOMENT).await;
    assert!(matches!(stands(&pool, "GPU-0"), WorkerGpuState::Quarantined { .. }));
    assert!(lift(pool.folder().unwrap(), "GPU-0").unwrap());
    sleep(Duration::from_secs(2)).await;
    assert_eq!(stands(&pool, "GPU-0"), WorkerGpuState::Free);
    end.cancel();
    watching.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_left_on_a_device_quarantines_it() {
    let machine = Machine::with(1);
    let pool = machine.agent("one", Shared::Both).await;
    let lease = used(&pool, 1).await;
    machine.gpus.script().occupy("GPU-0", 4711);
    drop(lease);
    looked_at(&pool).await;
    assert_eq!(machine.confined("GPU-0").unwrap(), "process 4711 is left on it by the last task");
}

#[tokio::test(start_paused = true)]
async fn a_child_that_outlives_its_function_keeps_the_device_also_where_the_driver_does_not_see_it() {
    let machine = Machine::with(1);
    machine.gpus.script().reading("GPU-0", |reading| reading.processes = None);
    let pool = machine.agent("one", Shared::Both).await;
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let lease = used(&pool, 1).await;
    lease.outlived_by(&[child.id()]);
    drop(lease);
    sleep(HAND_OVER_MAX / 2).await;
    assert_eq!(stands(&pool, "GPU-0"), WorkerGpuState::Checking);
    child.kill().unwrap();
    child.wait().unwrap();
    looked_at(&pool).await;
    assert_eq!(stands(&pool, "GPU-0"), WorkerGpuState::Free);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_vanishes_is_quarantined_whether_it_is_leased_or_not() {
    let machine = Machine::with(2);
    let pool = machine.agent("one", Shared::Both).await;
    let lease = used(&pool, 1).await;
    machine.gpus.script().vanish("GPU-0");
    machine.gpus.script().vanish("GPU-1");
    assert_eq!(lease.sickness().await.unwrap(), "GPU GPU-0 is sick: it no longer answers");
    drop(lease);
    let end = CancellationToken::new();
    let watching = tokio::spawn(pool.clone().watch(end.clone()));
    sleep(LONG).await;
    for uuid in ["GPU-0", "GPU-1"] {
        assert_eq!(machine.confined(uuid).unwrap(), "it no longer answers");
    }
    end.cancel();
    watching.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_device_that_vanishes_before_its_process_starts_gives_the_task_back() {
    let machine = Machine::with(1);
    let pool = machine.agent("one", Shared::Both).await;
    let lease = pool.lease(&ask(1)).await.unwrap();
    machine.gpus.script().vanish("GPU-0");
    assert_eq!(lease.begin().await.unwrap_err(), "GPU GPU-0 is sick: it no longer answers");
    drop(lease);
    looked_at(&pool).await;
    assert!(machine.confined("GPU-0").is_some());
}

#[tokio::test(start_paused = true)]
async fn errors_while_a_device_is_leased_make_it_sick_and_a_programs_own_faults_do_not() {
    let machine = Machine::with(1);
    let pool = machine.agent("one", Shared::Both).await;
    let lease = used(&pool, 1).await;
    machine.gpus.script().xid("GPU-0", 31);
    assert_eq!(lease.sickness().await, None);
    machine.gpus.script().ecc("GPU-0", 2);
    assert!(lease.sickness().await.unwrap().contains("2 uncorrected ECC errors"));
    drop(lease);
    looked_at(&pool).await;
    assert!(machine.confined("GPU-0").is_some(), "it is not given to the next");
}

#[tokio::test(start_paused = true)]
async fn an_error_of_an_idle_device_is_seen_by_whoever_reads_it_first() {
    let machine = Machine::with(2);
    let pool = machine.agent("one", Shared::Both).await;
    machine.gpus.script().xid("GPU-0", 79);
    let lease = pool.lease(&ask(1)).await.unwrap();
    assert_eq!(lease.begin().await.unwrap_err(), "GPU GPU-0 is sick: the driver reported Xid 79");
    drop(lease);
    looked_at(&pool).await;
    assert!(machine.confined("GPU-0").unwrap().contains("Xid 79"));

    machine.gpus.script().xid("GPU-1", 79);
    // Not the watch: a probe of a device that nobody has.
    assert!(pool.0.state().ledger.set_apart("GPU-1"));
    pool.0.clone().first_look("GPU-1".into()).await;
    assert!(machine.confined("GPU-1").unwrap().contains("Xid 79"));
}

#[tokio::test(start_paused = true)]
async fn a_device_that_comes_later_is_probed_and_leased() {
    let machine = Machine::with(1);
    let pool = machine.agent("one", Shared::Both).await;
    let end = CancellationToken::new();
    let watching = tokio::spawn(pool.clone().watch(end.clone()));
    machine.gpus.script().appear("GPU-9", 80);
    sleep(LONG).await;
    assert!(machine.gpus.probes().contains(&"GPU-9".to_owned()));
    assert!(pool.lease(&ask(2)).await.is_some());
    end.cancel();
    watching.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_crashed_agent_left_on_a_device_is_found_by_the_next_one() {
    let machine = Machine::with(1);
    let crashed = machine.agent("crashed", Shared::FolderOnly).await;
    let lease = used(&crashed, 1).await;
    machine.gpus.script().leak("GPU-0", 8 << 30);
    // The kernel closes its files; nothing else is done.
    drop(crashed.0.state().devices.get_mut("GPU-0").unwrap().guard.take());
    std::mem::forget(lease);
    let next = machine.agent("next", Shared::FolderOnly).await;
    assert!(matches!(stands(&next, "GPU-0"), WorkerGpuState::Quarantined { .. }));
    assert!(machine.confined("GPU-0").unwrap().contains("8192 MiB"));
}

#[tokio::test(start_paused = true)]
async fn what_a_crashed_agent_left_is_found_by_one_that_runs_beside_it_too() {
    let machine = Machine::with(1);
    let beside = machine.agent("beside", Shared::FolderOnly).await;
    let crashed = machine.agent("crashed", Shared::FolderOnly).await;
    let lease = used(&crashed, 1).await;
    machine.gpus.script().leak("GPU-0", 8 << 30);
    drop(crashed.0.state().devices.get_mut("GPU-0").unwrap().guard.take());
    std::mem::forget(lease);
    assert!(beside.lease(&ask(1)).await.is_none(), "it is looked at first");
    assert_eq!(stands(&beside, "GPU-0"), WorkerGpuState::Checking);
    machine.gpus.script().leak("GPU-0", 0);
    looked_at(&beside).await;
    assert!(beside.lease(&ask(1)).await.is_some());
}
