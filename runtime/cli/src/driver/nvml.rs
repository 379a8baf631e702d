//! The GPU helper: the process that asks NVML, the driver's management library, so that the agent need not.
//!
//! A call into the driver can block for good on a sick device (NVIDIA/gpu-monitoring-tools issue 46, NVIDIA/NVSentinel
//! issue 1576), and NVML keeps every device open for as long as its process lives (openpbs/openpbs pull request 1513);
//! in a process of its own neither touches the agent or its children. It reads questions from standard input and writes
//! answers to standard output, and ends when the questions do: with the agent.

use std::{
    collections::BTreeMap,
    io::{BufRead, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nvml_wrapper::{
    Device, Nvml,
    bitmasks::event::EventTypes,
    enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor},
    enums::{device::UsedGpuMemory, event::XidError},
    error::NvmlError,
    event::EventSet,
    struct_wrappers::device::ProcessInfo,
};
use rhubarb_core::gpu::{
    GpuDevice, GpuProcess, GpuReading,
    wire::{GpuAnswer, GpuQuestion, PROCESSES_MAX, TEXT_BYTES_MAX, XIDS_MAX},
};

use super::readers::Readers;

/// The name that the driver's packages and the container tools give it; the one without a number is for developers.
const LIBRARY: &str = "libnvidia-ml.so.1";
/// How long one wait for events lasts: the thread does nothing else.
const EVENT_WAIT: Duration = Duration::from_secs(5);
/// The first process namespace of a machine (`PROC_PID_INIT_INO` in Linux): NVML tells ids of that one.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";
/// NVML's number for an Xid that it does not know.
const XID_UNKNOWN: u64 = 999;

/// Answers questions until there are no more.
///
/// # Errors
///
/// A question cannot be read or an answer written: the agent is gone.
pub(super) fn serve(questions: impl BufRead, answers: impl Write) -> std::io::Result<()> {
    let mut machine = Machine::default();
    answer_all(questions, answers, |question| machine.answer(question))
}

fn answer_all(
    questions: impl BufRead,
    mut answers: impl Write,
    mut answer: impl FnMut(GpuQuestion) -> GpuAnswer,
) -> std::io::Result<()> {
    for line in questions.lines() {
        let answer = match GpuQuestion::parse(&line?) {
            Some(question) => answer(question),
            None => GpuAnswer::Failed("that is no question".into()),
        };
        answers.write_all(answer.line().as_bytes())?;
        answers.flush()?;
    }
    Ok(())
}

type Xids = Arc<Mutex<BTreeMap<String, BTreeMap<u64, u64>>>>;

#[derive(Default)]
struct Machine {
    /// Open for good: threads that hang in it cannot be waited for.
    nvml: Option<&'static Nvml>,
    readers: Readers,
    xids: Xids,
}

impl Machine {
    fn answer(&mut self, question: GpuQuestion) -> GpuAnswer {
        let nvml = match self.open() {
            Ok(nvml) => nvml,
            Err(NvmlError::LibloadingError(error)) => return GpuAnswer::NoDriver(plain(&error.to_string())),
            Err(NvmlError::LibraryNotFound) => return GpuAnswer::NoDriver(format!("{LIBRARY} is not there")),
            Err(NvmlError::DriverNotLoaded) => return GpuAnswer::NoDriver("the driver is not loaded".into()),
            Err(error) => return GpuAnswer::Failed(plain(&error.to_string())),
        };
        match question {
            GpuQuestion::Devices => match devices(nvml) {
                Ok(devices) => GpuAnswer::Devices(devices),
                Err(error) => GpuAnswer::Failed(plain(&error.to_string())),
            },
            GpuQuestion::Read => GpuAnswer::Readings(self.readers.read()),
        }
    }

    fn open(&mut self) -> Result<&'static Nvml, NvmlError> {
        if let Some(nvml) = self.nvml {
            return Ok(nvml);
        }
        let nvml: &'static Nvml = Box::leak(Box::new(Nvml::builder().lib_path(LIBRARY.as_ref()).init()?));
        let sees_processes = sees_processes();
        let mut watched = Vec::new();
        for index in 0..nvml.device_count()? {
            let (Ok(device), false) = (nvml.device_by_index(index), self.readers.has(index)) else { continue };
            watched.push(index);
            let xids = Arc::clone(&self.xids);
            self.readers.insert(index, move || read(&device, &xids, sees_processes));
        }
        let xids = Arc::clone(&self.xids);
        std::thread::spawn(move || watch_xids(nvml, watched, &xids));
        self.nvml = Some(nvml);
        Ok(nvml)
    }
}

