//! The calls of EventBridge Scheduler.
//!
//! Each may be repeated: a put makes or replaces, a delete of what is gone is no error. Scheduler replaces a
//! schedule whole, so who changes its state says the rest again.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use aws_sdk_scheduler::{
    Client,
    error::SdkError,
    operation::get_schedule::GetScheduleOutput,
    types::{
        ActionAfterCompletion, DeadLetterConfig, FlexibleTimeWindow, FlexibleTimeWindowMode, RetryPolicy,
        ScheduleState, Target,
    },
};
use aws_smithy_types::{DateTime, error::operation::BuildError};
use rhubarb_core::{
    backend::{Result, StoreError},
    config::{Config, QueueConfig},
    ids::{QueueName, ScheduleName},
    schedule::Hosted,
    time::Timestamp,
};

use crate::{
    broker::SqsBroker,
    connect::Connection,
    error::{Told, store_error},
};

/// How long it tries to deliver a tick, in seconds, and how often: the most that it can.
const RETRY_SECONDS: i32 = 24 * 60 * 60;
const RETRIES: i32 = 185;

/// EventBridge Scheduler, as one application uses it.
#[derive(Clone, Debug)]
pub(super) struct EventBridge {
    client: Client,
    group: Arc<str>,
    role: Arc<str>,
    broker: SqsBroker,
    config: Arc<Config>,
    /// What SQS told of queues: an ARN is one for good.
    arns: Arc<RwLock<BTreeMap<QueueName, Arc<str>>>>,
}

/// What a schedule is told to be: everything, as Scheduler wants it.
struct Said {
    expression: String,
    timezone: Option<String>,
    start: Option<DateTime>,
    end: Option<DateTime>,
    state: ScheduleState,
    window: FlexibleTimeWindow,
    target: Target,
    description: Option<String>,
}

/// Two requests of one form and two types.
macro_rules! say {
    ($request:expr, $name:expr, $group:expr, $said:expr) => {
        $request
            .name($name.as_str())
            .group_name(&*$group)
            .schedule_expression($said.expression.clone())
            .set_schedule_expression_timezone($said.timezone.clone())
            .set_start_date($said.start)
            .set_end_date($said.end)
            .set_description($said.description.clone())
            .state($said.state.clone())
            .flexible_time_window($said.window.clone())
            .target($said.target.clone())
    };
}

impl EventBridge {
    pub(super) fn new(connection: &Connection, config: &Config, broker: SqsBroker) -> Self {
        let client = aws_sdk_scheduler::config::Builder::from(&connection.config)
            .interceptor(connection.requests.clone())
            .build();
        Self {
            client: Client::from_conf(client),
            group: config.app.aws_schedule_group().into(),
            role: config.app.aws_scheduler_role().into(),
            broker,
            config: Arc::new(config.clone()),
            arns: Arc::default(),
        }
    }

    /// Whether the application's group is there.
    pub(super) async fn has_group(&self) -> Result<bool> {
        match self.client.get_schedule_group().name(&*self.group).send().await {
            Ok(_) => Ok(true),
            Err(SdkError::ServiceError(error)) if error.err().is_resource_not_found_exception() => Ok(false),
            Err(error) => Err(store_error(format!("look for the schedule group `{}`", self.group), &error)),
        }
    }

    /// Makes a schedule, or replaces it.
    pub(super) async fn put(&self, name: &ScheduleName, hosted: &Hosted, paused: bool) -> Result<()> {
        let said = self.said(name, hosted, paused).await?;
        let request = say!(self.client.create_schedule(), name, self.group, said);
        match request.send().await {
            Ok(_) => Ok(()),
            Err(SdkError::ServiceError(error)) if error.err().is_conflict_exception() => self.update(name, &said).await,
            Err(error) => Err(store_error(what("make", name), &error)),
        }
    }

