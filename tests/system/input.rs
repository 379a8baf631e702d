//! Bad input is answered, never fatal: a clear error, and no task is lost.

use rhubarb::core::{
    backend::OutgoingMessage,
    ids::{QueueName, TaskId},
    outcome::Failure,
    row::State,
};
use rhubarb_tests::{App, enqueue, settled, until};
use serde_json::json;

const INPUT: &str = r#"
[queues.work]
functions = ["scripted"]
max_attempts = 2
timeout = "5s"
backoff = { initial = "1ms", max = "2ms" }
[workers.all]
queues = ["work"]
concurrency = 1
"#;

async fn send(client: &rhubarb::Client, body: &str) -> TaskId {
    let queue = QueueName::new("work").unwrap();
    let message = OutgoingMessage { body: body.into(), ..OutgoingMessage::default() };
    let sent = client.backend().broker().send(&queue, &[message]).await.pop().unwrap().unwrap();
    TaskId::of_message(&sent)
}

#[tokio::test]
async fn a_message_that_is_no_envelope_is_buried_and_the_next_one_runs() {
    let app = App::new(INPUT);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    let poison = send(&client, "{\"args\": 7").await;
    let celery = send(&client, r#"{"body":"W10=","headers":{"task":"add","id":"1"}}"#).await;
    let least = send(&client, r#"{"task":"echo","args":{"value":5}}"#).await;
    assert_eq!(settled_row(&client, least).await.0, State::Succeeded);
    for id in [poison, celery] {
        let (state, failure) = settled_row(&client, id).await;
        assert_eq!(state, State::Failed);
        let failure = failure.unwrap();
        assert_eq!(failure.kind, Failure::POISON);
        assert!(failure.message.contains("\"task\""), "it says what to send: {}", failure.message);
    }
    agent.stop().await;
}

async fn settled_row(client: &rhubarb::Client, id: TaskId) -> (State, Option<Failure>) {
    until(async || {
        let record = client.task(id).await.ok()?.record;
        record.state.is_settled().then_some((record.state, record.failure))
    })
    .await
}

#[tokio::test]
async fn a_newer_envelope_is_put_back_for_a_newer_worker() {
    let app = App::new(INPUT);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    let id = send(&client, r#"{"v":2,"id":"0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b","task":"noop","args":{}}"#).await;
    let queue = QueueName::new("work").unwrap();
    until(async || {
        let counts = client.backend().broker().counts(&queue).await.unwrap();
        (counts.in_flight + counts.delayed == 1).then_some(())
    })
    .await;
    assert!(client.task(id).await.is_err(), "it is neither run nor buried");
    agent.stop().await;
}

#[tokio::test]
async fn an_unknown_task_waits_for_a_newer_worker_and_spends_no_attempt() {
    let app = App::new(INPUT);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    let id = enqueue(&client, "brand_new", json!({}), "work").await;
    let record = until(async || {
        let record = client.task(id).await.unwrap().record;
        (record.state == State::Retrying).then_some(record)
    })
    .await;
    assert_eq!((record.attempt, record.snoozes > 0), (0, true));
    agent.stop().await;
}

#[tokio::test]
async fn arguments_that_do_not_fit_the_task_are_named_and_not_tried_again() {
    let app = App::new(INPUT);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    let id = enqueue(&client, "nap", json!({"ms": "long"}), "work").await;
    let detail = settled(&client, id).await;
    assert_eq!((detail.record.state, detail.record.attempt), (State::Failed, 1));
    let failure = detail.record.failure.unwrap();
    assert_eq!(failure.kind, Failure::POISON);
    assert!(failure.message.contains("long"), "{}", failure.message);
    agent.stop().await;
}

#[tokio::test]
async fn a_message_over_one_mebibyte_is_refused_by_name() {
    let app = App::new(INPUT);
    let client = app.client().await;
    let queue = QueueName::new("work").unwrap();
    let body = "x".repeat(1024 * 1024 + 1);
    let message = OutgoingMessage { body, ..OutgoingMessage::default() };
    let refused = client.backend().broker().send(&queue, &[message]).await.pop().unwrap().unwrap_err().to_string();
    assert!(refused.contains("1048577") && refused.contains("1048576"), "{refused}");
}

/// Functions that break the rules of the Runtime API, each in its own way.
#[tokio::test]
async fn a_function_that_breaks_the_rules_harms_its_own_task_alone() {
    for (manner, kind, said) in [
        ("exits-at-start", Failure::INIT, "the model file is missing"),
        ("never-asks", Failure::INIT, "init_timeout"),
        ("garbage", Failure::BAD_ANSWER, "breaks the contract"),
        ("stranger", Failure::BAD_ANSWER, "nobody"),
        ("never-answers", Failure::TIMEOUT, "time limit"),
    ] {
        let app = App::new(&format!(
            "[functions.rogue]\ncommand = ['{{scripted}}', '{manner}']\ninit_timeout = \"1s\"\n{}",
            INPUT.replace("[\"scripted\"]", "[\"rogue\"]").replace("5s", "500ms"),
        ));
        let client = app.client().await;
        let agent = app.agent(&["all"]).await;
        let id = enqueue(&client, "anything", json!({}), "work").await;
        let detail = settled(&client, id).await;
        let failure = detail.record.failure.unwrap();
        assert_eq!(
            (detail.record.state, failure.kind.as_str()),
            (State::Failed, kind),
            "{manner}: {}",
            failure.message
        );
        if said != "init_timeout" {
            assert!(failure.message.contains(said), "{manner}: {}", failure.message);
        }
        agent.stop().await;
    }
}

#[tokio::test]
async fn a_second_answer_and_one_for_another_request_are_refused() {
    for manner in ["twice", "wrong-request"] {
        let app = App::new(&format!(
            "[functions.rogue]\ncommand = ['{{scripted}}', '{manner}']\n{}",
            INPUT.replace("[\"scripted\"]", "[\"rogue\"]"),
        ));
        let client = app.client().await;
        let agent = app.agent(&["all"]).await;
        let id = enqueue(&client, "anything", json!({}), "work").await;
        assert_eq!(settled(&client, id).await.record.state, State::Succeeded, "{manner}");
        // The child notes how the host answered, in the folder it runs in.
        let refused = until(async || {
            std::fs::read_to_string(app.path().join("refused")).ok().filter(|text| text.ends_with('\n'))
        });
        assert!(refused.await.starts_with("HTTP/1.1 400"), "{manner}");
        agent.stop().await;
    }
}

#[tokio::test]
async fn control_sequences_of_a_function_never_reach_a_terminal() {
    let app = App::new(INPUT);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    let evil = "\u{1b}[2J\u{1b}]0;owned\u{7}hello\u{9b}31m";
    let id = enqueue(&client, "say", json!({"text": evil}), "work").await;
    let failed = enqueue(&client, "panics", json!({"message": evil}), "work").await;
    settled(&client, id).await;
    settled(&client, failed).await;
    for arguments in [["logs", &id.to_string()], ["task", &failed.to_string()], ["task", &id.to_string()]] {
        let ran = app.run(&arguments).await;
        let control = |c: char| c.is_control() && c != '\n' && c != '\t';
        assert!(!ran.stdout.contains(control), "{arguments:?}: {:?}", ran.stdout);
        assert!(!ran.stderr.contains(control), "{arguments:?}: {:?}", ran.stderr);
    }
    agent.stop().await;
}
