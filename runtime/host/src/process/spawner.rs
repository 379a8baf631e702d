//! The one thread that starts every function process.
//!
//! Linux sends a child the parent-death signal when the *thread* that forked it ends, and tokio's
//! threads come and go. So all children are forked by one thread that lives as long as the host, and
//! die with the host even if it is killed with SIGKILL.

use std::io;
use std::process::{Child, Command};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;

use tokio::sync::oneshot;

use super::group::OwnedGroup;

struct Job {
    command: Command,
    started: oneshot::Sender<io::Result<OwnedGroup>>,
}

static SPAWNER: Mutex<Option<Sender<Job>>> = Mutex::new(None);

/// Starts `command` as the leader of a process group of its own.
pub(super) async fn spawn(mut command: Command) -> io::Result<OwnedGroup> {
    prepare(&mut command);
    let (started, group) = oneshot::channel();
    submit(Job { command, started })?;
    group.await.map_err(|_| io::Error::other("the spawning thread has ended"))?
}

/// Hands the job to the thread, and starts the thread if there is none.
fn submit(job: Job) -> io::Result<()> {
    let mut spawner = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    let job = match &*spawner {
        Some(jobs) => match jobs.send(job) {
            Ok(()) => return Ok(()),
            Err(mpsc::SendError(job)) => job,
        },
        None => job,
    };
    let (jobs, queue) = mpsc::channel();
    thread::Builder::new().name("rhubarb-spawn".to_owned()).spawn(move || work(&queue))?;
    jobs.send(job).map_err(|_| io::Error::other("the spawning thread has ended"))?;
    *spawner = Some(jobs);
    Ok(())
}

fn work(queue: &Receiver<Job>) {
    while let Ok(Job { mut command, started }) = queue.recv() {
        let child = command.spawn();
        // The command holds the write end of the output pipe, which only the child may keep.
        drop(command);
        // If nobody waits any more, the group is dropped here, and thereby killed.
        let _ = started.send(child.and_then(own));
    }
}

fn own(child: Child) -> io::Result<OwnedGroup> {
    OwnedGroup::new(child)
}

#[cfg(target_os = "linux")]
fn prepare(command: &mut Command) {
    use std::os::unix::process::CommandExt;

    use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

    command.process_group(0);
    let host = getpid();
    let die_with_the_host = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The host may have died between the fork and this line.
        if getppid() == Some(host) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    #[expect(unsafe_code, reason = "there is no safe way to run code between fork and exec")]
    // SAFETY: the closure makes two system calls and does not allocate, lock or panic, so it is sound
    // in the child of a process with many threads.
    unsafe {
        command.pre_exec(die_with_the_host);
    }
}

/// Elsewhere a function learns of the host's death when its next call of the Runtime API fails.
#[cfg(not(target_os = "linux"))]
fn prepare(command: &mut Command) {
    use std::os::unix::process::CommandExt;

    command.process_group(0);
}
