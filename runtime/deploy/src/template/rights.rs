//! What every host of tasks may do: rights of the Lambda functions' roles and of the workers' alike.

use rhubarb_core::config::Track;

use super::plan::{Origin, Plan};

/// Statements on all queues, the rows and the blobs, indented as entries of a policy document.
pub(super) fn of_hosts(plan: &Plan<'_>) -> String {
    let all: String = plan.queues.iter().map(|queue| format!("                  - {}\n", queue.arn())).collect();
    let dead = dead_letters(plan) + &put_aside(plan) + &late(plan);
    format!(
        r#"              - Sid: EveryQueue # enqueue children, ring for tasks that are due, count
                Effect: Allow
                Action:
                  - sqs:SendMessage
                  - sqs:GetQueueUrl
                  - sqs:GetQueueAttributes
                Resource:
{all}{dead}              - Sid: Rows
                Effect: Allow
                Action:
                  - dynamodb:BatchGetItem
                  - dynamodb:BatchWriteItem
                  - dynamodb:ConditionCheckItem
                  - dynamodb:DeleteItem
                  - dynamodb:DescribeTable
                  - dynamodb:GetItem
                  - dynamodb:PutItem
                  - dynamodb:Query
                  - dynamodb:Scan
                  - dynamodb:UpdateItem
                Resource:
                  - !GetAtt Table.Arn
                  - !Sub "${{Table.Arn}}/index/*"
              - Sid: Blobs
                Effect: Allow
                Action:
                  - s3:AbortMultipartUpload
                  - s3:DeleteObject
                  - s3:GetObject
                  - s3:PutObject
                Resource: !Sub "${{Bucket.Arn}}/*"
              - Sid: ListBlobs
                Effect: Allow
                Action: s3:ListBucket
                Resource: !GetAtt Bucket.Arn
"#
    )
}

/// The right to empty the dead-letter queues into rows: the sweep, which any host may run, does it.
fn dead_letters(plan: &Plan<'_>) -> String {
    let made = plan.queues.iter().filter(|queue| matches!(queue.origin, Origin::Made { .. }));
    let arns: String = made.map(|queue| format!("                  - !GetAtt Dead{}.Arn\n", queue.id)).collect();
    if arns.is_empty() {
        return String::new();
    }
    format!(
        r"              - Sid: DeadLetters # what SQS moved aside becomes a row
                Effect: Allow
                Action:
                  - sqs:ReceiveMessage
                  - sqs:DeleteMessage
                  - sqs:GetQueueUrl
                  - sqs:GetQueueAttributes
                Resource:
{arns}"
    )
}

/// The right to put failed tasks into the dead-letter queues of queues that keep no rows.
fn put_aside(plan: &Plan<'_>) -> String {
    let rowless = plan.queues.iter().filter(|queue| queue.config.track == Track::None);
    let made = rowless.filter(|queue| matches!(queue.origin, Origin::Made { .. }));
    let arns: String = made.map(|queue| format!("                  - !GetAtt Dead{}.Arn\n", queue.id)).collect();
    if arns.is_empty() {
        return String::new();
    }
    format!(
        r"              - Sid: PutAside # a failed task without a row
                Effect: Allow
                Action: sqs:SendMessage
                Resource:
{arns}"
    )
}

/// The right to make one-time schedules, for tasks without a row that come later than their queue can delay.
fn late(plan: &Plan<'_>) -> String {
    if !plan.queues.iter().any(|queue| queue.config.track != Track::Full && !queue.config.fifo) {
        return String::new();
    }
    let group = plan.config.app.aws_schedule_group();
    format!(
        r#"              - Sid: Late # a task without a row that comes later than its queue can delay
                Effect: Allow
                Action: scheduler:CreateSchedule
                Resource: !Sub "arn:${{AWS::Partition}}:scheduler:${{AWS::Region}}:${{AWS::AccountId}}:schedule/{group}/_task.*"
              - Sid: LateRole # by which EventBridge Scheduler sends it
                Effect: Allow
                Action: iam:PassRole
                Resource: !GetAtt RoleScheduler.Arn
                Condition:
                  StringEquals:
                    iam:PassedToService: scheduler.amazonaws.com
"#
    )
}
