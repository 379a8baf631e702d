//! Finds processes by a variable of their environment, which every process inherits from the one that started it.
//!
//! So those are found too that have left the process group, in a session of their own, and whose parent has died. Only
//! one that clears its environment is missed.

use std::fs;

/// The living processes that were started with this variable. Those of other users cannot be seen.
pub(crate) fn with_variable(name: &str, value: &str) -> Vec<u32> {
    let wanted = format!("{name}={value}");
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| has(*pid, wanted.as_bytes())).collect()
}

/// One that has ended has no environment any more.
fn has(pid: u32, wanted: &[u8]) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    environment.split(|byte| *byte == 0).any(|variable| variable == wanted)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_found_by_what_its_parent_was_given_until_it_ends() {
        let value = format!("{}-{}", std::process::id(), line!());
        let script = "setsid sleep 1000 & echo $!";
        let mut parent =
            Command::new("sh").args(["-c", script]).env("RHUBARB_MARK", &value).stdout(Stdio::piped()).spawn().unwrap();
        assert!(parent.wait().unwrap().success());
        let found = with_variable("RHUBARB_MARK", &value);
        assert_eq!(found.len(), 1, "its parent has ended: {found:?}");
        let pid = rustix::process::Pid::from_raw(i32::try_from(found[0]).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        while !with_variable("RHUBARB_MARK", &value).is_empty() {
            std::thread::yield_now();
        }
        assert!(with_variable("RHUBARB_MARK", "another").is_empty());
    }
}
