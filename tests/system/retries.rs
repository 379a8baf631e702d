//! Which failures are tried again, and what is told about each attempt.

use rhubarb::core::{outcome::Failure, row::State};
use rhubarb_tests::{App, enqueue, settled};
use serde_json::json;

const RETRIES: &str = r#"
[queues.work]
max_attempts = 3
backoff = { initial = "1ms", max = "2ms" }
never_retry_on = ["crashed"]
[tasks.panics]
retry_on = ["timeout"]
[tasks.crash]
[workers.all]
queues = ["work"]
concurrency = 1
"#;

#[tokio::test]
async fn a_failure_is_tried_again_or_not_by_its_kind() {
    let app = App::new(RETRIES);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    for (task, args, attempts, kind) in [
        ("fail", json!({"times": 9}), 3, "error"),
        ("crash", json!({"times": 9}), 1, Failure::CRASHED),
        ("panics", json!({"message": "no"}), 1, Failure::PANIC),
    ] {
        let id = enqueue(&client, task, args, "work").await;
        let record = settled(&client, id).await.record;
        assert_eq!((record.state, record.attempt), (State::Failed, attempts), "{task}");
        assert_eq!(record.failure.unwrap().kind, kind);
    }
    agent.stop().await;
}

#[tokio::test]
async fn each_attempt_is_shown_with_its_error_its_times_its_worker_and_the_end_of_its_output() {
    let app = App::new(RETRIES);
    let client = app.client().await;
    let agent = app.agent(&["all", "--name", "w-1"]).await;
    let id = enqueue(&client, "complain", json!({"times": 2}), "work").await;
    settled(&client, id).await;
    agent.stop().await;
    let shown = app.run(&["task", &id.to_string()]).await.stdout;
    let rows: Vec<&str> = shown.lines().filter(|line| line.contains("w-1")).collect();
    assert!(rows.len() >= 3 && shown.contains("attempts     3 of 3"), "{shown}");
    for attempt in 1..=2 {
        assert!(shown.contains(&format!("error: complaint {attempt}")), "{shown}");
        assert!(shown.contains(&format!("attempt {attempt} printed (the last 5 of 6 lines)")), "{shown}");
        assert!(shown.contains(&format!("  attempt {attempt} line 6")), "{shown}");
    }
    assert!(!shown.contains("attempt 1 line 1"), "the end of it: {shown}");
}
