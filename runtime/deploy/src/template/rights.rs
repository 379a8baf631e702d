//! What every host of tasks may do: rights of the Lambda functions' roles and of the workers' alike.

use super::plan::Plan;

/// Statements on all queues, the rows and the blobs, indented as entries of a policy document.
pub(super) fn of_hosts(plan: &Plan<'_>) -> String {
    let all: String = plan.queues.iter().map(|queue| format!("                  - {}\n", queue.arn())).collect();
    format!(
        r#"              - Sid: EveryQueue # enqueue children, ring for tasks that are due, count
                Effect: Allow
                Action:
                  - sqs:SendMessage
                  - sqs:GetQueueUrl
                  - sqs:GetQueueAttributes
                Resource:
{all}              - Sid: Rows
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
