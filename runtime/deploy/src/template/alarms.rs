//! Alarms and a dashboard on CloudWatch, from what SQS and Lambda count by themselves.
//!
//! They know nothing of tasks: a task that fails is no message, and its alarm is Prometheus's. What they see
//! is what no worker can tell: that nobody takes messages, that SQS gave one up, that a function dies.

use serde_json::{Value, json};

use super::plan::{Light, Origin, Plan, Queue};

/// A message that has waited so long raises the alarm of its queue.
const OLDEST_SECONDS: u64 = 15 * 60;

/// The parameters of this section.
pub(super) const PARAMETERS: &str = r#"  Alarms:
    Type: String
    Default: "true"
    AllowedValues:
      - "true"
      - "false"
    Description: Whether CloudWatch alarms and a dashboard are made. Not every AWS emulator has them
  AlarmTopic:
    Type: String
    Default: ""
    Description: With Alarms. The ARN of an SNS topic that alarms go to. Empty, they only change their colour
"#;

/// The conditions of this section.
pub(super) const CONDITIONS: &str = "  HasAlarms: !Equals [!Ref Alarms, \"true\"]
  HasAlarmTopic: !Not [!Equals [!Ref AlarmTopic, \"\"]]
";

/// Writes alarms and the dashboard.
pub(super) fn write(plan: &Plan<'_>) -> String {
    let alarms: String = plan.made().map(of_queue).chain(plan.light().map(of_function)).collect();
    if alarms.is_empty() {
        return String::new();
    }
    format!(
        r"
  # What AWS counts by itself: nobody takes messages, SQS gave one up, a function fails. Of tasks, their attempts
  # and workers the metrics of the agents tell (infra/observability).
{alarms}{}",
        dashboard(plan)
    )
}

fn of_queue(queue: &Queue<'_>) -> String {
    let (id, name) = (&queue.id, &queue.config.name);
    let oldest = Alarm {
        id: format!("AlarmOldest{id}"),
        what: format!("A message has waited in queue {name} for {} minutes", OLDEST_SECONDS / 60),
        metric: "ApproximateAgeOfOldestMessage",
        namespace: "AWS/SQS",
        dimension: ("QueueName", format!("!GetAtt Queue{id}.QueueName")),
        statistic: "Maximum",
        above: OLDEST_SECONDS,
    };
    let dead = Alarm {
        id: format!("AlarmDead{id}"),
        what: format!("SQS gave up messages of queue {name}; the sweep of an agent brings them into rows"),
        metric: "ApproximateNumberOfMessagesVisible",
        dimension: ("QueueName", format!("!GetAtt Dead{id}.QueueName")),
        above: 0,
        ..oldest.clone()
    };
    oldest.write() + &dead.write()
}

fn of_function((queue, light): (&Queue<'_>, &Light<'_>)) -> String {
    let id = &queue.id;
    let alarm = Alarm {
        id: format!("AlarmErrors{id}"),
        what: format!(
            "Invocations of function {} fail as a whole: it crashes, or runs out of time",
            light.function.name
        ),
        metric: "Errors",
        namespace: "AWS/Lambda",
        dimension: ("FunctionName", format!("!Ref Function{id}")),
        statistic: "Sum",
        above: 0,
    };
    alarm.write()
}

#[derive(Clone)]
struct Alarm {
    id: String,
    what: String,
    metric: &'static str,
    namespace: &'static str,
    dimension: (&'static str, String),
    statistic: &'static str,
    above: u64,
}

impl Alarm {
    fn write(&self) -> String {
        let Self { id, what, metric, namespace, dimension: (dimension, value), statistic, above } = self;
        format!(
            r#"
  {id}:
    Type: AWS::CloudWatch::Alarm
    Condition: HasAlarms
    Properties:
      AlarmDescription: "{what}"
      Namespace: {namespace}
      MetricName: {metric}
      Dimensions:
        - Name: {dimension}
          Value: {value}
      Statistic: {statistic}
      Period: 300
      EvaluationPeriods: 1
      Threshold: {above}
      ComparisonOperator: GreaterThanThreshold
      TreatMissingData: notBreaching
      AlarmActions: !If [HasAlarmTopic, [!Ref AlarmTopic], !Ref AWS::NoValue]
"#
        )
    }
}

fn dashboard(plan: &Plan<'_>) -> String {
    let queues = |metric: &str, dead: bool| -> Vec<Value> {
        let name = |queue: &Queue<'_>| match &queue.origin {
            Origin::Made { name, dead: dead_name, .. } => Some(if dead { dead_name.clone() } else { name.clone() }),
            Origin::There { .. } => None,
        };
        plan.made().filter_map(name).map(|name| json!(["AWS/SQS", metric, "QueueName", name])).collect()
    };
    let functions = |metric: &str| -> Vec<Value> {
        let names = plan.light().map(|(queue, _)| format!("${{Function{}}}", queue.id));
        names.map(|name| json!(["AWS/Lambda", metric, "FunctionName", name])).collect()
    };
    let panels = [
        ("Messages that wait", "Maximum", queues("ApproximateNumberOfMessagesVisible", false)),
        ("Age of the oldest message", "Maximum", queues("ApproximateAgeOfOldestMessage", false)),
        ("Messages in flight", "Maximum", queues("ApproximateNumberOfMessagesNotVisible", false)),
        ("Dead letters", "Maximum", queues("ApproximateNumberOfMessagesVisible", true)),
        ("Invocations", "Sum", functions("Invocations")),
        ("Errors", "Sum", functions("Errors")),
        ("Duration, p99", "p99", functions("Duration")),
        ("Throttles", "Sum", functions("Throttles")),
    ];
    let panels = panels.into_iter().filter(|(_, _, metrics)| !metrics.is_empty());
    let widgets: Vec<String> = panels
        .enumerate()
        .map(|(index, (title, statistic, metrics))| {
            let (x, y, metrics) = (12 * (index % 2), 6 * (index / 2), Value::Array(metrics));
            // By hand: the order of a map's keys would follow a feature of serde_json that some builds turn on.
            format!(
                r#"          {{"type":"metric","width":12,"height":6,"x":{x},"y":{y},"properties":{{"title":"{title}","stat":"{statistic}","period":300,"region":"${{AWS::Region}}","metrics":{metrics}}}}}"#
            )
        })
        .collect();
    let name = format!("{}-{}", plan.config.app.name, plan.config.app.stage);
    format!(
        r#"
  Dashboard:
    Type: AWS::CloudWatch::Dashboard
    Condition: HasAlarms
    Properties:
      DashboardName: {name}
      DashboardBody: !Sub |
        {{"widgets": [
{}
        ]}}
"#,
        widgets.join(",\n")
    )
}
