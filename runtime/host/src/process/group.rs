//! The process group of one function: signalled as a whole, killed as a whole, and reaped.
//!
//! A thread per child waits for its end. While the leader is a zombie its id cannot belong to anybody
//! else, so the rest of the group is killed then, and only afterwards is the leader reaped; signals
//! take the same lock and are not sent once it is. Members whose parent died become children of
//! process 1; where the host is process 1 (in a container), the thread reaps them too.

use std::io;
use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, WaitOptions, kill_process_group, test_kill_process_group, waitid,
    waitpgid,
};
use tokio::sync::watch;

use super::{ExitStatus, GROUP_WAIT_MAX};

/// The reaping thread needs next to no stack.
const REAPER_STACK_BYTES: usize = 128 * 1024;

/// Owns a process group: dropping it kills what is left of it, and the reaping goes on without it.
#[derive(Debug)]
pub(super) struct OwnedGroup {
    group: Arc<Group>,
    ended: watch::Receiver<Option<ExitStatus>>,
}

#[derive(Debug)]
struct Group {
    leader: Pid,
    /// Whether the leader's id is still its own; signals are sent only under this lock.
    ours: Mutex<bool>,
}

impl OwnedGroup {
    /// Takes charge of a child that leads its own group.
    pub(super) fn new(mut child: Child) -> io::Result<Self> {
        let leader = Pid::from_child(&child);
        let (ending, ended) = watch::channel(None);
        let group = Arc::new(Group { leader, ours: Mutex::new(true) });
        let reaped = Arc::clone(&group);
        let reaper = thread::Builder::new()
            .name(format!("reap-{}", leader.as_raw_nonzero()))
            .stack_size(REAPER_STACK_BYTES)
            .spawn(move || {
                let status = reaped.reap();
                ending.send_replace(Some(status));
            });
        if let Err(error) = reaper {
            // Without a reaper there is no supervision: better no child at all.
            group.signal(Signal::KILL);
            let _ = child.wait();
            return Err(error);
        }
        Ok(Self { group, ended })
    }

    /// The id of the leader, and of the group.
    pub(super) fn id(&self) -> u32 {
        self.group.leader.as_raw_nonzero().get().unsigned_abs()
    }

    /// Sends a signal to every member. Does nothing once the leader was reaped.
    pub(super) fn signal(&self, signal: Signal) {
        self.group.signal(signal);
    }

    /// Becomes `Some` when the leader is reaped and the rest of the group is killed.
    pub(super) fn ended(&self) -> watch::Receiver<Option<ExitStatus>> {
        self.ended.clone()
    }
}

impl Drop for OwnedGroup {
    fn drop(&mut self) {
        self.group.signal(Signal::KILL);
    }
}

impl Group {
    fn signal(&self, signal: Signal) {
        let ours = self.ours.lock().unwrap_or_else(PoisonError::into_inner);
        if *ours {
            // The only error that can happen is that nobody is left.
            let _ = kill_process_group(self.leader, signal);
        }
    }

    /// Waits for the leader, ends what is left of its group, and reaps.
    fn reap(&self) -> ExitStatus {
        let leader = WaitId::Pid(self.leader);
        let seen = wait(leader, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        let mut ours = self.ours.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = kill_process_group(self.leader, Signal::KILL);
        let reaped = wait(WaitId::Pid(self.leader), WaitIdOptions::EXITED);
        *ours = false;
        drop(ours);
        self.reap_members();
        reaped.or(seen).map_or(ExitStatus::NotReaped, ExitStatus::from)
    }

    /// Waits, within a bound, until the killed members are gone.
    fn reap_members(&self) {
        let deadline = Instant::now() + GROUP_WAIT_MAX;
        loop {
            // Reaps those that have become children of the host.
            while let Ok(Some(_)) = waitpgid(self.leader, WaitOptions::NOHANG) {}
            if test_kill_process_group(self.leader) == Err(Errno::SRCH) || Instant::now() > deadline {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Waits for one process, whatever signals interrupt it. None if it is not a child of ours.
fn wait(id: WaitId<'_>, options: WaitIdOptions) -> Option<WaitIdStatus> {
    loop {
        match waitid(id.clone(), options) {
            Ok(Some(status)) => return Some(status),
            Ok(None) | Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}
