//! Queues that keep no rows, or those of failed tasks alone, over an emulator: the exercise, and what a task costs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper that fails is a failed test")]

mod common;

use std::{collections::BTreeMap, time::Duration};

use aws_sdk_scheduler::types::{ActionAfterCompletion, FlexibleTimeWindowMode};
use common::{RealTime, config, connection};
use rhubarb_aws::{AwsBackend, AwsOptions};
use rhubarb_core::{
    backend::{
        Backend as _, ClaimPolicy, Finish, Log, Settlement, Submission, Submitted, Take, Window, Won,
        rowless::{self, Ended},
    },
    config::{Config, Track},
    envelope::{Envelope, null},
    ids::{QueueName, TaskId, TaskName, WorkerId},
    limits::Limits,
    outcome::{Failure, Outcome},
    row::AckMode,
    time::Timestamp,
};
use rhubarb_testkit::{emulator::Emulator, exercise};
use serde_json::value::RawValue;

const QUEUES: &str = "[queues.none]\ntrack = \"none\"\n[queues.failures]\ntrack = \"failures\"\n";
const TASKS: usize = 10;

async fn backend(emulator: &Emulator, config: &Config) -> AwsBackend {
    let options = AwsOptions { create: true, ..AwsOptions::default() };
    AwsBackend::over(connection(emulator), config, options).await.unwrap()
}

#[tokio::test]
async fn tasks_without_a_row_are_as_in_any_backend() {
    let emulator = Emulator::start();
    let backend = backend(&emulator, &config("")).await;
    exercise::rowless(&backend, &RealTime).await;
}

#[tokio::test]
async fn tasks_without_a_row_that_come_late_are_as_in_any_backend() {
    let emulator = Emulator::start();
    let (config, connection) = (config(""), connection(&emulator));
    let scheduler = aws_sdk_scheduler::Client::new(connection.sdk());
    scheduler.create_schedule_group().name(config.app.aws_schedule_group()).send().await.unwrap();
    let limits = Limits { delay_max: Duration::from_secs(4), ..Limits::AWS };
    let options = AwsOptions { create: true, limits, ..AwsOptions::default() };
    let backend = AwsBackend::over(connection, &config, options).await.unwrap();
    exercise::later(&backend, &RealTime).await;
}

/// A task of queue `none` that is to come in an hour.
fn in_an_hour(args: &str) -> Submission {
    let now = Timestamp::from_system(std::time::SystemTime::now());
    let args = RawValue::from_string(args.to_owned()).unwrap();
    let mut envelope = Envelope::new(TaskId::mint(), TaskName::new("t").unwrap(), args);
    // Not a whole second.
    envelope.not_before = Some(Timestamp(now.0 / 1000 * 1000 + 3_600_001));
    Submission::new(&envelope, QueueName::new("none").unwrap(), Window::DEFAULT)
}

