//! Producers that know SQS and not Rhubarb: the README's very lines, run as they stand there, against an emulator
//! with an agent of the example's functions.

use std::{fmt::Write as _, path::Path};

use rhubarb::core::{ids::TaskId, row::State};
use rhubarb_tests::{AgentProcess, App, PATIENCE, binary, enqueue, settled, until};
use serde_json::{Value, json};
use tokio::process::Command;

const README: &str = include_str!("../../README.md");
const BIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../.venv/bin");

/// Where the training platform's evaluations run; its own functions, each as it is built beside the test.
fn platform() -> App {
    let functions = ["preprocessing", "training", "evaluation"];
    let mut toml = format!("[queues.evaluation]\nfunctions = {functions:?}\n");
    toml.push_str("[workers.all]\nqueues = [\"evaluation\"]\nconcurrency = 1\n");
    for function in functions {
        let path = binary(function);
        writeln!(toml, "[functions.{function}]\ncommand = ['{}']", path.display()).unwrap();
    }
    App::over(&toml, true)
}

/// An agent at work, and the model that the README's producers have judged.
async fn with_a_model(app: &App) -> AgentProcess {
    let agent = app.agent(&["all"]).await;
    let client = app.client().await;
    let data = enqueue(&client, "preprocess_dataset", json!({"dataset": "digits"}), "evaluation").await;
    assert_eq!(settled(&client, data).await.record.state, State::Succeeded);
    let training = json!({"dataset": "digits", "epochs": 1, "hidden": [16], "distortions": 0, "model": "demo-one"});
    let model = enqueue(&client, "train_model", training, "evaluation").await;
    assert_eq!(settled(&client, model).await.record.state, State::Succeeded);
    agent
}

/// The fenced block of the README that holds these words.
fn block<'a>(language: &str, words: &str) -> &'a str {
    let blocks = README.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix(language));
    blocks.into_iter().find(|block| block.contains(words)).unwrap()
}

/// What a shell says to a block, with the programs of this build and of the tests' Python in its path.
async fn said(app: &App, script: &str, variables: &[(&str, &str)]) -> String {
    let build = binary("rhubarb");
    let build = build.parent().map(Path::to_string_lossy).unwrap_or_default();
    let path = format!("{build}:{BIN}:{}", std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("sh");
    shell.args(["-euc", script]).current_dir(app.path()).kill_on_drop(true).env("PATH", path);
    shell.envs(app.variables()).env("AWS_DEFAULT_REGION", "eu-central-1").envs(variables.iter().copied());
    let ran = tokio::time::timeout(PATIENCE, shell.output()).await.unwrap().unwrap();
    assert!(ran.status.success(), "{script}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8_lossy(&ran.stdout).trim().to_owned()
}

/// Waits for the task that a plain producer's message becomes, and reads its result as the README says.
async fn judged(app: &App, message: &str) {
    let client = app.client().await;
    let id: TaskId = message.parse().unwrap();
    // There is no row before its first claim.
    let row = until(async || client.task(id).await.ok()).await;
    assert_eq!(row.record.task.as_str(), "run_evaluation");
    assert_eq!(settled(&client, id).await.record.state, State::Succeeded);
    let result = block("sh\n", "rhubarb --aws result \"$id\"");
    let output: Value = serde_json::from_str(&said(app, result, &[("id", message)]).await).unwrap();
    assert_eq!(output["model"], "demo-one");
    assert!(output["accuracy"].as_f64().unwrap() > 0.0, "{output}");
}

#[tokio::test]
async fn the_readmes_plain_producers_have_their_tasks_run() {
    let app = platform();
    let agent = with_a_model(&app).await;
    let find = block("sh\n", "export QUEUE_URL=");
    let url = said(&app, &format!("{find}\necho \"$QUEUE_URL\""), &[]).await;
    assert!(url.starts_with("http://127.0.0.1:") && url.ends_with("-evaluation"), "{url}");

    let python = block("python\n", "boto3");
    std::fs::write(app.path().join("producer.py"), python).unwrap();
    let message = said(&app, "python producer.py", &[("QUEUE_URL", &url)]).await;
    judged(&app, &message).await;

    let message =
        said(&app, &format!("{}\necho \"$id\"", block("sh\n", "aws sqs send-message")), &[("QUEUE_URL", &url)]).await;
    judged(&app, &message).await;
    agent.stop().await;
}
