//! `rhubarb gpus`: which GPUs there are, how they stand, and who holds them; and the way back from a quarantine.
//!
//! What a device does now is asked of this machine's driver; who holds it is in the rows of the workers, which tell of
//! other machines' devices too. Neither needs the other: without a driver there are the rows, and without a store the
//! devices of this machine. Looking changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::IsTerminal as _,
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Subcommand};
use rhubarb::Client;
use rhubarb_agent::gpu::{LOCKS_DEFAULT, helper::GpuHelper, lift, quarantine_of};
use rhubarb_core::{
    backend::{Heard, WorkerGpuState},
    gpu::{GpuDevice, GpuError, GpuReading, GpuSource as _, wire::check_uuid},
    ids::{TaskId, WorkerId},
};
use serde::Serialize;

use crate::{
    driver,
    exit::{CliError, Result},
    session::Session,
};

/// Between two looks of `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// Show the GPUs: memory, utilisation, state, and who holds them
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  rhubarb gpus
  rhubarb gpus --watch
  rhubarb gpus --json | jq 'select(.state == \"quarantined\") | {uuid, reason}'
  rhubarb gpus release GPU-6f1d0ad2-1c0e-4f6b-9a52-3c8e5f0b7a11"
)]
pub(crate) struct Gpus {
    #[command(subcommand)]
    command: Option<GpusCommand>,
    /// Look again every two seconds until ctrl-c
    #[arg(long)]
    watch: bool,
    /// The folder in which agents lock GPUs and quarantine them [default: /run/lock/rhubarb-gpus]
    #[arg(long, env = "RHUBARB_GPU_LOCKS", value_name = "FOLDER", global = true)]
    locks: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum GpusCommand {
    /// Bring a GPU of this machine back from its quarantine: agents may lease it again at once
    #[command(after_help = "Example: rhubarb gpus release GPU-6f1d0ad2-1c0e-4f6b-9a52-3c8e5f0b7a11")]
    Release {
        /// The device's UUID, as `rhubarb gpus` shows it
        uuid: String,
    },
}

impl Gpus {
    /// Shows them, or releases one.
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let folders = self.locks.map_or_else(|| folders_of(session), |folder| vec![folder]);
        if let Some(GpusCommand::Release { uuid }) = self.command {
            return release(session, &folders, &uuid);
        }
        let view = View::new(session, folders).await?;
        if !self.watch {
            return view.show(session).await;
        }
        let mut ticks = tokio::time::interval(WATCH_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let draws = !session.screen.json() && std::io::stdout().is_terminal();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = tokio::signal::ctrl_c() => return Err(CliError::Interrupted),
            }
            if draws {
                // The cursor to the first corner, and nothing below it.
                session.screen.line("\x1b[H\x1b[2J")?;
            }
            view.show(session).await?;
        }
    }
}

/// The folders that the project's workers name; without any the one that agents use by default.
fn folders_of(session: &Session) -> Vec<PathBuf> {
    let workers = session.project().map(|project| project.config.workers.clone()).unwrap_or_default();
    let named: BTreeSet<PathBuf> =
        workers.into_values().filter_map(|worker| worker.gpu_locks).map(PathBuf::from).collect();
    if named.is_empty() { vec![LOCKS_DEFAULT.into()] } else { named.into_iter().collect() }
}

fn release(session: &Session, folders: &[PathBuf], uuid: &str) -> Result<()> {
    check_uuid(uuid).map_err(|mistake| CliError::Usage(format!("{mistake}; `rhubarb gpus` shows them")))?;
    let mut released = false;
    for folder in folders {
        released |= lift(folder, uuid).map_err(|error| {
            CliError::Usage(format!("cannot end the quarantine of {uuid} in {}: {error}", folder.display()))
        })?;
    }
    if !released {
        let looked: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
        let looked = looked.join(", ");
        return Err(CliError::Usage(format!(
            "{uuid} is in no quarantine of {looked}; where agents use another folder, name it by --locks"
        )));
    }
    if session.screen.json() {
        return session.screen.document(&serde_json::json!({ "uuid": uuid, "released": true }));
    }
    session.screen.line(format!("{uuid} is released"))
}

/// What is asked at each look.
struct View {
    driver: GpuHelper,
    folders: Vec<PathBuf>,
    host: String,
    client: Option<Client>,
}

impl View {
    async fn new(session: &Session, folders: Vec<PathBuf>) -> Result<Self> {
        let options = driver::options(session)?;
        let client = match session.client().await {
            Ok(client) => Some(client),
            Err(error) => {
                session.screen.note(format!("workers are not shown: {}", error.text().unwrap_or("stopped")));
                None
            }
        };
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(Self { driver: GpuHelper::new(options), folders, host, client })
    }

