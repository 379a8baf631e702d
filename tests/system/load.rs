//! Where the machine ends: a full disk, no file descriptors, many large arguments.

use std::process::Stdio;

use futures::{StreamExt as _, stream};
use rhubarb::{
    NewTask,
    core::{ids::TaskId, row::State},
};
use rhubarb_tests::{AgentProcess, App, binary, enqueue, settled};
use serde_json::{json, value::to_raw_value};
use tokio::process::Command;

const LOAD: &str = r#"
[queues.work]
lease = "{lease}"
[workers.all]
queues = ["work"]
concurrency = 2
"#;

/// The `rhubarb` command under limits of the shell: what a file or a process may have.
fn limited(app: &App, limits: &str, arguments: &[&str]) -> Command {
    let mut shell = Command::new("sh");
    // A write over the limit fails, as one to a full disk does; it does not end the process.
    shell.arg("-c").arg(format!("trap '' XFSZ; {limits}; exec \"$@\"")).arg("sh");
    shell.arg(binary("rhubarb")).args(arguments).current_dir(app.path()).stdin(Stdio::null()).kill_on_drop(true);
    shell.envs(app.variables());
    shell
}

#[tokio::test]
async fn a_full_disk_refuses_what_it_cannot_keep_and_loses_nothing_that_was_accepted() {
    let app = App::over(LOAD, false);
    let client = app.client().await;
    let args = json!({"value": "x".repeat(50_000)}).to_string();
    let mut accepted: Vec<TaskId> = Vec::new();
    let refused = loop {
        // 512-byte blocks: no file grows over a MiB.
        let enqueue = ["enqueue", "echo", "--queue", "work", "--args", &args];
        let ran = limited(&app, "ulimit -f 2048", &enqueue).output().await.unwrap();
        match ran.status.code() {
            Some(0) => accepted.push(String::from_utf8_lossy(&ran.stdout).trim().parse().unwrap()),
            _ => break ran,
        }
        assert!(accepted.len() < 1000, "the disk is never full");
    };
    assert_eq!(refused.status.code(), Some(69), "{}", String::from_utf8_lossy(&refused.stderr));
    assert!(accepted.len() > 5, "{} tasks fit", accepted.len());
    // There is room again: all that was accepted runs, and more is accepted.
    let agent = app.agent(&["all"]).await;
    accepted.push(enqueue(&client, "echo", json!({"value": 1}), "work").await);
    for id in accepted {
        assert_eq!(settled(&client, id).await.record.state, State::Succeeded);
    }
    agent.stop().await;
}

#[tokio::test]
async fn without_file_descriptors_an_agent_says_so_and_with_few_it_works() {
    let app = App::over(LOAD, false);
    let client = app.client().await;
    let id = enqueue(&client, "noop", json!({}), "work").await;
    let none = limited(&app, "ulimit -n 10", &["agent", "all"]).output().await.unwrap();
    let said = String::from_utf8_lossy(&none.stderr);
    assert_eq!(none.status.code(), Some(69), "{said}");
    assert!(said.contains("Too many open files"), "{said}");
    assert_eq!(client.state(id).await.unwrap(), State::Queued);
    let agent = AgentProcess::start(limited(&app, "ulimit -n 64", &["agent", "all"])).await;
    assert_eq!(settled(&client, id).await.record.state, State::Succeeded);
    for _ in 0..50 {
        let id = enqueue(&client, "noop", json!({}), "work").await;
        assert_eq!(settled(&client, id).await.record.state, State::Succeeded, "none is leaked");
    }
    agent.stop().await;
}

#[tokio::test]
async fn many_tasks_of_a_mebibyte_are_accepted_and_run() {
    const TASKS: usize = 60;
    const BYTES: usize = 1024 * 1024;
    let app = App::new(LOAD);
    let client = app.client().await;
    let tasks = stream::iter(0..TASKS).map(|n| {
        let args = to_raw_value(&json!({"value": format!("{n} {}", "x".repeat(BYTES))})).unwrap();
        NewTask::named("echo".parse().unwrap(), args).queue("work")
    });
    let accepted: Vec<_> = client.enqueue_all(tasks).collect().await;
    let agent = app.agent(&["all"]).await;
    for (n, enqueued) in accepted.into_iter().enumerate() {
        let id = enqueued.unwrap().id;
        assert_eq!(settled(&client, id).await.record.state, State::Succeeded);
        let output: String = client.output(id).await.unwrap();
        assert!(output.len() > BYTES && output.starts_with(&format!("{n} x")), "each has its own");
    }
    agent.stop().await;
}
