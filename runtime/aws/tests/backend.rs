//! The whole backend over an emulator.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper that fails is a failed test")]

mod common;

use std::time::Duration;

use common::{RealTime, config, connection};
use rhubarb_aws::{AwsBackend, AwsOptions};
use rhubarb_core::{
    backend::{Backend as _, ClaimPolicy, OutgoingMessage, Take},
    config::Config,
    ids::{QueueName, TaskId, WorkerId},
    row::AckMode,
};
use rhubarb_testkit::{emulator::Emulator, exercise};

async fn backend(emulator: &Emulator, config: &Config) -> AwsBackend {
    let options = AwsOptions { create: true, ..AwsOptions::default() };
    AwsBackend::over(connection(emulator), config, options).await.unwrap()
}

fn policy(queue: &QueueName) -> ClaimPolicy {
    ClaimPolicy {
        keep: (Duration::from_secs(3600), Duration::from_secs(3600)),
        ..ClaimPolicy::new(queue.clone(), AckMode::Message)
    }
}

#[tokio::test]
async fn the_joined_verbs_are_as_in_any_backend_and_need_no_right_that_the_template_does_not_give() {
    let emulator = Emulator::start();
    let backend = backend(&emulator, &config("")).await;
    backend.verify().await.unwrap();
    exercise::backend(&backend, &RealTime).await;
    exercise::hosted_ticks(&backend, &RealTime).await;
    // The template makes what is made here, and who purges is a person.
    let others =
        ["SQS.CreateQueue", "SQS.PurgeQueue", "DynamoDB.CreateTable", "DynamoDB.UpdateTimeToLive", "S3.CreateBucket"];
    let asked = backend.requests().into_keys().filter(|operation| !others.contains(&operation.as_str()));
    let refused: Vec<String> = asked.filter(|operation| !is_allowed(operation)).collect();
    assert!(refused.is_empty(), "{refused:?}");
}

#[tokio::test]
async fn limits_are_kept_as_in_any_backend() {
    let emulator = Emulator::start();
    let backend = backend(&emulator, &config("")).await;
    exercise::limits(&backend, &RealTime).await;
}

/// Whether the role of a function in the template has the rights for an operation.
fn is_allowed(operation: &str) -> bool {
    let (service, name) = operation.split_once('.').unwrap();
    let rights = match (service, name) {
        // The right on a message is the right on a batch of them.
        ("SQS", name) => vec![name.trim_end_matches("Batch")],
        ("DynamoDB", "TransactWriteItems") => vec!["PutItem", "UpdateItem", "DeleteItem"],
        ("S3", "ListObjectsV2" | "HeadBucket") => vec!["ListBucket"],
        ("S3", "DeleteObjects") => vec!["DeleteObject"],
        ("S3", "CreateMultipartUpload" | "UploadPart" | "CompleteMultipartUpload") => vec!["PutObject"],
        (_, name) => vec![name],
    };
    let template = include_str!("../../../infra/template.yaml");
    rights.iter().all(|right| template.contains(&format!(" {}:{right}\n", service.to_lowercase())))
}

#[tokio::test]
async fn an_application_that_was_made_is_opened_and_found_whole() {
    let emulator = Emulator::start();
    let config = config("[queues.orders]\nfifo = true\nfunctions = [\"f\"]");
    let made = backend(&emulator, &config).await;
    made.verify().await.unwrap();
    let opened = AwsBackend::over(connection(&emulator), &config, AwsOptions::default()).await.unwrap();
    opened.verify().await.unwrap();
    let url = opened.queue_url(&QueueName::new("orders").unwrap()).await.unwrap();
    assert!(url.ends_with("-dev-orders.fifo"), "{url}");
    assert!(opened.requests()["SQS.GetQueueUrl"] >= 1);
}

#[tokio::test]
async fn an_application_that_was_never_deployed_is_told_so() {
    let emulator = Emulator::start();
    let opened = AwsBackend::over(connection(&emulator), &config(""), AwsOptions::default()).await;
    let told = opened.unwrap_err().to_string();
    assert!(told.contains("rhubarb deploy template"), "{told}");
}

#[tokio::test]
async fn a_message_received_too_often_is_sent_anew_with_the_same_id_and_never_moved_aside() {
    let emulator = Emulator::start();
    let config = config("[queues.worn]\nfunctions = [\"f\"]\nmax_receives = 6");
    let backend = backend(&emulator, &config).await;
    let queue = QueueName::new("worn").unwrap();
    let least = OutgoingMessage { body: r#"{"task":"t","args":{"n":1}}"#.into(), ..OutgoingMessage::default() };
    let id = TaskId::of_message(backend.broker().send(&queue, &[least]).await[0].as_ref().unwrap());
    let (broker, second) = (backend.broker(), Duration::from_secs(1));
    // Two receives by somebody who does nothing with them; the third is half of six.
    for count in 1..=2 {
        let delivery = broker.receive(&queue, 1, second, 5 * second).await.unwrap().remove(0);
        assert_eq!(delivery.receive_count, count);
        broker.release(&queue, &[(delivery.receipt, Duration::ZERO)]).await.remove(0).unwrap();
    }
    let (policy, worker) = (policy(&queue), WorkerId::new("w").unwrap());
    let take = Take { policy: &policy, worker: &worker, max: 1, wait: Duration::ZERO };
    let first = backend.take(take).await.unwrap();
    assert!(first.won.is_empty() && first.idle == 1, "{first:?}");
    let won = backend.take(take).await.unwrap().won.remove(0);
    assert_eq!((won.id, won.receive_count), (id, 1));
    assert_eq!(broker.counts(&queue).await.unwrap().in_flight, 1, "the worn message was deleted");
}
