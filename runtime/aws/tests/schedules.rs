//! Schedules on EventBridge Scheduler over an emulator: who fires what, and what becomes of it there.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper that fails is a failed test")]

mod common;

use std::{collections::BTreeMap, time::Duration};

use aws_sdk_scheduler::{
    Client,
    operation::get_schedule::GetScheduleOutput,
    types::{FlexibleTimeWindow, FlexibleTimeWindowMode, ScheduleState, Target},
};
use common::{RealTime, config, connection};
use rhubarb_aws::{AwsBackend, AwsOptions};
use rhubarb_core::{
    backend::{Backend as _, ClaimPolicy, Finish, Log, OutgoingMessage, ScheduleRecord, Schedules, Settlement, Take},
    config::{Config, Definition},
    ids::{QueueName, ScheduleName, WorkerId},
    outcome::Outcome,
    row::{AckMode, State},
    schedule::SCHEDULED_TIME,
    time::Timestamp,
};
use rhubarb_testkit::{emulator::Emulator, exercise};
use serde_json::Value;

const QUEUES: &str = r#"
[queues.default]
functions = ["f"]
[queues.ordered]
fifo = true
functions = ["f"]
[queues.hasty]
expires = "1h"
functions = ["f"]
[schedules.of-file]
rate = "1 hour"
task = "t"
"#;

struct Place {
    client: Client,
    config: Config,
    backend: AwsBackend,
    _emulator: Emulator,
}

impl Place {
    /// With the application's group where `deployed`, as its template makes it.
    async fn new(deployed: bool) -> Self {
        let emulator = Emulator::start();
        let (config, connection) = (config(QUEUES), connection(&emulator));
        let client = Client::new(connection.sdk());
        if deployed {
            client.create_schedule_group().name(config.app.aws_schedule_group()).send().await.unwrap();
        }
        let options = AwsOptions { create: true, ..AwsOptions::default() };
        let backend = AwsBackend::over(connection, &config, options).await.unwrap();
        Self { client, config, backend, _emulator: emulator }
    }

    fn schedules(&self) -> &dyn Schedules {
        self.backend.schedules()
    }

    async fn find(&self, name: &str) -> Option<GetScheduleOutput> {
        let group = self.config.app.aws_schedule_group();
        self.client.get_schedule().group_name(group).name(name).send().await.ok()
    }

    async fn state(&self, name: &str) -> Option<ScheduleState> {
        self.find(name).await?.state
    }

    async fn put(&self, record: &ScheduleRecord) {
        self.schedules().put(std::slice::from_ref(record)).await.pop().unwrap().unwrap();
    }

    async fn make(&self, name: &str, change: impl FnOnce(&mut Definition)) -> ScheduleRecord {
        let mut definition = Definition { task: "t".into(), ..Definition::default() };
        change(&mut definition);
        let record = ScheduleRecord::new(ScheduleName::new(name).unwrap(), false, definition.to_value(), now());
        self.put(&record).await;
        record
    }

    async fn read(&self, name: &ScheduleName) -> ScheduleRecord {
        self.schedules().read(std::slice::from_ref(name)).await.unwrap().pop().flatten().unwrap()
    }

    /// Puts the file's schedule to EventBridge as the template does.
    async fn deploy_of_file(&self) {
        let target = Target::builder().arn("arn:aws:sqs:eu-central-1:000000000000:q").role_arn("arn:aws:iam::0:role/r");
        let window = FlexibleTimeWindow::builder().mode(FlexibleTimeWindowMode::Off).build().unwrap();
        let request = self.client.create_schedule().name("of-file").group_name(self.config.app.aws_schedule_group());
        let request = request.schedule_expression("rate(60 minutes)").flexible_time_window(window);
        request.target(target.input("{}").build().unwrap()).send().await.unwrap();
    }
}

fn now() -> Timestamp {
    Timestamp(Timestamp::from_system(std::time::SystemTime::now()).0 / 1000 * 1000)
}

