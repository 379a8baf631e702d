//! The whole road on an AWS emulator: a message in SQS, Lambda's event source mapping, the bootstrap and its
//! function as Lambda starts them, the row in DynamoDB.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a helper that fails is a failed test")]

mod common;

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use rhubarb_aws::{AwsBackend, AwsOptions, Connection};
use rhubarb_core::{
    backend::{Backend, OutgoingMessage, Submission, TaskDetail, Window},
    config::{Config, NoVars, Overrides},
    ids::TaskId,
    row::State,
    time::Timestamp,
};
use rhubarb_testkit::emulator::{Emulator, REGION};
use serde_json::{Value, json};
use tempfile::TempDir;

/// No task of this test takes so long on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A function that runs on the emulator's Lambda.
struct Deployed {
    backend: AwsBackend,
    _dir: TempDir,
    _emulator: Emulator,
}

impl Deployed {
    async fn new() -> Self {
        let emulator = Emulator::start();
        let dir = common::folder("batch = 10\nmax_attempts = 2");
        let text = std::fs::read_to_string(dir.path().join("rhubarb.toml")).unwrap();
        let config = Config::parse(&text, &NoVars, &Overrides::default()).unwrap();
        let options = AwsOptions { create: true, ..AwsOptions::default() };
        let backend =
            AwsBackend::over(Connection::to_emulator(emulator.endpoint(), REGION), &config, options).await.unwrap();
        stand_in(dir.path(), "bootstrap", Path::new(env!("CARGO_BIN_EXE_rhubarb-lambda")));
        stand_in(dir.path(), "scripted", &common::example("lambda_scripted"));
        deploy(&emulator, dir.path(), &backend.queue_url(&common::queue()).await.unwrap());
        Self { backend, _dir: dir, _emulator: emulator }
    }

    async fn enqueue(&self, script: Value) -> TaskId {
        let envelope = common::envelope(&script);
        let submission = Submission::new(&envelope, common::queue(), Window::DEFAULT);
        for answer in Backend::submit(&self.backend, &[submission], Timestamp::from_system(SystemTime::now())).await {
            answer.unwrap();
        }
        envelope.id
    }

    /// Waits until a task is settled.
    async fn settled(&self, id: TaskId) -> TaskDetail {
        let settled = async {
            loop {
                let states = self.backend.tasks().wait_settled(&[id], Duration::from_secs(1)).await.unwrap();
                if states[0].is_some_and(State::is_settled) {
                    return self.backend.tasks().read(&[id]).await.unwrap().pop().flatten().unwrap();
                }
            }
        };
        tokio::time::timeout(PATIENCE, settled).await.expect("the task is settled in time")
    }
}

/// Puts a script in the zip's folder that becomes the program: a debug build is larger than a zip may be.
fn stand_in(folder: &Path, name: &str, program: &Path) {
    let path = folder.join(name);
    // The link that the other tests run by.
    let _ = std::fs::remove_file(&path);
    std::fs::write(&path, format!("#!/bin/sh\nexec '{}'\n", program.display())).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn deploy(emulator: &Emulator, folder: &Path, queue_url: &str) {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let variables = json!({ "RHUBARB_QUEUE": "q", "RHUBARB_BUCKET": "tests-dev-000000000000" });
    let output = Command::new(here.join("../../.venv/bin/python"))
        .arg(here.join("tests/deploy.py"))
        .arg(folder)
        .args(["tests-dev-q", queue_url, &variables.to_string()])
        .envs(emulator.variables())
        .env("AWS_DEFAULT_REGION", REGION)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn tasks_run_on_lambda_from_the_message_to_the_settled_row() {
    let deployed = Deployed::new().await;

    let good = deployed.enqueue(json!({ "say": "hello" })).await;
    let detail = deployed.settled(good).await;
    assert_eq!(detail.record.state, State::Succeeded);
    assert_eq!(detail.attempts[0].log.text, "hello\n");
    assert!(detail.attempts[0].worker.as_str().starts_with("lambda-q-"), "{}", detail.attempts[0].worker);

    let bad = deployed.enqueue(json!({ "fail_after_ms": 1000 })).await;
    let dead = deployed.enqueue(json!({ "abort": true })).await;
    let detail = deployed.settled(bad).await;
    assert_eq!((detail.record.state, detail.record.attempt), (State::Failed, 2));
    let detail = deployed.settled(dead).await;
    assert_eq!((detail.record.state, detail.record.failure.unwrap().kind.as_str()), (State::Failed, "crashed"));

    let body = json!({ "task": "script", "args": {} }).to_string();
    let message = OutgoingMessage { body, ..OutgoingMessage::default() };
    let sent = deployed.backend.broker().send(&common::queue(), &[message]).await.pop().unwrap().unwrap();
    let plain = deployed.settled(TaskId::of_message(&sent)).await;
    assert_eq!(plain.record.state, State::Succeeded, "a plain producer's message");
}
