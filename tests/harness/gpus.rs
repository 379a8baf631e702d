//! A machine with GPUs after a script, and an application on it.
//!
//! No device is needed: the agents' helper and probe are stand-ins that read a file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rhubarb::{
    Client,
    core::{
        backend::{WorkerGpu, WorkerGpuState},
        ids::TaskId,
    },
};
use rhubarb_testkit::gpus::{GpuFile, GpuScript};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;
use tokio::process::Command;

use crate::{AgentProcess, App, Ran, binary, enqueue, until};

/// A machine with GPUs.
pub struct GpuMachine {
    /// The application on it.
    pub app: App,
    /// What its devices do.
    pub file: GpuFile,
}

#[expect(clippy::expect_used, reason = "a test cannot go on without its machine")]
impl GpuMachine {
    /// A machine after this script, with an application of these queues (TOML).
    #[must_use]
    pub fn after(script: &GpuScript, queues: &str) -> Self {
        let app = App::new(queues);
        fs::create_dir(app.path().join("ledger")).expect("a folder for the ledger");
        let file = GpuFile::new(app.path(), script).expect("the script is written");
        Self { app, file }
    }

    /// A machine with so many devices: `GPU-0` and so on.
    #[must_use]
    pub fn with(gpus: u32, queues: &str) -> Self {
        Self::after(&GpuScript::of(gpus), queues)
    }

    /// A command that finds the devices.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.app.command(arguments);
        command.envs(self.file.variables(&binary("scripted"))).env("RHUBARB_GPU_LOCKS", self.app.path().join("locks"));
        command
    }

    /// Runs such a command to its end.
    pub async fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments)).await
    }

    /// Starts an agent with these arguments and waits until it is ready. Its devices are looked at meanwhile.
    pub async fn agent(&self, arguments: &[&str]) -> AgentProcess {
        AgentProcess::start(self.command(&[&["agent"], arguments].concat())).await
    }

    /// Enqueues a task that has its GPUs to itself for so long, and proves it.
    pub async fn on_gpus(&self, client: &Client, queue: &str, ms: u64) -> TaskId {
        enqueue(client, "on_gpus", json!({"ledger": self.ledger(), "ms": ms}), queue).await
    }

    /// Where such tasks lock the devices they were given.
    #[must_use]
    pub fn ledger(&self) -> PathBuf {
        self.app.path().join("ledger")
    }

    /// The process that was on a device last, once one is.
    pub async fn process_on(&self, uuid: &str) -> Pid {
        let file = self.ledger().join(uuid);
        until(async || last_pid(&file)).await
    }

    /// Kills the function that is on a device, or will be.
    pub async fn kill_function_on(&self, uuid: &str) {
        kill_process_group(self.process_on(uuid).await, Signal::KILL).expect("the function is there");
    }
}

/// The last process that is noted in a file.
#[must_use]
pub fn last_pid(file: &Path) -> Option<Pid> {
    fs::read_to_string(file).ok()?.lines().last()?.parse().ok().and_then(Pid::from_raw)
}

/// Waits until every device was looked at and none is held: then the first ones are leased first, and what a device's
/// row says from then on is news.
pub async fn all_are_free(client: &Client) {
    until(async || {
        let gpus = gpus_of(client).await;
        (!gpus.is_empty() && gpus.iter().all(|gpu| gpu.state == WorkerGpuState::Free)).then_some(())
    })
    .await;
}

/// Waits until a worker says that a device stands like this.
pub async fn comes_to_stand(client: &Client, uuid: &str, wanted: impl Fn(&WorkerGpuState) -> bool) {
    until(async || {
        let gpus = gpus_of(client).await;
        gpus.iter().find(|gpu| gpu.device.uuid == uuid).filter(|gpu| wanted(&gpu.state)).map(drop)
    })
    .await;
}

#[expect(clippy::expect_used, reason = "a test cannot go on without its store")]
async fn gpus_of(client: &Client) -> Vec<WorkerGpu> {
    let workers = client.workers().await.expect("the store answers");
    workers.into_iter().filter(|worker| worker.alive).flat_map(|worker| worker.worker.gpus).collect()
}
