//! Whether a device may go to the next task: nothing of the last one is left on it, and it is well.

use std::time::Duration;

use super::device::GpuReading;

/// How long a device may take to give its memory back after its process group was reaped.
pub const HAND_OVER_MAX: Duration = Duration::from_secs(10);
/// Memory beyond the baseline that is no leak: the driver's own bookkeeping moves by this much.
pub const MEMORY_TOLERANCE: u64 = 64 << 20;

/// What to do with a device that was given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandOver {
    /// It goes to the next task.
    Clean,
    /// It may still be giving its memory back: look again.
    Wait,
    /// It is taken out of use, with the reason.
    Quarantine(String),
}

/// Judges a device after its lease has ended. `before` was read before the lease began, `after` some time (`waited`)
/// after its process group was reaped; without a reading of now, the device has vanished or its driver hangs.
///
/// Where processes cannot be seen, memory alone decides.
#[must_use]
pub fn hand_over(before: &GpuReading, after: Option<&GpuReading>, waited: Duration) -> HandOver {
    let left_over = match after {
        None => "it no longer answers".to_owned(),
        Some(after) => {
            if let Some(sick) = sickness(before, after) {
                return HandOver::Quarantine(sick);
            }
            match (left_process(before, after), left_memory(before, after)) {
                (None, None) => return HandOver::Clean,
                (Some(pid), _) => format!("process {pid} is left on it by the last task"),
                (None, Some(bytes)) => format!("{} MiB of its memory were not given back", bytes >> 20),
            }
        }
    };
    if waited < HAND_OVER_MAX { HandOver::Wait } else { HandOver::Quarantine(left_over) }
}

/// What makes a device unfit whatever it is used for: errors that have come since `before`.
#[must_use]
pub fn sickness(before: &GpuReading, now: &GpuReading) -> Option<String> {
    let ecc = now.ecc_uncorrected.unwrap_or(0).saturating_sub(before.ecc_uncorrected.unwrap_or(0));
    if ecc > 0 {
        return Some(format!("{ecc} uncorrected ECC errors"));
    }
    let is_new = |xid: &u64, times: &u64| *times > before.xids.get(xid).copied().unwrap_or(0);
    let (xid, _) = now.xids.iter().find(|(xid, times)| is_serious(**xid) && is_new(xid, times))?;
    Some(format!("the driver reported Xid {xid}"))
}

/// Xids that tell of the device and not of the program that ran (NVIDIA's catalogue, "Xid Errors"): 13, 31, 43, 45, 68
/// and 69 follow from a program's own faults and from its being killed.
const fn is_serious(xid: u64) -> bool {
    !matches!(xid, 13 | 31 | 43 | 45 | 68 | 69)
}

fn left_process(before: &GpuReading, after: &GpuReading) -> Option<u32> {
    let known = before.processes.as_deref().unwrap_or_default();
    let now = after.processes.as_deref()?;
    now.iter().map(|process| process.pid).find(|pid| known.iter().all(|process| process.pid != *pid))
}

fn left_memory(before: &GpuReading, after: &GpuReading) -> Option<u64> {
    let more = after.memory_used.saturating_sub(before.memory_used);
    (more > MEMORY_TOLERANCE).then_some(more)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::GpuProcess;

    const SOON: Duration = Duration::from_millis(50);

    fn reading() -> GpuReading {
        GpuReading {
            uuid: "GPU-a".into(),
            memory_used: 500 << 20,
            ecc_uncorrected: Some(2),
            xids: [(79, 1)].into(),
            processes: Some(vec![GpuProcess { pid: 7, memory: None }]),
            ..GpuReading::default()
        }
    }

    #[test]
    fn a_device_as_it_was_goes_to_the_next_task_at_once() {
        assert_eq!(hand_over(&reading(), Some(&reading()), Duration::ZERO), HandOver::Clean);
        let a_little_more = GpuReading { memory_used: (500 << 20) + MEMORY_TOLERANCE, ..reading() };
        assert_eq!(hand_over(&reading(), Some(&a_little_more), Duration::ZERO), HandOver::Clean);
    }

    #[test]
    fn memory_and_processes_are_waited_for_and_then_quarantine_it() {
        let leak = GpuReading { memory_used: (500 << 20) + (900 << 20), ..reading() };
        assert_eq!(hand_over(&reading(), Some(&leak), SOON), HandOver::Wait);
        let told = "900 MiB of its memory were not given back".to_owned();
        assert_eq!(hand_over(&reading(), Some(&leak), HAND_OVER_MAX), HandOver::Quarantine(told));

        let pids = [7, 4711].map(|pid| GpuProcess { pid, memory: None });
        let survivor = GpuReading { processes: Some(pids.to_vec()), ..leak };
        assert_eq!(hand_over(&reading(), Some(&survivor), SOON), HandOver::Wait);
        let told = "process 4711 is left on it by the last task".to_owned();
        assert_eq!(hand_over(&reading(), Some(&survivor), HAND_OVER_MAX), HandOver::Quarantine(told));
    }

    #[test]
    fn where_processes_cannot_be_seen_memory_decides() {
        let blind = GpuReading { processes: None, ..reading() };
        assert_eq!(hand_over(&reading(), Some(&blind), SOON), HandOver::Clean);
    }

    #[test]
    fn a_device_that_no_longer_answers_is_waited_for_and_then_quarantined() {
        assert_eq!(hand_over(&reading(), None, SOON), HandOver::Wait);
        assert!(matches!(hand_over(&reading(), None, HAND_OVER_MAX), HandOver::Quarantine(_)));
    }

    #[test]
    fn new_errors_quarantine_at_once_and_old_ones_or_a_programs_own_do_not() {
        let ecc = GpuReading { ecc_uncorrected: Some(3), ..reading() };
        assert_eq!(hand_over(&reading(), Some(&ecc), SOON), HandOver::Quarantine("1 uncorrected ECC errors".into()));
        let xids = |xids: &[(u64, u64)]| GpuReading { xids: xids.iter().copied().collect(), ..reading() };
        assert_eq!(sickness(&reading(), &xids(&[(48, 1), (79, 1)])), Some("the driver reported Xid 48".into()));
        assert_eq!(sickness(&reading(), &xids(&[(79, 2)])), Some("the driver reported Xid 79".into()));
        assert_eq!(sickness(&reading(), &xids(&[(43, 9), (79, 1)])), None);
    }
}
