//! GPUs after a script: leases, what a function is given, hand-over, sick devices.
//!
//! No device is needed: the agents' helper and probe are stand-ins that read a file. That two tasks never meet on a
//! device is proved by the function itself, which locks a file for each that it was given.

use std::fs;

use rhubarb::core::{
    backend::WorkerGpuState,
    gpu::{GpuUsage, RanOn},
    row::State,
};
use rhubarb_tests::{
    enqueue,
    gpus::{GpuMachine, all_are_free, comes_to_stand, last_pid},
    is_running, reached, settled, until,
};
use rustix::process::{Signal, kill_process, kill_process_group};
use serde_json::{Value, json};

const GPUS: &str = r#"
[queues.one]
gpus = 1
lease = "{lease}"
max_attempts = 1
backoff = { initial = "10ms" }
[queues.twice]
gpus = 1
lease = "{lease}"
max_attempts = 2
backoff = { initial = "10ms" }
[queues.pair]
gpus = 2
[queues.either]
gpus = 1
without_gpu = "cpu"
[queues.light]
[workers.gpu]
queues = ["one", "twice", "pair", "either"]
[workers.mixed]
queues = ["one", "light"]
"#;

/// It is looked at, or has been for so long that it is in quarantine.
fn is_set_apart(state: &WorkerGpuState) -> bool {
    *state == WorkerGpuState::Checking || is_quarantined(state)
}

fn is_quarantined(state: &WorkerGpuState) -> bool {
    matches!(state, WorkerGpuState::Quarantined { .. })
}

