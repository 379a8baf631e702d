//! A device as NVML describes it, and what NVML reads of it at one moment.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::config::ComputeCapability;

/// A GPU, or an instance of one that MIG has divided: what a lease is decided by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuDevice {
    /// What the driver calls it, e.g. `GPU-1b2c…` or `MIG-…`. It stays the same over restarts.
    pub uuid: String,
    /// The number that NVML lists it by; an instance has its parent's. It may change with every boot.
    pub index: u32,
    /// What it is sold as, e.g. `NVIDIA H200`.
    pub name: String,
    /// All its memory in bytes.
    pub memory: u64,
    /// Major and minor compute capability.
    pub compute: (u32, u32),
    /// The device that MIG has divided, for an instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The driver's version.
    pub driver: String,
}

impl GpuDevice {
    /// Its compute capability as a queue's bound is written.
    #[must_use]
    pub const fn capability(&self) -> ComputeCapability {
        ComputeCapability { major: self.compute.0, minor: self.compute.1 }
    }
}

impl fmt::Display for GpuDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.compute;
        write!(f, "{} ({}, {} MiB, {major}.{minor})", self.uuid, self.name, self.memory >> 20)
    }
}

/// A process that has a device open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GpuProcess {
    /// Its id, in the namespace that NVML sees.
    pub pid: u32,
    /// The device's memory that it holds, in bytes, where NVML tells.
    pub memory: Option<u64>,
}

/// What NVML reads of a device at one moment. What it does not tell is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GpuReading {
    /// The device.
    pub uuid: String,
    /// Memory in use, in bytes.
    pub memory_used: u64,
    /// The part of the last sample period in which a kernel ran, in percent.
    pub utilisation: Option<u32>,
    /// Power draw in milliwatts.
    pub power: Option<u32>,
    /// Degrees Celsius.
    pub temperature: Option<u32>,
    /// Uncorrected ECC errors since the driver was loaded.
    pub ecc_uncorrected: Option<u64>,
    /// How often the driver has reported each Xid error since this watching began (NVIDIA: "Xid Errors").
    pub xids: BTreeMap<u64, u64>,
    /// The processes that have it open; `None` where they cannot be seen, as in some containers.
    pub processes: Option<Vec<GpuProcess>>,
}
