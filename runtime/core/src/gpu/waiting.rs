//! Why the tasks of a queue wait for GPUs, told from the workers' rows alone.
//!
//! A row may be a heartbeat old, and says nothing of what comes next: the answer is for people, and decides nothing.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::{ask::GpuAsk, device::GpuDevice};
use crate::{
    backend::{WorkerGpu, WorkerGpuState, WorkerRecord},
    ids::{QueueName, TaskId, WorkerId},
};

/// So many workers or devices are named; the others are counted.
const NAMED_MAX: usize = 3;

/// Why no live worker takes a task of a queue for want of GPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "why", rename_all = "snake_case")]
#[non_exhaustive]
pub enum GpuWait {
    /// No worker that serves the queue has what it asks for.
    Lacking {
        /// The queue.
        queue: QueueName,
        /// What it asks for.
        ask: GpuAsk,
        /// The workers that would serve it, and what they have.
        workers: Vec<(WorkerId, Vec<GpuDevice>)>,
    },
    /// There would be enough, were these not out of use.
    Quarantined {
        /// The worker and its device, and why it is out of use.
        devices: Vec<(WorkerId, String, String)>,
    },
    /// There would be enough, were these not held or looked at before their next lease.
    Held {
        /// The worker and its device, and the tasks it is leased for.
        devices: Vec<(WorkerId, String, Vec<TaskId>)>,
    },
}

impl GpuWait {
    /// Why tasks of the queue wait for GPUs; none where one of these workers, which are alive, can take a task, or
    /// where none of them has said what the queue asks for.
    #[must_use]
    pub fn of<'a>(queue: &QueueName, workers: impl IntoIterator<Item = &'a WorkerRecord>) -> Option<Self> {
        let mut lacking = Vec::new();
        let mut quarantined = Vec::new();
        let mut held = Vec::new();
        let mut asked = None;
        for worker in workers {
            let Some(ask) = worker.gpu_asks.get(queue) else {
                if worker.queues.contains(queue) {
                    return None; // on the CPU
                }
                continue;
            };
            asked = Some(ask.clone());
            let fitting: Vec<&WorkerGpu> = worker.gpus.iter().filter(|gpu| ask.fits(&gpu.device)).collect();
            let open = |is_open: &dyn Fn(&WorkerGpu) -> bool| fitting.iter().filter(|gpu| is_open(gpu)).count() as u64;
            let enough = u64::from(ask.count);
            if open(&|gpu| is_open_to(ask, gpu)) >= enough {
                return None;
            }
            if (fitting.len() as u64) < enough {
                lacking.push((worker.id.clone(), worker.gpus.iter().map(|gpu| gpu.device.clone()).collect()));
            } else if open(&|gpu| !matches!(gpu.state, WorkerGpuState::Quarantined { .. })) < enough {
                quarantined.extend(fitting.iter().filter_map(|gpu| match &gpu.state {
                    WorkerGpuState::Quarantined { reason } => {
                        Some((worker.id.clone(), gpu.device.uuid.clone(), reason.clone()))
                    }
                    WorkerGpuState::Free | WorkerGpuState::Held { .. } | WorkerGpuState::Checking => None,
                }));
            } else {
                held.extend(fitting.iter().filter_map(|gpu| match &gpu.state {
                    WorkerGpuState::Held { tasks } => Some((worker.id.clone(), gpu.device.uuid.clone(), tasks.clone())),
                    WorkerGpuState::Checking => Some((worker.id.clone(), gpu.device.uuid.clone(), Vec::new())),
                    WorkerGpuState::Free | WorkerGpuState::Quarantined { .. } => None,
                }));
            }
        }
        let ask = asked?;
        // What ends soonest comes first: a holder gives back, a quarantine may end, a device must be bought.
        Some(if !held.is_empty() {
            Self::Held { devices: held }
        } else if !quarantined.is_empty() {
            Self::Quarantined { devices: quarantined }
        } else {
            Self::Lacking { queue: queue.clone(), ask, workers: lacking }
        })
    }
}

