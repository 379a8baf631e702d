//! Ends the functions of a host that was killed.
//!
//! A host that gets SIGKILL can clean up nothing, and a function in the middle of a long computation
//! would not notice its host's death for hours. So a guard runs beside each host: a shell that reads
//! from a pipe which process groups live, and kills them when the pipe ends. The pipe ends only with
//! the host, whatever ends it.
//!
//! The parent-death signal of Linux would do this without a guard, but only code between `fork` and
//! `exec` can ask for it. Forking copies the page tables of a host, which takes longer than all the
//! rest of the start of a function; and the signal would miss the function's own children.
//!
//! A group is noted after its leader is spawned and struck out before its leader is reaped, so the
//! guard never knows an id that may belong to somebody else. If the guard itself is lost, the next
//! note starts another and tells it everything; without a shell there is none, and a warning.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::Pid;

/// Reads `+ GROUP` and `- GROUP` until its input ends; then kills the groups that are left.
const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM
groups=
while read -r change group; do
    rest=
    for known in $groups; do
        [ "$known" = "$group" ] || rest="$rest $known"
    done
    [ "$change" = - ] || rest="$rest $group"
    groups=$rest
done
for group in $groups; do
    kill -s KILL -- "-$group"
done
"#;

static GUARD: Mutex<Guard> = Mutex::new(Guard { shell: Shell::NotStarted, groups: BTreeSet::new() });

#[derive(Debug)]
struct Guard {
    shell: Shell,
    groups: BTreeSet<i32>,
}

#[derive(Debug)]
enum Shell {
    NotStarted,
    Running(Child),
    /// There is none to start.
    Missing,
}

/// Has the guard kill this group if the host dies.
pub(super) fn note(leader: Pid) {
    let group = leader.as_raw_pid();
    let mut guard = guard();
    guard.groups.insert(group);
    guard.tell(&format!("+ {group}\n"));
}

/// Ends what [`note`] began. The leader must not have been reaped yet.
pub(super) fn strike_out(leader: Pid) {
    let group = leader.as_raw_pid();
    let mut guard = guard();
    guard.groups.remove(&group);
    guard.tell(&format!("- {group}\n"));
}

fn guard() -> MutexGuard<'static, Guard> {
    GUARD.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Guard {
    /// Sends one line to the shell. One that cannot be told is replaced by one that knows everything.
    fn tell(&mut self, line: &str) {
        match &mut self.shell {
            Shell::Running(shell) if write(shell, line).is_ok() => return,
            Shell::Running(shell) => {
                // Killed before its pipe is closed, or it would kill the groups that it knows.
                let _ = shell.kill();
                let _ = shell.wait();
            }
            Shell::NotStarted => {}
            Shell::Missing => return,
        }
        self.shell = self.start().map_or_else(
            |error| {
                tracing::warn!(
                    %error,
                    "cannot start /bin/sh; if this host is killed, its functions live on",
                );
                Shell::Missing
            },
            Shell::Running,
        );
    }

    fn start(&self) -> io::Result<Child> {
        let shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT])
            .env_clear()
            .current_dir("/")
            // What ends the host's own group must not end its guard.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        if let Some(pipe) = &shell.stdin {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        let lines: String = self.groups.iter().map(|group| format!("+ {group}\n")).collect();
        write(&shell, &lines)?;
        Ok(shell)
    }
}

fn write(shell: &Child, lines: &str) -> io::Result<()> {
    let mut pipe = shell.stdin.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
    pipe.write_all(lines.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    fn sleeper() -> Child {
        Command::new("sleep").arg("1000").process_group(0).spawn().unwrap()
    }

    fn id(child: &Child) -> i32 {
        Pid::from_child(child).as_raw_pid()
    }

    fn guard_of(groups: &[&Child]) -> Guard {
        let groups = groups.iter().map(|child| id(child)).collect();
        Guard { shell: Shell::NotStarted, groups }
    }

    /// Closes the pipe, as the death of the host does, and waits for the guard's end.
    fn lose_host(guard: &mut Guard) {
        let Shell::Running(shell) = &mut guard.shell else { panic!("{guard:?}") };
        drop(shell.stdin.take());
        assert!(shell.wait().unwrap().success());
    }

    #[test]
    fn the_guard_kills_the_groups_it_knows_when_the_host_is_gone() {
        let (mut first, mut second) = (sleeper(), sleeper());
        let mut guard = guard_of(&[&first]);
        guard.tell("");
        guard.tell(&format!("+ {}\n", id(&second)));
        lose_host(&mut guard);
        assert_eq!(first.wait().unwrap().signal(), Some(9));
        assert_eq!(second.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn the_guard_spares_the_groups_that_were_struck_out() {
        let (mut kept, mut ended) = (sleeper(), sleeper());
        let mut guard = guard_of(&[&kept, &ended]);
        guard.tell("");
        guard.tell(&format!("- {}\n", id(&kept)));
        lose_host(&mut guard);
        assert_eq!(ended.wait().unwrap().signal(), Some(9));
        assert!(kept.try_wait().unwrap().is_none());
        kept.kill().unwrap();
        kept.wait().unwrap();
    }

    #[test]
    fn a_lost_guard_is_replaced_by_one_that_knows_everything() {
        let mut function = sleeper();
        let mut guard = guard_of(&[&function]);
        guard.tell("");
        let Shell::Running(shell) = &mut guard.shell else { panic!("{guard:?}") };
        shell.kill().unwrap();
        shell.wait().unwrap();
        guard.tell("- 0\n");
        assert!(function.try_wait().unwrap().is_none());
        lose_host(&mut guard);
        assert_eq!(function.wait().unwrap().signal(), Some(9));
    }
}