fn nightly(definition: &mut Definition) {
    definition.cron = Some("0 3 * * ? *".into());
    definition.timezone = Some("Europe/Berlin".into());
    definition.jitter = Some("90s".into());
    definition.args = serde_json::from_str(r#"{"deep":[1,null,"ä"]}"#).unwrap();
}

#[tokio::test]
async fn the_schedules_do_their_exercise_with_and_without_eventbridge() {
    for deployed in [false, true] {
        let place = Place::new(deployed).await;
        exercise::schedules(place.schedules(), &RealTime).await;
    }
}

#[tokio::test]
async fn a_schedule_made_at_run_time_is_eventbridges_and_follows_what_people_say() {
    let place = Place::new(true).await;
    let record = place.make("nightly", nightly).await;
    let found = place.find("nightly").await.unwrap();
    assert_eq!(found.schedule_expression(), Some("cron(0 3 * * ? *)"));
    assert_eq!(found.schedule_expression_timezone(), Some("Europe/Berlin"));
    assert_eq!(found.flexible_time_window().unwrap().maximum_window_in_minutes(), Some(2));
    assert_eq!(found.state(), Some(&ScheduleState::Enabled));
    let (app, stage) = (&place.config.app.name, &place.config.app.stage);
    let target = found.target().unwrap();
    assert_eq!(target.arn(), format!("arn:aws:sqs:eu-central-1:000000000000:{app}-{stage}-default"));
    assert_eq!(target.role_arn(), format!("arn:aws:iam::000000000000:role/{app}-{stage}-scheduler"));
    let dead = target.dead_letter_config().and_then(|dead| dead.arn()).unwrap();
    assert!(dead.ends_with(&format!(":{app}-{stage}-default-dead")), "{dead}");
    let input: Value = serde_json::from_str(target.input().unwrap()).unwrap();
    assert_eq!(input["idempotency_key"], "schedule/nightly/<aws.scheduler.scheduled-time>");
    assert_eq!((&input["schedule"], &input["args"]["deep"][2]), (&Value::from("nightly"), &Value::from("ä")));
    assert!(place.schedules().fires(&place.read(&record.name).await));

    place.schedules().pause(&record.name, true).await.unwrap();
    assert_eq!(place.state("nightly").await, Some(ScheduleState::Disabled));
    place.schedules().pause(&record.name, false).await.unwrap();
    assert_eq!(place.state("nightly").await, Some(ScheduleState::Enabled));
    place.make("nightly", |definition| definition.rate = Some("2 hours".into())).await;
    let found = place.find("nightly").await.unwrap();
    assert_eq!(found.schedule_expression(), Some("rate(120 minutes)"));
    assert!(found.start_date().unwrap().secs() >= now().0 / 1000, "it goes on at its next tick");
    place.schedules().delete(std::slice::from_ref(&record.name)).await.pop().unwrap().unwrap();
    assert!(place.find("nightly").await.is_none());
}

#[tokio::test]
async fn what_eventbridge_cannot_fire_is_left_to_agents_and_only_then_one_asks_for_the_role() {
    let place = Place::new(true).await;
    place.make("nightly", nightly).await;
    assert!(!place.schedules().left_to_agents().await.unwrap());
    let before = place.backend.requests();
    assert!(!place.schedules().left_to_agents().await.unwrap());
    let asked: u64 = place.backend.requests().values().sum::<u64>() - before.values().sum::<u64>();
    assert_eq!(asked, 1, "a look costs one request");
    for (name, change) in [
        ("seconds", (|d| d.rate = Some("90 seconds".into())) as fn(&mut Definition)),
        ("ordered", |d| (d.rate, d.queue) = (Some("1 minute".into()), Some("ordered".into()))),
        ("hasty", |d| (d.rate, d.queue) = (Some("1 minute".into()), Some("hasty".into()))),
    ] {
        let record = place.make(name, change).await;
        assert!(place.find(name).await.is_none(), "{name}");
        assert!(!place.schedules().fires(&place.read(&record.name).await), "{name}");
        assert!(place.schedules().left_to_agents().await.unwrap(), "{name}");
        place.schedules().delete(&[record.name]).await.pop().unwrap().unwrap();
        assert!(!place.schedules().left_to_agents().await.unwrap(), "{name}");
    }
    // One that was EventBridge's, and is not any more.
    let record = place.make("nightly", |definition| definition.rate = Some("10 seconds".into())).await;
    assert!(place.find("nightly").await.is_none() && !place.schedules().fires(&place.read(&record.name).await));
}

#[tokio::test]
async fn a_schedule_of_the_file_is_the_templates_and_can_be_paused_there() {
    let place = Place::new(true).await;
    place.deploy_of_file().await;
    let file = place.config.schedules.values().next().unwrap();
    let record = rhubarb_core::schedule::renewed(file, None, now()).unwrap();
    place.put(&record).await;
    assert!(!place.schedules().left_to_agents().await.unwrap() && place.schedules().fires(&record));
    place.schedules().pause(&record.name, true).await.unwrap();
    let paused = place.find("of-file").await.unwrap();
    assert_eq!(paused.state(), Some(&ScheduleState::Disabled));
    assert_eq!(paused.target().unwrap().input(), Some("{}"), "the rest is as the template said it");
    place.schedules().pause(&record.name, false).await.unwrap();
    assert_eq!(place.state("of-file").await, Some(ScheduleState::Enabled));
    // The file has it no more: the record goes, and the template's own goes with the next deployment.
    place.schedules().delete(&[record.name]).await.pop().unwrap().unwrap();
    assert!(place.find("of-file").await.is_some());
}

#[tokio::test]
async fn where_nothing_was_deployed_agents_fire_everything() {
    let place = Place::new(false).await;
    let file = place.config.schedules.values().next().unwrap();
    let of_file = rhubarb_core::schedule::renewed(file, None, now()).unwrap();
    place.put(&of_file).await;
    let nightly = place.make("nightly", nightly).await;
    assert!(place.schedules().left_to_agents().await.unwrap());
    for record in [of_file, nightly] {
        assert!(!place.schedules().fires(&place.read(&record.name).await), "{}", record.name);
        assert!(place.schedules().pause(&record.name, true).await.unwrap());
    }
}

/// One tick, from the message that EventBridge writes to the end of its task. Returns what it asked of each service.
async fn run_tick(place: &Place, input: &str) -> BTreeMap<String, u64> {
    let queue = QueueName::new("default").unwrap();
    let message = OutgoingMessage { body: input.to_owned(), ..OutgoingMessage::default() };
    place.backend.broker().send(&queue, &[message]).await.pop().unwrap().unwrap();
    let before = place.backend.requests();
    let keep = (Duration::from_secs(3600), Duration::from_secs(3600));
    let policy = ClaimPolicy { keep, ..ClaimPolicy::new(queue.clone(), AckMode::Message) };
    let worker = WorkerId::new("w").unwrap();
    let take = Take { policy: &policy, worker: &worker, max: 1, wait: Duration::from_secs(10) };
    let won = place.backend.take(take).await.unwrap().won.pop().unwrap();
    let (outcome, log) = (Outcome::Succeeded(None), Log::default());
    let settlement = Settlement { id: won.id, fence: won.row.fence, outcome, log, keep };
    let finish = Finish { queue, settlement, receipt: won.receipt.clone(), hideable: policy.lease };
    let settled = place.backend.finish(&[finish]).await.pop().unwrap().unwrap();
    assert_eq!(settled.state, State::Succeeded);
    let more = |(name, count): (String, u64)| (name.clone(), count - before.get(&name).copied().unwrap_or(0));
    place.backend.requests().into_iter().map(more).filter(|(_, count)| *count > 0).collect()
}

#[tokio::test]
async fn a_tick_of_eventbridge_costs_two_requests_to_the_queue_and_five_to_the_table() {
    let place = Place::new(true).await;
    place.make("nightly", nightly).await;
    let found = place.find("nightly").await.unwrap();
    let input = found.target().unwrap().input().unwrap();
    let tick = |day: u32| input.replace(SCHEDULED_TIME, &format!("2027-01-{day:02}T02:00:00Z"));
    // The first look for a queue, of a store for its clock, is a process's own.
    run_tick(&place, &tick(1)).await;
    let asked = run_tick(&place, &tick(2)).await;
    // A claim in vain and a look show that there is no row; key and row are made, the row is claimed and settled.
    let expected = [
        ("DynamoDB.GetItem", 1),
        ("DynamoDB.TransactWriteItems", 1),
        ("DynamoDB.UpdateItem", 3),
        ("SQS.DeleteMessageBatch", 1),
        ("SQS.ReceiveMessage", 1),
    ];
    assert_eq!(asked, expected.map(|(name, count)| (name.to_owned(), count)).into());
}