fn is_open_to(ask: &GpuAsk, gpu: &WorkerGpu) -> bool {
    match &gpu.state {
        WorkerGpuState::Free => true,
        WorkerGpuState::Held { tasks } => !tasks.is_empty() && (tasks.len() as u64) < u64::from(ask.share),
        WorkerGpuState::Checking | WorkerGpuState::Quarantined { .. } => false,
    }
}

impl fmt::Display for GpuWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lacking { queue, ask, workers } => {
                let has = |(worker, devices): &(WorkerId, Vec<GpuDevice>)| {
                    format!("{worker} serves queue {queue} and has {}", in_words(devices))
                };
                write!(f, "no worker has {ask}: {}", named(workers, has))
            }
            Self::Quarantined { devices } => {
                let why =
                    |(worker, uuid, reason): &(WorkerId, String, String)| format!("{uuid} of {worker} ({reason})");
                write!(f, "the GPUs that fit are quarantined: {}", named(devices, why))
            }
            Self::Held { devices } => {
                let by = |(worker, uuid, tasks): &(WorkerId, String, Vec<TaskId>)| match tasks.as_slice() {
                    [] => format!("{uuid} of {worker}"),
                    [task] => format!("{uuid} of {worker} by task {task}"),
                    [task, rest @ ..] => format!("{uuid} of {worker} by task {task} and {} more", rest.len()),
                };
                write!(f, "the GPUs that fit are held: {}", named(devices, by))
            }
        }
    }
}

fn named<T>(all: &[T], show: impl Fn(&T) -> String) -> String {
    let mut shown: Vec<String> = all.iter().take(NAMED_MAX).map(show).collect();
    if all.len() > NAMED_MAX {
        shown.push(format!("{} more", all.len() - NAMED_MAX));
    }
    shown.join(", ")
}

