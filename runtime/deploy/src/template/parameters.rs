//! What is said at each deployment rather than in `rhubarb.toml`: parameters, and the conditions on them.

use rhubarb_core::config::QueueConfig;

use super::{
    alarms, compute,
    plan::{Light, Plan, Queue},
};

/// The longest that a task may be put off without losing arguments that travel as a blob.
const DELAY_DAYS: u64 = 366;
/// SQS: how long a message that names a blob may lie in its queue.
const RETENTION_DAYS: u64 = 14;

/// Writes parameters and conditions.
pub(super) fn write(plan: &Plan<'_>) -> String {
    let light = plan.light().next().is_some();
    let parts = [
        "Parameters:\n".to_owned(),
        if plan.zipped().next().is_some() { CODE.to_owned() } else { String::new() },
        plan.light().map(|(queue, light)| of_function(queue, light)).collect(),
        if light || !plan.workers.is_empty() { CODE_RUNS.to_owned() } else { String::new() },
        if light { ENDPOINT.to_owned() } else { String::new() },
        store(plan),
        COMPUTE.to_owned(),
        compute::parameters(plan),
        if watched(plan) { alarms::PARAMETERS.to_owned() } else { String::new() },
        conditions(plan, light),
    ];
    parts.concat()
}

const CODE: &str = r#"  CodeBucket:
    Type: String
    Description: The bucket with the zips that `rhubarb package` wrote, in the region of this stack
  CodePrefix:
    Type: String
    Default: ""
    Description: What stands before the zips' names there, such as v1/. Another one with each upload, as code is fetched anew only if its place changes
"#;

const CODE_RUNS: &str = r#"  Architecture:
    Type: String
    Default: x86_64
    AllowedValues:
      - x86_64
      - arm64
    Description: The processor that functions and workers were built for
  LogRetentionDays:
    Type: Number
    Default: 30
    AllowedValues: [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653]
    Description: How long CloudWatch keeps the logs of functions and workers
"#;

const ENDPOINT: &str = r#"  EndpointUrl:
    Type: String
    Default: ""
    AllowedPattern: (https?://.+)?
    Description: The endpoint of an AWS emulator. Empty on AWS
"#;

const COMPUTE: &str = r#"  Compute:
    Type: String
    Default: "true"
    AllowedValues:
      - "true"
      - "false"
    Description: Whether the workers are made too, which AWS emulators refuse. Without, agents run elsewhere
"#;

fn of_function(queue: &Queue<'_>, light: &Light<'_>) -> String {
    let (id, function) = (&queue.id, &light.function.name);
    match light.code_file() {
        Some(_) => String::new(),
        None => format!(
            "  Image{id}:\n    Type: String\n    Description: The URI of the container image of function {function} in ECR\n"
        ),
    }
}

fn store(plan: &Plan<'_>) -> String {
    let kept = |queue: &QueueConfig| queue.keep.max(queue.keep_failed).as_secs().div_ceil(24 * 60 * 60);
    let least = plan.config.queues.values().map(kept).max().unwrap_or_default() + RETENTION_DAYS + 1;
    let default = least + DELAY_DAYS;
    format!(
        r#"  PointInTimeRecovery:
    Type: String
    Default: "true"
    AllowedValues:
      - "true"
      - "false"
    Description: Whether the table can be set back to any moment of the last 35 days, which costs by its size
  TaskBlobDays:
    Type: Number
    Default: {default}
    MinValue: {least}
    Description: How long what belongs to one task stays in the bucket. At least as long as the longest delay of a task and `keep` after it
"#
    )
}

fn conditions(plan: &Plan<'_>, light: bool) -> String {
    let endpoint = "  HasEndpointUrl: !Not [!Equals [!Ref EndpointUrl, \"\"]]\n";
    format!(
        r#"
Conditions:
  HasCompute: !Equals [!Ref Compute, "true"]
{}  HasPointInTimeRecovery: !Equals [!Ref PointInTimeRecovery, "true"]
{}{}"#,
        if light { endpoint } else { "" },
        compute::conditions(plan),
        if watched(plan) { alarms::CONDITIONS } else { "" },
    )
}

/// True if there is anything for alarms to watch.
fn watched(plan: &Plan<'_>) -> bool {
    plan.made().next().is_some() || plan.light().next().is_some()
}
