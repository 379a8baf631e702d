//! Producers that know SQS and not Rhubarb: the README's very lines, run as they stand there, against an emulator
//! with an agent of the example's functions.

use std::fmt::Write as _;

use rhubarb::core::{ids::TaskId, row::State};
use rhubarb_tests::{AgentProcess, App, binary, enqueue, settled, until};
use serde_json::{Value, json};

use crate::readme::{block, said};

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

/// What a shell says to a script of the README in the folder of the application.
async fn says(app: &App, script: &str, variable: (&'static str, &str)) -> String {
    let mut variables = app.variables();
    variables.push((variable.0, variable.1.to_owned()));
    said(app.path(), script, &variables).await
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
    let output: Value = serde_json::from_str(&says(app, result, ("id", message)).await).unwrap();
    assert_eq!(output["model"], "demo-one");
    assert!(output["accuracy"].as_f64().unwrap() > 0.0, "{output}");
}

#[tokio::test]
async fn the_readmes_plain_producers_have_their_tasks_run() {
    let app = platform();
    let agent = with_a_model(&app).await;
    let find = block("sh\n", "export QUEUE_URL=");
    let url = said(app.path(), &format!("{find}\necho \"$QUEUE_URL\""), &app.variables()).await;
    assert!(url.starts_with("http://127.0.0.1:") && url.ends_with("-evaluation"), "{url}");

    let python = block("python\n", "boto3");
    std::fs::write(app.path().join("producer.py"), python).unwrap();
    let message = says(&app, "python producer.py", ("QUEUE_URL", &url)).await;
    judged(&app, &message).await;

    let send = block("sh\n", "aws sqs send-message");
    let message = says(&app, &format!("{send}\necho \"$id\""), ("QUEUE_URL", &url)).await;
    judged(&app, &message).await;
    agent.stop().await;
}
