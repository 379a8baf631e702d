//! Memory limits under MPS, NVIDIA's server that lets processes share a device: `CUDA_MPS_PINNED_DEVICE_MEM_LIMIT`,
//! such as `0=8G,1=512MB`.
//!
//! The numbers are those of the devices that a process sees, in its order ("Multi-Process Service", CUDA documentation).
//! So an agent takes them for its own devices, and writes them anew for each function process, which sees but those
//! that it has leased.

use std::collections::BTreeMap;

use super::device::GpuDevice;

/// The variable's name.
pub const MPS_LIMIT: &str = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT";

/// Takes the limits for the memory of these devices, which are in the order that CUDA numbers them.
///
/// # Errors
///
/// The text is no list of limits. A sentence that names the part.
pub fn limit_memory(devices: &mut [GpuDevice], limits: &str) -> Result<(), String> {
    let limits = parse(limits)?;
    for (ordinal, device) in devices.iter_mut().enumerate() {
        if let Some(limit) = limits.get(&ordinal) {
            device.memory = device.memory.min(*limit);
        }
    }
    Ok(())
}

/// The variable for a process that sees devices with this much memory, in this order.
#[must_use]
pub fn limits_of(memories: &[u64]) -> String {
    let limit = |(ordinal, memory): (usize, &u64)| format!("{ordinal}={}M", memory >> 20);
    memories.iter().enumerate().map(limit).collect::<Vec<_>>().join(",")
}

fn parse(limits: &str) -> Result<BTreeMap<usize, u64>, String> {
    let parts = limits.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| entry(part).ok_or_else(|| format!("{MPS_LIMIT}: `{part}` is no limit; write such as 0=8G")))
        .collect()
}

fn entry(part: &str) -> Option<(usize, u64)> {
    let (ordinal, size) = part.split_once('=')?;
    let size = size.trim();
    let digits = size.find(|c: char| !c.is_ascii_digit()).unwrap_or(size.len());
    let (number, unit) = size.split_at(digits);
    let shift = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" => 10,
        "M" | "MB" => 20,
        "G" | "GB" => 30,
        "T" | "TB" => 40,
        _ => return None,
    };
    let bytes = number.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    Some((ordinal.trim().parse().ok()?, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices() -> Vec<GpuDevice> {
        let device = |index: u32| GpuDevice {
            uuid: format!("GPU-{index}"),
            index,
            name: "NVIDIA L4".into(),
            memory: 24 << 30,
            compute: (8, 9),
            parent: None,
            driver: "580.0".into(),
        };
        vec![device(0), device(1), device(2)]
    }

    fn limited(limits: &str) -> Result<Vec<u64>, String> {
        let mut devices = devices();
        limit_memory(&mut devices, limits)?;
        Ok(devices.iter().map(|device| device.memory >> 20).collect())
    }

    #[test]
    fn a_limit_lowers_the_memory_of_its_device_and_never_raises_it() {
        assert_eq!(limited("0=8G, 2=512MB").unwrap(), [8192, 24_576, 512]);
        assert_eq!(limited("1=1073741824").unwrap(), [24_576, 1024, 24_576]);
        assert_eq!(limited("0=900G,7=1G").unwrap(), [24_576; 3]);
        assert_eq!(limited("").unwrap(), [24_576; 3]);
    }

    #[test]
    fn what_is_no_limit_is_named() {
        for (limits, part) in
            [("0=8G,one=2G", "one=2G"), ("0", "0"), ("0=8X", "0=8X"), ("0=99999999999T", "0=99999999999T")]
        {
            assert_eq!(limited(limits).unwrap_err(), format!("{MPS_LIMIT}: `{part}` is no limit; write such as 0=8G"));
        }
    }

    #[test]
    fn a_process_gets_the_limits_of_its_own_devices() {
        assert_eq!(limits_of(&[8 << 30, 512 << 20]), "0=8192M,1=512M");
        assert_eq!(limited(&limits_of(&[8 << 30])).unwrap()[0], 8192);
    }
}
