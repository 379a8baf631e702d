//! What a process and its children have used, from `/proc`.

use std::{fs, time::Duration};

/// CPU time and memory of an agent.
pub(crate) struct Usage {
    /// CPU time of the agent and its children, the living and the reaped.
    pub(crate) cpu: Duration,
    /// The agent's highest resident memory, in bytes.
    pub(crate) memory_peak: u64,
}

/// Reads what an agent has used so far.
pub(crate) fn usage(pid: u32) -> Usage {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let living: u64 =
        children.split_whitespace().filter_map(|child| child.parse().ok()).map(|child| ticks(child, 2)).sum();
    // Clock ticks are hundredths of a second on every Linux that this runs on (USER_HZ).
    Usage { cpu: Duration::from_millis((ticks(pid, 4) + living) * 10), memory_peak: memory_peak(pid) }
}

/// User and system time (2), or with that of reaped children (4).
fn ticks(pid: u32, fields: usize) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit(')').next().unwrap_or_default();
    // Fields 14 to 17 of proc(5); the rest begins with field 3.
    rest.split_whitespace().skip(11).take(fields).filter_map(|field| field.parse::<u64>().ok()).sum()
}

fn memory_peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|text| text.parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}
