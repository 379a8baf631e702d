//! The rows, the workers and the schedules in DynamoDB over an emulator: the exercises, races, sizes and costs.
//!
//! Time is what the server's answers say, moved by the test: nothing is waited for.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop where it stands")]

mod common;

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use async_trait::async_trait;
use aws_sdk_dynamodb::{
    Client,
    types::{
        AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ReturnConsumedCapacity,
        ScalarAttributeType,
    },
};
use common::{WrongClock, connection, connection_of};
use futures::future::join_all;
use rhubarb_aws::{Connection, DynamoSchedules, DynamoTasks, DynamoWorkers, Table};
use rhubarb_core::{
    backend::{
        ClaimAnswer, ClaimRequest, Filter, Log, Progress, Renewal, Report, Settlement, StoreError, Submission,
        Submitted, Tasks as _, Window,
    },
    envelope::{BlobRef, Envelope, null},
    ids::{FencingToken, QueueName, TaskId, TaskName, WorkerId},
    outcome::{Failure, Outcome, Output},
    permit::{QueueLimits, ScopeLimits},
    row::{AckMode, Claim, ClaimTerms, Renewed, State},
    table::{BY_STATE, INDEXES, PARTITION, SORT, TTL},
    time::Timestamp,
};
use rhubarb_testkit::{
    Clockwork,
    emulator::Emulator,
    exercise,
    faultproxy::{FaultProxy, Rule, Wrong},
};
use serde_json::value::to_raw_value;

const LEASE: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const KEEP: (Duration, Duration) = (DAY, DAY);

type Item = HashMap<String, AttributeValue>;

/// A table of a test's own.
struct Place {
    connection: Connection,
    name: String,
    table: Table,
    tasks: DynamoTasks,
    client: Client,
    emulator: Emulator,
}

fn client(emulator: &Emulator) -> Client {
    Client::new(connection(emulator).sdk())
}

async fn place() -> Place {
    let emulator = Emulator::start();
    let (connection, name) = (connection(&emulator), format!("rhubarb-{}", TaskId::mint()));
    let table = Table::new(&connection, &name);
    table.create().await.unwrap();
    table.verify().await.unwrap();
    let tasks = DynamoTasks::new(table.clone());
    Place { tasks, client: client(&emulator), connection, name, table, emulator }
}

impl Place {
    /// The rows as another process sees them: with a clock and a memory of its own.
    fn elsewhere(&self) -> DynamoTasks {
        DynamoTasks::new(Table::new(&self.connection, &self.name))
    }

    /// The same, with its clock moved as far.
    fn elsewhere_moved(&self, by: Duration) -> DynamoTasks {
        let table = Table::new(&self.connection, &self.name);
        table.clock().advance(by);
        DynamoTasks::new(table)
    }

    /// Every item of a task.
    async fn items(&self, id: TaskId) -> Vec<Item> {
        let request = self.client.query().table_name(&self.name).key_condition_expression("pk = :pk");
        let request = request.expression_attribute_values(":pk", AttributeValue::S(format!("T#{id}")));
        // A page ends after a mebibyte.
        request.consistent_read(true).into_paginator().items().send().try_collect().await.unwrap()
    }

    async fn row(&self, id: TaskId) -> Item {
        self.items(id).await.into_iter().find(|item| item[SORT].as_s().unwrap() == "row").unwrap_or_default()
    }

    async fn submit(&self, submission: &Submission) {
        assert_eq!(only(self.tasks.submit(std::slice::from_ref(submission)).await).unwrap(), Submitted::New);
    }

    async fn claim(&self, submission: &Submission) -> ClaimAnswer {
        claim(&self.tasks, submission).await
    }

    async fn win(&self, submission: &Submission) -> FencingToken {
        self.claim(submission).await.won.unwrap().fence
    }

    async fn settle(&self, id: TaskId, fence: FencingToken, outcome: Outcome, log: &str) {
        let log = Log { text: log.to_owned(), dropped: 0, ..Log::default() };
        only(self.tasks.settle(&[Settlement { id, fence, outcome, log, keep: KEEP }]).await).unwrap();
    }
}