    /// Enables or disables a schedule, which goes on at `start` where it counts from there. One that is not there
    /// was never deployed, and stays away.
    pub(super) async fn switch(
        &self,
        name: &ScheduleName,
        enabled: bool,
        start: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<()> {
        let found = match self.client.get_schedule().name(name.as_str()).group_name(&*self.group).send().await {
            Ok(found) => found,
            Err(SdkError::ServiceError(error)) if error.err().is_resource_not_found_exception() => return Ok(()),
            Err(error) => return Err(store_error(what("read", name), &error)),
        };
        let state = if enabled { ScheduleState::Enabled } else { ScheduleState::Disabled };
        if found.state() == Some(&state) {
            return Ok(());
        }
        self.update(name, &again(found, state, start, now, name)?).await
    }

    /// Deletes a schedule.
    pub(super) async fn delete(&self, name: &ScheduleName) -> Result<()> {
        match self.client.delete_schedule().name(name.as_str()).group_name(&*self.group).send().await {
            Ok(_) => Ok(()),
            Err(SdkError::ServiceError(error)) if error.err().is_resource_not_found_exception() => Ok(()),
            Err(error) => Err(store_error(what("delete", name), &error)),
        }
    }

    async fn update(&self, name: &ScheduleName, said: &Said) -> Result<()> {
        let request = say!(self.client.update_schedule(), name, self.group, said);
        request.send().await.map(|_| ()).map_err(|error| store_error(what("change", name), &error))
    }

    /// Makes a schedule that sends once, at this time of UTC, and is then gone. Returns false where there is one of this
    /// name.
    pub(super) async fn put_once(&self, name: &str, at: &str, queue: &QueueName, input: &str) -> Result<bool> {
        let what = || format!("make schedule `{name}` on EventBridge Scheduler");
        let window = FlexibleTimeWindow::builder().mode(FlexibleTimeWindowMode::Off).build();
        let window = window.map_err(|error| broken(what(), Told::of(&error).0))?;
        let target = self.target(queue, input).await?.map_err(|error| broken(what(), Told::of(&error).0))?;
        let request = self.client.create_schedule().name(name).group_name(&*self.group);
        let request = request.schedule_expression(format!("at({at})")).schedule_expression_timezone("UTC");
        let request = request.action_after_completion(ActionAfterCompletion::Delete);
        match request.flexible_time_window(window).target(target).send().await {
            Ok(_) => Ok(true),
            Err(SdkError::ServiceError(error)) if error.err().is_conflict_exception() => Ok(false),
            Err(SdkError::ServiceError(error)) if error.err().is_resource_not_found_exception() => {
                let group = &self.group;
                Err(broken(
                    what(),
                    format!(
                        "there is no schedule group `{group}` in this account and region: deploy the template (`rhubarb deploy template`), which makes it, or write track = \"full\" in [queues.{queue}]"
                    ),
                ))
            }
            Err(error) => Err(store_error(what(), &error)),
        }
    }

    /// Deletes a schedule that sends once. Returns false where there is none.
    pub(super) async fn delete_once(&self, name: &str) -> Result<bool> {
        match self.client.delete_schedule().name(name).group_name(&*self.group).send().await {
            Ok(_) => Ok(true),
            Err(SdkError::ServiceError(error)) if error.err().is_resource_not_found_exception() => Ok(false),
            Err(error) => Err(store_error(format!("delete schedule `{name}` on EventBridge Scheduler"), &error)),
        }
    }

    async fn said(&self, name: &ScheduleName, hosted: &Hosted, paused: bool) -> Result<Said> {
        let target = self.target(&hosted.queue, &hosted.input).await?;
        let window = match hosted.window {
            None => FlexibleTimeWindow::builder().mode(FlexibleTimeWindowMode::Off),
            Some(minutes) => FlexibleTimeWindow::builder()
                .mode(FlexibleTimeWindowMode::Flexible)
                .maximum_window_in_minutes(i32::try_from(minutes).unwrap_or(i32::MAX)),
        };
        let built = |error: BuildError| broken(what("describe", name), Told::of(&error).0);
        Ok(Said {
            expression: hosted.expression.clone(),
            timezone: Some(hosted.timezone.clone()),
            start: hosted.start.map(date),
            end: hosted.end.map(date),
            state: if hosted.enabled && !paused { ScheduleState::Enabled } else { ScheduleState::Disabled },
            window: window.build().map_err(built)?,
            target: target.map_err(built)?,
            description: Some("made at run time: `rhubarb schedules` changes it".to_owned()),
        })
    }

    /// A queue as the place that a schedule sends this to.
    async fn target(&self, queue: &QueueName, input: &str) -> Result<std::result::Result<Target, BuildError>> {
        let arn = self.arn(queue).await?;
        let policy =
            RetryPolicy::builder().maximum_event_age_in_seconds(RETRY_SECONDS).maximum_retry_attempts(RETRIES).build();
        let target = Target::builder()
            .role_arn(role_of(&arn, &self.role))
            .arn(&*arn)
            .input(input)
            .retry_policy(policy)
            .set_dead_letter_config(self.dead_letters(queue).await?);
        Ok(target.build())
    }

    /// Where a message goes that could not be delivered: the queue's own dead-letter queue, if it is ours.
    async fn dead_letters(&self, queue: &QueueName) -> Result<Option<DeadLetterConfig>> {
        let queue = self.config.queue(queue).filter(|queue| queue.url.is_none());
        let Some(dead) = queue.and_then(QueueConfig::dead_letters) else { return Ok(None) };
        match self.arn(&dead).await {
            Ok(arn) => Ok(Some(DeadLetterConfig::builder().arn(&*arn).build())),
            Err(StoreError::NoQueue(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn arn(&self, queue: &QueueName) -> Result<Arc<str>> {
        if let Some(known) = self.arns.read().unwrap_or_else(PoisonError::into_inner).get(queue) {
            return Ok(Arc::clone(known));
        }
        let arn: Arc<str> = self.broker.arn(queue).await?.into();
        self.arns.write().unwrap_or_else(PoisonError::into_inner).insert(queue.clone(), Arc::clone(&arn));
        Ok(arn)
    }
}

/// What a schedule is, with another state. A start that has passed is refused by Scheduler, and says nothing.
fn again(
    found: GetScheduleOutput,
    state: ScheduleState,
    start: Option<Timestamp>,
    now: Timestamp,
    name: &ScheduleName,
) -> Result<Said> {
    let missing = |field: &str| broken(what("change", name), format!("EventBridge told no {field} of it"));
    let to_come = found.start_date.filter(|start| start.secs() > date(now).secs());
    Ok(Said {
        expression: found.schedule_expression.ok_or_else(|| missing("expression"))?,
        timezone: found.schedule_expression_timezone,
        start: to_come.or_else(|| start.map(date)),
        end: found.end_date,
        state,
        window: found.flexible_time_window.ok_or_else(|| missing("window"))?,
        target: found.target.ok_or_else(|| missing("target"))?,
        description: found.description,
    })
}

/// The role's ARN: of the partition and account of the queue that it sends to.
fn role_of(queue: &str, role: &str) -> String {
    let mut parts = queue.split(':').skip(1);
    let (partition, account) = (parts.next().unwrap_or("aws"), parts.nth(2).unwrap_or_default());
    format!("arn:{partition}:iam::{account}:role/{role}")
}

fn date(at: Timestamp) -> DateTime {
    DateTime::from_millis(at.as_millis())
}

fn what(verb: &str, name: &ScheduleName) -> String {
    format!("{verb} schedule `{name}` on EventBridge Scheduler")
}

fn broken(what: String, fix: String) -> StoreError {
    StoreError::Broken { what, fix }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_is_of_the_queues_partition_and_account() {
        let queue = "arn:aws-cn:sqs:cn-north-1:123456789012:shop-dev-default";
        assert_eq!(role_of(queue, "shop-dev-scheduler"), "arn:aws-cn:iam::123456789012:role/shop-dev-scheduler");
    }
}
