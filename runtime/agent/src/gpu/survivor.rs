//! Processes that left a function's process group and outlived it: a device goes to nobody while one of them lives.

use std::fs;

/// A process, told from a later one of the same id by when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Survivor {
    pid: u32,
    started: u64,
}

impl Survivor {
    /// The living process of this id.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        started(pid).map(|started| Self { pid, started })
    }

    /// Its id, if it still lives.
    pub(crate) fn living(&self) -> Option<u32> {
        (started(self.pid) == Some(self.started)).then_some(self.pid)
    }
}

/// When a living process started, in clock ticks since the boot (proc_pid_stat(5)); none for a dead or ended one.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything, also brackets and spaces.
    let mut fields = stat.rsplit_once(") ")?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let is_gone = matches!(state, "Z" | "X");
    fields.nth(18).filter(|_| !is_gone)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_lives_until_it_ends_also_before_it_is_reaped() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let survivor = Survivor::of(child.id()).unwrap();
        assert_eq!(survivor.living(), Some(child.id()));
        let other = Survivor { started: survivor.started + 1, ..survivor };
        assert_eq!(other.living(), None, "an id may be given again");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((survivor.living(), Survivor::of(child.id())), (None, None));
    }
}