async fn claim(tasks: &DynamoTasks, submission: &Submission) -> ClaimAnswer {
    claim_within(tasks, submission, QueueLimits::NONE).await
}

async fn claim_within(tasks: &DynamoTasks, submission: &Submission, limits: QueueLimits) -> ClaimAnswer {
    let worker = WorkerId::new("training-1@host.example").unwrap();
    let terms =
        ClaimTerms { worker: &worker, lease: LEASE, ack: AckMode::Lease, max_attempts: 3, purged_before: None, limits };
    let request = ClaimRequest { submission: submission.clone(), sent: Timestamp(1), terms };
    only(tasks.claim(&[request]).await).unwrap()
}

fn only<T>(answers: Vec<T>) -> T {
    assert_eq!(answers.len(), 1);
    answers.into_iter().next().unwrap()
}

fn queue() -> QueueName {
    QueueName::new("training").unwrap()
}

fn with_args(args: &impl serde::Serialize) -> Submission {
    let task = TaskName::new("train_model").unwrap();
    Submission::new(&Envelope::new(TaskId::mint(), task, to_raw_value(args).unwrap()), queue(), Window::DEFAULT)
}

fn keyed(key: &str) -> Submission {
    let mut envelope = Envelope::new(TaskId::mint(), TaskName::new("order").unwrap(), null());
    envelope.idempotency_key = Some(key.to_owned());
    Submission::new(&envelope, queue(), Window::DEFAULT)
}

/// The server's time, moved.
struct Moved(Table);

