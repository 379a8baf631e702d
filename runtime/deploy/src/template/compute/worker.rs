//! A worker as a service of ECS: its task definition, its role, its log.

use std::time::Duration;

use rhubarb_core::config::{Config, QueueConfig, WorkerConfig};

use super::size::Size;
use crate::template::{
    plan::{Plan, logical},
    rights,
    yaml::scalar,
};

/// Fargate kills a container no later than this after SIGTERM (AWS: `stopTimeout`).
const FARGATE_STOP_MAX: Duration = Duration::from_secs(120);
/// What an agent may take beyond grace and shutdown grace: to kill, reap and settle, and to say goodbye.
const STOP_MARGIN: Duration = Duration::from_secs(20);

/// A worker that feeds queues of class `ecs`.
pub(in crate::template) struct Worker<'a> {
    pub(in crate::template) config: &'a WorkerConfig,
    /// Its part of logical names.
    pub(in crate::template) id: String,
    /// Those of its queues that agents feed.
    pub(in crate::template) queues: Vec<&'a QueueConfig>,
    /// Devices that the container gets.
    pub(in crate::template) gpus: u32,
    pub(in crate::template) size: Size,
    /// How long it drains: the configuration's, or what its place allows.
    pub(in crate::template) grace: Duration,
    /// When its place kills it.
    pub(in crate::template) stop: Duration,
}

impl<'a> Worker<'a> {
    /// None where AWS Lambda runs all its queues.
    pub(in crate::template) fn new(
        config: &'a Config,
        worker: &'a WorkerConfig,
        reasons: &mut Vec<String>,
    ) -> Option<Self> {
        let fed = |queue: &&QueueConfig| queue.class == rhubarb_core::config::QueueClass::Ecs;
        let queues: Vec<_> = worker.queues.iter().filter_map(|name| config.queues.get(name)).filter(fed).collect();
        if queues.is_empty() {
            return None;
        }
        let asked = queues.iter().map(|queue| queue.gpus).max().unwrap_or_default();
        let gpus = asked * if asked > 0 { worker.concurrency.unwrap_or(1) } else { 1 };
        let cpus = queues.iter().filter_map(|queue| queue.cpu).fold(0.0, f64::max);
        let memory = queues.iter().map(|queue| queue.memory.as_mib()).max().unwrap_or_default();
        let mut size = Size::exact(cpus, memory);
        let functions = queues.iter().flat_map(|queue| &queue.functions).filter_map(|name| config.functions.get(name));
        let beyond = functions.map(|function| function.shutdown_grace).max().unwrap_or_default() + STOP_MARGIN;
        let mut grace = worker.grace;
        if gpus == 0 {
            grace = grace.min(FARGATE_STOP_MAX.saturating_sub(beyond));
            match size.on_fargate() {
                Some(there_is) => size = there_is,
                None => reasons.push(format!(
                    "workers.{}: its queues ask for {cpus} vCPUs and {memory} MiB, and Fargate has 16 and 122880 at most; lower their cpu and memory",
                    worker.name
                )),
            }
        }
        let stop = grace + beyond;
        Some(Self { config: worker, id: logical(worker.name.as_str()), queues, gpus, size, grace, stop })
    }
}

/// Writes log group, role, task definition and service.
pub(super) fn write(plan: &Plan<'_>, worker: &Worker<'_>) -> String {
    [log_group(plan, worker), role(plan, worker), definition(plan, worker), service(worker)].concat()
}

fn log_group(plan: &Plan<'_>, worker: &Worker<'_>) -> String {
    let (id, cluster, name) = (&worker.id, plan.cluster_name(), &worker.config.name);
    let served: Vec<&str> = worker.queues.iter().map(|queue| queue.name.as_str()).collect();
    let name = scalar(&format!("/ecs/{cluster}/{name}"));
    format!(
        r"
  WorkerLogs{id}: # worker {}: {}
    Type: AWS::Logs::LogGroup
    Condition: HasCompute
    Properties:
      LogGroupName: {name}
      RetentionInDays: !Ref LogRetentionDays
",
        worker.config.name,
        served.join(", "),
    )
}

fn role(plan: &Plan<'_>, worker: &Worker<'_>) -> String {
    let id = &worker.id;
    let own: String = plan
        .queues
        .iter()
        .filter(|queue| worker.queues.iter().any(|served| served.name == queue.config.name))
        .map(|queue| format!("                  - {}\n", queue.arn()))
        .collect();
    let cluster = plan.cluster_name();
    let hosts = rights::of_hosts(plan);
    format!(
        r#"  WorkerRole{id}:
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
      Policies:
        - PolicyName: least
          PolicyDocument:
            Version: "2012-10-17"
            Statement:
              - Sid: ItsOwnQueues
                Effect: Allow
                Action:
                  - sqs:ReceiveMessage
                  - sqs:DeleteMessage
                  - sqs:ChangeMessageVisibility
                Resource:
{own}{hosts}              - Sid: Schedules # whether EventBridge fires them, or it does
                Effect: Allow
                Action: scheduler:GetScheduleGroup
                Resource: !GetAtt ScheduleGroup.Arn
              - Sid: ItsOwnProtection # while it works, scaling in takes another one
                Effect: Allow
                Action:
                  - ecs:GetTaskProtection
                  - ecs:UpdateTaskProtection
                Resource: !Sub "arn:${{AWS::Partition}}:ecs:${{AWS::Region}}:${{AWS::AccountId}}:task/{cluster}/*"
"#
    )
}

