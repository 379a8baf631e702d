//! The Lambda function of each queue of class `lambda`, with what it needs around it.

use rhubarb_core::config::AppConfig;

use super::{
    plan::{Light, Plan, Queue},
    rights,
    yaml::scalar,
};

/// Writes function, role, log group and event source mapping of each such queue.
pub(super) fn write(plan: &Plan<'_>) -> String {
    if plan.light().next().is_none() {
        return String::new();
    }
    let each: String = plan.light().map(|(queue, light)| one(plan, queue, light)).collect();
    format!(
        r"
  # A Lambda function for each queue of class lambda. Its timeout is that of a whole batch, with time to write
  # down what came of it. Lambda reads the queue itself, up to MaximumConcurrency batches at a time; never limit
  # that by reserved concurrency alone, which makes it receive messages that it cannot run until they are taken
  # for dead. The function names the messages of a batch that go back (ReportBatchItemFailures).
{each}"
    )
}

fn one(plan: &Plan<'_>, queue: &Queue<'_>, light: &Light<'_>) -> String {
    [log_group(queue, light), role(plan, queue), function(&plan.config.app, queue, light), mapping(queue, light)]
        .concat()
}

fn log_group(queue: &Queue<'_>, light: &Light<'_>) -> String {
    let (id, name) = (&queue.id, scalar(&format!("/aws/lambda/{}", light.name)));
    format!(
        r"
  Logs{id}:
    Type: AWS::Logs::LogGroup
    Properties:
      LogGroupName: {name}
      RetentionInDays: !Ref LogRetentionDays
"
    )
}

fn role(plan: &Plan<'_>, queue: &Queue<'_>) -> String {
    let (id, own) = (&queue.id, queue.arn());
    let hosts = rights::of_hosts(plan);
    format!(
        r#"  Role{id}:
    Type: AWS::IAM::Role
    Properties:
      AssumeRolePolicyDocument:
        Version: "2012-10-17"
        Statement:
          - Effect: Allow
            Principal:
              Service: lambda.amazonaws.com
            Action: sts:AssumeRole
      Policies:
        - PolicyName: least
          PolicyDocument:
            Version: "2012-10-17"
            Statement:
              - Sid: ItsOwnQueue # the mapping reads it with this role; a retry changes a message's visibility
                Effect: Allow
                Action:
                  - sqs:ReceiveMessage
                  - sqs:DeleteMessage
                  - sqs:ChangeMessageVisibility
                Resource: {own}
{hosts}              - Sid: ItsOwnLogs
                Effect: Allow
                Action:
                  - logs:CreateLogStream
                  - logs:PutLogEvents
                Resource: !GetAtt Logs{id}.Arn
"#
    )
}

fn function(app: &AppConfig, queue: &Queue<'_>, light: &Light<'_>) -> String {
    let (id, name, code) = (&queue.id, scalar(&light.name), code(queue, light));
    let (memory, timeout) = (queue.config.memory.as_mib(), light.timeout_seconds);
    let (queue_name, app_name, stage) = (scalar(queue.config.name.as_str()), scalar(&app.name), scalar(&app.stage));
    let own: String = light
        .function
        .env
        .iter()
        .map(|(name, value)| format!("          {}: {}\n", scalar(name), scalar(value)))
        .collect();
    format!(
        r"  Function{id}:
    Type: AWS::Lambda::Function
    Properties:
      FunctionName: {name}
{code}      Architectures:
        - !Ref Architecture
      MemorySize: {memory}
      Timeout: {timeout}
      Role: !GetAtt Role{id}.Arn
      LoggingConfig:
        LogGroup: !Ref Logs{id}
      Environment:
        Variables:
          RHUBARB_QUEUE: {queue_name}
          RHUBARB_BACKEND: aws
          RHUBARB_APP: {app_name}
          RHUBARB_STAGE: {stage}
          RHUBARB_TABLE: !Ref Table
          RHUBARB_BUCKET: !Ref Bucket
          AWS_ENDPOINT_URL: !If [HasEndpointUrl, !Ref EndpointUrl, !Ref AWS::NoValue]
{own}"
    )
}

fn code(queue: &Queue<'_>, light: &Light<'_>) -> String {
    let Some(file) = light.code_file() else {
        return format!("      PackageType: Image\n      Code:\n        ImageUri: !Ref Image{}\n", queue.id);
    };
    format!(
        r#"      Runtime: provided.al2023
      Handler: bootstrap
      Code:
        S3Bucket: !Ref CodeBucket
        S3Key: !Sub "${{CodePrefix}}{file}"
"#
    )
}

fn mapping(queue: &Queue<'_>, light: &Light<'_>) -> String {
    let (id, arn) = (&queue.id, queue.arn());
    let (batch, concurrency) = (queue.config.batch, queue.config.max_concurrency);
    let window = match light.window_seconds {
        0 => String::new(),
        seconds => format!("      MaximumBatchingWindowInSeconds: {seconds}\n"),
    };
    format!(
        r"  Source{id}:
    Type: AWS::Lambda::EventSourceMapping
    Properties:
      EventSourceArn: {arn}
      FunctionName: !Ref Function{id}
      BatchSize: {batch}
{window}      FunctionResponseTypes:
        - ReportBatchItemFailures
      ScalingConfig:
        MaximumConcurrency: {concurrency}
"
    )
}
