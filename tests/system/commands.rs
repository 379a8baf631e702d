//! The command line, as its users meet it: what it prints, and its exit codes.

use rhubarb::core::row::State;
use rhubarb_tests::{App, enqueue, reached, settled};
use serde_json::{Value, json};

const COMMANDS: &str = r#"
[queues.default]
[queues.high]
[workers.all]
queues = ["default", "high"]
concurrency = 1
"#;

#[tokio::test]
async fn enqueue_and_wait_prints_the_result() {
    let app = App::new(COMMANDS);
    let agent = app.agent(&["all"]).await;
    let ran = app.run(&["enqueue", "echo", "--args", r#"{"value": {"a": 1}}"#, "--wait"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(serde_json::from_str::<Value>(&ran.stdout).unwrap(), json!({"a": 1}));
    let ran = app.run(&["enqueue", "fail", "--args", r#"{"times": 9, "fatal": true}"#, "--wait"]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("told to fail"), "{}", ran.stderr);
    agent.stop().await;
}

#[tokio::test]
async fn every_option_of_enqueue_reaches_the_task() {
    let app = App::new(COMMANDS);
    let client = app.client().await;
    let id = "0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b";
    std::fs::write(app.path().join("args.json"), r#"{"value": 7}"#).unwrap();
    let arguments = [
        "enqueue",
        "echo",
        "--args",
        "@args.json",
        "--queue",
        "high",
        "--delay",
        "1h",
        "--expires",
        "2h",
        "--timeout",
        "30s",
        "--max-attempts",
        "2",
        "--id",
        id,
        "--idempotency-key",
        "k",
        "--fairness-key",
        "f",
        "--concurrency-key",
        "c",
    ];
    let ran = app.run(&arguments).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains(id));
    let detail = client.task(id.parse().unwrap()).await.unwrap();
    assert_eq!((detail.record.state, detail.record.queue.as_str()), (State::Scheduled, "high"));
    let spec = detail.spec.unwrap();
    assert_eq!((spec.timeout_ms, spec.max_attempts), (Some(30_000), Some(2)));
    assert_eq!(spec.args.get(), r#"{"value": 7}"#);
    let keys = [spec.idempotency_key, spec.fairness_key, spec.concurrency_key];
    assert_eq!(keys.map(Option::unwrap), ["k", "f", "c"]);
    // Order is kept by FIFO queues alone.
    let ran = app.run(&["enqueue", "echo", "--ordering-key", "o"]).await;
    assert_ne!(ran.code, Some(0));
    assert!(ran.stderr.contains("`ordering_key`") && ran.stderr.contains("fifo = true"), "{}", ran.stderr);
    // The same id again is an error that shows the task.
    let ran = app.run(&["enqueue", "echo", "--id", id]).await;
    assert_ne!(ran.code, Some(0));
    assert!(ran.stderr.contains(id) && ran.stderr.contains("scheduled"), "{}", ran.stderr);
    // The same key again is the first task; with other arguments it is a mistake.
    let same =
        app.run(&["enqueue", "echo", "--args", r#"{"value": 7}"#, "--queue", "high", "--idempotency-key", "k"]).await;
    assert!(same.stdout.contains(id), "{same:?}");
    let other =
        app.run(&["enqueue", "echo", "--args", r#"{"value": 8}"#, "--queue", "high", "--idempotency-key", "k"]).await;
    assert_ne!(other.code, Some(0));
    assert!(other.stderr.contains("other arguments"), "{}", other.stderr);
}

#[tokio::test]
async fn a_result_can_be_read_as_often_as_wanted_and_says_when_there_is_none() {
    let app = App::new(COMMANDS);
    let client = app.client().await;
    let id = enqueue(&client, "echo", json!({"value": "kept"}), "default").await;
    let early = app.run(&["result", &id.to_string()]).await;
    assert_ne!(early.code, Some(0));
    assert!(early.stderr.contains("queued"), "{}", early.stderr);
    let agent = app.agent(&["all"]).await;
    settled(&client, id).await;
    for _ in 0..2 {
        let ran = app.run(&["result", &id.to_string()]).await;
        assert_eq!((ran.code, ran.stdout.trim()), (Some(0), "\"kept\""));
    }
    agent.stop().await;
}

#[tokio::test]
async fn listings_show_what_is_there_for_people_and_for_programs() {
    let app = App::new(COMMANDS);
    let client = app.client().await;
    let agent = app.agent(&["all", "--name", "worker-one"]).await;
    let done = enqueue(&client, "say", json!({"text": "printed"}), "default").await;
    settled(&client, done).await;
    let running = enqueue(&client, "nap", json!({"ms": 60_000}), "default").await;
    reached(&client, running, State::Running).await;
    let waiting = enqueue(&client, "noop", json!({}), "high").await;
    let (done, running, waiting) = (done.to_string(), running.to_string(), waiting.to_string());

    let tasks = app.run(&["tasks"]).await;
    for id in [&done, &running, &waiting] {
        assert!(tasks.stdout.contains(id.as_str()), "{}", tasks.stdout);
    }
    let filtered = app
        .run(&["tasks", "--state", "running", "--queue", "default", "--since", "1h", "--limit", "5", "--json"])
        .await;
    assert!(filtered.stdout.contains(&running) && !filtered.stdout.contains(&done), "{}", filtered.stdout);
    assert!(app.run(&["task", &done]).await.stdout.contains("succeeded"));
    assert!(app.run(&["logs", &done]).await.stdout.contains("printed"));
    let workers = app.run(&["workers"]).await.stdout;
    assert!(workers.contains("worker-one") && workers.contains("default"), "{workers}");
    for listing in ["queues", "workers", "tasks"] {
        let ran = app.run(&[listing, "--json"]).await;
        assert!(ran.stdout.lines().count() > 0 && ran.code == Some(0), "{listing}: {ran:?}");
        let whole: Result<Value, _> = serde_json::from_str(&ran.stdout);
        let lines = ran.stdout.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>();
        assert!(whole.is_ok() || lines.is_ok(), "{listing}: {}", ran.stdout);
    }
    let cancelled = app.run(&["cancel", &running]).await;
    assert_eq!(cancelled.code, Some(0), "{}", cancelled.stderr);
    assert_eq!(settled(&client, running.parse().unwrap()).await.record.state, State::Cancelled);
    agent.stop().await;
}

#[tokio::test]
async fn mistakes_have_their_own_exit_codes_and_words() {
    let app = App::new(COMMANDS);
    for (arguments, code, words) in [
        (vec!["enqueue", "echo", "--args", "{not json"], 2, "JSON"),
        (vec!["enqueue", "echo", "--queue", "hihg"], 64, "hihg"),
        (vec!["enqueue", "../x"], 2, "task name"),
        (vec!["task", "../../etc/passwd"], 2, "task id"),
        (vec!["agent", "nobody"], 64, "nobody"),
        (vec!["--config", "missing.toml", "check"], 64, "missing.toml"),
        (vec!["result", "0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b"], 1, "no task"),
    ] {
        let ran = app.run(&arguments).await;
        assert_eq!(ran.code, Some(code), "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains(words), "{arguments:?}: {}", ran.stderr);
    }
}

#[tokio::test]
async fn check_tells_every_mistake_with_its_line() {
    let toml = "[queues.work]\ntimeout = \"25 hourz\"\nfunctions = [\"gone\"]\n[workers.all]\nqueues = [\"wrok\"]\n";
    let app = App::over(toml, false);
    let ran = app.run(&["check"]).await;
    assert_eq!(ran.code, Some(64));
    for words in ["rhubarb.toml:", "queues.work.timeout", "gone", "wrok"] {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
    let app = App::new(COMMANDS);
    assert_eq!(app.run(&["check"]).await.code, Some(0));
}

#[tokio::test]
async fn a_missing_function_binary_is_named_with_the_way_to_build_it() {
    let app = App::new(
        "[functions.gone]\npackage = \"gone\"\n[queues.default]\nfunctions = [\"gone\"]\n[workers.all]\nqueues = [\"default\"]\n",
    );
    let ran = app.run(&["agent", "all"]).await;
    assert_ne!(ran.code, Some(0));
    assert!(ran.stderr.contains("cargo build") && ran.stderr.contains("gone"), "{}", ran.stderr);
}

#[test]
fn the_readme_lists_every_key_of_the_configuration() {
    let readme = include_str!("../../README.md");
    let reference = rhubarb::core::config::reference_markdown();
    assert!(readme.contains(reference.trim()), "paste what `rhubarb config` prints into the README");
}

#[tokio::test]
async fn a_new_function_is_written_in_a_project_of_ones_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = tokio::process::Command::new(rhubarb_tests::binary("rhubarb"));
    let output = command.args(["new", "function", "hello"]).current_dir(folder.path()).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let main = std::fs::read_to_string(folder.path().join("functions/hello/src/main.rs")).unwrap();
    assert!(main.lines().count() <= 20, "{main}");
    let mut check = tokio::process::Command::new(rhubarb_tests::binary("rhubarb"));
    let output = check.arg("check").current_dir(folder.path()).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn dev_runs_every_worker_and_a_second_one_is_refused() {
    // One `dev` a folder is a rule of the embedded store.
    let app = App::over(COMMANDS, false);
    let client = app.client().await;
    let dev = rhubarb_tests::AgentProcess::start(app.command(&["dev"])).await;
    let second = app.run(&["dev"]).await;
    assert_ne!(second.code, Some(0));
    assert!(second.stderr.contains("dev"), "{}", second.stderr);
    let id = enqueue(&client, "noop", json!({}), "high").await;
    assert_eq!(settled(&client, id).await.record.state, State::Succeeded);
    let (status, log) = dev.stop().await;
    assert!(status.success(), "{log}");
}

#[tokio::test]
async fn a_folder_that_cannot_hold_the_store_is_named() {
    let app = App::over(COMMANDS, false);
    std::fs::write(app.path().join("a-file"), "").unwrap();
    for folder in ["a-file", "/proc/nowhere"] {
        let ran = app.run(&["--dir", folder, "queues"]).await;
        assert_eq!(ran.code, Some(69), "{ran:?}");
        assert!(ran.stderr.contains(folder), "{}", ran.stderr);
    }
}
