//! Who holds a lock file, and whether that process is stopped: by what the kernel shows in `/proc`.
//!
//! Where it shows nothing (another system, a process of another container), the holder is another process and no
//! more is known. What is shown may be old by the time that it is read: it serves messages, never decisions about
//! data.

use std::{fmt, fs, fs::File, os::unix::fs::MetadataExt as _};

/// A process that holds a lock file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pid: u32,
    name: String,
    /// By a signal or by a debugger: it does nothing until somebody lets it go on.
    pub(crate) is_stopped: bool,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.name)
    }
}

impl Holder {
    /// The process that holds a lock on this file.
    pub(crate) fn of(file: &File) -> Option<Self> {
        let inode = file.metadata().ok()?.ino();
        let locks = fs::read_to_string("/proc/locks").ok()?;
        let pid = locks.lines().find_map(|line| holder_in(line, inode))?;
        Self::read(pid)
    }

    fn read(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (before, after) = stat.rsplit_once(')')?;
        let (_, name) = before.split_once('(')?;
        let state = after.trim_start().chars().next()?;
        Some(Self { pid, name: name.to_owned(), is_stopped: matches!(state, 'T' | 't') })
    }

    /// How somebody lets a stopped one go on.
    pub(crate) fn way_out(&self) -> String {
        format!("continue it with `kill -CONT {0}`, or end it with `kill -KILL {0}`", self.pid)
    }
}

/// Reads a line like `1: FLOCK  ADVISORY  WRITE 4711 fe:00:6332493 0 EOF`; one of a waiter has an arrow in it. The
/// device is left out: some file systems show another one here than elsewhere, and a wrong name costs little.
fn holder_in(line: &str, inode: u64) -> Option<u32> {
    let mut words = line.split_whitespace().skip(1);
    let (kind, _, _, pid, file) = (words.next()?, words.next()?, words.next()?, words.next()?, words.next()?);
    let is_it = kind == "FLOCK" && file.rsplit(':').next()?.parse() == Ok(inode);
    pid.parse().ok().filter(|pid| is_it && *pid > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_names_who_holds_and_not_who_waits() {
        assert_eq!(holder_in("1: FLOCK  ADVISORY  WRITE 4711 fe:00:6332493 0 EOF", 6_332_493), Some(4711));
        assert_eq!(holder_in("1: -> FLOCK  ADVISORY  WRITE 4712 fe:00:6332493 0 EOF", 6_332_493), None);
        assert_eq!(holder_in("2: FLOCK  ADVISORY  WRITE 4711 fe:00:1 0 EOF", 6_332_493), None);
        assert_eq!(holder_in("3: POSIX  ADVISORY  WRITE 4711 fe:00:6332493 0 EOF", 6_332_493), None);
        assert_eq!(holder_in("4: FLOCK  ADVISORY  WRITE 0 fe:00:6332493 0 EOF", 6_332_493), None);
        assert_eq!(holder_in("", 6_332_493), None);
    }

    #[test]
    fn this_process_is_found_by_its_lock_and_is_not_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("lock")).unwrap();
        assert_eq!(Holder::of(&file), None);
        file.lock().unwrap();
        let holder = Holder::of(&file).unwrap();
        assert_eq!((holder.pid, holder.is_stopped), (std::process::id(), false));
        assert!(holder.way_out().contains(&format!("kill -CONT {}", std::process::id())));
    }
}