#[tokio::test]
async fn a_late_task_without_a_row_is_a_schedule_that_sends_it_once_and_is_gone() {
    let emulator = Emulator::start();
    let (config, connection) = (config(QUEUES), connection(&emulator));
    let scheduler = aws_sdk_scheduler::Client::new(connection.sdk());
    let group = config.app.aws_schedule_group();
    let options = AwsOptions { create: true, ..AwsOptions::default() };
    let backend = AwsBackend::over(connection, &config, options).await.unwrap();
    let now = || Timestamp::from_system(std::time::SystemTime::now());
    let task = in_an_hour(r#"{"text":"<aws.scheduler.scheduled-time>"}"#);

    let refused = rowless::submit(&backend, &config, std::slice::from_ref(&task), now()).await.pop().unwrap();
    let refusal = refused.unwrap_err().to_string();
    assert!(refusal.contains(&format!("no schedule group `{group}`")) && refusal.contains("deploy"), "{refusal}");

    scheduler.create_schedule_group().name(&group).send().await.unwrap();
    let before = backend.requests();
    let tasks = [task.clone(), in_an_hour("{}")];
    for answer in rowless::submit(&backend, &config, &tasks, now()).await {
        assert_eq!(answer.unwrap(), Submitted::New);
    }
    let more = |(name, count): (String, u64)| (name.clone(), count - before.get(&name).copied().unwrap_or(0));
    let asked: BTreeMap<String, u64> =
        backend.requests().into_iter().map(more).filter(|(_, count)| *count > 0).collect();
    assert_eq!(asked, BTreeMap::from([("Scheduler.CreateSchedule".to_owned(), 2)]), "one request a task");

    let found = scheduler.get_schedule().group_name(&group).name(format!("_task.{}", task.id)).send().await.unwrap();
    // A minute earlier, rounded up: the queue delays the rest.
    let at = Timestamp(task.not_before.unwrap().0 - 1 - 59_000).to_string();
    assert_eq!(found.schedule_expression(), Some(format!("at({})", at.trim_end_matches('Z')).as_str()));
    assert_eq!(found.schedule_expression_timezone(), Some("UTC"));
    assert_eq!(found.action_after_completion(), Some(&ActionAfterCompletion::Delete));
    assert_eq!(found.flexible_time_window().unwrap().mode(), &FlexibleTimeWindowMode::Off);
    let target = found.target().unwrap();
    let prefix = config.app.aws_queue_name(config.queue(&task.queue).unwrap());
    assert!(target.arn().ends_with(&format!(":{prefix}")), "{}", target.arn());
    assert!(target.role_arn().ends_with(&config.app.aws_scheduler_role()), "{}", target.role_arn());
    assert!(target.dead_letter_config().unwrap().arn().unwrap().ends_with(&format!(":{prefix}-dead")));
    assert_eq!(target.retry_policy().unwrap().maximum_event_age_in_seconds(), Some(24 * 60 * 60));
    let input = target.input().unwrap();
    assert!(!input.contains("<aws."), "EventBridge would fill it in: {input}");
    let envelope = Envelope::decode_full(input).unwrap();
    assert_eq!((envelope.id, envelope.not_before), (task.id, task.not_before));
    let args: serde_json::Value = serde_json::from_str(envelope.args.get()).unwrap();
    assert_eq!(args["text"], "<aws.scheduler.scheduled-time>");
}

/// Ten tasks of a queue from their enqueue to their end. Returns what they asked of each service.
async fn run(backend: &AwsBackend, config: &Config, track: Track, outcome: &Outcome) -> BTreeMap<String, u64> {
    let queue = QueueName::new(track.as_str()).unwrap();
    // The first look for a queue, of a store for its clock, is a process's own.
    backend.broker().counts(&queue).await.unwrap();
    backend.broker().counts(&queue.dead_letters().unwrap()).await.unwrap();
    let before = backend.requests();
    let envelopes = (0..TASKS).map(|_| Envelope::new(TaskId::mint(), TaskName::new("t").unwrap(), null()));
    let tasks: Vec<Submission> =
        envelopes.map(|envelope| Submission::new(&envelope, queue.clone(), Window::DEFAULT)).collect();
    let now = Timestamp::from_system(std::time::SystemTime::now());
    for answer in rowless::submit(backend, config, &tasks, now).await {
        answer.unwrap();
    }
    let worker = WorkerId::new("w").unwrap();
    let keep = (Duration::from_secs(3600), Duration::from_secs(3600));
    let policy = ClaimPolicy { keep, ..ClaimPolicy::new(queue.clone(), AckMode::Message) };
    let mut won: Vec<Won> = Vec::new();
    while won.len() < TASKS {
        let take = Take { policy: &policy, worker: &worker, max: TASKS, wait: Duration::ZERO };
        won.extend(rowless::take(backend, track, take).await.unwrap().won);
    }
    let finish = |won: &Won| {
        let (outcome, log) = (outcome.clone(), Log::default());
        let settlement = Settlement { id: won.id, fence: won.row.fence, outcome, log, keep };
        Finish { queue: queue.clone(), settlement, receipt: won.receipt.clone(), hideable: policy.lease }
    };
    let finishes: Vec<Finish> = won.iter().map(finish).collect();
    let ended: Vec<Ended<'_>> =
        won.iter().zip(&finishes).map(|(won, finish)| Ended { won, finish, unknown: false }).collect();
    for answer in rowless::finish(backend, track, &queue, &worker, &ended).await {
        answer.unwrap();
    }
    let more = |(name, count): (String, u64)| (name.clone(), count - before.get(&name).copied().unwrap_or(0));
    backend.requests().into_iter().map(more).filter(|(_, count)| *count > 0).collect()
}

fn only(asked: &BTreeMap<String, u64>, service: &str) -> BTreeMap<String, u64> {
    asked.iter().filter(|(name, _)| name.starts_with(service)).map(|(name, count)| (name.clone(), *count)).collect()
}

#[tokio::test]
async fn a_level_costs_what_the_documentation_says() {
    let emulator = Emulator::start();
    let config = config(QUEUES);
    let backend = backend(&emulator, &config).await;
    let failed = Outcome::Failed { failure: Failure::new("Broken", "no luck"), retry_in: None };
    let of_sqs = |sends| {
        let asked = [("SQS.SendMessageBatch", sends), ("SQS.ReceiveMessage", 1), ("SQS.DeleteMessageBatch", 1)];
        asked.into_iter().map(|(name, count)| (name.to_owned(), count)).collect::<BTreeMap<String, u64>>()
    };
    for track in [Track::None, Track::Failures] {
        let asked = run(&backend, &config, track, &Outcome::Succeeded(None)).await;
        assert_eq!(asked, of_sqs(1), "ten tasks, three requests, nothing of the table");
    }
    let asked = run(&backend, &config, Track::None, &failed).await;
    assert_eq!(asked, of_sqs(2), "ten dead letters are one request more");
    // A process meets a queue once.
    run(&backend, &config, Track::Failures, &failed).await;
    let asked = run(&backend, &config, Track::Failures, &failed).await;
    assert_eq!(only(&asked, "SQS."), of_sqs(1));
    assert_eq!(only(&asked, "DynamoDB."), BTreeMap::from([("DynamoDB.PutItem".to_owned(), TASKS as u64)]));
}