#[async_trait]
impl Clockwork for Moved {
    async fn advance(&self, by: Duration) {
        self.0.clock().advance(by);
        // Whoever waits for an answer of the server gets his turn.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }

    fn now(&self) -> Timestamp {
        self.0.clock().now().unwrap().epoch
    }

    /// On AWS an index lags; an emulator may.
    fn lag(&self) -> Duration {
        Duration::from_secs(2)
    }
}

#[tokio::test]
async fn the_rows_are_as_rows_are() {
    let place = place().await;
    exercise::tasks(&place.tasks, &Moved(place.table.clone())).await;
}

#[tokio::test]
async fn the_workers_are_as_workers_are() {
    let place = place().await;
    let workers = DynamoWorkers::new(place.table.clone());
    exercise::workers(&workers, &Moved(place.table.clone())).await;
}

#[tokio::test]
async fn the_schedules_are_as_schedules_are() {
    let place = place().await;
    exercise::schedules(&DynamoSchedules::new(place.table.clone()), &Moved(place.table.clone())).await;
}

#[tokio::test]
async fn a_hundred_submits_with_one_key_are_one_task() {
    let place = place().await;
    let racers: Vec<Submission> = (0..100).map(|_| keyed("order-1")).collect();
    let processes: Vec<DynamoTasks> = (0..10).map(|_| place.elsewhere()).collect();
    let submits = racers.iter().zip(processes.iter().cycle());
    let answers = join_all(submits.map(|(racer, tasks)| tasks.submit(std::slice::from_ref(racer)))).await;
    let answers: Vec<Submitted> = answers.into_iter().map(|answer| only(answer).unwrap()).collect();
    let winners = racers.iter().zip(&answers).filter(|(_, answer)| **answer == Submitted::New);
    let winner = only(winners.map(|(racer, _)| racer.id).collect());
    assert_eq!(answers.iter().filter(|answer| **answer == Submitted::Keyed(winner)).count(), 99);
    let found = place.tasks.read(&racers.iter().map(|racer| racer.id).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(found.iter().flatten().count(), 1);
}

#[tokio::test]
async fn of_twenty_claimants_in_processes_of_their_own_one_wins() {
    let place = place().await;
    let submission = with_args(&1);
    place.submit(&submission).await;
    let processes: Vec<DynamoTasks> = (0..20).map(|_| place.elsewhere()).collect();
    let answers = join_all(processes.iter().map(|tasks| claim(tasks, &submission))).await;
    assert_eq!(answers.iter().filter(|answer| answer.claim == Claim::Won).count(), 1);
    assert!(answers.iter().all(|answer| matches!(answer.claim, Claim::Won | Claim::Held { .. })));
    let row = place.row(submission.id).await;
    assert_eq!((row["fence"].as_n().unwrap().as_str(), row["attempt"].as_n().unwrap().as_str()), ("1", "1"));
}

#[tokio::test]
async fn workers_whose_clocks_are_minutes_off_judge_a_lease_by_the_servers_clock() {
    let place = place().await;
    let submission = with_args(&1);
    place.submit(&submission).await;
    let proxy = FaultProxy::start(place.emulator.endpoint()).await;
    proxy.add(Rule::every("", Wrong::CheckDate));
    let off = Duration::from_secs(6 * 60);
    let [ahead, behind] = [WrongClock::Ahead(off), WrongClock::Behind(off)]
        .map(|clock| Table::new(&connection_of(clock, proxy.endpoint()), &place.name));
    let [first, second] = [&ahead, &behind].map(|table| DynamoTasks::new(table.clone()));

    // The first read asks for the time too: that request was refused, sent again with the server's time, and no
    // later one is refused.
    for (tasks, requests) in [(&first, 3), (&first, 4), (&second, 7), (&second, 8)] {
        assert!(only(tasks.read(&[submission.id]).await.unwrap()).is_some());
        assert_eq!(proxy.count(""), requests);
    }
    assert_eq!(claim(&first, &submission).await.claim, Claim::Won);
    let Claim::Held { left, .. } = claim(&second, &submission).await.claim else { panic!("a second holder") };
    assert!(left.abs_diff(LEASE) <= Duration::from_secs(2), "{left:?} of a lease are left");
    assert!(second.due_leases(10).await.unwrap().is_empty());
    behind.clock().advance(LEASE + Duration::from_secs(2));
    assert_eq!(only(second.due_leases(10).await.unwrap()).id, submission.id);
    assert!(first.due_leases(10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_holder_is_known_by_its_token_in_any_process() {
    let place = place().await;
    let submission = with_args(&1);
    place.submit(&submission).await;
    let fence = place.win(&submission).await;
    let other = place.elsewhere();
    let renewal = [Renewal { id: submission.id, fence }];
    let kept = Renewed::Kept { cancel_asked: false };
    // Each has written what the other does not know of.
    for tasks in [&other, &place.tasks, &other, &place.tasks] {
        assert_eq!(only(tasks.renew(&renewal).await).unwrap(), kept);
    }
    let outcome = Outcome::Succeeded(None);
    let settlement = Settlement { id: submission.id, fence, outcome, log: Log::default(), keep: KEEP };
    only(other.settle(std::slice::from_ref(&settlement)).await).unwrap();
    assert_eq!(only(place.tasks.renew(&renewal).await).unwrap(), Renewed::Lost);
    let late = only(place.tasks.settle(&[settlement]).await);
    assert!(matches!(late, Err(StoreError::Refused(refused)) if refused.state == State::Succeeded), "{late:?}");
}

/// What a verb costs: requests by operation, and units written to the row and to indexes, by DynamoDB's rules.
#[derive(Debug, PartialEq)]
struct Cost {
    requests: BTreeMap<String, u64>,
    row: u64,
    indexes: u64,
}

fn cost(requests: &[(&str, u64)], row: u64, indexes: u64) -> Cost {
    let requests = requests.iter().map(|(operation, count)| (format!("DynamoDB.{operation}"), *count)).collect();
    Cost { requests, row, indexes }
}

/// Measures what a verb costs for one task.
async fn measured<T>(place: &Place, id: TaskId, verb: impl Future<Output = T>) -> (T, Cost) {
    let (requests, before) = (place.connection.requests(), place.row(id).await);
    let answer = verb.await;
    let mut spent = place.connection.requests();
    for (operation, count) in requests {
        *spent.entry(operation).or_default() -= count;
    }
    spent.retain(|_, count| *count > 0);
    let after = place.row(id).await;
    let row = if before == after { 0 } else { size(&before).max(size(&after)).div_ceil(1024) };
    (answer, Cost { requests: spent, row, indexes: index_writes(&before, &after) })
}

/// An item's place in an index is written when it comes, when it goes, and twice when it changes.
fn index_writes(before: &Item, after: &Item) -> u64 {
    let place = |item: &Item, index: &rhubarb_core::table::Index| {
        Some((item.get(index.partition)?.clone(), item.get(index.sort)?.clone()))
    };
    let writes = |index| match (place(before, index), place(after, index)) {
        (None, None) => 0,
        (Some(before), Some(after)) if before == after => 0,
        (Some(_), Some(_)) => 2,
        (Some(_), None) | (None, Some(_)) => 1,
    };
    INDEXES.iter().map(writes).sum()
}

/// The size of an item by the rules of the developer guide, "item sizes and formats".
fn size(item: &Item) -> u64 {
    fn of(value: &AttributeValue) -> usize {
        match value {
            AttributeValue::S(text) => text.len(),
            AttributeValue::N(digits) => digits.len().div_ceil(2) + 1,
            AttributeValue::M(fields) => {
                3 + fields.iter().map(|(name, value)| 1 + name.len() + of(value)).sum::<usize>()
            }
            _ => 1,
        }
    }
    item.iter().map(|(name, value)| (name.len() + of(value)) as u64).sum()
}

#[tokio::test]
async fn a_task_costs_three_requests() {
    let place = place().await;
    // A process meets a queue once.
    place.submit(&with_args(&0)).await;
    let submission = with_args(&serde_json::json!({"dataset": "digits", "epochs": 5}));
    let (_, submit) = measured(&place, submission.id, place.submit(&submission)).await;
    assert_eq!(submit, cost(&[("PutItem", 1)], 1, 2));
    let (fence, claim) = measured(&place, submission.id, place.win(&submission)).await;
    assert_eq!(claim, cost(&[("UpdateItem", 1)], 1, 3));
    let output = Outcome::Succeeded(Some(Output::Inline(to_raw_value(&0.97).unwrap())));
    let settle = place.settle(submission.id, fence, output, "one line\n");
    let (_, settle) = measured(&place, submission.id, settle).await;
    assert_eq!(settle, cost(&[("UpdateItem", 1)], 1, 4));
    assert_eq!(place.items(submission.id).await.len(), 1, "a small task is one item");
    place.table.clock().advance(DAY);
    let (forgotten, forget) = measured(&place, submission.id, place.tasks.forget(10)).await;
    assert_eq!(forgotten.unwrap().0, 1);
    assert_eq!((forget.row, forget.indexes), (1, 3));
}

#[tokio::test]
async fn a_limited_task_costs_two_transactions_and_three_reads_and_its_heartbeat_nothing_more() {
    let place = place().await;
    place.submit(&with_args(&0)).await;
    let submission = with_args(&1);
    place.submit(&submission).await;
    let one = ScopeLimits { max_running: Some(1), rate: None };
    let limits = QueueLimits { queue: one, ..QueueLimits::NONE };
    let (won, claim) = measured(&place, submission.id, claim_within(&place.tasks, &submission, limits)).await;
    let fence = won.won.unwrap().fence;
    assert_eq!(claim.requests, cost(&[("GetItem", 2), ("TransactWriteItems", 1)], 1, 3).requests);
    let renewals = [Renewal { id: submission.id, fence }];
    let (_, heartbeat) = measured(&place, submission.id, place.tasks.renew(&renewals)).await;
    assert_eq!(heartbeat.requests, cost(&[("UpdateItem", 1)], 1, 0).requests);
    let settle = place.settle(submission.id, fence, Outcome::Succeeded(None), "");
    let (_, settle) = measured(&place, submission.id, settle).await;
    assert_eq!(settle.requests, cost(&[("GetItem", 1), ("TransactWriteItems", 1)], 1, 4).requests);
}

#[tokio::test]
async fn a_task_that_only_fails_costs_one_request() {
    let place = place().await;
    place.submit(&with_args(&0)).await;
    let failed = (TaskId::mint(), Failure::new(Failure::POISON, "line 1"));
    let (buried, cost_of_it) =
        measured(&place, failed.0, place.tasks.bury_poison(&queue(), std::slice::from_ref(&failed))).await;
    only(buried).unwrap();
    assert_eq!(cost_of_it, cost(&[("PutItem", 1)], 1, 3));
}

#[tokio::test]
async fn a_heartbeat_costs_one_request_and_every_second_one_an_index_write() {
    let place = place().await;
    let submission = with_args(&1);
    place.submit(&submission).await;
    let fence = place.win(&submission).await;
    let mut index_writes = Vec::new();
    for _ in 0..6 {
        place.table.clock().advance(LEASE / 3);
        let renew = [Renewal { id: submission.id, fence }];
        let (renewed, heartbeat) = measured(&place, submission.id, place.tasks.renew(&renew)).await;
        assert_eq!(only(renewed).unwrap(), Renewed::Kept { cancel_asked: false });
        assert_eq!((heartbeat.requests, heartbeat.row), (cost(&[("UpdateItem", 1)], 1, 0).requests, 1));
        index_writes.push(heartbeat.indexes);
    }
    assert_eq!(index_writes, [0, 2, 0, 2, 0, 2]);
}

#[tokio::test]
async fn what_is_renewed_stays_under_a_kibibyte() {
    let place = place().await;
    let submission = with_args(&serde_json::json!({"dataset": "digits", "note": "x".repeat(120)}));
    place.submit(&submission).await;
    assert_eq!(place.items(submission.id).await.len(), 1);
    let fence = place.win(&submission).await;
    let failure = Failure::new("OutOfMemory", "y".repeat(5000));
    place
        .settle(
            submission.id,
            fence,
            Outcome::Failed { failure: failure.clone(), retry_in: Some(Duration::ZERO) },
            "printed",
        )
        .await;
    let fence = place.win(&submission).await;
    let key = format!("tasks/{}/{fence}/checkpoint-000001", submission.id);
    let report = Report {
        id: submission.id,
        fence,
        progress: Some(Progress { done: 3, total: 100, message: Some("z".repeat(200)) }),
        checkpoint: Some(BlobRef { key, sha256: "0".repeat(64), size: 123_456_789 }),
        log: Some(Log { text: "w".repeat(50_000), dropped: 0, ..Log::default() }),
    };
    only(place.tasks.report(&[report]).await).unwrap();
    only(place.tasks.renew(&[Renewal { id: submission.id, fence }]).await).unwrap();
    let row = size(&place.row(submission.id).await);
    assert!(row < 1024, "the row has {row} bytes");
    let detail = only(place.tasks.read(&[submission.id]).await.unwrap()).unwrap();
    assert_eq!(detail.spec.unwrap().encode(), submission.spec, "it has left the row, and is not lost");
    assert_eq!(detail.record.failure.as_ref(), Some(&failure), "the whole of it is in the history");
    let [first, second] = detail.attempts.try_into().unwrap();
    assert_eq!((first.failure, first.log.text.as_str()), (Some(failure), "printed"));
    assert_eq!(second.log.text.len(), 50_000);
}

#[tokio::test]
async fn an_envelope_of_a_mebibyte_is_kept_claimed_rung_and_forgotten() {
    let place = place().await;
    let submission = with_args(&"ä".repeat(500 * 1024));
    // As a plain producer's message: its row begins with the claim.
    let fence = place.win(&submission).await;
    assert_eq!(place.items(submission.id).await.len(), 4, "the row and three parts");
    place
        .settle(submission.id, fence, Outcome::Interrupted { alone: false, why: "test".into() }, &"l".repeat(9000))
        .await;
    let ring = only(place.tasks.due_rings(10).await.unwrap());
    assert!(ring.spec == submission.spec, "the doorbell carries the whole envelope");
    let fence = place.win(&submission).await;
    place.settle(submission.id, fence, Outcome::Succeeded(None), "").await;
    let detail = only(place.tasks.read(&[submission.id]).await.unwrap()).unwrap();
    assert!(detail.spec.unwrap().encode() == submission.spec);
    assert_eq!(detail.attempts[0].log.text.len(), 9000);
    place.table.clock().advance(DAY);
    assert_eq!(place.tasks.forget(10).await.unwrap().0, 1);
    let left = only(place.items(submission.id).await);
    assert!(left.contains_key(TTL) && !left.contains_key(BY_STATE.partition), "{left:?}");
    assert_eq!(place.claim(&submission).await.claim, Claim::Settled);
}

#[tokio::test]
async fn a_forgetting_that_was_cut_off_is_finished_by_the_next() {
    let place = place().await;
    let submission = with_args(&"x".repeat(5000));
    place.submit(&submission).await;
    let fence = place.win(&submission).await;
    place.settle(submission.id, fence, Outcome::Succeeded(None), &"l".repeat(9000)).await;
    place.table.clock().advance(DAY);
    assert_eq!(place.items(submission.id).await.len(), 3, "the row, the envelope and the log");
    // The row has become a tombstone, and the items beside it are there still.
    let cut_off =
        place.client.update_item().table_name(&place.name).update_expression("SET tombstone = :yes REMOVE spec_parts");
    let key = |name: &str, value: String| (name.to_owned(), AttributeValue::S(value));
    let row = HashMap::from([key(PARTITION, format!("T#{}", submission.id)), key(SORT, "row".into())]);
    let cut_off = cut_off.set_key(Some(row)).expression_attribute_values(":yes", AttributeValue::Bool(true));
    cut_off.send().await.unwrap();
    assert_eq!(place.tasks.forget(10).await.unwrap(), (1, Vec::new()));
    assert!(only(place.items(submission.id).await).contains_key(TTL));
    assert_eq!(place.tasks.forget(10).await.unwrap(), (0, Vec::new()));
}

#[tokio::test]
async fn a_task_brought_back_before_it_is_forgotten_keeps_everything() {
    let place = place().await;
    let submission = with_args(&"x".repeat(5000));
    place.submit(&submission).await;
    let fence = place.win(&submission).await;
    let failure = Failure::new("kind", "why");
    place.settle(submission.id, fence, Outcome::Failed { failure, retry_in: None }, "").await;
    place.table.clock().advance(DAY);
    only(place.elsewhere_moved(DAY).redrive(&[submission.id]).await).unwrap();
    assert_eq!(place.tasks.forget(10).await.unwrap(), (0, Vec::new()));
    let detail = only(place.tasks.read(&[submission.id]).await.unwrap()).unwrap();
    assert!(detail.record.state == State::Queued && detail.spec.is_some() && detail.attempts.len() == 1);
}

#[tokio::test]
async fn the_same_id_with_another_envelope_leaves_nothing_behind() {
    let place = place().await;
    let submission = with_args(&"x".repeat(5000));
    place.submit(&submission).await;
    let other = Submission { spec: with_args(&"y".repeat(5000)).spec, ..submission.clone() };
    assert_eq!(only(place.tasks.submit(&[other]).await).unwrap(), Submitted::Exists(State::Queued));
    assert_eq!(
        only(place.tasks.submit(std::slice::from_ref(&submission)).await).unwrap(),
        Submitted::Exists(State::Queued)
    );
    assert_eq!(place.items(submission.id).await.len(), 2);
    let detail = only(place.tasks.read(&[submission.id]).await.unwrap()).unwrap();
    assert_eq!(detail.spec.unwrap().encode(), submission.spec);
}

#[tokio::test]
async fn a_checkpoint_that_was_replaced_is_returned_to_be_deleted() {
    let place = place().await;
    let submission = with_args(&1);
    place.submit(&submission).await;
    let fence = place.win(&submission).await;
    let blob = |n: u32| BlobRef { key: format!("tasks/c/{n}"), sha256: "0".repeat(64), size: 1 };
    for n in 0..3 {
        let checkpoint = Some(blob(n));
        let report = Report { id: submission.id, fence, progress: None, checkpoint, log: None };
        only(place.tasks.report(&[report]).await).unwrap();
    }
    let (forgotten, blobs) = place.tasks.forget(10).await.unwrap();
    assert_eq!((forgotten, blobs), (0, vec![blob(0), blob(1)]));
    assert_eq!(place.tasks.forget(10).await.unwrap(), (0, Vec::new()));
}

#[tokio::test]
async fn a_listing_of_many_tasks_shows_each_once_page_by_page() {
    let place = place().await;
    let submissions: Vec<Submission> = (0..250).map(|n| with_args(&n)).collect();
    assert!(place.tasks.submit(&submissions).await.iter().all(Result::is_ok));
    let mut filter = Filter { queue: Some(queue()), limit: 60, ..Filter::default() };
    let mut seen: Vec<(Timestamp, TaskId)> = Vec::new();
    loop {
        let page = place.tasks.list(&filter).await.unwrap();
        assert!(page.items.len() <= 60);
        seen.extend(page.items.iter().map(|record| (record.submitted, record.id)));
        filter.cursor = page.next;
        if filter.cursor.is_none() {
            break;
        }
    }
    assert!(seen.is_sorted_by(|newer, older| newer > older), "the newest first");
    assert_eq!(seen.len(), 250);
    let counted = place.tasks.count().await.unwrap();
    assert_eq!(only(counted).count, 250);
}

#[tokio::test]
async fn a_table_that_is_not_there_or_not_ours_is_told() {
    let place = place().await;
    let missing = Table::new(&place.connection, "missing");
    let told = missing.verify().await.unwrap_err().to_string();
    assert!(told.contains("`missing`") && told.contains("RHUBARB_TABLE"), "{told}");
    let refused = only(DynamoTasks::new(missing).submit(&[with_args(&1)]).await).unwrap_err().to_string();
    assert!(refused.contains("deploy the template"), "{refused}");
    let attribute = |name: &str| {
        AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S).build().unwrap()
    };
    let key = |name: &str, kind| KeySchemaElement::builder().attribute_name(name).key_type(kind).build().unwrap();
    for (name, sort, expected) in
        [("bare", SORT, "no index `due`"), ("foreign", "other", "its keys are not `pk` and `sk`")]
    {
        let name = format!("{}-{name}", place.name);
        let request = place.client.create_table().table_name(&name).billing_mode(BillingMode::PayPerRequest);
        let request = request.attribute_definitions(attribute(PARTITION)).attribute_definitions(attribute(sort));
        let request = request.key_schema(key(PARTITION, KeyType::Hash)).key_schema(key(sort, KeyType::Range));
        request.send().await.unwrap();
        let told = Table::new(&place.connection, &name).verify().await.unwrap_err().to_string();
        assert!(told.contains(expected), "{told}");
    }
}

#[tokio::test]
async fn a_table_is_created_once_and_with_its_ttl() {
    let place = place().await;
    place.table.create().await.unwrap();
    let ttl = place.client.describe_time_to_live().table_name(&place.name).send().await.unwrap();
    let ttl = ttl.time_to_live_description.unwrap();
    assert_eq!(ttl.attribute_name(), Some(TTL));
    let read = place.client.query().table_name(&place.name).key_condition_expression("pk = :pk");
    let read = read.expression_attribute_values(":pk", AttributeValue::S("QUEUES".into()));
    let read = read.return_consumed_capacity(ReturnConsumedCapacity::Total).send().await.unwrap();
    assert!(read.items.unwrap_or_default().is_empty(), "a new table is empty");
}