/// Every device that can be leased: one that MIG has divided is there as its instances.
fn devices(nvml: &'static Nvml) -> Result<Vec<GpuDevice>, NvmlError> {
    let driver = nvml.sys_driver_version()?;
    let mut devices = Vec::new();
    for index in 0..nvml.device_count()? {
        // One that has fallen off the bus, or may not be used by this user, is not there.
        let Ok(device) = nvml.device_by_index(index) else { continue };
        let Ok(whole) = describe(&device, index, &driver) else { continue };
        match instances(&device) {
            None => devices.push(whole),
            Some(instances) => devices.extend(instances.iter().filter_map(|instance| {
                Some(GpuDevice {
                    uuid: instance.uuid().ok()?,
                    name: instance.name().unwrap_or_else(|_| whole.name.clone()),
                    memory: instance.memory_info().ok()?.total,
                    parent: Some(whole.uuid.clone()),
                    ..whole.clone()
                })
            })),
        }
    }
    Ok(devices)
}

fn describe(device: &Device<'_>, index: u32, driver: &str) -> Result<GpuDevice, NvmlError> {
    let compute = device.cuda_compute_capability()?;
    let number = |part: i32| u32::try_from(part).unwrap_or(0);
    Ok(GpuDevice {
        uuid: device.uuid()?,
        index,
        name: plain(&device.name()?),
        memory: device.memory_info()?.total,
        compute: (number(compute.major), number(compute.minor)),
        parent: None,
        driver: plain(driver),
    })
}

/// The instances of a device that MIG has divided; `None` for a whole one.
fn instances<'nvml>(device: &Device<'nvml>) -> Option<Vec<Device<'nvml>>> {
    let is_divided = device.mig_mode().is_ok_and(|mode| mode.current == 1);
    let most = is_divided.then(|| device.mig_device_count().unwrap_or(0))?;
    Some((0..most).filter_map(|index| device.mig_device_by_index(index).ok()).collect())
}

/// Reads a device, or each of its instances. Temperature, power, errors and Xids are the whole device's.
fn read(device: &Device<'_>, xids: &Xids, sees_processes: bool) -> Vec<GpuReading> {
    let Ok(uuid) = device.uuid() else { return Vec::new() };
    let whole = GpuReading {
        power: device.power_usage().ok(),
        temperature: device.temperature(TemperatureSensor::Gpu).ok(),
        ecc_uncorrected: device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile).ok(),
        xids: lock(xids).get(&uuid).cloned().unwrap_or_default(),
        ..GpuReading::default()
    };
    let of = |device: &Device<'_>| {
        Some(GpuReading {
            uuid: device.uuid().ok()?,
            memory_used: device.memory_info().ok()?.used,
            // NVML has none for an instance.
            utilisation: device.utilization_rates().ok().map(|rates| rates.gpu),
            processes: if sees_processes { processes(device) } else { None },
            ..whole.clone()
        })
    };
    match instances(device) {
        None => of(device).into_iter().collect(),
        Some(instances) => instances.iter().filter_map(of).collect(),
    }
}

/// Who has the device open. The server of MPS is nobody's task: it stays after the first one.
fn processes(device: &Device<'_>) -> Option<Vec<GpuProcess>> {
    let compute = device.running_compute_processes().ok()?;
    // Devices without graphics have no such list.
    let graphics = device.running_graphics_processes().unwrap_or_default();
    let mut found: BTreeMap<u32, GpuProcess> = BTreeMap::new();
    for ProcessInfo { pid, used_gpu_memory, .. } in compute.into_iter().chain(graphics) {
        let memory = match used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        };
        if found.len() < PROCESSES_MAX && !is_mps_server(pid) {
            found.insert(pid, GpuProcess { pid, memory });
        }
    }
    Some(found.into_values().collect())
}

fn is_mps_server(pid: u32) -> bool {
    // Linux keeps the first 15 bytes of `nvidia-cuda-mps-server`.
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("nvidia-cuda-mps"))
}

