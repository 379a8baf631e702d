//! What an invocation asks of GPUs, and which devices answer to it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::device::GpuDevice;
use crate::config::{ByteSize, ComputeCapability, QueueConfig};

/// What a queue's invocations ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuAsk {
    /// How many devices.
    pub count: u32,
    /// The least memory of each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// A part of each one's name, without regard to case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The least compute capability of each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute: Option<ComputeCapability>,
    /// How many invocations may share one device; 1 is none.
    pub share: u32,
}

impl GpuAsk {
    /// What the queue says; none where it asks for no GPU.
    #[must_use]
    pub fn of(queue: &QueueConfig) -> Option<Self> {
        (queue.gpus > 0).then(|| Self {
            count: queue.gpus,
            memory: queue.gpu_memory,
            name: queue.gpu_name.clone(),
            compute: queue.compute_capability,
            share: queue.gpu_share.max(1),
        })
    }

    /// Says whether a device is of the kind asked for. A shared one must have the memory for each of those that may
    /// share it.
    #[must_use]
    pub fn fits(&self, device: &GpuDevice) -> bool {
        let least = self.memory.map_or(0, |memory| memory.as_bytes().saturating_mul(u64::from(self.share)));
        let named =
            self.name.as_ref().is_none_or(|part| device.name.to_ascii_lowercase().contains(&part.to_ascii_lowercase()));
        device.memory >= least && named && self.compute.is_none_or(|least| device.capability() >= least)
    }

    /// Says whether enough of these devices are of the kind asked for, leased or not.
    #[must_use]
    pub fn is_met_by<'a>(&self, devices: impl IntoIterator<Item = &'a GpuDevice>) -> bool {
        let fitting = devices.into_iter().filter(|device| self.fits(device)).count();
        u32::try_from(fitting).unwrap_or(u32::MAX) >= self.count
    }
}

impl fmt::Display for GpuAsk {
    /// Such as `2 GPUs with 40GiB, compute capability >=8.0, named H200`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} GPU{}", self.count, if self.count == 1 { "" } else { "s" })?;
        let mut before = " with ";
        if let Some(memory) = self.memory {
            write!(f, "{before}{memory}")?;
            before = ", ";
        }
        if let Some(compute) = self.compute {
            write!(f, "{before}compute capability {compute}")?;
            before = ", ";
        }
        if let Some(name) = &self.name {
            write!(f, "{before}{name:?} in its name")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, gib: u32, compute: (u32, u32)) -> GpuDevice {
        let memory = ByteSize::gib(gib).as_bytes();
        let (uuid, driver) = (format!("GPU-{name}"), "580.0".into());
        GpuDevice { uuid, index: 0, name: format!("NVIDIA {name}"), memory, compute, parent: None, driver }
    }

    fn ask() -> GpuAsk {
        GpuAsk { count: 1, memory: None, name: None, compute: None, share: 1 }
    }

    #[test]
    fn a_device_fits_that_has_all_that_is_asked_for() {
        let h200 = device("H200", 140, (9, 0));
        let t4 = device("T4", 16, (7, 5));
        assert!(ask().fits(&h200) && ask().fits(&t4));
        let large = GpuAsk { memory: Some(ByteSize::gib(40)), ..ask() };
        assert!(large.fits(&h200) && !large.fits(&t4));
        let named = GpuAsk { name: Some("h200".into()), ..ask() };
        assert!(named.fits(&h200) && !named.fits(&t4));
        let new = GpuAsk { compute: Some(ComputeCapability { major: 8, minor: 0 }), ..ask() };
        assert!(new.fits(&h200) && !new.fits(&t4));
    }

    #[test]
    fn a_shared_device_has_the_memory_for_each_that_shares_it() {
        let shared = |gib, share| GpuAsk { memory: Some(ByteSize::gib(gib)), share, ..ask() };
        let device = device("H200", 140, (9, 0));
        assert!(shared(70, 2).fits(&device) && !shared(71, 2).fits(&device) && shared(71, 1).fits(&device));
    }

    #[test]
    fn enough_devices_must_be_of_the_kind() {
        let devices = [device("H200", 140, (9, 0)), device("T4", 16, (7, 5))];
        let two = |memory| GpuAsk { count: 2, memory, ..ask() };
        assert!(two(None).is_met_by(&devices));
        assert!(!two(Some(ByteSize::gib(40))).is_met_by(&devices));
        assert!(!ask().is_met_by([]));
    }

    #[test]
    fn an_ask_reads_as_a_sentence() {
        assert_eq!(ask().to_string(), "1 GPU");
        let all = GpuAsk {
            count: 2,
            memory: Some(ByteSize::gib(40)),
            name: Some("H200".into()),
            compute: Some(ComputeCapability { major: 8, minor: 0 }),
            share: 1,
        };
        assert_eq!(all.to_string(), r#"2 GPUs with 40GiB, compute capability >=8.0, "H200" in its name"#);
    }
}
