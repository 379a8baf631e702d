//! The command as a process, where no function needs to run: what it writes, prints and refuses.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test cannot go on without what its helpers set up")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use tempfile::TempDir;

const FILE: &str = r#"
[app]
name = "tests"
[queues.default]
[queues.high]
[functions.absent]
command = ["./absent"]
[workers.all]
queues = ["default", "high"]
"#;

fn project() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("rhubarb.toml"), FILE).unwrap();
    folder
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rhubarb"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RHUBARB_")) {
        command.env_remove(name);
    }
    command.env_remove("RUST_LOG");
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn succeed(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
    stdout(&output)
}

fn refuse(folder: &Path, arguments: &[&str], code: i32) -> String {
    let output = run(folder, arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
    stderr(&output)
}

/// Reads lines until one holds the text.
fn await_line(child: &mut Child, text: &str) -> String {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let found = lines.by_ref().map(Result::unwrap).find(|line| line.contains(text));
    // What comes after is read on, so that the process never writes into a closed pipe.
    std::thread::spawn(move || lines.for_each(drop));
    found.unwrap_or_else(|| panic!("`{text}` was never said"))
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn a_task_without_a_worker_says_why_it_waits_and_ctrl_c_leaves_it_alone() {
    let folder = project();
    let mut waiting = command(folder.path(), &["enqueue", "hello", "--queue", "high", "--wait"]).spawn().unwrap();
    await_line(&mut waiting, "waiting: no worker serves queue high");
    signal(&waiting, rustix::process::Signal::INT);
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let id = stdout(&output).trim().to_owned();
    let shown = succeed(folder.path(), &["task", &id]);
    assert!(shown.contains("queued, waiting: no worker serves queue high"), "{shown}");
    assert!(succeed(folder.path(), &["queues"]).contains("no live worker"));
}

#[test]
fn a_wait_has_an_end_where_one_is_given() {
    let folder = project();
    let told = refuse(folder.path(), &["enqueue", "hello", "--wait", "--wait-timeout", "100ms"], 1);
    assert!(told.contains("goes on"), "{told}");
}

#[test]
fn arguments_come_from_standard_input_and_broken_ones_are_refused_with_their_place() {
    let folder = project();
    let mut child = command(folder.path(), &["enqueue", "hello", "--args", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(br#"{"name": "you"}"#).unwrap();
    let id = stdout(&child.wait_with_output().unwrap());
    assert!(succeed(folder.path(), &["task", id.trim()]).contains(r#"{"name": "you"}"#));
    let told = refuse(folder.path(), &["enqueue", "hello", "--args", r#"{"name": you}"#], 2);
    assert!(told.contains("line 1 column 10"), "{told}");
}

#[test]
fn a_purge_asks_first_and_tells_what_it_took() {
    let folder = project();
    for _ in 0..4 {
        succeed(folder.path(), &["enqueue", "hello", "--queue", "high"]);
    }
    assert!(refuse(folder.path(), &["purge", "high"], 2).contains("--yes"));
    assert_eq!(succeed(folder.path(), &["purge", "high", "--yes"]), "purged 4 messages from 1 queue\n");
    assert_eq!(succeed(folder.path(), &["tasks", "--state", "cancelled", "--json"]).lines().count(), 4);
    assert!(refuse(folder.path(), &["purge", "hihg", "--yes"], 64).contains("the queues are default, high"));
}

#[test]
fn a_paused_queue_says_so_until_it_is_resumed() {
    let folder = project();
    let id = succeed(folder.path(), &["enqueue", "hello"]);
    succeed(folder.path(), &["pause", "default"]);
    assert!(succeed(folder.path(), &["queues"]).contains("PAUSED"));
    assert!(succeed(folder.path(), &["task", id.trim()]).contains("waiting: queue default is paused"));
    succeed(folder.path(), &["resume", "default"]);
    assert!(!succeed(folder.path(), &["queues"]).contains("PAUSED"));
}

#[test]
fn what_a_tasks_state_does_not_allow_is_said_in_words() {
    let folder = project();
    let id = succeed(folder.path(), &["enqueue", "hello"]);
    assert!(refuse(folder.path(), &["dead", "redrive", id.trim()], 2).contains("is queued: only a failed one"));
    assert!(succeed(folder.path(), &["cancel", id.trim()]).contains("cancelled"));
    assert!(refuse(folder.path(), &["cancel", id.trim()], 2).contains("is cancelled: there is nothing to cancel"));
    assert!(refuse(folder.path(), &["result", id.trim()], 1).contains("was cancelled"));
}

#[test]
fn a_second_dev_on_the_same_folder_is_refused_and_the_first_one_drains() {
    let folder = project();
    let mut first = command(folder.path(), &["dev"]).spawn().unwrap();
    await_line(&mut first, "is ready");
    let told = refuse(folder.path(), &["dev"], 64);
    assert!(told.contains("another `rhubarb dev`") && told.contains("--dir"), "{told}");
    signal(&first, rustix::process::Signal::TERM);
    assert_eq!(first.wait().unwrap().code(), Some(0));
}

#[test]
fn a_new_function_begins_a_project_that_can_be_checked() {
    let folder = tempfile::tempdir().unwrap();
    succeed(folder.path(), &["new", "function", "hello"]);
    succeed(folder.path(), &["new", "function", "send-report"]);
    let told = succeed(folder.path(), &["check"]);
    assert!(told.contains("rhubarb.toml is fine: 1 queue, 1 worker, 2 functions"), "{told}");
    let main = fs::read_to_string(folder.path().join("functions/send-report/src/main.rs")).unwrap();
    assert!(main.lines().count() <= 15 && main.contains("\"send_report\""), "{main}");
    let before = fs::read_to_string(folder.path().join("rhubarb.toml")).unwrap();
    assert!(refuse(folder.path(), &["new", "function", "hello"], 2).contains("exists already"));
    assert_eq!(fs::read_to_string(folder.path().join("rhubarb.toml")).unwrap(), before);
}

#[cfg(not(feature = "aws"))]
#[test]
fn without_aws_the_command_says_how_it_is_built_in() {
    assert!(refuse(project().path(), &["--aws", "queues"], 64).contains("--features aws"));
}

#[test]
fn a_folder_that_cannot_be_made_is_the_backends_error() {
    let folder = project();
    fs::write(folder.path().join("file"), "").unwrap();
    let told = refuse(folder.path(), &["--dir", "file/below", "queues"], 69);
    assert!(told.contains("file/below"), "{told}");
}

#[test]
fn the_configuration_is_found_from_the_current_folder_upwards() {
    let folder = project();
    let below = folder.path().join("a/b");
    fs::create_dir_all(&below).unwrap();
    succeed(&below, &["check"]);
    let elsewhere = tempfile::tempdir().unwrap();
    assert!(refuse(elsewhere.path(), &["check"], 64).contains("rhubarb new function"));
    let file = folder.path().join("rhubarb.toml");
    succeed(elsewhere.path(), &["check", "--config", file.to_str().unwrap()]);
}

#[test]
fn lists_for_programs_are_one_document_a_line_with_nothing_raw_in_them() {
    let folder = project();
    succeed(folder.path(), &["enqueue", "hello", "--args", "\"\u{9b}31m\u{202e}\""]);
    for arguments in [["tasks", "--json"], ["queues", "--json"], ["config", "--json"]] {
        let printed = succeed(folder.path(), &arguments);
        assert!(
            printed.lines().count() > 0 && printed.lines().all(|line| line.starts_with('{') && line.ends_with('}'))
        );
    }
    let id = succeed(folder.path(), &["tasks", "--json"]);
    let id = id.split('"').nth(3).unwrap();
    for arguments in [vec!["task", id], vec!["task", id, "--json"]] {
        let printed = succeed(folder.path(), &arguments);
        assert!(printed.contains("\\u009b31m\\u202e") && !printed.contains('\u{9b}'), "{printed}");
    }
}

#[test]
fn every_shell_has_completions() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        assert!(succeed(folder.path(), &["completions", shell]).contains("idempotency-key"), "{shell}");
    }
}
