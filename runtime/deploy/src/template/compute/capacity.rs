//! What workers run on: Fargate without GPUs; with GPUs ECS Managed Instances, or an Auto Scaling group.
//!
//! ECS drains a managed instance on its 14th day (AWS: "Patching in Amazon ECS Managed Instances"): the agent on it
//! gets SIGTERM and hands its tasks over, as at any other stop.

use super::worker::Worker;
use crate::template::plan::Plan;

/// An instance has less memory to give than it is called by: the system and ECS take theirs.
const MEMORY_PERCENT: u64 = 110;
/// Disk of a GPU instance in GiB: images with CUDA are large.
const DISK_GIB: u32 = 200;

/// Instance types with enough devices of one kind, for the Auto Scaling group. The parameter takes any other.
const fn instance_type(gpus: u32) -> &'static str {
    match gpus {
        0 | 1 => "g6.4xlarge",
        2..=4 => "g6.12xlarge",
        _ => "g6.48xlarge",
    }
}

/// Writes the providers and what ties them to the cluster.
pub(super) fn write(plan: &Plan<'_>) -> String {
    let with_gpus: Vec<&Worker<'_>> = plan.workers.iter().filter(|worker| worker.gpus > 0).collect();
    if with_gpus.is_empty() {
        return association(false);
    }
    let managed: String = with_gpus.iter().map(|worker| managed(worker)).collect();
    [ROLES.to_owned(), managed, group(plan), association(true)].concat()
}

/// The parameters about GPU capacity.
pub(super) fn parameters(plan: &Plan<'_>) -> String {
    let gpus = plan.workers.iter().map(|worker| worker.gpus).max().unwrap_or_default();
    let default = instance_type(gpus);
    format!(
        r#"  GpuCapacity:
    Type: String
    Default: managed
    AllowedValues:
      - managed
      - autoscaling
    Description: What workers with GPUs run on. ECS Managed Instances, or an Auto Scaling group with the GPU image of ECS
  GpuInstanceType:
    Type: String
    Default: {default}
    Description: The instance type of the Auto Scaling group. It must hold the largest worker
  GpuInstancesMax:
    Type: Number
    Default: 4
    MinValue: 1
    Description: How many instances the Auto Scaling group has at most
"#
    )
}

const ROLES: &str = r#"  GpuInfrastructure: # ECS manages instances with this role
    Type: AWS::IAM::Role
    Condition: OnManagedInstances
    Properties:
      AssumeRolePolicyDocument:
        Version: "2012-10-17"
        Statement:
          - Effect: Allow
            Principal:
              Service: ecs.amazonaws.com
            Action: sts:AssumeRole
      ManagedPolicyArns:
        - !Sub "arn:${AWS::Partition}:iam::aws:policy/AmazonECSInfrastructureRolePolicyForManagedInstances"
      Policies: # the managed policy passes only roles called ecsInstanceRole…
        - PolicyName: pass
          PolicyDocument:
            Version: "2012-10-17"
            Statement:
              - Effect: Allow
                Action: iam:PassRole
                Resource: !GetAtt GpuInstance.Arn
                Condition:
                  StringLike:
                    iam:PassedToService: ec2.*
  GpuInstance: # ECS on the instance; tasks never have it
    Type: AWS::IAM::Role
    Condition: HasCompute
    Properties:
      AssumeRolePolicyDocument:
        Version: "2012-10-17"
        Statement:
          - Effect: Allow
            Principal:
              Service: ec2.amazonaws.com
            Action: sts:AssumeRole
      ManagedPolicyArns:
        - !If
          - OnAutoScaling
          - !Sub "arn:${AWS::Partition}:iam::aws:policy/service-role/AmazonEC2ContainerServiceforEC2Role"
          - !Sub "arn:${AWS::Partition}:iam::aws:policy/AmazonECSInstanceRolePolicyForManagedInstances"
  GpuProfile:
    Type: AWS::IAM::InstanceProfile
    Condition: HasCompute
    Properties:
      Roles:
        - !Ref GpuInstance
"#;

