//! Finds processes by a variable of their environment, which every process inherits from the one that started it.
//!
//! So those are found too that have left the process group, in a session of their own, and whose parent has died. Only
//! one that clears its environment is missed.

use std::{fs, time::Duration};

/// Between two looks at a process that is starting a program.
const LOOK_PAUSE: Duration = Duration::from_millis(2);
/// After so many looks it is left: it hangs on what it loads its program from.
const LOOKS_MAX: u32 = 500;
/// An environment that is empty at so many looks is.
const LOOKS_EMPTY: u32 = 5;

/// The living processes that were started with this variable. Those of other users cannot be seen.
pub(crate) async fn with_variable(name: &str, value: &str) -> Vec<u32> {
    let wanted = format!("{name}={value}");
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found = Vec::new();
    for pid in processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok()) {
        let environment = environment_of(pid).await;
        if environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()) {
            found.push(pid);
        }
    }
    found
}

/// What a process was started with; empty where it cannot be read.
///
/// In the midst of execve(2) the old environment goes away, is empty for a moment, and the new one comes. So what was
/// read counts if it is as long as the environment is now, and nothing only after some looks.
async fn environment_of(pid: u32) -> Vec<u8> {
    let mut looks_max = LOOKS_EMPTY;
    let mut looks = 0;
    while looks < looks_max {
        let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { break };
        let Some(length) = environment_length(pid) else { break };
        match length {
            Some(0) => {}
            Some(length) if length == environment.len() => return environment,
            Some(_) | None => looks_max = LOOKS_MAX,
        }
        looks += 1;
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    Vec::new()
}

/// `env_end` less `env_start` of proc_pid_stat(5), none inside while a program starts. None for kernel threads and for
/// what has ended: they have no memory.
fn environment_length(pid: u32) -> Option<Option<usize>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything, also brackets and spaces. What follows it is field 3 and on.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<usize>().ok();
    let (memory, start, end) = (field(23)?, field(50)?, field(51)?);
    (memory > 0).then(|| end.checked_sub(start).filter(|_| end > 0))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[tokio::test]
    async fn a_process_is_found_by_what_its_parent_was_given_until_it_ends() {
        let value = format!("{}-{}", std::process::id(), line!());
        let script = "setsid sleep 1000 & echo $!";
        let mut parent =
            Command::new("sh").args(["-c", script]).env("RHUBARB_MARK", &value).stdout(Stdio::piped()).spawn().unwrap();
        assert!(parent.wait().unwrap().success());
        let found = with_variable("RHUBARB_MARK", &value).await;
        assert_eq!(found.len(), 1, "its parent has ended: {found:?}");
        let pid = rustix::process::Pid::from_raw(i32::try_from(found[0]).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        while !with_variable("RHUBARB_MARK", &value).await.is_empty() {
            std::thread::yield_now();
        }
        assert!(with_variable("RHUBARB_MARK", "another").await.is_empty());
    }

    #[tokio::test]
    async fn a_process_is_found_while_it_starts_another_program() {
        let value = format!("{}-{}", std::process::id(), line!());
        let script = r#"exec sh -c "$0" "$0""#;
        let mut restless = Command::new("sh").args(["-c", script, script]).env("RHUBARB_MARK", &value).spawn().unwrap();
        let mut missed = 0;
        for _ in 0..500 {
            missed += usize::from(with_variable("RHUBARB_MARK", &value).await != [restless.id()]);
        }
        restless.kill().unwrap();
        restless.wait().unwrap();
        assert_eq!(missed, 0);
    }
}
