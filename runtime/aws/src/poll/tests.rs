//! Long polls over a queue that a test fills, on time that passes only while everybody waits.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use rhubarb_core::{
    config::{Config, NoVars, Overrides},
    ids::QueueName,
    limits::Limits,
};
use serde_json::{Value, json};
use tokio::{sync::Notify, time::Instant};

use super::Polls;
use crate::{
    broker::SqsBroker,
    connect::Connection,
    scripted::{self, Answer, refusal},
};

const LEASE: Duration = Duration::from_secs(30);
const IDLE_WAIT: Duration = Duration::from_secs(20);

/// Queues as SQS has them, as far as polls see them.
#[derive(Clone, Default)]
struct Queues {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Queue and body.
    messages: Mutex<VecDeque<(String, String)>>,
    sent: Notify,
    /// Operation and request, in order.
    seen: Mutex<Vec<(String, Value)>>,
    is_down: Mutex<bool>,
}

impl Queues {
    fn connection(&self) -> Connection {
        let queues = self.clone();
        scripted::connection(move |operation, body| {
            let queues = queues.clone();
            async move { queues.answer(operation, body).await }
        })
    }

    fn polls(&self) -> Polls {
        let config = "[app]\nname = \"t\"\n[functions.f]\npackage = \"f\"";
        let config = Config::parse(config, &NoVars, &Overrides::default()).unwrap();
        Polls::new(SqsBroker::new(&self.connection(), &config, Limits::AWS, false))
    }

    fn send(&self, queue: &QueueName, body: &str) {
        self.shared.messages.lock().unwrap().push_back((format!("t-dev-{queue}"), body.to_owned()));
        self.shared.sent.notify_waiters();
    }

    async fn answer(&self, operation: String, request: Value) -> Answer {
        self.shared.seen.lock().unwrap().push((operation.clone(), request.clone()));
        if operation == "GetQueueUrl" {
            let name = request["QueueName"].as_str().unwrap();
            return (200, json!({ "QueueUrl": format!("http://127.0.0.1:1/000000000000/{name}") }));
        }
        if *self.shared.is_down.lock().unwrap() {
            return refusal("AccessDenied", "not authorized to perform: sqs:ReceiveMessage");
        }
        if operation != "ReceiveMessage" {
            return (200, json!({ "Successful": [{ "Id": "0" }], "Failed": [] }));
        }
        let until = Instant::now() + Duration::from_secs(request["WaitTimeSeconds"].as_u64().unwrap_or_default());
        loop {
            let sent = self.shared.sent.notified();
            let messages = self.receive(&request);
            if !messages.is_empty() || tokio::time::timeout_at(until, sent).await.is_err() {
                return (200, json!({ "Messages": messages }));
            }
        }
    }

    fn receive(&self, request: &Value) -> Vec<Value> {
        let max = usize::try_from(request["MaxNumberOfMessages"].as_u64().unwrap()).unwrap();
        let queue = request["QueueUrl"].as_str().unwrap().rsplit('/').next().unwrap();
        let mut messages = self.shared.messages.lock().unwrap();
        let (mine, others): (VecDeque<_>, VecDeque<_>) = messages.drain(..).partition(|(of, _)| of == queue);
        let mut mine = mine.into_iter();
        let given: Vec<Value> = mine
            .by_ref()
            .take(max)
            .map(|(_, body)| json!({ "MessageId": body, "ReceiptHandle": body, "Body": body }))
            .collect();
        *messages = mine.chain(others).collect();
        given
    }

    fn requests(&self, operation: &str) -> Vec<Value> {
        let seen = self.shared.seen.lock().unwrap();
        seen.iter().filter(|(name, _)| name == operation).map(|(_, request)| request.clone()).collect()
    }

    fn receives(&self) -> usize {
        self.requests("ReceiveMessage").len()
    }
}

fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

