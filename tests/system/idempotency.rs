//! One key, one task: whoever enqueues it, from wherever, however often.

use std::collections::BTreeSet;

use futures::future::join_all;
use rhubarb::core::{ids::TaskId, row::State};
use rhubarb_tests::{App, enqueue, settled};
use serde_json::json;

const KEYS: &str = r#"
[queues.work]
lease = "{lease}"
[queues.idle]
[workers.all]
queues = ["work"]
concurrency = 2
"#;

/// A process of its own for each: nothing but the store tells them of each other.
#[tokio::test]
async fn a_hundred_clients_in_processes_of_their_own_with_one_key_get_one_id() {
    let app = App::new(KEYS);
    let client = app.client().await;
    let enqueue = ["enqueue", "echo", "--queue", "work", "--args", "{\"value\":7}", "--idempotency-key", "order-1"];
    let mut ids = BTreeSet::new();
    // As many at a time as the machine bears: all of them race with the first, and with each other.
    for _ in 0..5 {
        let ran = join_all((0..20).map(|_| app.run(&enqueue))).await;
        ids.extend(ran.into_iter().map(|ran| {
            assert_eq!(ran.code, Some(0), "{ran:?}");
            ran.stdout.trim().parse::<TaskId>().unwrap()
        }));
    }
    assert_eq!(ids.len(), 1, "{ids:?}");
    let id = *ids.first().unwrap();
    let agent = app.agent(&["all"]).await;
    assert_eq!(settled(&client, id).await.attempts.len(), 1);
    agent.stop().await;
    let other = [&enqueue[..4], &["--args", "{\"value\":8}"], &enqueue[6..]].concat();
    let refused = app.run(&other).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("`order-1`") && refused.stderr.contains("other arguments"), "{refused:?}");
}

#[tokio::test]
async fn a_key_until_settled_is_free_again_once_its_task_is_settled() {
    let app = App::new(KEYS);
    let client = app.client().await;
    let enqueue = ["enqueue", "noop", "--queue", "work", "--idempotency-key", "k", "--window", "until-settled"];
    let run = async || app.run(&enqueue).await.stdout.trim().parse::<TaskId>().unwrap();
    let first = run().await;
    assert_eq!(run().await, first);
    let agent = app.agent(&["all"]).await;
    settled(&client, first).await;
    agent.stop().await;
    assert_ne!(run().await, first);
}

/// A function enqueues by the route of its host: the same key, the same windows.
#[tokio::test]
async fn a_function_may_give_a_key_that_lasts_until_its_task_is_settled() {
    let app = App::new(KEYS);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    let mut children: Vec<Vec<TaskId>> = Vec::new();
    for _ in 0..2 {
        let id = enqueue(&client, "once", json!({"key": "nightly", "times": 2, "queue": "idle"}), "work").await;
        let detail = settled(&client, id).await;
        assert_eq!(detail.record.state, State::Succeeded, "{:?}", detail.record.failure);
        children.push(client.output(id).await.unwrap());
        let child = children.last().unwrap()[0];
        assert_eq!(client.cancel(&[child]).await[0].as_ref().unwrap(), &State::Cancelled);
    }
    agent.stop().await;
    assert!(children.iter().all(|ids| ids[0] == ids[1]), "twice while it was open: {children:?}");
    assert_ne!(children[0][0], children[1][0], "a new one after it was settled");
}
