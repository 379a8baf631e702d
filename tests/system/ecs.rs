//! An agent in a container of ECS, whose endpoints a test holds.

use rhubarb::core::{backend::WorkerState, row::State};
use rhubarb_testkit::ecs::FakeEcs;
use rhubarb_tests::{AgentProcess, App, PATIENCE, enqueue, reached, settled};
use serde_json::{Value, json};
use tokio::time::timeout;

#[tokio::test]
async fn a_busy_agent_has_its_ecs_task_protected_and_its_row_says_which_it_is() {
    let (app, ecs) = (App::new(""), FakeEcs::start().await);
    let client = app.client().await;
    let mut command = app.command(&["agent", "--name", "one"]);
    command.env("ECS_AGENT_URI", ecs.agent_uri()).env("ECS_CONTAINER_METADATA_URI_V4", ecs.metadata_uri());
    let agent = AgentProcess::start(command).await;
    assert!(ecs.asked().is_empty(), "an idle one may be scaled in");
    let id = enqueue(&client, "nap", json!({"ms": 60_000}), "default").await;
    timeout(PATIENCE, ecs.protected(true)).await.unwrap();
    assert_eq!(client.state(id).await.unwrap(), State::Running);
    let row: Value = serde_json::from_str(&app.run(&["workers", "--json"]).await.stdout).unwrap();
    assert_eq!((&row["ecs"]["task"], &row["ecs"]["family"]), (&json!(FakeEcs::TASK_ARN), &json!("shop-training")));
    client.cancel(&[id]).await;
    settled(&client, id).await;
    let (status, log) = agent.stop().await;
    assert!(status.success(), "{log}");
    assert!(!ecs.is_protected(), "an agent that goes gives its protection back");
}

#[tokio::test]
async fn a_refusal_of_protection_is_told_once_and_work_goes_on() {
    let (app, ecs) = (App::new(""), FakeEcs::start().await);
    ecs.refuse(r#"{"failure":{"Arn":"a","Detail":null,"Reason":"DEPLOYMENT_BLOCKED"}}"#);
    let client = app.client().await;
    let mut command = app.command(&["agent"]);
    command.env("ECS_AGENT_URI", ecs.agent_uri());
    let mut agent = AgentProcess::start(command).await;
    let id = enqueue(&client, "nap", json!({"ms": 60_000}), "default").await;
    agent.saw("cannot protect this ECS task while it is busy: DEPLOYMENT_BLOCKED").await;
    client.cancel(&[id]).await;
    settled(&client, id).await;
    let next = enqueue(&client, "noop", json!({}), "default").await;
    assert_eq!(settled(&client, next).await.record.state, State::Succeeded);
    let (status, log) = agent.stop().await;
    assert!(status.success() && log.matches("cannot protect").count() == 1, "{log}");
}

#[tokio::test]
async fn a_spot_notice_drains_the_agent_and_its_work_goes_back() {
    let (app, ecs) = (App::new(""), FakeEcs::start().await);
    let client = app.client().await;
    let too_long = app.run(&["agent", "--spot-notices", "--grace", "5m"]).await;
    assert!(too_long.code == Some(64) && too_long.stderr.contains("kills this agent 120s"), "{}", too_long.stderr);
    let mut command = app.command(&["agent", "--spot-notices", "--grace", "1s", "--name", "one"]);
    command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", ecs.instance_uri());
    let agent = AgentProcess::start(command).await;
    let id = enqueue(&client, "nap", json!({"ms": 60_000}), "default").await;
    reached(&client, id, State::Running).await;
    ecs.interrupt();
    let (status, log) = agent.ended().await;
    assert!(log.contains("this Spot instance is to terminate"), "{log}");
    assert!(status.success(), "{log}");
    let detail = reached(&client, id, State::Queued).await;
    assert_eq!((detail.record.attempt, detail.record.interruptions), (0, 1), "it spends no attempt");
    assert!(client.workers().await.unwrap().iter().all(|heard| heard.worker.state != WorkerState::Running));
}
