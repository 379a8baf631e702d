//! The queues and their dead-letter queues.

use rhubarb_core::limits::Limits;

use super::{
    plan::{Origin, Plan, Queue},
    yaml::scalar,
};

/// Writes every queue that the template makes, and the policy of all of them.
pub(super) fn write(plan: &Plan<'_>) -> String {
    if plan.made().next().is_none() {
        return String::new();
    }
    let queues: String = plan.made().map(queue).collect();
    let ids = plan.made().flat_map(|queue| [format!("Queue{}", queue.id), format!("Dead{}", queue.id)]);
    let refs: String = ids.map(|id| format!("        - !Ref {id}\n")).collect();
    format!(
        r#"
  # The queues, each with its dead-letter queue. That one takes only what SQS itself gives up, far beyond any
  # task's attempts: a task that failed is a row of the table. Both are encrypted, and keep messages for 14
  # days, the longest that SQS can.
  #
  # Dead-letter queues, the table and the bucket stay when the stack goes (only those of a stack whose creation
  # failed do not, so that it can be tried again).
{queues}
  # Nobody speaks to a queue without TLS.
  TlsOnly:
    Type: AWS::SQS::QueuePolicy
    Properties:
      Queues:
{refs}      PolicyDocument:
        Version: "2012-10-17"
        Statement:
          - Sid: NoPlainHttp
            Effect: Deny
            Principal: "*"
            Action: sqs:*
            Resource: "*"
            Condition:
              Bool:
                aws:SecureTransport: "false"
"#
    )
}

fn queue(queue: &Queue<'_>) -> String {
    let Origin::Made { name, dead, visibility } = &queue.origin else { return String::new() };
    let (id, receives) = (&queue.id, queue.config.max_receives);
    let (retention, bytes) = (Limits::AWS.retention.as_secs(), Limits::AWS.message_bytes_max);
    let fifo = if queue.config.fifo { "\n      FifoQueue: true" } else { "" };
    let (name, dead, visibility) = (scalar(name), scalar(dead), visibility.as_secs());
    let because = match &queue.light {
        Some(light) => format!("6 x the function's {} s + {} s of window", light.timeout_seconds, light.window_seconds),
        None => "the agent extends it while it works".to_owned(),
    };
    format!(
        r"
  Dead{id}:
    Type: AWS::SQS::Queue
    DeletionPolicy: RetainExceptOnCreate
    UpdateReplacePolicy: Retain
    Properties:
      QueueName: {dead}{fifo}
      MessageRetentionPeriod: {retention}
      MaximumMessageSize: {bytes}
      SqsManagedSseEnabled: true
  Queue{id}:
    Type: AWS::SQS::Queue
    Properties:
      QueueName: {name}{fifo}
      VisibilityTimeout: {visibility} # {because}
      MessageRetentionPeriod: {retention}
      MaximumMessageSize: {bytes}
      SqsManagedSseEnabled: true
      RedrivePolicy:
        deadLetterTargetArn: !GetAtt Dead{id}.Arn
        maxReceiveCount: {receives}
"
    )
}
