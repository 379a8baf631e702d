//! What is different on AWS, tried on an emulator whatever the other tests run over.

use rhubarb::core::row::State;
use rhubarb_tests::{App, enqueue, settled};
use serde_json::json;

const LIGHT: &str = r#"
[queues.light]
class = "lambda"
functions = ["scripted"]
[workers.all]
queues = ["default", "light"]
concurrency = 1
"#;

#[tokio::test]
async fn an_agent_leaves_light_queues_to_lambda_unless_it_is_told_to_feed_them() {
    let app = App::over(LIGHT, true);
    let client = app.client().await;
    let left = enqueue(&client, "echo", json!({"value": 1}), "light").await;
    let agent = app.agent(&["all"]).await;
    let taken = enqueue(&client, "echo", json!({"value": 2}), "default").await;
    assert_eq!(settled(&client, taken).await.record.state, State::Succeeded);
    assert_eq!(client.task(left).await.unwrap().record.state, State::Queued);
    let ran = app.run(&["queues"]).await;
    let line = ran.stdout.lines().find(|line| line.starts_with("light")).unwrap();
    assert!(line.ends_with("AWS Lambda"), "{line}");
    agent.stop().await;

    let agent = app.agent(&["all", "--feed-lambda"]).await;
    assert_eq!(settled(&client, left).await.record.state, State::Succeeded);
    agent.stop().await;
}