    async fn show(&self, session: &Session) -> Result<()> {
        let here = match self.here().await {
            Ok(here) => here,
            Err(error) => {
                session.screen.note(error.to_string());
                Vec::new()
            }
        };
        let workers = match &self.client {
            Some(client) => client.workers().await?,
            None => Vec::new(),
        };
        let quarantined =
            |uuid: &str| self.folders.iter().find_map(|folder| quarantine_of(folder, uuid)).map(|it| it.reason);
        let gpus = joined(here, &self.host, &workers, quarantined);
        let header = ["gpu", "name", "host", "memory", "use", "power", "heat", "state", "held by"];
        let none = "no GPUs: this machine shows none (no NVIDIA driver, or no device that may be used), and no live worker has any";
        session.screen.rows(&gpus, &header, row, none)
    }

    /// The devices of this machine that may be used, and what is read of each.
    async fn here(&self) -> Result<Vec<(GpuDevice, Option<GpuReading>)>, GpuError> {
        let devices = self.driver.devices().await?;
        let readings = self.driver.read().await?;
        let with_reading = |device: GpuDevice| {
            let reading = readings.iter().find(|reading| reading.uuid == device.uuid).cloned();
            (device, reading)
        };
        Ok(devices.into_iter().map(with_reading).collect())
    }
}

