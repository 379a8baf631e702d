//! GPUs after a script: what a test decides of them, behind the agent's own seam.
//!
//! [`GpuScript`] says which devices there are and how each stands. In one process a test holds it in
//! [`ScriptedGpus`], which is a [`GpuSource`]; for agents that are processes of their own it lies in a file
//! ([`GpuFile`]), which a stand-in for the helper and the probe reads anew at every question. A test changes the script
//! while agents run: devices appear and vanish, keep memory, show errors, fail their probe, hang.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use rhubarb_core::gpu::{
    GpuDevice, GpuError, GpuProcess, GpuReading, GpuSource,
    wire::{GpuAnswer, GpuQuestion},
};
use serde::{Deserialize, Serialize};

/// What is in use on a scripted device that nobody uses.
pub const IDLE_MEMORY: u64 = 500 << 20;

/// The devices of a machine, as a test has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GpuScript {
    /// Each device and how it stands.
    pub devices: Vec<GpuDevice>,
    /// What is read of each. A device without a reading does not answer.
    pub readings: Vec<GpuReading>,
    /// Why a device fails its probe, by UUID.
    pub failing: BTreeMap<String, String>,
    /// Devices whose probe does not end.
    pub hanging: BTreeSet<String>,
    /// Why the driver cannot be asked at the moment.
    pub unavailable: Option<String>,
    /// There is no driver at all.
    pub no_driver: bool,
    /// The helper answers nothing any more.
    pub silent: bool,
    /// The memory of the devices is what MPS leaves a process.
    pub limits_memory: bool,
}

impl GpuScript {
    /// So many well and idle devices of 24 GiB: `GPU-0`, `GPU-1`, …
    #[must_use]
    pub fn of(count: u32) -> Self {
        let mut script = Self::default();
        for index in 0..count {
            script.appear(&format!("GPU-{index}"), 24);
        }
        script
    }

    /// A device comes, of so many GiB.
    pub fn appear(&mut self, uuid: &str, gib: u64) {
        let index = u32::try_from(self.devices.len()).unwrap_or(u32::MAX);
        let (name, driver) = ("NVIDIA L4".to_owned(), "580.0".to_owned());
        let device =
            GpuDevice { uuid: uuid.to_owned(), index, name, memory: gib << 30, compute: (8, 9), parent: None, driver };
        self.devices.push(device);
        self.readings.push(GpuReading {
            uuid: uuid.to_owned(),
            memory_used: IDLE_MEMORY,
            utilisation: Some(0),
            power: Some(30_000),
            temperature: Some(40),
            ecc_uncorrected: Some(0),
            xids: BTreeMap::new(),
            processes: Some(Vec::new()),
        });
    }

    /// A device falls off the bus: it is listed no more and does not answer.
    pub fn vanish(&mut self, uuid: &str) {
        self.devices.retain(|device| device.uuid != uuid);
        self.readings.retain(|reading| reading.uuid != uuid);
    }

    /// A device keeps so many bytes that nobody gives back; 0 gives them back.
    pub fn leak(&mut self, uuid: &str, bytes: u64) {
        self.reading(uuid, |reading| reading.memory_used = IDLE_MEMORY.saturating_add(bytes));
    }

    /// A process stays on a device.
    pub fn occupy(&mut self, uuid: &str, pid: u32) {
        self.reading(uuid, |reading| {
            reading.processes.get_or_insert_default().push(GpuProcess { pid, memory: None });
        });
    }

    /// Uncorrected memory errors come to light on a device.
    pub fn ecc(&mut self, uuid: &str, errors: u64) {
        self.reading(uuid, |reading| *reading.ecc_uncorrected.get_or_insert(0) += errors);
    }

    /// The driver reports an Xid error of a device.
    pub fn xid(&mut self, uuid: &str, xid: u64) {
        self.reading(uuid, |reading| *reading.xids.entry(xid).or_insert(0) += 1);
    }

    /// A device fails its probe from now on, for this reason.
    pub fn fail(&mut self, uuid: &str, reason: &str) {
        self.failing.insert(uuid.to_owned(), reason.to_owned());
    }

    /// A device passes its probe again.
    pub fn heal(&mut self, uuid: &str) {
        self.failing.remove(uuid);
        self.hanging.remove(uuid);
    }

    /// Changes what is read of a device.
    pub fn reading(&mut self, uuid: &str, change: impl FnOnce(&mut GpuReading)) {
        if let Some(reading) = self.readings.iter_mut().find(|reading| reading.uuid == uuid) {
            change(reading);
        }
    }

    /// What the helper answers; none where it is silent.
    #[must_use]
    pub fn answer(&self, question: GpuQuestion) -> Option<GpuAnswer> {
        if self.silent {
            return None;
        }
        if self.no_driver {
            return Some(GpuAnswer::NoDriver("the script has none".into()));
        }
        if let Some(reason) = &self.unavailable {
            return Some(GpuAnswer::Failed(reason.clone()));
        }
        Some(match question {
            GpuQuestion::Devices => GpuAnswer::Devices(self.devices.clone()),
            GpuQuestion::Read => GpuAnswer::Readings(self.readings.clone()),
        })
    }