fn managed(worker: &Worker<'_>) -> String {
    let (id, gpus) = (&worker.id, worker.gpus);
    let (cpus, memory) = (worker.size.cpu.div_ceil(1024), worker.size.memory_mib * MEMORY_PERCENT / 100);
    format!(
        r"  GpuProvider{id}:
    Type: AWS::ECS::CapacityProvider
    Condition: OnManagedInstances
    Properties:
      ClusterName: !Ref Cluster
      ManagedInstancesProvider:
        InfrastructureRoleArn: !GetAtt GpuInfrastructure.Arn
        PropagateTags: CAPACITY_PROVIDER
        InstanceLaunchTemplate:
          CapacityOptionType: !If [OnSpot, SPOT, ON_DEMAND]
          Ec2InstanceProfileArn: !GetAtt GpuProfile.Arn
          NetworkConfiguration:
            Subnets: !Ref Subnets
            SecurityGroups: !Ref SecurityGroups
          StorageConfiguration:
            StorageSizeGiB: {DISK_GIB}
          InstanceRequirements:
            VCpuCount:
              Min: {cpus}
            MemoryMiB: # the system's share on top
              Min: {memory}
            AcceleratorTypes:
              - gpu
            AcceleratorManufacturers:
              - nvidia
            AcceleratorCount:
              Min: {gpus}
"
    )
}

fn group(plan: &Plan<'_>) -> String {
    let cluster = plan.cluster_name();
    format!(
        r#"  GpuLaunch:
    Type: AWS::EC2::LaunchTemplate
    Condition: OnAutoScaling
    Properties:
      LaunchTemplateData:
        ImageId: "{{{{resolve:ssm:/aws/service/ecs/optimized-ami/amazon-linux-2023/gpu/recommended/image_id}}}}"
        InstanceType: !Ref GpuInstanceType
        IamInstanceProfile:
          Arn: !GetAtt GpuProfile.Arn
        SecurityGroupIds: !Ref SecurityGroups
        MetadataOptions:
          HttpTokens: required
        BlockDeviceMappings:
          - DeviceName: /dev/xvda
            Ebs:
              VolumeSize: {DISK_GIB}
              VolumeType: gp3
              Encrypted: true
        InstanceMarketOptions: !If
          - OnSpot
          - MarketType: spot
          - !Ref AWS::NoValue
        UserData:
          Fn::Base64: |
            #!/bin/sh
            cat >> /etc/ecs/ecs.config <<'END'
            ECS_CLUSTER={cluster}
            ECS_ENABLE_GPU_SUPPORT=true
            ECS_ENABLE_SPOT_INSTANCE_DRAINING=true
            END
  GpuGroup:
    Type: AWS::AutoScaling::AutoScalingGroup
    Condition: OnAutoScaling
    Properties:
      VPCZoneIdentifier: !Ref Subnets
      MinSize: "0"
      MaxSize: !Ref GpuInstancesMax
      NewInstancesProtectedFromScaleIn: true
      LaunchTemplate:
        LaunchTemplateId: !Ref GpuLaunch
        Version: !GetAtt GpuLaunch.LatestVersionNumber
  GpuGroupProvider:
    Type: AWS::ECS::CapacityProvider
    Condition: OnAutoScaling
    Properties:
      AutoScalingGroupProvider:
        AutoScalingGroupArn: !Ref GpuGroup
        ManagedDraining: ENABLED
        ManagedTerminationProtection: ENABLED
        ManagedScaling:
          Status: ENABLED
          TargetCapacity: 100
"#
    )
}

/// Managed Instances name their cluster themselves; the others are named here.
fn association(has_gpus: bool) -> String {
    let group = if has_gpus { "        - !If [OnAutoScaling, !Ref GpuGroupProvider, !Ref AWS::NoValue]\n" } else { "" };
    format!(
        r"  ClusterCapacity:
    Type: AWS::ECS::ClusterCapacityProviderAssociations
    Condition: HasCompute
    Properties:
      Cluster: !Ref Cluster
      CapacityProviders:
        - FARGATE
        - FARGATE_SPOT
{group}      DefaultCapacityProviderStrategy: []
"
    )
}