#[tokio::test]
async fn a_function_sees_its_devices_and_no_other_and_its_record_says_what_they_did() {
    let machine = GpuMachine::with(3, GPUS);
    let client = machine.app.client().await;
    let agent = machine.agent(&["gpu"]).await;
    all_are_free(&client).await;
    let id = machine.on_gpus(&client, "pair", 10).await;
    let detail = settled(&client, id).await;
    assert_eq!(detail.record.state, State::Succeeded, "{:?}", detail.record.failure);
    let given: Value = client.output(id).await.unwrap();
    assert_eq!(given, json!({"gpus": ["GPU-0", "GPU-1"], "visible": "GPU-0,GPU-1", "order": "PCI_BUS_ID"}));
    let uuids: Vec<&str> = detail.attempts[0].gpus().iter().map(|usage| usage.uuid.as_str()).collect();
    assert_eq!(uuids, ["GPU-0", "GPU-1"]);
    assert!(detail.attempts[0].gpus().iter().all(|usage: &GpuUsage| usage.readings > 0 && usage.memory_peak > 0));

    // Which one is free by now is another matter.
    let args = json!({"ledger": machine.ledger(), "ms": 10}).to_string();
    let fewer = ["enqueue", "on_gpus", "--queue", "pair", "--gpus", "1", "--wait", "--args", &args];
    let ran = machine.run(&fewer).await;
    let given: Value = serde_json::from_str(ran.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(given["gpus"].as_array().map(Vec::len), Some(1), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(given["visible"], given["gpus"][0]);
    agent.stop().await;
}

#[tokio::test]
async fn tasks_of_two_agents_never_meet_on_a_device() {
    let machine = GpuMachine::with(1, GPUS);
    let client = machine.app.client().await;
    let one = machine.agent(&["gpu", "--name", "one"]).await;
    let two = machine.agent(&["gpu", "--name", "two", "--concurrency", "3"]).await;
    let mut ids = Vec::new();
    for n in 0..16 {
        let queue = if n % 2 == 0 { "one" } else { "either" };
        ids.push(machine.on_gpus(&client, queue, 20).await);
    }
    for id in ids {
        let detail = settled(&client, id).await;
        assert_eq!(detail.record.state, State::Succeeded, "{:?}", detail.record.failure);
        assert_eq!((detail.record.attempt, detail.attempts.len()), (1, 1));
        assert_eq!(detail.attempts[0].gpus().len(), 1, "also where it might have run on the CPU");
    }
    let ran = fs::read_to_string(machine.ledger().join("GPU-0")).unwrap();
    let processes: std::collections::BTreeSet<&str> = ran.lines().collect();
    assert_eq!((ran.lines().count(), processes.len()), (16, 16), "each in a process of its own");
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_killed_functions_device_goes_to_the_next_task_when_its_memory_is_back() {
    let machine = GpuMachine::with(1, GPUS);
    let client = machine.app.client().await;
    let agent = machine.agent(&["gpu"]).await;
    all_are_free(&client).await;
    let id = machine.on_gpus(&client, "twice", 60_000).await;
    let first = machine.process_on("GPU-0").await;
    machine.file.edit(|script| script.leak("GPU-0", 4 << 30)).unwrap();
    kill_process_group(first, Signal::KILL).unwrap();
    comes_to_stand(&client, "GPU-0", is_set_apart).await;
    assert_ne!(client.state(id).await.unwrap(), State::Running);
    machine.file.edit(|script| script.leak("GPU-0", 0)).unwrap();
    until(async || (last_pid(&machine.ledger().join("GPU-0"))? != first).then_some(())).await;
    machine.kill_function_on("GPU-0").await;
    let detail = settled(&client, id).await;
    assert_eq!((detail.record.state, detail.attempts.len()), (State::Failed, 2));
    agent.stop().await;
}

#[tokio::test]
async fn a_child_in_a_session_of_its_own_keeps_the_device_from_the_next_task() {
    let machine = GpuMachine::with(1, GPUS);
    let client = machine.app.client().await;
    let agent = machine.agent(&["gpu"]).await;
    all_are_free(&client).await;
    let id = enqueue(&client, "on_gpus", json!({"ledger": machine.ledger(), "leak": true}), "one").await;
    let detail = settled(&client, id).await;
    assert_eq!(detail.record.state, State::Succeeded, "{:?}", detail.record.failure);
    let leaked = last_pid(&machine.ledger().join("leaked")).unwrap();
    let next = machine.on_gpus(&client, "one", 1).await;
    comes_to_stand(&client, "GPU-0", is_set_apart).await;
    let is_alive = is_running(leaked.as_raw_pid().unsigned_abs());
    assert_eq!((client.state(next).await.unwrap(), is_alive), (State::Queued, true));
    kill_process(leaked, Signal::KILL).unwrap();
    let detail = settled(&client, next).await;
    assert_eq!(detail.record.state, State::Succeeded, "{:?}", detail.record.failure);
    agent.stop().await;
}

#[tokio::test]
async fn a_failure_on_a_sick_device_costs_no_attempt_and_the_task_moves_to_another() {
    let machine = GpuMachine::with(2, GPUS);
    let client = machine.app.client().await;
    let agent = machine.agent(&["gpu"]).await;
    all_are_free(&client).await;
    let id = machine.on_gpus(&client, "one", 2_000).await;
    machine.process_on("GPU-0").await;
    machine.file.edit(|script| script.fail("GPU-0", "the kernel gave wrong numbers")).unwrap();
    machine.kill_function_on("GPU-0").await;
    let detail = settled(&client, id).await;
    assert_eq!(detail.record.state, State::Succeeded, "{:?}", detail.record.failure);
    assert_eq!((detail.record.attempt, detail.record.interruptions), (1, 1));
    let why = detail.attempts[0].failure.as_ref().unwrap().to_string();
    assert!(why.contains("GPU GPU-0 is sick: the kernel gave wrong numbers"), "{why}");
    assert_eq!(detail.attempts[1].gpus()[0].uuid, "GPU-1");
    comes_to_stand(&client, "GPU-0", is_quarantined).await;
    agent.stop().await;
}

#[tokio::test]
async fn tasks_wait_for_a_quarantined_device_while_other_queues_go_on_and_run_when_it_is_released() {
    let machine = GpuMachine::with(1, GPUS);
    machine.file.edit(|script| script.fail("GPU-0", "the kernel gave wrong numbers")).unwrap();
    let client = machine.app.client().await;
    let agent = machine.agent(&["mixed"]).await;
    comes_to_stand(&client, "GPU-0", is_quarantined).await;
    let waits = machine.on_gpus(&client, "one", 1).await;
    for _ in 0..5 {
        let light = enqueue(&client, "noop", json!({}), "light").await;
        assert_eq!(settled(&client, light).await.record.state, State::Succeeded);
    }
    assert_eq!(client.state(waits).await.unwrap(), State::Queued, "its message was never taken");
    machine.file.edit(|script| script.heal("GPU-0")).unwrap();
    let released = machine.run(&["gpus", "release", "GPU-0"]).await;
    assert_eq!(released.code, Some(0), "{}", released.stderr);
    assert_eq!(settled(&client, waits).await.record.state, State::Succeeded);
    agent.stop().await;
}

#[tokio::test]
async fn without_a_device_a_queue_is_served_on_the_cpu_or_waits_as_it_says() {
    let machine = GpuMachine::with(0, GPUS);
    let client = machine.app.client().await;
    let agent = machine.agent(&["gpu"]).await;
    let (on_cpu, waits) = (machine.on_gpus(&client, "either", 1).await, machine.on_gpus(&client, "one", 1).await);
    let detail = settled(&client, on_cpu).await;
    assert_eq!(detail.record.state, State::Succeeded);
    assert_eq!(detail.attempts[0].log.ran_on, Some(RanOn::Cpu));
    let given: Value = client.output(on_cpu).await.unwrap();
    assert_eq!(given["gpus"], json!([]));
    assert_eq!(client.state(waits).await.unwrap(), State::Queued);
    agent.stop().await;
}

#[tokio::test]
async fn the_device_of_an_agent_that_was_killed_is_looked_at_and_serves_the_next_agent() {
    let machine = GpuMachine::with(1, GPUS);
    let client = machine.app.client().await;
    let killed = machine.agent(&["gpu", "--name", "killed"]).await;
    all_are_free(&client).await;
    let id = machine.on_gpus(&client, "twice", 300).await;
    reached(&client, id, State::Running).await;
    machine.process_on("GPU-0").await;
    machine.file.edit(|script| script.leak("GPU-0", 4 << 30)).unwrap();
    killed.kill().await;
    let next = machine.agent(&["gpu", "--name", "next"]).await;
    comes_to_stand(&client, "GPU-0", is_set_apart).await;
    machine.file.edit(|script| script.leak("GPU-0", 0)).unwrap();
    let detail = settled(&client, id).await;
    assert_eq!((detail.record.state, detail.attempts.len()), (State::Succeeded, 2), "{:?}", detail.record.failure);
    next.stop().await;
}
