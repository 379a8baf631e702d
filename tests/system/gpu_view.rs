//! What is shown of GPUs after a script: `rhubarb gpus`, its way out of a quarantine, and the metrics.

use std::net::SocketAddr;

use rhubarb::core::{ids::TaskId, row::State};
use rhubarb_testkit::gpus::{GpuFile, GpuScript};
use rhubarb_tests::{AgentProcess, App, binary, enqueue, reached, settled, until};
use serde_json::{Value, json};

const GPUS: &str = r#"
[queues.one]
gpus = 1
lease = "{lease}"
[workers.gpu]
queues = ["one"]
"#;

struct Machine {
    app: App,
    file: GpuFile,
}

impl Machine {
    fn after(script: &GpuScript) -> Self {
        let app = App::new(GPUS);
        std::fs::create_dir(app.path().join("ledger")).unwrap();
        let file = GpuFile::new(app.path(), script).unwrap();
        Self { app, file }
    }

    fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = self.app.command(arguments);
        command.envs(self.file.variables(&binary("scripted"))).env("RHUBARB_GPU_LOCKS", self.app.path().join("locks"));
        command
    }

    /// Exit code, standard output and standard error.
    async fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let ran = self.command(arguments).output().await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (ran.status.code(), text(ran.stdout), text(ran.stderr))
    }

    /// What `rhubarb gpus` says of a device.
    async fn shown(&self, uuid: &str) -> Option<Value> {
        let (code, out, _) = self.run(&["gpus", "--json"]).await;
        assert_eq!(code, Some(0));
        let gpus: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        gpus.into_iter().find(|gpu| gpu["uuid"] == uuid)
    }

    async fn task(&self, ms: u64) -> TaskId {
        let args = json!({"ledger": self.app.path().join("ledger"), "ms": ms});
        enqueue(&self.app.client().await, "on_gpus", args, "one").await
    }
}

#[tokio::test]
async fn without_a_driver_it_says_so_and_that_is_no_failure() {
    let machine = Machine::after(&GpuScript { no_driver: true, ..GpuScript::default() });
    let _ = machine.app.client().await;
    let (code, out, told) = machine.run(&["gpus"]).await;
    assert_eq!((code, out.as_str()), (Some(0), ""));
    assert!(told.contains("no GPUs: this machine shows none (no NVIDIA driver"), "{told}");
    let agent = AgentProcess::start(machine.command(&["agent", "gpu"])).await;
    let told = agent.log().matches("no NVIDIA driver").count();
    assert_eq!(told, 1, "{}", agent.log());
    agent.stop().await;
}

#[tokio::test]
async fn a_device_is_shown_with_its_reading_and_who_holds_it() {
    let machine = Machine::after(&GpuScript::of(2));
    machine.file.edit(|script| script.reading("GPU-0", |reading| reading.utilisation = Some(97))).unwrap();
    let client = machine.app.client().await;
    let gpu = machine.shown("GPU-0").await.unwrap();
    assert_eq!((&gpu["state"], &gpu["reading"]["utilisation"]), (&json!("unserved"), &json!(97)));

    let agent = AgentProcess::start(machine.command(&["agent", "gpu", "--name", "here"])).await;
    let id = machine.task(60_000).await;
    reached(&client, id, State::Running).await;
    let holders = json!([{"worker": "here", "task": id}]);
    until(async || machine.shown("GPU-0").await.filter(|gpu| gpu["holders"] == holders)).await;
    until(async || machine.shown("GPU-1").await.filter(|gpu| gpu["state"] == "free")).await;
    let (_, table, _) = machine.run(&["gpus"]).await;
    let line = table.lines().find(|line| line.starts_with("GPU-0")).unwrap();
    assert!(line.contains("97%") && line.contains("held") && line.contains(&format!("here {id}")), "{table}");
    // A client that may use but one of them sees that one alone, and the rest in the workers' rows.
    let seen = machine.command(&["gpus", "--json"]).env("CUDA_VISIBLE_DEVICES", "1").output().await.unwrap();
    let seen = String::from_utf8(seen.stdout).unwrap();
    assert!(seen.lines().next().unwrap().contains("\"GPU-1\""), "{seen}");
    agent.kill().await;
}

#[tokio::test]
async fn a_quarantined_device_is_shown_with_its_reason_and_released_by_hand() {
    let machine = Machine::after(&GpuScript::of(1));
    machine.file.edit(|script| script.fail("GPU-0", "it computed 1 where 2 is right")).unwrap();
    let client = machine.app.client().await;
    let agent = AgentProcess::start(machine.command(&["agent", "gpu"])).await;
    let gpu = until(async || machine.shown("GPU-0").await.filter(|gpu| gpu["state"] == "quarantined")).await;
    assert!(gpu["reason"].as_str().unwrap().contains("it computed 1 where 2 is right"), "{gpu}");
    let id = machine.task(1).await;

    let (code, _, told) = machine.run(&["gpus", "release", "GPU-9"]).await;
    assert_eq!(code, Some(2), "{told}");
    let (code, _, told) = machine.run(&["gpus", "release", "../GPU-0"]).await;
    assert!(code == Some(2) && told.contains("no UUID"), "{told}");
    machine.file.edit(|script| script.heal("GPU-0")).unwrap();
    let released = machine.run(&["gpus", "release", "GPU-0"]).await;
    assert_eq!((released.0, released.1.as_str()), (Some(0), "GPU-0 is released\n"));
    assert_eq!(settled(&client, id).await.record.state, State::Succeeded);
    agent.stop().await;
}

#[tokio::test]
async fn the_metrics_tell_how_each_device_stands_and_how_long_it_was_leased() {
    let machine = Machine::after(&GpuScript::of(2));
    let client = machine.app.client().await;
    let mut command = machine.command(&["agent", "gpu", "--name", "here", "--metrics", "127.0.0.1:0"]);
    command.env_remove("RHUBARB_METRICS");
    let agent = AgentProcess::start(command).await;
    let line = agent.log().lines().find(|line| line.contains("metrics and health at")).unwrap().to_owned();
    let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
    let address: SocketAddr = address.parse().unwrap();
    let id = machine.task(60_000).await;
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
