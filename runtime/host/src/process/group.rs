//! The process group of one function: spawned, signalled, killed and reaped as a whole.
//!
//! One thread per child spawns it and waits for its end. While the leader is a zombie its id cannot
//! belong to anybody else, so the rest of the group is killed then, and only afterwards is the leader
//! reaped; signals take the same lock and are not sent once it is. Members whose parent died become
//! children of process 1; where the host is process 1 (in a container), the thread reaps them too.
//!
//! If the host dies, the [guard](super::guard) kills the group.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, WaitOptions, kill_process_group, test_kill_process_group, waitid,
    waitpgid,
};
use tokio::sync::{oneshot, watch};

use super::{ExitStatus, GROUP_WAIT_MAX, guard};

/// The thread of a group needs next to no stack.
const THREAD_STACK_BYTES: usize = 128 * 1024;

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
    /// Starts `command` as the leader of a group of its own. A group that nobody waits for any more is
    /// killed.
    pub(super) async fn spawn(mut command: Command) -> io::Result<Self> {
        command.process_group(0);
        let (started, group) = oneshot::channel();
        thread::Builder::new()
            .name("function".to_owned())
            .stack_size(THREAD_STACK_BYTES)
            .spawn(move || run(command, started))?;
        group.await.map_err(|_| io::Error::other("the thread of the process has ended"))?
    }

    /// The id of the leader, and of the group.
    pub(super) fn id(&self) -> u32 {
        self.group.leader.as_raw_pid().unsigned_abs()
    }

    /// Sends a signal to every member. Does nothing once the leader was reaped.
    pub(super) fn signal(&self, signal: Signal) {
        let ours = self.group.ours.lock().unwrap_or_else(PoisonError::into_inner);
        if *ours {
            // The only error that can happen is that nobody is left.
            let _ = kill_process_group(self.group.leader, signal);
        }
    }

    /// Becomes `Some` when the leader is reaped and the rest of the group is killed.
    pub(super) fn ended(&self) -> watch::Receiver<Option<ExitStatus>> {
        self.ended.clone()
    }
}

impl Drop for OwnedGroup {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// The life of one group, on a thread of its own.
fn run(mut command: Command, started: oneshot::Sender<io::Result<OwnedGroup>>) {
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    // The command holds write ends of the output pipe, which only the child may keep.
    drop(command);
    let leader = Pid::from_child(&child);
    guard::note(leader);
    let (ending, ended) = watch::channel(None);
    let group = Arc::new(Group { leader, ours: Mutex::new(true) });
    // If nobody waits any more, the group is dropped here, and thereby killed.
    let _ = started.send(Ok(OwnedGroup { group: Arc::clone(&group), ended }));
    ending.send_replace(Some(group.reap()));
}

impl Group {
    /// Waits for the leader, ends what is left of its group, and reaps.
    fn reap(&self) -> ExitStatus {
        let leader = WaitId::Pid(self.leader);
        let seen = wait(leader.clone(), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        let mut ours = self.ours.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = kill_process_group(self.leader, Signal::KILL);
        guard::strike_out(self.leader);
        let reaped = wait(leader, WaitIdOptions::EXITED);
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