/// A device as it is shown.
#[derive(Debug, Serialize)]
struct Gpu {
    #[serde(flatten)]
    device: GpuDevice,
    host: String,
    /// `free`, `held`, `checking`, `quarantined`, or `unserved` where no live worker has it.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    holders: Vec<Holder>,
    /// The live workers that may lease it.
    workers: Vec<WorkerId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reading: Option<GpuReading>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Holder {
    worker: WorkerId,
    task: TaskId,
}

/// This machine's devices with what the workers' rows say of them, and after them those of other machines.
fn joined(
    here: Vec<(GpuDevice, Option<GpuReading>)>,
    host: &str,
    workers: &[Heard],
    quarantined: impl Fn(&str) -> Option<String>,
) -> Vec<Gpu> {
    let mut gpus: Vec<Gpu> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for (device, reading) in here {
        let reason = quarantined(&device.uuid);
        let state = if reason.is_some() { "quarantined" } else { "unserved" };
        places.insert(device.uuid.clone(), gpus.len());
        let (host, holders, workers) = (host.to_owned(), Vec::new(), Vec::new());
        gpus.push(Gpu { device, host, state, reason, holders, workers, reading });
    }
    for Heard { worker, .. } in workers.iter().filter(|heard| heard.alive) {
        for theirs in &worker.gpus {
            let place = *places.entry(theirs.device.uuid.clone()).or_insert(gpus.len());
            if place == gpus.len() {
                let (device, host) = (theirs.device.clone(), worker.host.clone());
                let (holders, workers) = (Vec::new(), Vec::new());
                gpus.push(Gpu { device, host, state: "unserved", reason: None, holders, workers, reading: None });
            }
            if let Some(gpu) = gpus.get_mut(place) {
                gpu.hear(&worker.id, &theirs.state);
            }
        }
    }
    gpus
}

impl Gpu {
    /// Takes in what a worker says of it. Of several, the one that holds it knows best, and an agent that finds it free
    /// knows least.
    fn hear(&mut self, worker: &WorkerId, theirs: &WorkerGpuState) {
        self.workers.push(worker.clone());
        let word = match theirs {
            WorkerGpuState::Free => "free",
            WorkerGpuState::Held { tasks } => {
                let holder = |task: &TaskId| Holder { worker: worker.clone(), task: *task };
                self.holders.extend(tasks.iter().map(holder));
                "held"
            }
            WorkerGpuState::Checking => "checking",
            WorkerGpuState::Quarantined { reason } => {
                self.reason.get_or_insert_with(|| reason.clone());
                "quarantined"
            }
        };
        const BY_WEIGHT: [&str; 5] = ["unserved", "free", "held", "checking", "quarantined"];
        let weight = |word: &str| BY_WEIGHT.iter().position(|known| *known == word);
        if weight(word) > weight(self.state) {
            self.state = word;
        }
    }
}

fn row(gpu: &Gpu) -> Vec<String> {
    let Gpu { device, host, state, reason, holders, workers, reading } = gpu;
    let gib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 30));
    let total = gib(device.memory);
    let read = |text: fn(&GpuReading) -> Option<String>| reading.as_ref().and_then(text).unwrap_or_default();
    let state = match (reason, *state) {
        (Some(reason), state) => format!("{state}: {reason}"),
        (None, "unserved") => "no worker".to_owned(),
        (None, state) => state.to_owned(),
    };
    let held: Vec<String> = holders.iter().map(|Holder { worker, task }| format!("{worker} {task}")).collect();
    let held = match held.is_empty() && gpu.state == "held" && !workers.is_empty() {
        // Such as an agent over another store.
        true => "another agent".to_owned(),
        false => held.join(", "),
    };
    vec![
        device.uuid.clone(),
        device.name.clone(),
        host.clone(),
        reading.as_ref().map_or_else(|| format!("{total} GiB"), |it| format!("{}/{total} GiB", gib(it.memory_used))),
        read(|it| Some(format!("{}%", it.utilisation?))),
        read(|it| Some(format!("{} W", it.power? / 1000))),
        read(|it| Some(format!("{} °C", it.temperature?))),
        state,
        held,
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn device(uuid: &str) -> GpuDevice {
        let (name, driver) = ("NVIDIA L4".into(), "580.0".into());
        GpuDevice { uuid: uuid.into(), index: 0, name, memory: 24 << 30, compute: (8, 9), parent: None, driver }
    }

    fn worker(id: &str, host: &str, alive: bool, gpus: &serde_json::Value) -> Heard {
        serde_json::from_value(json!({
            "id": id, "instance": "i", "host": host, "pid": 7, "started": 0, "version": "0.1.0", "state": "running",
            "queues": [], "concurrency": 1, "prefetch": 0, "functions": [], "gpus": gpus, "holds": [],
            "silent_after": {"secs": 15, "nanos": 0}, "heard": 1000, "alive": alive,
        }))
        .unwrap()
    }

    fn gpu(uuid: &str, state: serde_json::Value) -> serde_json::Value {
        let mut gpu = serde_json::to_value(device(uuid)).unwrap();
        gpu.as_object_mut().unwrap().extend(state.as_object().unwrap().clone());
        gpu
    }

    const TASK: &str = "0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b";

    #[test]
    fn a_device_is_shown_once_with_what_it_does_and_who_holds_it() {
        let reading = GpuReading {
            uuid: "GPU-1".into(),
            memory_used: 6 << 30,
            utilisation: Some(97),
            power: Some(71_900),
            temperature: Some(64),
            ..GpuReading::default()
        };
        let workers = [
            worker("a", "here", true, &json!([gpu("GPU-1", json!({"state": "held", "tasks": [TASK]}))])),
            worker("b", "here", true, &json!([gpu("GPU-1", json!({"state": "held", "tasks": []}))])),
        ];
        let gpus = joined(vec![(device("GPU-1"), Some(reading))], "here", &workers, |_| None);
        assert_eq!(gpus.len(), 1);
        let cells = ["GPU-1", "NVIDIA L4", "here", "6.0/24.0 GiB", "97%", "71 W", "64 °C", "held"];
        assert_eq!(row(&gpus[0])[..8], cells);
        assert_eq!(row(&gpus[0])[8], format!("a {TASK}"));
        let json = serde_json::to_value(&gpus[0]).unwrap();
        assert_eq!(json["holders"], json!([{"worker": "a", "task": TASK}]));
        assert_eq!((&json["workers"], &json["reading"]["power"]), (&json!(["a", "b"]), &json!(71_900)));
    }

    #[test]
    fn devices_elsewhere_come_from_the_rows_of_live_workers_alone() {
        let workers = [
            worker("far", "there", true, &json!([gpu("GPU-2", json!({"state": "free"}))])),
            worker("gone", "there", false, &json!([gpu("GPU-3", json!({"state": "free"}))])),
        ];
        let gpus = joined(vec![(device("GPU-1"), None)], "here", &workers, |_| None);
        let shown: Vec<Vec<String>> = gpus.iter().map(row).collect();
        assert_eq!((gpus.len(), shown[0][7].as_str()), (2, "no worker"));
        assert_eq!((shown[1][2].as_str(), shown[1][3].as_str(), shown[1][7].as_str()), ("there", "24.0 GiB", "free"));
    }

    #[test]
    fn a_quarantine_shows_its_reason_with_and_without_a_worker() {
        let alone = joined(vec![(device("GPU-1"), None)], "here", &[], |_| Some("it hangs".into()));
        assert_eq!(row(&alone[0])[7], "quarantined: it hangs");
        let said = json!([gpu("GPU-1", json!({"state": "quarantined", "reason": "wrong numbers"}))]);
        let workers = [
            worker("a", "here", true, &json!([gpu("GPU-1", json!({"state": "free"}))])),
            worker("b", "here", true, &said),
        ];
        let gpus = joined(Vec::new(), "here", &workers, |_| None);
        assert_eq!(row(&gpus[0])[7..], ["quarantined: wrong numbers", ""]);
    }

    #[test]
    fn a_device_that_an_agent_of_another_store_holds_is_said_to_be_held() {
        let workers = [worker("a", "here", true, &json!([gpu("GPU-1", json!({"state": "held", "tasks": []}))]))];
        assert_eq!(row(&joined(Vec::new(), "here", &workers, |_| None)[0])[7..], ["held", "another agent"]);
    }
}
