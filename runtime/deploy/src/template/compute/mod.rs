//! Where the queues of class `ecs` are fed: a cluster, and a service for each worker of the configuration.
//!
//! Emulators refuse most of it, so all of it stands under the condition `HasCompute`, and nothing else does: what is
//! deployed without it differs in nothing else. Workers with GPUs run on ECS Managed Instances, or on an Auto Scaling
//! group where the parameter `GpuCapacity` says so; workers without on Fargate. A worker that ends is replaced by its
//! service, and its tasks come back by their leases.

mod capacity;
mod size;
mod worker;

pub(super) use self::worker::Worker;
use super::plan::Plan;

/// Writes the cluster, its capacity and a service for each worker.
pub(super) fn write(plan: &Plan<'_>) -> String {
    if plan.workers.is_empty() {
        return String::new();
    }
    let name = super::yaml::scalar(&plan.cluster_name());
    let workers: String = plan.workers.iter().map(|worker| worker::write(plan, worker)).collect();
    [
        format!(
            r"
  # The workers that feed the queues of class ecs, each a service of one cluster. All of this is made only where
  # Compute is true. ECS stops a container by SIGTERM, and kills it StopTimeout later: by then its tasks are handed
  # back. While it works it holds task protection, so that scaling in takes an idle one.

  Cluster:
    Type: AWS::ECS::Cluster
    Condition: HasCompute
    Properties:
      ClusterName: {name}
"
        ),
        EXECUTION_ROLE.to_owned(),
        capacity::write(plan),
        workers,
    ]
    .concat()
}

/// The parameters that only this part needs.
pub(super) fn parameters(plan: &Plan<'_>) -> String {
    if plan.workers.is_empty() {
        return String::new();
    }
    let counts = plan.workers.iter().map(|worker| {
        let (id, name) = (&worker.id, &worker.config.name);
        format!(
            "  Count{id}:\n    Type: Number\n    Default: 1\n    MinValue: 0\n    Description: How many of worker {name} run\n"
        )
    });
    let gpus =
        if plan.workers.iter().any(|worker| worker.gpus > 0) { capacity::parameters(plan) } else { String::new() };
    [PARAMETERS.to_owned(), gpus, counts.collect()].concat()
}

/// The conditions that only this part needs.
pub(super) fn conditions(plan: &Plan<'_>) -> &'static str {
    match (plan.workers.is_empty(), plan.workers.iter().any(|worker| worker.gpus > 0)) {
        (true, _) => "",
        (false, false) => SPOT,
        (false, true) => WITH_GPUS,
    }
}

const SPOT: &str = r#"  OnArm: !Equals [!Ref Architecture, arm64]
  OnSpot: !Equals [!Ref Spot, "true"]
"#;

const WITH_GPUS: &str = r#"  OnArm: !Equals [!Ref Architecture, arm64]
  OnSpot: !Equals [!Ref Spot, "true"]
  OnManagedInstances: !And [!Condition HasCompute, !Equals [!Ref GpuCapacity, managed]]
  OnAutoScaling: !And [!Condition HasCompute, !Equals [!Ref GpuCapacity, autoscaling]]
"#;

const PARAMETERS: &str = r#"  WorkerImage:
    Type: String
    Default: ""
    Description: With Compute. The URI of the workers' container image (infra/Dockerfile)
  Subnets:
    Type: CommaDelimitedList
    Default: subnet-00000000
    Description: With Compute. The subnets that workers run in; they need a way to SQS, DynamoDB, S3 and the image. No account has the default
  SecurityGroups:
    Type: CommaDelimitedList
    Default: sg-00000000
    Description: With Compute. The workers' security groups. They need no way in. No account has the default
  Spot:
    Type: String
    Default: "false"
    AllowedValues:
      - "true"
      - "false"
    Description: Whether workers run on Spot capacity. What an interruption cuts off goes back and spends no attempt
"#;

const EXECUTION_ROLE: &str = r#"  WorkerStart: # ECS fetches the image and opens the log with this role; tasks never have it
    Type: AWS::IAM::Role
    Condition: HasCompute
    Properties:
      AssumeRolePolicyDocument:
        Version: "2012-10-17"
        Statement:
          - Effect: Allow
            Principal:
              Service: ecs-tasks.amazonaws.com
            Action: sts:AssumeRole
      ManagedPolicyArns:
        - !Sub "arn:${AWS::Partition}:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"
"#;
