//! `rhubarb chaos` in short: bounded by what has gone wrong, not by time.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use rhubarb_testkit::emulator::Emulator;
use rhubarb_tests::{binary, over_aws, until};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

/// The command, in a folder of temporary files of its own; over an emulator where the tests run over one.
fn chaos(folder: &TempDir, emulator: Option<&Emulator>, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("rhubarb"));
    command.arg("chaos").args(arguments).env("TMPDIR", folder.path()).env_remove("RUST_LOG");
    if let Some(emulator) = emulator {
        command.args(["--aws", "--endpoint-url", emulator.endpoint()]);
    }
    command.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true);
    command
}

#[tokio::test]
async fn a_short_chaos_loses_nothing_and_commits_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let emulator = over_aws().then(Emulator::start);
    let arguments = ["--faults", "10", "--tasks", "100", "--agents", "2", "--seed", "1", "--json"];
    let output = chaos(&folder, emulator.as_ref(), &arguments).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |key: &str| report[key].as_u64().unwrap();
    assert_eq!(["tasks", "lost", "committed_twice", "failed"].map(number), [100, 0, 0, 0], "{report}");
    assert!(number("runs") >= 100 && number("looked_at_twice") > 0, "{report}");
    let faults: u64 = report["faults"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert!(faults >= 10, "{report}");
    assert_eq!(stages(folder.path()), Vec::<PathBuf>::new(), "its folder goes when all was well");
}

#[tokio::test]
async fn ctrl_c_ends_a_chaos_and_all_that_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = chaos(&folder, None, &["--minutes", "60", "--agents", "2"]).spawn().unwrap();
    let mut said = BufReader::new(running.stderr.take().unwrap()).lines();
    let first = said.next_line().await.unwrap().unwrap();
    assert!(first.contains("10000 tasks over the embedded backend"), "{first}");
    let stage = stages(folder.path()).pop().unwrap();
    // Two agents, and a function at least.
    until(async || (living(&stage).len() >= 3).then_some(())).await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(running.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = running.wait().await.unwrap();
    assert_eq!(status.code(), Some(130));
    assert_eq!(living(&stage), Vec::<String>::new());
    assert!(!stage.exists(), "its folder goes too");
}

/// A chaos that is itself killed cleans up nothing; its agents die with it all the same.
#[tokio::test]
async fn a_killed_chaos_leaves_no_process_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = chaos(&folder, None, &["--minutes", "60", "--agents", "2"]).spawn().unwrap();
    let mut said = BufReader::new(running.stderr.take().unwrap()).lines();
    said.next_line().await.unwrap().unwrap();
    let stage = stages(folder.path()).pop().unwrap();
    until(async || (living(&stage).len() >= 3).then_some(())).await;
    running.kill().await.unwrap();
    until(async || living(&stage).is_empty().then_some(())).await;
}

fn stages(folder: &Path) -> Vec<PathBuf> {
    let found = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    found.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("rhubarb-chaos-")).collect()
}

/// The command lines of the processes that were started for a stage.
fn living(stage: &Path) -> Vec<String> {
    let name = stage.to_string_lossy();
    let lines = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let words = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&words).replace('\0', " "))
    });
    lines.filter(|line| line.contains(&*name)).collect()
}