    /// What a probe of a device comes to. A hanging one is the caller's to hang in.
    ///
    /// # Errors
    ///
    /// The reason of a device that fails, or that is not there.
    pub fn probe(&self, uuid: &str) -> Result<(), String> {
        if let Some(reason) = self.failing.get(uuid) {
            return Err(reason.clone());
        }
        let is_there = self.devices.iter().any(|device| device.uuid == uuid);
        if is_there { Ok(()) } else { Err("CUDA does not see it".into()) }
    }
}

/// A machine's GPUs in the test's own process.
#[derive(Clone, Debug, Default)]
pub struct ScriptedGpus {
    script: Arc<Mutex<GpuScript>>,
    probes: Arc<Mutex<Vec<String>>>,
}

impl ScriptedGpus {
    /// GPUs after this script.
    #[must_use]
    pub fn new(script: GpuScript) -> Self {
        Self { script: Arc::new(Mutex::new(script)), probes: Arc::default() }
    }

    /// The script, to look at or to change.
    pub fn script(&self) -> MutexGuard<'_, GpuScript> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The devices that were probed, in order.
    #[must_use]
    pub fn probes(&self) -> Vec<String> {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ask(&self, question: GpuQuestion) -> Result<GpuAnswer, GpuError> {
        match self.script().answer(question) {
            None => Err(GpuError::Unavailable("the helper did not answer in time".into())),
            Some(GpuAnswer::Failed(reason)) => Err(GpuError::Unavailable(reason)),
            Some(answer) => Ok(answer),
        }
    }
}

#[async_trait]
impl GpuSource for ScriptedGpus {
    async fn devices(&self) -> Result<Vec<GpuDevice>, GpuError> {
        match self.ask(GpuQuestion::Devices)? {
            GpuAnswer::Devices(devices) => Ok(devices),
            _ => Ok(Vec::new()),
        }
    }

    async fn read(&self) -> Result<Vec<GpuReading>, GpuError> {
        match self.ask(GpuQuestion::Read)? {
            GpuAnswer::Readings(readings) => Ok(readings),
            _ => Ok(Vec::new()),
        }
    }

    async fn probe(&self, uuid: &str) -> Result<(), GpuError> {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner).push(uuid.to_owned());
        let script = self.script().clone();
        if script.hanging.contains(uuid) {
            return Err(GpuError::Sick("the probe did not end in time".into()));
        }
        script.probe(uuid).map_err(GpuError::Sick)
    }

    fn limits_memory(&self) -> bool {
        self.script().limits_memory
    }
}

/// A machine's GPUs for agents that are processes of their own: a script in a file.
#[derive(Clone, Debug)]
pub struct GpuFile {
    path: PathBuf,
}

impl GpuFile {
    /// Writes the script into a file of this folder.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn new(folder: &Path, script: &GpuScript) -> std::io::Result<Self> {
        let file = Self { path: folder.join("gpus.json") };
        file.write(script)?;
        Ok(file)
    }

    /// The file that is there already.
    #[must_use]
    pub const fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file says now.
    ///
    /// # Errors
    ///
    /// The file is not there, or holds no script.
    pub fn read(&self) -> std::io::Result<GpuScript> {
        Ok(serde_json::from_slice(&std::fs::read(&self.path)?)?)
    }

    /// Changes the script. A reader sees it as it was or as it is, never in between.
    ///
    /// # Errors
    ///
    /// The file cannot be read or written.
    pub fn edit(&self, change: impl FnOnce(&mut GpuScript)) -> std::io::Result<()> {
        let mut script = self.read()?;
        change(&mut script);
        self.write(&script)
    }

    /// The variables that have an agent ask `stand_in`, a program with the modes `gpu-source FILE` and
    /// `gpu-probe FILE UUID`, in place of the driver.
    #[must_use]
    pub fn variables(&self, stand_in: &Path) -> [(&'static str, String); 2] {
        let command = |mode| format!("{} {mode} {}", stand_in.display(), self.path.display());
        [("RHUBARB_GPU_SOURCE", command("gpu-source")), ("RHUBARB_GPU_PROBE", command("gpu-probe"))]
    }

    fn write(&self, script: &GpuScript) -> std::io::Result<()> {
        let new = self.path.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(script)?)?;
        std::fs::rename(new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_source_says_what_its_script_says_now() {
        let gpus = ScriptedGpus::new(GpuScript::of(2));
        assert_eq!(gpus.devices().await.unwrap().len(), 2);
        gpus.script().leak("GPU-0", 1 << 30);
        gpus.script().fail("GPU-0", "wrong numbers");
        gpus.script().vanish("GPU-1");
        let readings = gpus.read().await.unwrap();
        assert_eq!((readings.len(), readings[0].memory_used), (1, IDLE_MEMORY + (1 << 30)));
        assert_eq!(gpus.probe("GPU-0").await, Err(GpuError::Sick("wrong numbers".into())));
        assert!(gpus.probe("GPU-1").await.is_err());
        gpus.script().heal("GPU-0");
        assert_eq!(gpus.probe("GPU-0").await, Ok(()));
        assert_eq!(gpus.probes(), ["GPU-0", "GPU-1", "GPU-0"]);
        gpus.script().no_driver = true;
        assert_eq!(gpus.devices().await, Ok(Vec::new()));
        gpus.script().silent = true;
        assert!(gpus.devices().await.is_err());
    }
}
