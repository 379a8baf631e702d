//! What a task may ask of GPUs, why it waits for them, and what it is told when their memory runs out; over GPUs after
//! a script.

use rhubarb::{
    Client,
    client::WaitReason,
    core::{
        backend::OutgoingMessage,
        gpu::GpuWait,
        ids::{QueueName, TaskId},
        outcome::Failure,
        row::State,
    },
};
use rhubarb_tests::{
    Ran, enqueue,
    gpus::{GpuMachine, all_are_free},
    reached, settled, until,
};
use serde_json::json;

const QUEUES: &str = r#"
[queues.small]
gpus = 1
max_attempts = 1
[queues.big]
gpus = 2
gpu_memory = "10GiB"
[queues.either]
gpus = 1
without_gpu = "cpu"
[workers.training]
queues = ["small", "big", "either"]
concurrency = 2
"#;

const TRAINING: &[&str] = &["training", "--name", "training"];

/// What a command prints when it says this, which it will in time.
async fn says(machine: &GpuMachine, arguments: &[&str], text: &str) -> String {
    until(async || {
        let Ran { stdout, .. } = machine.app.run(arguments).await;
        stdout.contains(text).then_some(stdout)
    })
    .await
}

async fn waits_for_gpus(client: &Client, id: TaskId, is: impl Fn(&GpuWait) -> bool) -> String {
    until(async || match client.why_waiting(id).await.unwrap() {
        Some(WaitReason::Gpus(wait)) if is(&wait) => Some(wait.to_string()),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn a_task_that_asks_for_more_gpus_than_its_queue_gives_is_told_which_queue_fits() {
    let machine = GpuMachine::with(1, QUEUES);
    let ran = machine.app.run(&["enqueue", "noop", "--queue", "small", "--gpus", "2"]).await;
    assert!(ran.code != Some(0) && ran.stderr.contains("never for more; queue big has 2"), "{}", ran.stderr);

    let client = machine.app.client().await;
    let agent = machine.agent(TRAINING).await;
    let body = json!({"task": "noop", "args": {}, "gpus": 3}).to_string();
    let message = OutgoingMessage { body, ..OutgoingMessage::default() };
    let queue = QueueName::new("small").unwrap();
    let sent = client.backend().broker().send(&queue, &[message]).await.pop().unwrap().unwrap();
    let id = TaskId::of_message(&sent);
    until(async || client.task(id).await.ok()).await;
    let failure = settled(&client, id).await.record.failure.unwrap();
    assert!(failure.kind == Failure::POISON && failure.message.contains("`gpus` of 3"), "{failure}");
    agent.stop().await;
}

#[tokio::test]
async fn a_task_whose_queue_asks_for_more_than_any_worker_has_says_what_they_have() {
    let machine = GpuMachine::with(1, QUEUES);
    let client = machine.app.client().await;
    let agent = machine.agent(TRAINING).await;
    let id = enqueue(&client, "noop", json!({}), "big").await;
    let told = waits_for_gpus(&client, id, |wait| matches!(wait, GpuWait::Lacking { .. })).await;
    let expected = "no worker has 2 GPUs with 10GiB: training serves queue big and has 1 GPU (NVIDIA L4, 24.0 GiB)";
    assert_eq!(told, expected);
    let shown = machine.app.run(&["task", &id.to_string()]).await.stdout;
    assert!(shown.contains(&format!("queued, waiting: {expected}")), "{shown}");
    let queues = machine.app.run(&["queues"]).await.stdout;
    assert!(queues.contains(&format!("queue big waits: {expected}")), "{queues}");
    let waiting = machine.app.run(&["enqueue", "noop", "--queue", "big", "--wait", "--wait-timeout", "3s"]).await;
    assert!(waiting.stderr.contains("waiting: no worker has 2 GPUs"), "{}", waiting.stderr);
    agent.stop().await;
}

#[tokio::test]
async fn a_task_waits_while_another_holds_the_gpu_and_says_which() {
    let machine = GpuMachine::with(1, QUEUES);
    let client = machine.app.client().await;
    let agent = machine.agent(TRAINING).await;
    let first = enqueue(&client, "nap", json!({"ms": 60_000}), "small").await;
    reached(&client, first, State::Running).await;
    let second = enqueue(&client, "noop", json!({}), "small").await;
    let told = waits_for_gpus(&client, second, |wait| matches!(wait, GpuWait::Held { .. })).await;
    assert_eq!(told, format!("the GPUs that fit are held: GPU-0 of training by task {first}"));
    says(&machine, &["workers"], "1 held").await;
    assert_eq!(client.state(second).await.unwrap(), State::Queued, "nothing was received for a device that is held");
    client.cancel(&[first]).await;
    assert_eq!(settled(&client, second).await.record.state, State::Succeeded);
    agent.stop().await;
}

#[tokio::test]
async fn a_task_says_that_the_gpus_are_quarantined_and_why() {
    let machine = GpuMachine::with(1, QUEUES);
    let client = machine.app.client().await;
    let agent = machine.agent(TRAINING).await;
    // From then on an error is a new one.
    all_are_free(&client).await;
    machine.file.edit(|script| script.xid("GPU-0", 79)).unwrap();
    let id = enqueue(&client, "fail", json!({"times": 9}), "small").await;
    let other = enqueue(&client, "noop", json!({}), "small").await;
    let told = waits_for_gpus(&client, other, |wait| matches!(wait, GpuWait::Quarantined { .. })).await;
    assert!(told.contains("GPU-0 of training (") && told.contains("Xid 79"), "{told}");
    says(&machine, &["workers"], "1 quarantined").await;
    client.cancel(&[id, other]).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_gpu_without_memory_left_is_named_with_the_way_out() {
    let machine = GpuMachine::with(1, QUEUES);
    let client = machine.app.client().await;
    let agent = machine.agent(TRAINING).await;
    let said = r#"DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")"#;
    let id = enqueue(&client, "panics", json!({"message": said}), "small").await;
    let failure = settled(&client, id).await.record.failure.unwrap();
    assert_eq!(failure.kind, Failure::GPU_OUT_OF_MEMORY);
    assert!(failure.message.contains("gpu_memory") && failure.message.contains(said), "{failure}");
    agent.stop().await;
}

#[tokio::test]
async fn a_task_shows_what_it_ran_on() {
    let machine = GpuMachine::with(1, QUEUES);
    // Over AWS, whoever opens the first client makes queues and table.
    drop(machine.app.client().await);
    let agent = machine.agent(TRAINING).await;
    let ran = machine.app.run(&["enqueue", "noop", "--queue", "either", "--wait", "--json"]).await;
    let id = serde_json::from_str::<serde_json::Value>(&ran.stdout).unwrap()["id"].as_str().unwrap().to_owned();
    says(&machine, &["task", &id], "attempt 1 ran on GPU-0: memory 500 MiB (mean 500 MiB), utilisation 0 %").await;
    let ran = machine.app.run(&["enqueue", "noop", "--queue", "either", "--gpus", "0", "--wait"]).await;
    assert!(ran.stderr.contains("ran on the CPU"), "{}", ran.stderr);
    agent.stop().await;
    machine.file.edit(|script| script.vanish("GPU-0")).unwrap();
    let agent = machine.agent(TRAINING).await;
    let ran = machine.app.run(&["enqueue", "noop", "--queue", "either", "--wait"]).await;
    assert!(ran.stderr.contains("ran on the CPU"), "{}", ran.stderr);
    agent.stop().await;
}