/// In a namespace of its own a container is told none of the ids, or other processes' ids: no list is better than one
/// that is empty in error.
fn sees_processes() -> bool {
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|namespace| namespace.as_os_str() == FIRST_PID_NAMESPACE)
}

/// Counts Xid errors for as long as the process lives; where the driver gives no events, they are not told.
fn watch_xids(nvml: &'static Nvml, mut indices: Vec<u32>, xids: &Xids) {
    let events = loop {
        if indices.is_empty() {
            return;
        }
        match events_of(nvml, &indices) {
            Ok(events) => break events,
            // A set that refuses one device is lost: without that device the next one may work.
            Err(refused) => indices.retain(|index| *index != refused),
        }
    };
    let wait = u32::try_from(EVENT_WAIT.as_millis()).unwrap_or(u32::MAX);
    loop {
        match events.wait(wait) {
            Ok(event) => {
                let xid = match event.event_data {
                    Some(XidError::Value(xid)) => xid,
                    Some(XidError::Unknown) => XID_UNKNOWN,
                    None => continue,
                };
                let Ok(uuid) = event.device.uuid() else { continue };
                count(&mut lock(xids), uuid, xid);
            }
            Err(NvmlError::Timeout) => {}
            // Such as a device that has fallen off the bus: the others' events go on.
            Err(_) => std::thread::sleep(EVENT_WAIT),
        }
    }
}

fn events_of(nvml: &'static Nvml, indices: &[u32]) -> Result<EventSet<'static>, u32> {
    let first = indices.first().copied().unwrap_or_default();
    let mut events = nvml.create_event_set().map_err(|_| first)?;
    for index in indices {
        let device = nvml.device_by_index(*index).map_err(|_| *index)?;
        events = device.register_events(EventTypes::CRITICAL_XID_ERROR, events).map_err(|_| *index)?;
    }
    Ok(events)
}

fn count(xids: &mut BTreeMap<String, BTreeMap<u64, u64>>, uuid: String, xid: u64) {
    let counts = xids.entry(uuid).or_default();
    if counts.len() < XIDS_MAX || counts.contains_key(&xid) {
        *counts.entry(xid).or_default() += 1;
    }
}

fn lock(xids: &Xids) -> MutexGuard<'_, BTreeMap<String, BTreeMap<u64, u64>>> {
    xids.lock().unwrap_or_else(PoisonError::into_inner)
}

fn plain(text: &str) -> String {
    let mut plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut end = plain.len().min(TEXT_BYTES_MAX);
    while !plain.is_char_boundary(end) {
        end -= 1;
    }
    plain.truncate(end);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(questions: &str) -> Vec<GpuAnswer> {
        let mut answers = Vec::new();
        let answer = |question| match question {
            GpuQuestion::Devices => GpuAnswer::Devices(Vec::new()),
            GpuQuestion::Read => GpuAnswer::Readings(Vec::new()),
        };
        answer_all(questions.as_bytes(), &mut answers, answer).unwrap();
        answers.split_inclusive(|byte| *byte == b'\n').map(|line| GpuAnswer::parse(line).unwrap()).collect()
    }

    #[test]
    fn each_question_has_its_answer_and_the_end_of_the_questions_is_the_end() {
        let nothing = [GpuAnswer::Devices(Vec::new()), GpuAnswer::Readings(Vec::new())];
        assert_eq!(answered("\"devices\"\n\"read\"\n"), nothing);
        assert_eq!(answered(""), []);
        assert_eq!(answered("what?\n"), [GpuAnswer::Failed("that is no question".into())]);
    }

    #[test]
    fn xids_are_counted_by_kind_and_the_kinds_are_bounded() {
        let mut xids = BTreeMap::new();
        for xid in 0..1000 {
            count(&mut xids, "GPU-0".into(), xid);
        }
        count(&mut xids, "GPU-0".into(), 7);
        assert_eq!((xids["GPU-0"].len(), xids["GPU-0"][&7]), (XIDS_MAX, 2));
    }

    #[test]
    fn a_text_of_the_driver_fits_the_wire() {
        let long = format!("\x1b[2J{}", "é".repeat(TEXT_BYTES_MAX));
        let answer = GpuAnswer::Failed(plain(&long));
        assert_eq!(GpuAnswer::parse(answer.line().as_bytes()).unwrap(), answer);
    }
}