fn definition(plan: &Plan<'_>, worker: &Worker<'_>) -> String {
    let id = &worker.id;
    let app = &plan.config.app;
    let (cluster, name) = (plan.cluster_name(), worker.config.name.as_str());
    let family = scalar(&format!("{cluster}-{name}"));
    let (app_name, stage, worker_name) = (scalar(&app.name), scalar(&app.stage), scalar(name));
    let (cpu, memory) = (worker.size.cpu, worker.size.memory_mib);
    let (stop, grace) = (worker.stop.as_secs(), worker.grace.as_secs());
    let kind = match worker.gpus {
        0 => "        - FARGATE\n".to_owned(),
        _ => "        - !If [OnAutoScaling, EC2, MANAGED_INSTANCES]\n".to_owned(),
    };
    let devices = match worker.gpus {
        0 => String::new(),
        gpus => format!("          ResourceRequirements:\n            - Type: GPU\n              Value: \"{gpus}\"\n"),
    };
    format!(
        r#"  WorkerTask{id}:
    Type: AWS::ECS::TaskDefinition
    Condition: HasCompute
    Properties:
      Family: {family}
      RequiresCompatibilities:
{kind}      NetworkMode: awsvpc
      Cpu: "{cpu}"
      Memory: "{memory}"
      ExecutionRoleArn: !GetAtt WorkerStart.Arn
      TaskRoleArn: !GetAtt WorkerRole{id}.Arn
      RuntimePlatform:
        OperatingSystemFamily: LINUX
        CpuArchitecture: !If [OnArm, ARM64, X86_64]
      ContainerDefinitions:
        - Name: agent
          Image: !Ref WorkerImage
          Essential: true
          Command:
            - agent
            - {worker_name}
          Environment:
            - Name: RHUBARB_BACKEND
              Value: aws
            - Name: RHUBARB_APP
              Value: {app_name}
            - Name: RHUBARB_STAGE
              Value: {stage}
            - Name: RHUBARB_TABLE
              Value: !Ref Table
            - Name: RHUBARB_BUCKET
              Value: !Ref Bucket
            - Name: RHUBARB_LOG_FORMAT
              Value: json
            - Name: RHUBARB_GRACE
              Value: {grace}s
            - Name: RHUBARB_KILL_DELAY # of StopTimeout: the agent checks that its grace fits
              Value: {stop}s
{devices}          StopTimeout: {stop}
          LinuxParameters:
            InitProcessEnabled: true
          HealthCheck: # fails when the receive loop or the heartbeat stands still
            Command:
              - CMD
              - rhubarb
              - health
            Interval: 30
            Timeout: 10
            Retries: 3
            StartPeriod: 120
          LogConfiguration:
            LogDriver: awslogs
            Options:
              awslogs-group: !Ref WorkerLogs{id}
              awslogs-region: !Ref AWS::Region
              awslogs-stream-prefix: agent
"#
    )
}

fn service(worker: &Worker<'_>) -> String {
    let id = &worker.id;
    let name = scalar(worker.config.name.as_str());
    let provider = match worker.gpus {
        0 => "!If [OnSpot, FARGATE_SPOT, FARGATE]".to_owned(),
        _ => format!("!If [OnAutoScaling, !Ref GpuGroupProvider, !Ref GpuProvider{id}]"),
    };
    format!(
        r"  WorkerService{id}:
    Type: AWS::ECS::Service
    Condition: HasCompute
    DependsOn: ClusterCapacity
    Properties:
      ServiceName: {name}
      Cluster: !Ref Cluster
      TaskDefinition: !Ref WorkerTask{id}
      DesiredCount: !Ref Count{id}
      CapacityProviderStrategy:
        - CapacityProvider: {provider}
          Weight: 1
      DeploymentConfiguration: # the old one drains while the new one works already
        MaximumPercent: 200
        MinimumHealthyPercent: 100
        DeploymentCircuitBreaker:
          Enable: true
          Rollback: true
      NetworkConfiguration:
        AwsvpcConfiguration:
          Subnets: !Ref Subnets
          SecurityGroups: !Ref SecurityGroups
      EnableECSManagedTags: true
      PropagateTags: SERVICE
"
    )
}
