//! The schedules on EventBridge Scheduler, their group, and the role by which it sends.
//!
//! Scheduler writes the whole message to the queue; no client of ours runs. What it cannot fire (rates in
//! seconds, and the like) is left to the agents, and a comment says so. It tries for a day, then the message goes
//! to the queue's dead-letter queue.

use std::collections::BTreeMap;

use rhubarb_core::{
    config::{Config, ScheduleConfig},
    ids::ScheduleName,
    schedule::{Hosted, hosted, needs_agent},
    time::Timestamp,
};

use super::{
    plan::{Origin, Plan, Queue, logical},
    yaml::scalar,
};

/// How long Scheduler tries to deliver a tick, in seconds: its longest.
const RETRY_SECONDS: u32 = 24 * 60 * 60;
/// How often it tries at most: its most.
const RETRIES: u32 = 185;

/// A schedule of the file, and what the template makes of it.
pub(super) struct Planned<'a> {
    config: &'a ScheduleConfig,
    id: String,
    fate: Fate,
}

enum Fate {
    Made(Box<Hosted>),
    /// Why an agent fires it.
    Agents(&'static str),
    /// Nothing of it is to come.
    Over,
}

impl<'a> Planned<'a> {
    /// The schedules by name; what nobody would fire is among the reasons.
    pub(super) fn all(config: &'a Config, now: Timestamp, reasons: &mut Vec<String>) -> Vec<Self> {
        let mut ids: BTreeMap<String, &ScheduleName> = BTreeMap::new();
        let mut planned = Vec::with_capacity(config.schedules.len());
        for schedule in config.schedules.values() {
            let name = &schedule.name;
            let id = logical(&name.as_str().replace('.', "-"));
            if let Some(other) = ids.insert(id.clone(), name) {
                reasons.push(format!("schedules.{name}: its name and that of schedules.{other} differ in nothing that a template can say (letters and digits, without case at the start of a word); rename one of them"));
            }
            if let Err(unfit) = schedule.check_fired_on_aws(config) {
                reasons.push(format!("schedules.{name}.{}: {}; {}", unfit.key, unfit.what, unfit.fix));
            }
            let fate = match (needs_agent(schedule, config), hosted(schedule, None, config, now)) {
                (Some((_, why)), _) => Fate::Agents(why),
                (None, Ok(Some(hosted))) => Fate::Made(Box::new(hosted)),
                (None, Ok(None)) => Fate::Over,
                (None, Err(error)) => {
                    reasons.push(format!("schedules.{name}: {error}"));
                    continue;
                }
            };
            planned.push(Self { config: schedule, id, fate });
        }
        planned
    }
}

/// Writes group, role and schedules. The first two also where the file has no schedule: some are made at run time.
pub(super) fn write(plan: &Plan<'_>) -> String {
    let each: String = plan.schedules.iter().map(|schedule| one(plan, schedule)).collect();
    [group(plan), role(plan), each].concat()
}

fn group(plan: &Plan<'_>) -> String {
    let name = scalar(&plan.config.app.aws_schedule_group());
    format!(
        r"
  # The schedules, fired by EventBridge Scheduler: its message is the whole task, and the tick's time in its key
  # makes two deliveries one task. Those made at run time join the group, and go with it.
  ScheduleGroup:
    Type: AWS::Scheduler::ScheduleGroup
    Properties:
      Name: {name}
"
    )
}

fn role(plan: &Plan<'_>) -> String {
    let (name, group) = (scalar(&plan.config.app.aws_scheduler_role()), plan.config.app.aws_schedule_group());
    let dead = |queue: &Queue<'_>| match queue.origin {
        Origin::Made { .. } => format!("                  - !GetAtt Dead{}.Arn\n", queue.id),
        Origin::There { .. } => String::new(),
    };
    let targets = plan.queues.iter().filter(|queue| !queue.config.fifo);
    let queues: String = targets.map(|queue| format!("                  - {}\n{}", queue.arn(), dead(queue))).collect();
    format!(
        r#"  RoleScheduler:
    Type: AWS::IAM::Role
    Properties:
      RoleName: {name} # known to `rhubarb schedules create`
      AssumeRolePolicyDocument:
        Version: "2012-10-17"
        Statement:
          - Effect: Allow
            Principal:
              Service: scheduler.amazonaws.com
            Action: sts:AssumeRole
            Condition:
              StringEquals:
                aws:SourceAccount: !Ref AWS::AccountId
                aws:SourceArn: !Sub "arn:${{AWS::Partition}}:scheduler:${{AWS::Region}}:${{AWS::AccountId}}:schedule-group/{group}"
      Policies:
        - PolicyName: least
          PolicyDocument:
            Version: "2012-10-17"
            Statement:
              - Sid: SendTicks # and what could not be sent for a day to the dead-letter queue
                Effect: Allow
                Action: sqs:SendMessage
                Resource:
{queues}"#
    )
}

fn one(plan: &Plan<'_>, schedule: &Planned<'_>) -> String {
    let name = &schedule.config.name;
    let hosted = match &schedule.fate {
        Fate::Made(hosted) => hosted,
        Fate::Agents(why) => return format!("  # Schedule {name} is fired by an agent: {why}.\n"),
        Fate::Over => return format!("  # Schedule {name} is over.\n"),
    };
    let Some(queue) = plan.queues.iter().find(|queue| queue.config.name == hosted.queue) else { return String::new() };
    let (id, name, expression) = (&schedule.id, scalar(name.as_str()), scalar(&hosted.expression));
    let (timezone, state) = (scalar(&hosted.timezone), if hosted.enabled { "ENABLED" } else { "DISABLED" });
    let time = |key: &str, at: Option<Timestamp>| at.map(|at| format!("      {key}: \"{at}\"\n")).unwrap_or_default();
    let (start, end) = (time("StartDate", hosted.start), time("EndDate", hosted.end));
    let window = match hosted.window {
        None => "        Mode: \"OFF\"\n".to_owned(),
        Some(minutes) => format!("        Mode: FLEXIBLE\n        MaximumWindowInMinutes: {minutes}\n"),
    };
    let dead = match queue.origin {
        Origin::Made { .. } => {
            format!("        DeadLetterConfig:\n          Arn: !GetAtt Dead{}.Arn\n", queue.id)
        }
        Origin::There { .. } => String::new(),
    };
    let (arn, input) = (queue.arn(), scalar(&hosted.input));
    format!(
        r"  Schedule{id}:
    Type: AWS::Scheduler::Schedule
    Properties:
      Name: {name}
      GroupName: !Ref ScheduleGroup
      ScheduleExpression: {expression}
      ScheduleExpressionTimezone: {timezone}
{start}{end}      State: {state}
      FlexibleTimeWindow:
{window}      Target:
        Arn: {arn}
        RoleArn: !GetAtt RoleScheduler.Arn
        Input: {input}
        RetryPolicy:
          MaximumEventAgeInSeconds: {RETRY_SECONDS}
          MaximumRetryAttempts: {RETRIES}
{dead}"
    )
}
