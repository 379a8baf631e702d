//! How an agent and its GPU helper speak: one line of JSON each way, a question and its answer.
//!
//! The helper is a process of its own because a call into the driver can block for good on a sick device, and nothing
//! but the end of its process gets rid of it. The agent asks when it wants to know, so that a reading is
//! never older than the question, and nothing runs between two questions. A line that breaks a rule here is no answer:
//! the agent ends that helper and starts another.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::device::{GpuDevice, GpuReading};

/// A longer line is no answer.
pub const LINE_BYTES_MAX: usize = 1 << 20;
/// More devices, instances counted, than any machine has.
pub const DEVICES_MAX: usize = 256;
/// More processes on one device are not told.
pub const PROCESSES_MAX: usize = 1024;
/// More kinds of Xid than NVIDIA's catalogue has.
pub const XIDS_MAX: usize = 256;
/// The longest name, version, UUID or reason, in bytes.
pub const TEXT_BYTES_MAX: usize = 512;

/// What the agent asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuQuestion {
    /// Which devices are there?
    Devices,
    /// How does each stand now?
    Read,
}

/// What the helper answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuAnswer {
    /// All devices, in NVML's order.
    Devices(Vec<GpuDevice>),
    /// A reading of each device that answered in time.
    Readings(Vec<GpuReading>),
    /// This machine has no NVIDIA driver, for this reason.
    NoDriver(String),
    /// The driver is there and could not be asked, for this reason.
    Failed(String),
}

/// Why a line is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Not JSON, or not of the shape.
    #[error("it is no answer: {0}")]
    Shape(#[from] serde_json::Error),
    /// It breaks a bound.
    #[error("{0}")]
    Bound(String),
}

impl GpuQuestion {
    /// Its line, with the line's end.
    #[must_use]
    pub const fn line(self) -> &'static str {
        match self {
            Self::Devices => "\"devices\"\n",
            Self::Read => "\"read\"\n",
        }
    }

    /// Reads a line; none where it is no question.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line.trim()).ok()
    }
}

impl GpuAnswer {
    /// Its line, with the line's end.
    #[must_use]
    pub fn line(&self) -> String {
        // Plain text and numbers: this cannot fail.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }

    /// Reads a line and checks every bound. UUIDs become names of files and parts of variables: they hold letters,
    /// digits and hyphens only.
    ///
    /// # Errors
    ///
    /// The line is no answer, or breaks a bound.
    pub fn parse(line: &[u8]) -> Result<Self, WireError> {
        let answer: Self = serde_json::from_slice(line)?;
        match &answer {
            Self::Devices(devices) => check_devices(devices),
            Self::Readings(readings) => readings
                .iter()
                .try_for_each(check_reading)
                .and_then(|()| distinct(readings.iter().map(|reading| &reading.uuid))),
            Self::NoDriver(reason) | Self::Failed(reason) => check_text("its reason", reason),
        }
        .map_err(WireError::Bound)?;
        Ok(answer)
    }
}

fn check_devices(devices: &[GpuDevice]) -> Result<(), String> {
    for device in devices {
        check_uuid(&device.uuid)?;
        device.parent.as_deref().map_or(Ok(()), check_uuid)?;
        check_text("a device's name", &device.name)?;
        check_text("the driver's version", &device.driver)?;
    }
    distinct(devices.iter().map(|device| &device.uuid))
}

fn check_reading(reading: &GpuReading) -> Result<(), String> {
    check_uuid(&reading.uuid)?;
    let processes = reading.processes.as_ref().map_or(0, Vec::len);
    if processes > PROCESSES_MAX {
        return Err(format!("{processes} processes on {}, and at most {PROCESSES_MAX} are told", reading.uuid));
    }
    let xids = reading.xids.len();
    if xids > XIDS_MAX { Err(format!("{xids} kinds of Xid on {}", reading.uuid)) } else { Ok(()) }
}

fn distinct<'a>(uuids: impl ExactSizeIterator<Item = &'a String>) -> Result<(), String> {
    let count = uuids.len();
    if count > DEVICES_MAX {
        return Err(format!("{count} devices, and at most {DEVICES_MAX} are taken"));
    }
    let distinct: BTreeSet<&String> = uuids.collect();
    if distinct.len() == count { Ok(()) } else { Err("a device is there twice".into()) }
}

