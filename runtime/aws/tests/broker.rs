//! The broker over an emulator of SQS.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper that fails is a failed test")]

mod common;

use std::time::Duration;

use common::{RealTime, config, connection, connection_to};
use rhubarb_aws::SqsBroker;
use rhubarb_core::{
    backend::{Broker as _, OutgoingMessage, QueueSpec, StoreError},
    ids::QueueName,
    limits::Limits,
};
use rhubarb_testkit::{
    emulator::{Emulator, free_port},
    exercise,
};

#[tokio::test]
async fn the_broker_is_as_brokers_are() {
    let emulator = Emulator::start();
    let broker = SqsBroker::new(&connection(&emulator), &config(""), Limits::AWS, true);
    exercise::broker(&broker, &RealTime).await;
}

fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

fn spec(name: &str, max_receives: u32) -> QueueSpec {
    let dead_letters = Some(queue(&format!("{name}-dead")));
    QueueSpec { queue: queue(name), max_receives: Some(max_receives), dead_letters }
}

/// What a declaration is refused with.
async fn refusal(broker: &SqsBroker, spec: QueueSpec) -> String {
    match broker.declare(&[spec]).await {
        Err(error @ StoreError::Broken { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_missing_queue_is_named_with_the_way_to_deploy_it() {
    let emulator = Emulator::start();
    let broker = SqsBroker::new(&connection(&emulator), &config(""), Limits::AWS, false);
    let told = refusal(&broker, spec("orders", 10)).await;
    for part in ["-dev-orders-dead`", "eu-central-1", "rhubarb deploy template"] {
        assert!(told.contains(part), "{told}");
    }
}

#[tokio::test]
async fn attributes_that_contradict_the_configuration_are_named_with_the_right_value() {
    let emulator = Emulator::start();
    let config = config("[queues.orders]\nfunctions = [\"f\"]");
    let broker = SqsBroker::new(&connection(&emulator), &config, Limits::AWS, true);
    broker.declare(&[spec("orders", 10)]).await.unwrap();
    let told = refusal(&broker, spec("orders", 20)).await;
    assert!(told.contains("maxReceiveCount") && told.contains("is 10") && told.contains("wants 20"), "{told}");

    let week = Limits { retention: Duration::from_secs(7 * 24 * 3600), ..Limits::AWS };
    let other = SqsBroker::new(&connection(&emulator), &config, week, true);
    let told = refusal(&other, spec("orders", 10)).await;
    assert!(told.contains("MessageRetentionPeriod") && told.contains("1209600"), "{told}");
}

#[tokio::test]
async fn a_queue_of_somebody_else_is_used_as_it_is_but_must_be_there() {
    let emulator = Emulator::start();
    let owner = SqsBroker::new(&connection(&emulator), &config(""), Limits::AWS, true);
    let owned = QueueSpec { dead_letters: Some(queue("bin")), ..spec("legacy", 5) };
    owner.declare(&[owned]).await.unwrap();
    let url = owner.url(&queue("legacy")).await.unwrap();
    for (url, there) in [(url.to_string(), true), (format!("{url}-gone"), false)] {
        let theirs = config(&format!("[queues.theirs]\nurl = \"{url}\"\nfunctions = [\"f\"]"));
        let broker = SqsBroker::new(&connection(&emulator), &theirs, Limits::AWS, true);
        if there {
            broker.declare(&[spec("theirs", 130)]).await.unwrap();
        } else {
            let told = refusal(&broker, spec("theirs", 130)).await;
            assert!(told.contains(&url) && told.contains("`url` of [queues.theirs]"), "{told}");
        }
    }
}

#[tokio::test]
async fn a_fifo_queue_keeps_the_order_of_a_group_and_drops_repetitions() {
    let emulator = Emulator::start();
    let config = config("[queues.line]\nfifo = true\nfunctions = [\"f\"]");
    let broker = SqsBroker::new(&connection(&emulator), &config, Limits::AWS, true);
    let line = queue("line");
    broker.declare(&[spec("line", 10)]).await.unwrap();
    let message = |n: usize| OutgoingMessage {
        body: n.to_string(),
        group: Some("g".into()),
        deduplication: Some(format!("{n}")),
        ..OutgoingMessage::default()
    };
    let messages: Vec<OutgoingMessage> = (0..25).chain([3]).map(message).collect();
    assert!(broker.send(&line, &messages).await.iter().all(Result::is_ok));
    let mut bodies = Vec::new();
    while bodies.len() < 25 {
        let wait = Duration::from_secs(5);
        let received = broker.receive(&line, 10, Duration::from_secs(30), wait).await.unwrap();
        assert!(!received.is_empty(), "{bodies:?}");
        let receipts: Vec<_> = received.iter().map(|delivery| delivery.receipt.clone()).collect();
        bodies.extend(received.into_iter().map(|delivery| delivery.body.parse::<usize>().unwrap()));
        assert!(broker.delete(&line, &receipts).await.iter().all(Result::is_ok));
    }
    assert_eq!(bodies, (0..25).collect::<Vec<_>>());
    assert!(broker.counts(&line).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_may_be_tried_again() {
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let broker = SqsBroker::new(&connection_to(&endpoint), &config(""), Limits::AWS, false);
    let error = broker.counts(&queue("orders")).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
}