async fn take(polls: &Polls, queue: &QueueName, max: usize) -> Vec<String> {
    let deliveries = polls.take(queue, max, LEASE, Duration::ZERO).await.unwrap();
    deliveries.into_iter().map(|delivery| delivery.body).collect()
}

/// One round of an agent that finds nothing.
async fn idle_round(polls: &Polls, queues: &[QueueName]) {
    for queue in queues {
        assert!(take(polls, queue, 10).await.is_empty());
    }
    polls.wait_ready(queues, IDLE_WAIT).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_idle_queue_is_asked_three_times_a_minute() {
    let (queues, names) = (Queues::default(), [queue("a"), queue("b"), queue("c")]);
    let polls = queues.polls();
    idle_round(&polls, &names).await;
    let (begun, before) = (Instant::now(), queues.receives());
    while begun.elapsed() < Duration::from_secs(600) {
        idle_round(&polls, &names).await;
    }
    let per_queue = (queues.receives() - before).div_ceil(names.len());
    assert!(per_queue <= 30, "{per_queue} requests in ten minutes");
    assert!(per_queue >= 29, "the queues are not watched: {per_queue} requests in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn several_agents_of_a_process_share_the_polls_of_an_idle_queue() {
    let (queues, names) = (Queues::default(), [queue("a")]);
    let polls = Arc::new(queues.polls());
    let begun = Instant::now();
    let agent = || async {
        while begun.elapsed() < Duration::from_secs(600) {
            idle_round(&polls, &names).await;
        }
    };
    tokio::join!(agent(), agent(), agent());
    assert!(queues.receives() <= 30 + 3, "{} requests in ten minutes", queues.receives());
}

#[tokio::test(start_paused = true)]
async fn a_message_wakes_who_waits_and_the_next_take_has_it() {
    let (queues, names) = (Queues::default(), [queue("a"), queue("b")]);
    let polls = queues.polls();
    idle_round(&polls, &names).await;
    let begun = Instant::now();
    let (ready, ()) = tokio::join!(polls.wait_ready(&names, IDLE_WAIT), async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        queues.send(&names[1], "here");
    });
    ready.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let before = queues.receives();
    assert!(take(&polls, &names[0], 1).await.is_empty(), "the other queue's poll stands for it");
    assert_eq!(take(&polls, &names[1], 1).await, ["here"]);
    assert_eq!(queues.receives(), before, "the take had what the poll brought");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(queues.requests("ChangeMessageVisibilityBatch").is_empty(), "what was taken is not given back");
}

#[tokio::test(start_paused = true)]
async fn a_backlog_is_taken_at_full_speed() {
    let (queues, a) = (Queues::default(), queue("a"));
    let polls = queues.polls();
    idle_round(&polls, std::slice::from_ref(&a)).await;
    for n in 0..95 {
        queues.send(&a, &n.to_string());
    }
    polls.wait_ready(std::slice::from_ref(&a), IDLE_WAIT).await.unwrap();
    let (begun, before, mut taken) = (Instant::now(), queues.receives(), 0);
    while taken < 95 {
        let brought = take(&polls, &a, 10).await;
        assert!(!brought.is_empty(), "{taken} of 95");
        taken += brought.len();
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
    // One was held: nine with it, then tens.
    assert_eq!(queues.receives() - before, 10);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_takes_is_given_back_within_a_second_and_not_received_again() {
    let (queues, a) = (Queues::default(), queue("a"));
    let polls = queues.polls();
    idle_round(&polls, std::slice::from_ref(&a)).await;
    // An agent whose room goes to another queue leaves its poll in flight.
    drop(tokio::time::timeout(Duration::from_secs(5), polls.wait_ready(std::slice::from_ref(&a), IDLE_WAIT)).await);
    queues.send(&a, "unwanted");
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert!(queues.requests("ChangeMessageVisibilityBatch").is_empty());
    tokio::time::sleep(Duration::from_millis(200)).await;
    let given_back = queues.requests("ChangeMessageVisibilityBatch");
    let entry = json!({ "Id": "0", "ReceiptHandle": "unwanted", "VisibilityTimeout": 0 });
    assert_eq!(given_back.iter().map(|request| &request["Entries"]).collect::<Vec<_>>(), [&json!([entry])]);
    queues.send(&a, "unwanted");
    let before = queues.receives();
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(queues.receives(), before, "nobody waits");
    assert_eq!(take(&polls, &a, 1).await, ["unwanted"]);
}

#[tokio::test(start_paused = true)]
async fn a_message_is_hidden_for_the_lease_of_the_last_take_and_another_lease_extends_it() {
    let (queues, a) = (Queues::default(), queue("a"));
    let polls = queues.polls();
    let lease = Duration::from_secs(77);
    assert!(polls.take(&a, 1, lease, Duration::ZERO).await.unwrap().is_empty());
    queues.send(&a, "m");
    polls.wait_ready(std::slice::from_ref(&a), IDLE_WAIT).await.unwrap();
    assert_eq!(queues.requests("ReceiveMessage").pop().unwrap()["VisibilityTimeout"], 77);
    assert_eq!(take(&polls, &a, 1).await, ["m"]);
    let extended = queues.requests("ChangeMessageVisibilityBatch").pop().unwrap();
    assert_eq!(extended["Entries"][0]["VisibilityTimeout"], 30);
}

#[tokio::test(start_paused = true)]
async fn a_take_may_wait_for_the_first() {
    let (queues, a) = (Queues::default(), queue("a"));
    let polls = queues.polls();
    let wait = Duration::from_secs(7);
    let begun = Instant::now();
    assert!(polls.take(&a, 1, LEASE, wait).await.unwrap().is_empty());
    assert_eq!(begun.elapsed(), wait);
    let (taken, ()) = tokio::join!(polls.take(&a, 5, LEASE, wait), async { queues.send(&a, "first") });
    assert_eq!(taken.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_fails_is_told_to_who_waits_and_begins_again_with_the_next_wait() {
    let (queues, a) = (Queues::default(), queue("a"));
    let polls = queues.polls();
    idle_round(&polls, std::slice::from_ref(&a)).await;
    *queues.shared.is_down.lock().unwrap() = true;
    let told = polls.wait_ready(std::slice::from_ref(&a), Duration::from_secs(60)).await.unwrap_err().to_string();
    assert!(told.contains("sqs:ReceiveMessage"), "{told}");
    *queues.shared.is_down.lock().unwrap() = false;
    let (ready, ()) = tokio::join!(polls.wait_ready(std::slice::from_ref(&a), IDLE_WAIT), async {
        queues.send(&a, "back");
    });
    ready.unwrap();
    assert_eq!(take(&polls, &a, 1).await, ["back"]);
}

#[tokio::test(start_paused = true)]
async fn a_closed_backend_gives_back_what_it_holds_and_what_its_polls_bring() {
    let (queues, a, b) = (Queues::default(), queue("a"), queue("b"));
    let polls = queues.polls();
    queues.send(&a, "held");
    polls.wait_ready(&[a.clone(), b.clone()], IDLE_WAIT).await.unwrap();
    let begun = Instant::now();
    polls.close(Duration::from_secs(2)).await;
    assert_eq!(begun.elapsed(), Duration::from_secs(2));
    queues.send(&b, "late");
    tokio::time::sleep(Duration::from_millis(10)).await;
    let given_back = queues.requests("ChangeMessageVisibilityBatch");
    let receipts: Vec<&Value> = given_back.iter().map(|request| &request["Entries"][0]["ReceiptHandle"]).collect();
    assert_eq!(receipts, ["held", "late"]);
    let before = queues.receives();
    polls.wait_ready(&[a, b], Duration::from_secs(60)).await.unwrap();
    assert_eq!(queues.receives(), before, "no poll begins any more");
}
