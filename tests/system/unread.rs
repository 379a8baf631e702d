//! A log that nobody reads: an agent whose standard error is a full pipe works on, and says afterwards what was lost.

use std::{
    io::{BufRead as _, BufReader, PipeReader},
    process::Stdio,
};

use rhubarb::core::row::State;
use rhubarb_tests::{App, PATIENCE, enqueue, settled};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::process::Child;

use crate::metrics::get;

const PLATFORM: &str = "[queues.work]\n[workers.all]\nqueues = [\"work\"]\nconcurrency = 2\n";
/// What each task prints is more than a pipe holds; all together, more than an agent keeps.
const TASKS: usize = 10;

fn said() -> Value {
    json!({"text": "x".repeat(999), "times": 300})
}

fn line(log: &mut BufReader<PipeReader>) -> Option<Value> {
    let mut line = String::new();
    let read = log.read_line(&mut line).unwrap();
    let record = serde_json::from_str(&line);
    assert!(read == 0 || record.is_ok(), "a torn record: {line}");
    record.ok()
}

fn until_said(log: &mut BufReader<PipeReader>, text: &str) -> Value {
    loop {
        let line = line(log);
        assert!(line.is_some(), "`{text}` was never logged");
        let line = line.unwrap();
        if line["message"].as_str().unwrap().contains(text) {
            return line;
        }
    }
}

fn stop(agent: &Child) {
    let pid = Pid::from_raw(i32::try_from(agent.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
}

/// True where it ends well.
async fn ended(agent: &mut Child) -> bool {
    tokio::time::timeout(PATIENCE, agent.wait()).await.unwrap().unwrap().success()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_log_nobody_reads_works_on() {
    let app = App::new(PLATFORM);
    let client = app.client().await;
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = app.command(&["agent", "all", "--metrics", "127.0.0.1:0", "--log-format", "json"]);
    let mut agent = command.env_remove("RHUBARB_METRICS").stdout(Stdio::null()).stderr(writer).spawn().unwrap();
    // The command keeps the end of the pipe that is written to.
    drop(command);
    let mut log = BufReader::new(reader);
    let page = tokio::task::block_in_place(|| {
        let page = until_said(&mut log, "metrics and health at")["server.address"].as_str().unwrap().parse().unwrap();
        until_said(&mut log, "is ready");
        page
    });

    let mut ids = Vec::new();
    for _ in 0..TASKS {
        ids.push(enqueue(&client, "say", said(), "work").await);
    }
    for id in ids {
        assert_eq!(settled(&client, id).await.record.state, State::Succeeded);
    }
    let (_, metrics) = get(page, "/metrics").await;
    let counted = metrics.lines().find_map(|line| line.strip_prefix("rhubarb_log_dropped_total "));
    let counted: f64 = counted.expect("drops are counted").parse().unwrap();
    assert!(counted > 0.0);

    // Whoever reads at last finds whole records, and how many are missing.
    let told = tokio::task::block_in_place(|| until_said(&mut log, "log records were dropped"));
    assert!(told["log.dropped"].as_f64().unwrap() >= counted, "{told}");
    stop(&agent);
    let last = tokio::task::block_in_place(|| std::iter::from_fn(|| line(&mut log)).last());
    assert!(last.is_some(), "what is logged at the end is written before it");
    assert!(ended(&mut agent).await);
}

#[tokio::test]
async fn an_agent_whose_log_is_full_from_the_start_drains_and_ends() {
    let app = App::new(PLATFORM);
    let client = app.client().await;
    let (reader, mut writer) = std::io::pipe().unwrap();
    let room = rustix::pipe::fcntl_getpipe_size(&writer).unwrap();
    std::io::Write::write_all(&mut writer, &vec![b'\n'; room]).unwrap();
    let mut command = app.command(&["agent", "all"]);
    let mut agent = command.stdout(Stdio::null()).stderr(writer).spawn().unwrap();
    // More than is kept: there is something to tell at the end, and nobody to read it.
    for _ in 0..TASKS {
        let id = enqueue(&client, "say", said(), "work").await;
        assert_eq!(settled(&client, id).await.record.state, State::Succeeded);
    }
    stop(&agent);
    assert!(ended(&mut agent).await);
    drop(reader);
}
