//! The table and the bucket.

use std::collections::BTreeSet;

use rhubarb_core::table::{INDEXES, Index, PARTITION, SORT, TTL};

use super::{plan::Plan, yaml::scalar};

/// Writes the table, the bucket and its policy.
pub(super) fn write(plan: &Plan<'_>) -> String {
    format!("{}{}", table(plan), bucket(plan))
}

fn table(plan: &Plan<'_>) -> String {
    let name = scalar(&plan.config.app.aws_table_name());
    let (attributes, indexes) = (attributes(), INDEXES.iter().map(index).collect::<String>());
    format!(
        r"
  # The table: the rows of all tasks, and what else is kept. It is paid by use. DynamoDB encrypts it at rest,
  # as it does with every table.
  Table:
    Type: AWS::DynamoDB::Table
    DeletionPolicy: RetainExceptOnCreate
    UpdateReplacePolicy: Retain
    Properties:
      TableName: {name}
      BillingMode: PAY_PER_REQUEST
      AttributeDefinitions:
{attributes}      KeySchema:
        - AttributeName: {PARTITION}
          KeyType: HASH
        - AttributeName: {SORT}
          KeyType: RANGE
      # The indexes are sparse and project keys only: most writes of a row cost them nothing.
      GlobalSecondaryIndexes:
{indexes}      # Rows of settled tasks end here; everything else has no such attribute.
      TimeToLiveSpecification:
        AttributeName: {TTL}
        Enabled: true
      PointInTimeRecoverySpecification:
        PointInTimeRecoveryEnabled: !If [HasPointInTimeRecovery, true, false]
"
    )
}

/// The attributes that keys are made of; DynamoDB wants to know of no others.
fn attributes() -> String {
    let of_index = |index: &Index| [(index.partition, "S"), (index.sort, "N")];
    let all = [(PARTITION, "S"), (SORT, "S")].into_iter().chain(INDEXES.iter().flat_map(of_index));
    let mut seen = BTreeSet::new();
    all.filter(|(name, _)| seen.insert(*name))
        .map(|(name, kind)| format!("        - AttributeName: {name}\n          AttributeType: {kind}\n"))
        .collect()
}

fn index(index: &Index) -> String {
    let Index { name, partition, sort, purpose } = index;
    format!(
        r"        - IndexName: {name} # {purpose}
          KeySchema:
            - AttributeName: {partition}
              KeyType: HASH
            - AttributeName: {sort}
              KeyType: RANGE
          Projection:
            ProjectionType: KEYS_ONLY
"
    )
}

fn bucket(plan: &Plan<'_>) -> String {
    let name = match &plan.config.app.bucket {
        Some(name) => scalar(name),
        None => format!("!Sub \"{}\"", plan.config.app.aws_bucket_name("${AWS::AccountId}")),
    };
    format!(
        r#"
  # The bucket: what is too large for a message or a row, checkpoints, and the artifacts of functions. Closed to
  # the public. Only what belongs to one task (below `tasks/`) ends by itself: later than its row, also if the
  # task was put off for long. Artifacts and the arguments of schedules never do.
  Bucket:
    Type: AWS::S3::Bucket
    DeletionPolicy: RetainExceptOnCreate
    UpdateReplacePolicy: Retain
    Properties:
      BucketName: {name}
      PublicAccessBlockConfiguration:
        BlockPublicAcls: true
        BlockPublicPolicy: true
        IgnorePublicAcls: true
        RestrictPublicBuckets: true
      OwnershipControls:
        Rules:
          - ObjectOwnership: BucketOwnerEnforced
      BucketEncryption:
        ServerSideEncryptionConfiguration:
          - ServerSideEncryptionByDefault:
              SSEAlgorithm: AES256
      LifecycleConfiguration:
        Rules:
          - Id: tasks
            Status: Enabled
            Prefix: tasks/
            ExpirationInDays: !Ref TaskBlobDays
          - Id: broken-uploads
            Status: Enabled
            AbortIncompleteMultipartUpload:
              DaysAfterInitiation: 7
  BucketTlsOnly:
    Type: AWS::S3::BucketPolicy
    Properties:
      Bucket: !Ref Bucket
      PolicyDocument:
        Version: "2012-10-17"
        Statement:
          - Sid: NoPlainHttp
            Effect: Deny
            Principal: "*"
            Action: s3:*
            Resource:
              - !GetAtt Bucket.Arn
              - !Sub "${{Bucket.Arn}}/*"
            Condition:
              Bool:
                aws:SecureTransport: "false"
"#
    )
}
