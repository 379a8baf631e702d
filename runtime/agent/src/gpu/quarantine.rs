//! Devices out of use: a file for each, beside its lock.
//!
//! So a quarantine holds for every agent of the machine and outlives them all. It is lifted by whoever finds the device
//! clean and well again, or by hand: `rhubarb gpus release UUID` removes the file. Where the folder cannot be written
//! the quarantine is the agent's own and ends with it.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

use rhubarb_core::{gpu::GpuReading, time::Timestamp};
use serde::{Deserialize, Serialize};

use super::guard::path;

const KIND: &str = "quarantine";
/// A file that is longer is none of ours.
const BYTES_MAX: u64 = 64 * 1024;

/// Why a device is out of use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// What was found.
    pub reason: String,
    /// When.
    pub since: Timestamp,
    /// The worker that found it.
    pub by: String,
    /// How the device stood when it was last well: what it must come back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<GpuReading>,
}

/// The quarantine of a device, if it is in one. A file that cannot be read is one too.
#[must_use]
pub fn quarantine_of(folder: &Path, uuid: &str) -> Option<Quarantine> {
    let mut text = Vec::new();
    let read = fs::File::open(path(folder, uuid, KIND)).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut text));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        _ => Some(serde_json::from_slice(&text).unwrap_or_else(|_| Quarantine {
            reason: "its quarantine file cannot be read".into(),
            since: Timestamp(0),
            by: String::new(),
            before: None,
        })),
    }
}

/// Puts a device into quarantine.
///
/// # Errors
///
/// The folder cannot be written.
pub fn quarantine(folder: &Path, uuid: &str, quarantine: &Quarantine) -> io::Result<()> {
    let new = path(folder, uuid, &format!("{KIND}-{}", std::process::id()));
    fs::write(&new, serde_json::to_vec(quarantine)?)?;
    fs::rename(new, path(folder, uuid, KIND))
}

/// Ends the quarantine of a device. Returns whether it was in one.
///
/// # Errors
///
/// The file cannot be removed.
pub fn lift(folder: &Path, uuid: &str) -> io::Result<bool> {
    match fs::remove_file(path(folder, uuid, KIND)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarantine_is_read_by_all_until_it_is_lifted_once() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(quarantine_of(dir.path(), "GPU-1"), None);
        let before = Some(GpuReading { uuid: "GPU-1".into(), ..GpuReading::default() });
        let told = Quarantine { reason: "it hangs".into(), since: Timestamp(7), by: "one".into(), before };
        quarantine(dir.path(), "GPU-1", &told).unwrap();
        assert_eq!(quarantine_of(dir.path(), "GPU-1"), Some(told));
        assert_eq!(quarantine_of(dir.path(), "GPU-2"), None);
        assert!(lift(dir.path(), "GPU-1").unwrap());
        assert!(!lift(dir.path(), "GPU-1").unwrap());
        assert_eq!(quarantine_of(dir.path(), "GPU-1"), None);
    }

    #[test]
    fn a_damaged_file_keeps_the_device_out_of_use_and_no_name_leaves_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let file = path(dir.path(), "../MIG-GPU-1/2/3", KIND);
        assert_eq!(file.parent(), Some(dir.path()));
        fs::write(file, "{").unwrap();
        assert!(quarantine_of(dir.path(), "../MIG-GPU-1/2/3").unwrap().reason.contains("cannot be read"));
    }
}