/// Such as `no GPU` or `2 GPUs (2 NVIDIA L4 of 22.5 GiB)`.
fn in_words(devices: &[GpuDevice]) -> String {
    let mut kinds: BTreeMap<(&str, u64), usize> = BTreeMap::new();
    for device in devices {
        *kinds.entry((&device.name, device.memory)).or_default() += 1;
    }
    let kinds: Vec<((&str, u64), usize)> = kinds.into_iter().collect();
    let size = |memory: u64| {
        let tenths = (memory.saturating_mul(10)) >> 30;
        format!("{}.{} GiB", tenths / 10, tenths % 10)
    };
    let kind = |((name, memory), count): &((&str, u64), usize)| format!("{count} {name} of {}", size(*memory));
    match devices.len() {
        0 => "no GPU".to_owned(),
        1 => format!("1 GPU ({})", named(&kinds, |((name, memory), _)| format!("{name}, {}", size(*memory)))),
        count => format!("{count} GPUs ({})", named(&kinds, kind)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{backend::WorkerState, config::ByteSize, time::Timestamp};

    fn big() -> QueueName {
        QueueName::new("big").unwrap()
    }

    fn gpu(index: u32, gib: u32, state: WorkerGpuState) -> WorkerGpu {
        let (uuid, memory) = (format!("GPU-{index}"), ByteSize::gib(gib).as_bytes());
        let (name, driver) = ("NVIDIA L4".into(), "580.0".into());
        WorkerGpu { device: GpuDevice { uuid, index, name, memory, compute: (8, 9), parent: None, driver }, state }
    }

    fn worker(id: &str, gpus: Vec<WorkerGpu>) -> WorkerRecord {
        let ask = GpuAsk { count: 2, memory: Some(ByteSize::gib(40)), name: None, compute: None, share: 1 };
        WorkerRecord {
            id: WorkerId::new(id).unwrap(),
            instance: "i".into(),
            host: "h".into(),
            pid: 1,
            started: Timestamp(0),
            version: "0".into(),
            state: WorkerState::Running,
            queues: vec![big()],
            concurrency: 1,
            prefetch: 0,
            functions: Vec::new(),
            tasks: BTreeMap::new(),
            gpus,
            gpu_asks: [(big(), ask)].into(),
            ecs: None,
            holds: Vec::new(),
            silent_after: Duration::from_secs(15),
        }
    }

    fn why(workers: &[WorkerRecord]) -> Option<String> {
        GpuWait::of(&big(), workers).map(|wait| wait.to_string())
    }

    fn held() -> WorkerGpuState {
        WorkerGpuState::Held { tasks: vec![TaskId::from_bytes([7; 16])] }
    }

    #[test]
    fn a_queue_whose_ask_no_worker_meets_is_told_with_what_they_have() {
        let mut without = worker("cpu", Vec::new());
        without.queues.clear();
        let told = "no worker has 2 GPUs with 40GiB: training serves queue big and has 1 GPU (NVIDIA L4, 80.0 GiB), \
                    cpu serves queue big and has no GPU";
        assert_eq!(why(&[worker("training", vec![gpu(0, 80, WorkerGpuState::Free)]), without]).unwrap(), told);
        let small = (0..2).map(|index| gpu(index, 24, WorkerGpuState::Free)).collect();
        let told = "no worker has 2 GPUs with 40GiB: a serves queue big and has 2 GPUs (2 NVIDIA L4 of 24.0 GiB)";
        assert_eq!(why(&[worker("a", small)]).unwrap(), told);
    }

    #[test]
    fn many_workers_are_counted() {
        let workers: Vec<WorkerRecord> = (0..5).map(|n| worker(&format!("w{n}"), Vec::new())).collect();
        assert!(why(&workers).unwrap().ends_with("w2 serves queue big and has no GPU, 2 more"));
    }

    #[test]
    fn devices_that_are_held_are_named_with_their_tasks() {
        let gpus = vec![gpu(0, 80, held()), gpu(1, 80, WorkerGpuState::Checking), gpu(2, 80, WorkerGpuState::Free)];
        let told = "the GPUs that fit are held: GPU-0 of a by task 07070707-0707-0707-0707-070707070707, GPU-1 of a";
        assert_eq!(why(&[worker("a", gpus)]).unwrap(), told);
    }

    #[test]
    fn devices_that_are_quarantined_are_named_with_the_reason() {
        let sick = WorkerGpuState::Quarantined { reason: "the driver reported Xid 79".into() };
        let gpus = vec![gpu(0, 80, sick.clone()), gpu(1, 80, WorkerGpuState::Free)];
        let told = "the GPUs that fit are quarantined: GPU-0 of a (the driver reported Xid 79)";
        assert_eq!(why(&[worker("a", gpus)]).unwrap(), told);
        let waits = why(&[
            worker("a", vec![gpu(0, 80, sick), gpu(1, 80, held())]),
            worker("b", vec![gpu(2, 80, held()), gpu(3, 80, WorkerGpuState::Free)]),
        ]);
        assert!(waits.unwrap().starts_with("the GPUs that fit are held: GPU-2 of b"), "what ends soonest is told");
    }

    #[test]
    fn nothing_is_told_where_one_worker_can_take_a_task() {
        let free = || (0..2).map(|index| gpu(index, 80, WorkerGpuState::Free)).collect();
        assert_eq!(why(&[worker("a", free()), worker("b", Vec::new())]), None);
        let on_cpu = WorkerRecord { gpu_asks: BTreeMap::new(), ..worker("a", Vec::new()) };
        assert_eq!(why(&[on_cpu, worker("b", Vec::new())]), None);
        assert_eq!(why(&[]), None);
    }

    #[test]
    fn a_shared_device_has_room_until_as_many_hold_it_as_may() {
        let of = |tasks: usize| {
            let tasks = (0..tasks).map(|n| TaskId::from_bytes([n as u8; 16])).collect();
            let mut worker = worker("a", vec![gpu(0, 80, WorkerGpuState::Held { tasks })]);
            let ask = GpuAsk { count: 1, memory: None, name: None, compute: None, share: 2 };
            worker.gpu_asks.insert(big(), ask);
            why(&[worker])
        };
        assert_eq!(of(1), None);
        assert!(of(2).unwrap().contains("by task 00000000-0000-0000-0000-000000000000 and 1 more"));
        assert_eq!(of(0).unwrap(), "the GPUs that fit are held: GPU-0 of a", "by another agent of that machine");
    }
}
