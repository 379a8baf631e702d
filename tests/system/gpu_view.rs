//! What is shown of GPUs after a script: `rhubarb gpus`, its way out of a quarantine, and the metrics.

use std::net::SocketAddr;

use rhubarb::core::row::State;
use rhubarb_testkit::gpus::GpuScript;
use rhubarb_tests::{
    AgentProcess, Ran,
    gpus::{GpuMachine, all_are_free},
    reached, settled, until,
};
use serde_json::{Value, json};

const GPUS: &str = r#"
[queues.one]
gpus = 1
lease = "{lease}"
[workers.gpu]
queues = ["one"]
"#;

/// What `rhubarb gpus` says of a device.
async fn shown(machine: &GpuMachine, uuid: &str) -> Option<Value> {
    let ran = machine.run(&["gpus", "--json"]).await;
    assert_eq!(ran.code, Some(0));
    let gpus: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    gpus.into_iter().find(|gpu| gpu["uuid"] == uuid)
}

#[tokio::test]
async fn without_a_driver_it_says_so_and_that_is_no_failure() {
    let machine = GpuMachine::after(&GpuScript { no_driver: true, ..GpuScript::default() }, GPUS);
    let _ = machine.app.client().await;
    let ran = machine.run(&["gpus"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""));
    assert!(ran.stderr.contains("no GPUs: this machine shows none (no NVIDIA driver"), "{}", ran.stderr);
    let agent = machine.agent(&["gpu"]).await;
    let told = agent.log().matches("no NVIDIA driver").count();
    assert_eq!(told, 1, "{}", agent.log());
    agent.stop().await;
}

#[tokio::test]
async fn a_device_is_shown_with_its_reading_and_who_holds_it() {
    let machine = GpuMachine::with(2, GPUS);
    machine.file.edit(|script| script.reading("GPU-0", |reading| reading.utilisation = Some(97))).unwrap();
    let client = machine.app.client().await;
    let gpu = shown(&machine, "GPU-0").await.unwrap();
    assert_eq!((&gpu["state"], &gpu["reading"]["utilisation"]), (&json!("unserved"), &json!(97)));

    let agent = machine.agent(&["gpu", "--name", "here"]).await;
    all_are_free(&client).await;
    let id = machine.on_gpus(&client, "one", 60_000).await;
    reached(&client, id, State::Running).await;
    let holders = json!([{"worker": "here", "task": id}]);
    until(async || shown(&machine, "GPU-0").await.filter(|gpu| gpu["holders"] == holders)).await;
    until(async || shown(&machine, "GPU-1").await.filter(|gpu| gpu["state"] == "free")).await;
    let table = machine.run(&["gpus"]).await.stdout;
    let line = table.lines().find(|line| line.starts_with("GPU-0")).unwrap();
    assert!(line.contains("97%") && line.contains("held") && line.contains(&format!("here {id}")), "{table}");
    // A client that may use but one of them sees that one alone, and the rest in the workers' rows.
    let mut command = machine.command(&["gpus", "--json"]);
    command.env("CUDA_VISIBLE_DEVICES", "1");
    let seen = Ran::of(command).await.stdout;
    assert!(seen.lines().next().unwrap().contains("\"GPU-1\""), "{seen}");
    agent.kill().await;
}

#[tokio::test]
async fn a_quarantined_device_is_shown_with_its_reason_and_released_by_hand() {
    let machine = GpuMachine::with(1, GPUS);
    machine.file.edit(|script| script.fail("GPU-0", "it computed 1 where 2 is right")).unwrap();
    let client = machine.app.client().await;
    let agent = machine.agent(&["gpu"]).await;
    let gpu = until(async || shown(&machine, "GPU-0").await.filter(|gpu| gpu["state"] == "quarantined")).await;
    assert!(gpu["reason"].as_str().unwrap().contains("it computed 1 where 2 is right"), "{gpu}");
    let id = machine.on_gpus(&client, "one", 1).await;

    let ran = machine.run(&["gpus", "release", "GPU-9"]).await;
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    let ran = machine.run(&["gpus", "release", "../GPU-0"]).await;
    assert!(ran.code == Some(2) && ran.stderr.contains("no UUID"), "{}", ran.stderr);
    machine.file.edit(|script| script.heal("GPU-0")).unwrap();
    let released = machine.run(&["gpus", "release", "GPU-0"]).await;
    assert_eq!((released.code, released.stdout.as_str()), (Some(0), "GPU-0 is released\n"));
    assert_eq!(settled(&client, id).await.record.state, State::Succeeded);
    agent.stop().await;
}

#[tokio::test]
async fn the_metrics_tell_how_each_device_stands_and_how_long_it_was_leased() {
    let machine = GpuMachine::with(2, GPUS);
    let client = machine.app.client().await;
    let mut command = machine.command(&["agent", "gpu", "--name", "here", "--metrics", "127.0.0.1:0"]);
    command.env_remove("RHUBARB_METRICS");
    let agent = AgentProcess::start(command).await;
    let line = agent.log().lines().find(|line| line.contains("metrics and health at")).unwrap().to_owned();
    let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
    let address: SocketAddr = address.parse().unwrap();
    all_are_free(&client).await;
    let id = machine.on_gpus(&client, "one", 60_000).await;
    reached(&client, id, State::Running).await;
    let page = until(async || {
        let (_, page) = crate::metrics::get(address, "/metrics").await;
        (value(&page, "rhubarb_gpu_lease_time_seconds_total", "GPU-0", "").is_some_and(|seconds| seconds > 0.0)
            && value(&page, "rhubarb_gpu_power_watts", "GPU-1", "").is_some())
        .then_some(page)
    })
    .await;
    let of = |name: &str, uuid: &str, state: &str| value(&page, name, uuid, state);
    assert_eq!(of("rhubarb_gpu_memory_limit_bytes", "GPU-0", ""), Some(f64::from(24 << 10) * f64::from(1 << 20)));
    assert_eq!(of("rhubarb_gpu_memory_used_bytes", "GPU-0", ""), Some(f64::from(500 << 20)));
    assert_eq!(of("rhubarb_gpu_utilization_ratio", "GPU-1", ""), Some(0.0));
    assert_eq!(of("rhubarb_gpu_power_watts", "GPU-1", ""), Some(30.0));
    assert_eq!(of("rhubarb_gpu_temperature_celsius", "GPU-1", ""), Some(40.0));
    assert_eq!(of("rhubarb_gpu_devices", "GPU-0", "gpu_state=\"held\""), Some(1.0));
    assert_eq!(of("rhubarb_gpu_devices", "GPU-1", "gpu_state=\"free\""), Some(1.0));
    assert_eq!(of("rhubarb_gpu_lease_time_seconds_total", "GPU-1", ""), Some(0.0));
    agent.kill().await;
}

/// The value of the line of this name, device and further label.
fn value(page: &str, name: &str, uuid: &str, label: &str) -> Option<f64> {
    let fits = |line: &&str| {
        line.starts_with(&format!("{name}{{")) && line.contains(&format!("gpu_uuid=\"{uuid}\"")) && line.contains(label)
    };
    page.lines().find(fits)?.rsplit(' ').next()?.parse().ok()
}