fn check_text(what: &str, text: &str) -> Result<(), String> {
    let is_plain = text.len() <= TEXT_BYTES_MAX && !text.chars().any(char::is_control);
    if is_plain {
        Ok(())
    } else {
        Err(format!("{what} is longer than {TEXT_BYTES_MAX} bytes or has control characters"))
    }
}

/// Says whether a UUID can be trusted to be a name of a file and a part of `CUDA_VISIBLE_DEVICES`.
///
/// # Errors
///
/// A sentence, if not.
pub fn check_uuid(uuid: &str) -> Result<(), String> {
    let is_plain = (1..=128).contains(&uuid.len()) && uuid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let is_named = ["GPU-", "MIG-"].iter().any(|kind| uuid.starts_with(kind));
    if is_plain && is_named { Ok(()) } else { Err(format!("{:?} is no UUID of a device", shown(uuid))) }
}

fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::GpuProcess;

    fn device(uuid: &str) -> GpuDevice {
        GpuDevice {
            uuid: uuid.into(),
            index: 0,
            name: "NVIDIA L4".into(),
            memory: 24 << 30,
            compute: (8, 9),
            parent: None,
            driver: "580.0".into(),
        }
    }

    fn reading(uuid: &str) -> GpuReading {
        let processes = Some(vec![GpuProcess { pid: 7, memory: Some(1 << 20) }]);
        GpuReading { uuid: uuid.into(), xids: [(31, 2), (79, 1)].into(), processes, ..GpuReading::default() }
    }

    fn refused(answer: &GpuAnswer) -> String {
        GpuAnswer::parse(answer.line().as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn questions_and_answers_come_out_as_they_went_in() {
        for question in [GpuQuestion::Devices, GpuQuestion::Read] {
            assert_eq!(GpuQuestion::parse(question.line()), Some(question));
        }
        let answers = [
            GpuAnswer::Devices(vec![device("GPU-1"), device("MIG-2")]),
            GpuAnswer::Readings(vec![reading("GPU-1")]),
            GpuAnswer::NoDriver("libnvidia-ml.so.1 is not there".into()),
            GpuAnswer::Failed("the driver and its library differ".into()),
        ];
        for answer in answers {
            assert_eq!(GpuAnswer::parse(answer.line().trim_end().as_bytes()).unwrap(), answer);
        }
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for line in ["", "{", "null", "[]", "\"devices\"", "{\"devices\":{}}", "{\"other\":[]}", "\u{0}"] {
            assert!(GpuAnswer::parse(line.as_bytes()).is_err(), "{line}");
        }
        assert!(GpuAnswer::parse(b"\xff\xfe").is_err());
        assert_eq!(GpuQuestion::parse("rm -rf"), None);
    }

    #[test]
    fn a_uuid_is_never_a_path_or_a_list() {
        for uuid in ["", "GPU-../../etc", "GPU-1,GPU-2", "0", "gpu-1", "GPU-1\n", "MIG-GPU-1/2/3", &"GPU-".repeat(40)] {
            assert!(refused(&GpuAnswer::Devices(vec![device(uuid)])).contains("no UUID"), "{uuid}");
            assert!(refused(&GpuAnswer::Readings(vec![reading(uuid)])).contains("no UUID"), "{uuid}");
        }
        let child = GpuDevice { parent: Some("/".into()), ..device("MIG-1") };
        assert!(refused(&GpuAnswer::Devices(vec![child])).contains("no UUID"));
    }

    #[test]
    fn more_than_a_machine_can_have_is_refused() {
        let many = (0..=DEVICES_MAX).map(|number| device(&format!("GPU-{number}"))).collect();
        assert!(refused(&GpuAnswer::Devices(many)).contains("257 devices"));
        let twice = vec![device("GPU-1"), device("GPU-1")];
        assert!(refused(&GpuAnswer::Devices(twice)).contains("there twice"));
        let processes = vec![GpuProcess { pid: 7, memory: None }; PROCESSES_MAX + 1];
        let crowded = GpuReading { processes: Some(processes), ..reading("GPU-1") };
        assert!(refused(&GpuAnswer::Readings(vec![crowded])).contains("1025 processes"));
        let xids = (0..=256).map(|xid| (xid, 1)).collect();
        assert!(refused(&GpuAnswer::Readings(vec![GpuReading { xids, ..reading("GPU-1") }])).contains("257 kinds"));
        assert!(refused(&GpuAnswer::Failed("\x1b[2J".into())).contains("control characters"));
        assert!(refused(&GpuAnswer::NoDriver("x".repeat(TEXT_BYTES_MAX + 1))).contains("longer than 512"));
    }
}
