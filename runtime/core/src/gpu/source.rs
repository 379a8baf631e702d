//! Where an agent learns of its devices: the one seam between everything that is decided about GPUs and the driver.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::device::{GpuDevice, GpuReading};

/// Why the driver, or a device, gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// The driver cannot be asked at the moment: nothing is known of any device.
    #[error("the NVIDIA driver cannot be asked: {0}")]
    Unavailable(String),
    /// This device failed: it must not be used.
    #[error("{0}")]
    Sick(String),
}

/// The devices of a machine. Every answer comes within a bound, also from a driver that hangs.
#[async_trait]
pub trait GpuSource: fmt::Debug + Send + Sync {
    /// The devices that this process may use, MIG instances among them, in the order that CUDA numbers them. None where
    /// there is no driver.
    async fn devices(&self) -> Result<Vec<GpuDevice>, GpuError>;

    /// What is read of each device now. One that no longer answers is missing.
    async fn read(&self) -> Result<Vec<GpuReading>, GpuError>;

    /// Allocates on the device, runs a kernel there and checks its numbers, all in a process of its own.
    ///
    /// # Errors
    ///
    /// `Sick` if the device failed, `Unavailable` if that could not be found out.
    async fn probe(&self, uuid: &str) -> Result<(), GpuError>;

    /// True where the memory of the devices is what MPS leaves a process of it: each is to be told
    /// ([`super::mps::limits_of`]).
    fn limits_memory(&self) -> bool {
        false
    }
}

/// What a device did while a task held it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GpuUsage {
    /// The device.
    pub uuid: String,
    /// Readings that it is made of.
    pub readings: u64,
    /// The most of its memory that was in use, in bytes.
    pub memory_peak: u64,
    /// Its memory in use on average, in bytes.
    pub memory_mean: u64,
    /// The highest utilisation in percent, where NVML tells it.
    pub utilisation_peak: Option<u32>,
    /// The average utilisation in percent.
    pub utilisation_mean: Option<u32>,
    /// The highest power in milliwatts.
    pub power_peak: Option<u32>,
    /// The average power in milliwatts.
    pub power_mean: Option<u32>,
    /// The highest temperature in degrees Celsius.
    pub temperature_peak: Option<u32>,
    /// The average temperature in degrees Celsius.
    pub temperature_mean: Option<u32>,
}

/// What an attempt of a queue that asks for GPUs ran on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RanOn {
    /// These devices, which did this meanwhile.
    Gpus(Vec<GpuUsage>),
    /// The CPU, as the queue's `without_gpu` allows.
    Cpu,
}

/// Devices that one attempt holds. Dropped when the process group that used them has been reaped; they go to nobody
/// before that.
#[async_trait]
pub trait GpuHold: fmt::Debug + Send + Sync {
    /// The devices by UUID, as the function's `CUDA_VISIBLE_DEVICES` names them.
    fn uuids(&self) -> &[String];

    /// What MPS is to leave the process of each, as the function's `CUDA_MPS_PINNED_DEVICE_MEM_LIMIT` says it.
    fn memory_limits(&self) -> Option<String> {
        None
    }

    /// Reads them before a process is given them: to this they must come back before they go to the next.
    ///
    /// # Errors
    ///
    /// One of them no longer answers, with the reason for the task's history. Such an attempt counts as interrupted.
    async fn begin(&self) -> Result<(), String>;

    /// What they have done since the hold began, as far as they were read.
    fn usage(&self) -> Vec<GpuUsage>;

    /// Reads them once more, so that the shortest attempt has a usage too. Bounded.
    async fn read(&self);

    /// Notes processes that outlived the process group: while one of them lives, its devices go to nobody.
    fn outlived_by(&self, processes: &[u32]);

    /// After a failed attempt whose process has ended: the reason why one of them is sick, found by a bounded probe.
    /// Such an attempt counts as interrupted.
    async fn sickness(&self) -> Option<String>;

    /// Returns when they are no longer surely ours alone, and never otherwise: what uses them must be stopped.
    async fn lost(&self);
}
