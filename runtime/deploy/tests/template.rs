//! The template: that it says what the configuration says, and that AWS's linter has nothing against it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test cannot go on without what its helpers set up")]

use std::{fs, path::Path, process::Command};

use rhubarb_core::{
    config::{Config, NoVars, Overlap, Overrides},
    envelope::Envelope,
    ids::MessageId,
    time::Timestamp,
};
use rhubarb_deploy::{code_files, template};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Everything that the template knows of.
const EVERYTHING: &str = r#"
[app]
name = "shop"
bucket = "shop-blobs"
[queues.orders]
class = "lambda"
functions = ["orders"]
batch = 100
parallel = 50
batch_window = "1500ms"
timeout = "20s"
max_attempts = 5
[queues.ledger]
class = "lambda"
functions = ["orders"]
fifo = true
batch = 10
timeout = "1s"
[queues.reports-2]
class = "lambda"
functions = ["reports"]
memory = "512MiB"
[queues.legacy]
class = "lambda"
functions = ["orders"]
url = "https://sqs.eu-west-1.amazonaws.com/123456789012/legacy"
[queues.video]
timeout = "24h"
max_attempts = 100
keep_failed = "90d"
[queues.render]
gpus = 2
[queues.notes]
class = "lambda"
functions = ["reports"]
track = "none"
[workers.gpu]
queues = ["render", "video"]
grace = "10m"
[workers.cpu]
queues = ["default", "orders", "video"]
grace = "10m"
[workers.lambda-only]
queues = ["orders"]
[functions.orders]
package = "orders"
env = { GREETING = "a \"b\"\n- !Ref Table # $Table", NUMBER = "10", ON = "on" }
[functions.reports]
command = ["python3", "-m", "awslambdaric", "app.handler"]
[schedules.nightly]
cron = "0 3 * * *"
timezone = "Europe/Berlin"
jitter = "90s"
task = "report"
args = { days = 7, to = "a \"b\"\n- !Ref Table" }
overlap = "skip"
[schedules."hourly.2"]
rate = "1 hour"
start = "2027-01-01T00:00:00"
end = "2028-01-01T00:00:00"
enabled = false
queue = "orders"
task = "report"
[schedules.once]
at = "2027-01-01T00:00:00"
task = "report"
[schedules.pulse]
rate = "90s"
task = "report"
"#;

/// A time before those of the schedules above.
const NOW: Timestamp = Timestamp(1_790_000_000_000);

fn config(text: &str) -> Config {
    Config::parse(text, &NoVars, &Overrides::default()).unwrap()
}

fn made(text: &str) -> String {
    template(&config(text), NOW).unwrap()
}

fn refused(text: &str) -> String {
    template(&config(text), NOW).unwrap_err().to_string()
}

/// The lines of one entry of a section.
fn entry<'a>(template: &'a str, id: &str) -> &'a str {
    let start = [format!("\n  {id}:\n"), format!("\n  {id}: #")].iter().find_map(|head| template.find(head));
    let start = start.unwrap_or_else(|| panic!("no {id}")) + 1;
    let rest = &template[start..];
    let next = rest.match_indices("\n  ").find(|(at, _)| !rest[at + 3..].starts_with([' ', '#'])).map(|(at, _)| at);
    &rest[..next.unwrap_or(rest.len())]
}

fn has(template: &str, id: &str, lines: &[&str]) {
    let entry = entry(template, id);
    for line in lines {
        assert!(entry.contains(&format!("{line}\n")) || entry.ends_with(line), "`{line}` is missing from:\n{entry}");
    }
}

#[test]
fn the_committed_template_is_that_of_the_example() {
    let text = fs::read_to_string(Path::new(ROOT).join("rhubarb.toml")).unwrap();
    let committed = fs::read_to_string(Path::new(ROOT).join("infra/template.yaml")).unwrap();
    let again = "it is out of step: run `cargo run -- deploy template --output infra/template.yaml`";
    assert!(made(&text) == committed, "{again}");
}

#[test]
fn the_linter_of_cloudformation_finds_nothing() {
    let linter = Path::new(ROOT).join(".venv/bin/cfn-lint");
    assert!(linter.is_file(), "there is no {}: run `tests/run` once, which installs it", linter.display());
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, made(text)).unwrap();
        path
    };
    let files = [
        Path::new(ROOT).join("infra/template.yaml"),
        file("everything.yaml", EVERYTHING),
        file("least.yaml", "[app]\nname = \"shop\"\n"),
    ];
    let output = Command::new(linter).args(&files).current_dir(folder.path()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.trim().is_empty(), "{told}");
}

#[test]
fn a_lambda_queue_hides_a_message_for_six_times_the_batchs_limit_and_the_window() {
    let template = made(EVERYTHING);
    // 20 s x ceil(100 / 50) and 10 s to settle; the window in whole seconds.
    has(&template, "FunctionOrders", &["Timeout: 50"]);
    has(&template, "QueueOrders", &["VisibilityTimeout: 302 # 6 x the function's 50 s + 2 s of window"]);
    let mapping = ["BatchSize: 100", "MaximumBatchingWindowInSeconds: 2", "- ReportBatchItemFailures"];
    has(&template, "SourceOrders", &mapping);
    has(&template, "SourceOrders", &["MaximumConcurrency: 10"]);
    assert!(!template.contains("ReservedConcurrentExecutions"));
}

#[test]
fn a_queue_that_an_agent_feeds_hides_a_message_for_a_minute_and_has_no_function() {
    let template = made(EVERYTHING);
    has(&template, "QueueVideo", &["VisibilityTimeout: 60 # the agent extends it while it works"]);
    assert!(!template.contains("FunctionVideo"));
}

#[test]
fn sqs_gives_a_message_up_far_beyond_a_tasks_attempts() {
    let template = made(EVERYTHING);
    has(&template, "QueueOrders", &["maxReceiveCount: 150", "deadLetterTargetArn: !GetAtt DeadOrders.Arn"]);
    has(&template, "QueueVideo", &["maxReceiveCount: 1000"]);
}

#[test]
fn every_queue_is_encrypted_keeps_14_days_and_is_spoken_to_by_tls_only() {
    let template = made(EVERYTHING);
    for queue in ["Default", "Ledger", "Orders", "Reports2", "Video"] {
        for id in [format!("Queue{queue}"), format!("Dead{queue}")] {
            has(&template, &id, &["MessageRetentionPeriod: 1209600", "SqsManagedSseEnabled: true"]);
            has(&template, "TlsOnly", &[&format!("- !Ref {id}"), r#"aws:SecureTransport: "false""#]);
        }
    }
}

#[test]
fn a_fifo_queue_has_a_fifo_dead_letter_queue() {
    let template = made(EVERYTHING);
    has(&template, "QueueLedger", &["QueueName: shop-dev-ledger.fifo", "FifoQueue: true"]);
    has(&template, "DeadLedger", &["QueueName: shop-dev-ledger-dead.fifo", "FifoQueue: true"]);
    has(&template, "FunctionLedger", &["FunctionName: shop-dev-ledger"]);
}

#[test]
fn a_queue_that_is_there_is_not_made_and_its_function_gets_rights_on_it() {
    let template = made(EVERYTHING);
    assert!(!template.contains("QueueLegacy:") && !template.contains("DeadLegacy"));
    let arn = r#"!Sub "arn:${AWS::Partition}:sqs:eu-west-1:123456789012:legacy""#;
    has(&template, "SourceLegacy", &[&format!("EventSourceArn: {arn}")]);
    has(&template, "RoleLegacy", &[&format!("Resource: {arn}")]);
    has(&template, "RoleOrders", &[&format!("- {arn}"), "- !GetAtt QueueVideo.Arn"]);
}

#[test]
fn a_role_may_take_from_its_own_queue_only() {
    let template = made(EVERYTHING);
    let role = entry(&template, "RoleOrders");
    let own = &role[role.find("ItsOwnQueue").unwrap()..role.find("EveryQueue").unwrap()];
    assert!(own.contains("sqs:ReceiveMessage") && own.contains("Resource: !GetAtt QueueOrders.Arn"), "{own}");
    takes_elsewhere_from_dead_letter_queues_alone(role);
}

/// The sweep adopts what SQS has moved aside; nothing else takes from queues that are not its own.
fn takes_elsewhere_from_dead_letter_queues_alone(role: &str) {
    let elsewhere = &role[role.find("EveryQueue").unwrap()..];
    let takes = |statement: &&str| statement.contains("sqs:ReceiveMessage") || statement.contains("sqs:DeleteMessage");
    for statement in elsewhere.split("- Sid: ").filter(takes) {
        let (_, resources) = statement.split_once("Resource:\n").unwrap();
        let mut arns = resources.lines().map(str::trim).filter(|line| !line.is_empty());
        assert!(arns.all(|arn| arn.starts_with("- !GetAtt Dead")), "{statement}");
    }
    assert!(!role.contains(r#""*""#), "a right on everything: {role}");
}

#[test]
fn what_holds_data_stays_when_the_stack_goes() {
    let template = made(EVERYTHING);
    for id in ["Table", "Bucket", "DeadDefault", "DeadOrders"] {
        has(&template, id, &["DeletionPolicy: RetainExceptOnCreate", "UpdateReplacePolicy: Retain"]);
    }
    assert!(!entry(&template, "QueueOrders").contains("DeletionPolicy"));
}

#[test]
fn blobs_of_tasks_outlive_the_longest_keep_and_delay() {
    let template = made(EVERYTHING);
    // 90 days of keep_failed, 14 in the queue and one over; a year of delay more.
    has(&template, "TaskBlobDays", &["MinValue: 105", "Default: 471"]);
    has(&template, "Bucket", &["BucketName: shop-blobs", "Prefix: tasks/", "ExpirationInDays: !Ref TaskBlobDays"]);
}

#[test]
fn a_functions_variables_are_text_and_nothing_else() {
    let lines = [
        r#"GREETING: "a \"b\"\U0000000a- !Ref Table # $Table""#,
        r#"NUMBER: "10""#,
        r#""ON": "on""#,
        "RHUBARB_QUEUE: orders",
        "AWS_ENDPOINT_URL: !If [HasEndpointUrl, !Ref EndpointUrl, !Ref AWS::NoValue]",
    ];
    has(&made(EVERYTHING), "FunctionOrders", &lines);
}

#[test]
fn a_function_of_another_language_comes_as_a_container_image() {
    let template = made(EVERYTHING);
    has(&template, "FunctionReports2", &["PackageType: Image", "ImageUri: !Ref ImageReports2"]);
    assert!(template.contains("\n  ImageReports2:\n    Type: String\n"));
    let zips: Vec<String> = code_files(&config(EVERYTHING)).unwrap().into_iter().collect();
    assert_eq!(zips, ["orders.zip"]);
}

/// The entries of the section `Resources`, by their names.
fn resources(template: &str) -> Vec<(&str, &str)> {
    let section = &template[template.find("\nResources:\n").unwrap()..template.find("\nOutputs:\n").unwrap()];
    let is_name = |line: &&str| line.starts_with("  ") && !line[2..].starts_with([' ', '#']);
    let name = |line: &str| line.split([':', ' ']).find(|word| !word.is_empty()).unwrap_or_default().len();
    section.lines().filter(is_name).map(|line| (&line[2..2 + name(line)], line)).collect()
}

#[test]
fn whether_there_is_compute_decides_over_the_workers_and_nothing_else() {
    let template = made(EVERYTHING);
    let conditional: Vec<&str> = resources(&template)
        .into_iter()
        .filter(|(_, line)| {
            let entry = &template[template.find(&format!("\n{line}\n")).unwrap()..];
            let head: Vec<&str> = entry.lines().skip(2).take(2).collect();
            let conditions = ["HasCompute", "OnManagedInstances", "OnAutoScaling"];
            conditions.iter().any(|name| head.contains(&format!("    Condition: {name}").as_str()))
        })
        .map(|(name, _)| name)
        .collect();
    let of_workers = |name: &str| ["Cluster", "Worker", "Gpu"].iter().any(|prefix| name.starts_with(prefix));
    let all: Vec<&str> = resources(&template).into_iter().map(|(name, _)| name).collect();
    let expected: Vec<&str> = all.iter().copied().filter(|name| of_workers(name)).collect();
    assert_eq!(conditional, expected);
    assert!(expected.len() > 15 && all.len() > expected.len() + 15, "{all:?}");
}

#[test]
fn a_worker_with_gpus_asks_for_them_and_for_what_its_largest_queue_takes() {
    let template = made(EVERYTHING);
    let task = ["Cpu: \"8192\"", "Memory: \"32768\"", "- Type: GPU", "Value: \"2\"", "- gpu"];
    has(&template, "WorkerTaskGpu", &task);
    has(&template, "WorkerTaskGpu", &["- !If [OnAutoScaling, EC2, MANAGED_INSTANCES]", "StopTimeout: 622"]);
    has(&template, "GpuProviderGpu", &["ClusterName: !Ref Cluster", "- nvidia", "Min: 36044"]);
    has(&template, "GpuInstanceType", &["Default: g6.12xlarge"]);
}

#[test]
fn a_worker_without_gpus_runs_on_fargate_and_drains_in_the_time_that_there_is() {
    let template = made(EVERYTHING);
    has(
        &template,
        "WorkerTaskCpu",
        &["- FARGATE", "Cpu: \"4096\"", "Memory: \"8192\"", "StopTimeout: 120", "Value: 98s"],
    );
    assert!(!entry(&template, "WorkerTaskCpu").contains("GPU"));
    has(&template, "WorkerServiceCpu", &["- CapacityProvider: !If [OnSpot, FARGATE_SPOT, FARGATE]"]);
    assert!(!template.contains("WorkerServiceLambdaOnly"), "Lambda runs all its queues");
    let huge = "[app]\nname = \"shop\"\n[queues.q]\ncpu = 32\n[workers.w]\nqueues = [\"q\"]\n";
    assert!(refused(huge).contains("workers.w: its queues ask for 32 vCPUs"));
}

#[test]
fn a_worker_may_take_from_the_queues_it_feeds_only() {
    let template = made(EVERYTHING);
    let role = entry(&template, "WorkerRoleGpu");
    let own = &role[role.find("ItsOwnQueues").unwrap()..role.find("EveryQueue").unwrap()];
    assert!(own.contains("QueueRender.Arn") && own.contains("QueueVideo.Arn") && !own.contains("QueueOrders"), "{own}");
    takes_elsewhere_from_dead_letter_queues_alone(role);
}

#[test]
fn a_schedule_is_the_whole_message_with_its_retries_and_its_own_role() {
    let template = made(EVERYTHING);
    let lines = [
        "Name: nightly",
        "GroupName: !Ref ScheduleGroup",
        r#"ScheduleExpression: "cron(0 3 * * ? *)""#,
        "ScheduleExpressionTimezone: Europe/Berlin",
        "State: ENABLED",
        "MaximumWindowInMinutes: 2",
        "Arn: !GetAtt QueueDefault.Arn",
        "RoleArn: !GetAtt RoleScheduler.Arn",
        "MaximumEventAgeInSeconds: 86400",
        "Arn: !GetAtt DeadDefault.Arn",
    ];
    has(&template, "ScheduleNightly", &lines);
    let input = entry(&template, "ScheduleNightly").lines().find_map(|line| line.trim().strip_prefix("Input: "));
    // What the template quotes it quotes as JSON does, but for characters that this input has none of.
    let body: String = serde_json::from_str(input.unwrap()).unwrap();
    let message = MessageId::new("0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b");
    let envelope = Envelope::decode(&body, &message, None).unwrap();
    assert_eq!((envelope.id.to_string(), envelope.task.as_str()), (message.to_string(), "report"));
    assert_eq!(envelope.args.get(), r#"{"days":7,"to":"a \"b\"\n- !Ref Table"}"#);
    assert_eq!(envelope.idempotency_key.unwrap(), "schedule/nightly/<aws.scheduler.scheduled-time>");
    assert_eq!((envelope.schedule.unwrap().as_str(), envelope.overlap), ("nightly", Some(Overlap::Skip)));
    assert_eq!((envelope.queue.unwrap().as_str(), envelope.created, envelope.tick), ("default", None, None));
}

#[test]
fn a_schedule_has_its_times_its_state_and_its_form() {
    let template = made(EVERYTHING);
    let lines = [
        "ScheduleExpression: \"rate(60 minutes)\"",
        "StartDate: \"2027-01-01T00:00:00Z\"",
        "EndDate: \"2028-01-01T00:00:00Z\"",
        "State: DISABLED",
        "Mode: \"OFF\"",
        "Arn: !GetAtt QueueOrders.Arn",
    ];
    has(&template, "ScheduleHourly2", &lines);
    has(&template, "ScheduleOnce", &["ScheduleExpression: \"at(2027-01-01T00:00:00)\""]);
    assert!(!template.contains("SchedulePulse:"));
    assert!(template.contains("# Schedule pulse is fired by an agent: EventBridge has no rate in seconds.\n"));
}

#[test]
fn what_has_passed_of_a_schedule_is_left_out_of_the_template() {
    let later = template(&config(EVERYTHING), Timestamp(1_800_000_000_000)).unwrap();
    assert!(!later.contains("ScheduleOnce:") && later.contains("# Schedule once is over.\n"));
    assert!(!entry(&later, "ScheduleHourly2").contains("StartDate"));
}

#[test]
fn scheduler_may_send_to_the_queues_and_nothing_else() {
    let template = made(EVERYTHING);
    let lines = [
        "RoleName: shop-dev-scheduler # known to `rhubarb schedules create`",
        "Service: scheduler.amazonaws.com",
        "aws:SourceAccount: !Ref AWS::AccountId",
        "Action: sqs:SendMessage",
        "- !GetAtt QueueVideo.Arn",
        "- !GetAtt DeadVideo.Arn",
    ];
    has(&template, "RoleScheduler", &lines);
    let role = entry(&template, "RoleScheduler");
    assert!(!role.contains("Ledger") && !role.contains(r#""*""#), "{role}");
    has(&template, "ScheduleGroup", &["Name: shop-dev"]);
    has(&made("[app]\nname = \"shop\"\n"), "ScheduleGroup", &["Name: shop-dev"]);
}

#[test]
fn every_host_may_make_the_one_time_schedules_of_tasks_without_a_row_where_a_queue_has_such() {
    let template = made(EVERYTHING);
    for role in ["RoleOrders", "RoleNotes"] {
        let lines = [
            "Action: scheduler:CreateSchedule",
            r#":schedule/shop-dev/_task.*""#,
            "Action: iam:PassRole",
            "Resource: !GetAtt RoleScheduler.Arn",
            "iam:PassedToService: scheduler.amazonaws.com",
        ];
        has(&template, role, &lines);
    }
    let hosts = "class = \"lambda\"\nfunctions = [\"f\"]\n[functions.f]\npackage = \"f\"\n";
    for (track, may) in [("", false), ("track = \"none\"\n", true), ("track = \"failures\"\n", true)] {
        let template = made(&format!("[app]\nname = \"shop\"\n[queues.default]\n{track}{hosts}"));
        assert_eq!(template.contains("scheduler:CreateSchedule"), may, "{track}");
    }
}

#[test]
fn a_schedule_that_nobody_would_fire_is_told() {
    let light = "[queues.default]\nclass = \"lambda\"\nfunctions = [\"f\"]\n[functions.f]\npackage = \"f\"\n";
    let light = format!("[app]\nname = \"shop\"\n{light}[workers.w]\nqueues = [\"default\"]\n");
    let told = refused(&format!("{light}[schedules.pulse]\nrate = \"10s\"\ntask = \"t\"\n"));
    assert!(
        told.contains("schedules.pulse.rate: EventBridge has no rate in seconds") && told.contains("ecs"),
        "{told}"
    );
    let twins = "[schedules.a-b]\nrate = \"1m\"\ntask = \"t\"\n[schedules.a_b]\nrate = \"1m\"\ntask = \"t\"\n";
    assert!(refused(&format!("[app]\nname = \"shop\"\n{twins}")).contains("schedules.a_b: its name"));
}

#[test]
fn the_stage_keeps_installations_apart() {
    let overrides = Overrides { stage: Some("prod".into()), ..Overrides::default() };
    let template = template(&Config::parse("[app]\nname = \"shop\"\n", &NoVars, &overrides).unwrap(), NOW).unwrap();
    for name in ["shop-prod-default", "shop-prod-default-dead", "shop-prod", "shop-prod-${AWS::AccountId}"] {
        assert!(template.contains(&format!("Name: {name}\n")) || template.contains(&format!("\"{name}\"\n")), "{name}");
    }
}

#[test]
fn what_has_no_place_on_aws_is_told_all_at_once_with_key_and_fix() {
    let long = "q".repeat(57);
    let told = refused(&format!(
        r#"
[app]
name = "shop"
[queues.a-b]
[queues.a_B]
[queues.{long}]
class = "lambda"
functions = ["f"]
[queues.other]
class = "lambda"
functions = ["f"]
url = "https://queues.example/team/other"
[queues.{}]
[functions.f]
package = "f"
env = {{ AWS_REGION = "x", A = "x", LARGE = "{}" }}
"#,
        "e".repeat(64),
        "x".repeat(3_400),
    ));
    for part in [
        "queues.a_B: its name and that of queues.a-b differ in nothing",
        &format!("queues.{long}: the name of its Lambda function"),
        "queues.other.url: `https://queues.example/team/other` does not end in an account",
        "functions.f.env.AWS_REGION: Lambda sets this variable itself",
        "functions.f.env.A: Lambda takes no variable of this name",
        "functions.f.env: it has",
    ] {
        assert!(told.contains(part), "`{part}` is missing from:\n{told}");
    }
    assert!(
        refused(&format!("[app]\nname = \"{}\"\n[queues.{}]\n", "a".repeat(30), "e".repeat(44)))
            .contains("dead-letter queue")
    );
}

#[test]
fn the_example_of_a_container_image_gets_a_parameter_for_it() {
    let text = fs::read_to_string(Path::new(ROOT).join("infra/lambda-image/rhubarb.toml")).unwrap();
    has(&made(&text), "FunctionReports", &["ImageUri: !Ref ImageReports", "MemorySize: 512", "Timeout: 70"]);
    let dockerfile = fs::read_to_string(Path::new(ROOT).join("infra/lambda-image/Dockerfile")).unwrap();
    for line in ["COPY bootstrap rhubarb.toml app.py ./", "ENTRYPOINT [\"/var/task/bootstrap\"]", "ImageReports="] {
        assert!(dockerfile.contains(line), "{line}");
    }
}

#[test]
fn every_queue_and_function_has_its_alarms_and_its_place_on_the_dashboard() {
    let template = made(EVERYTHING);
    let names: Vec<&str> = resources(&template).into_iter().map(|(name, _)| name).collect();
    let kinds = [
        ("AWS::SQS::Queue", "Queue", "AlarmOldest"),
        ("AWS::SQS::Queue", "Dead", "AlarmDead"),
        ("AWS::Lambda::Function", "Function", "AlarmErrors"),
    ];
    for (kind, prefix, alarm) in kinds {
        let is_one = |name: &&&str| entry(&template, name).contains(&format!("    Type: {kind}\n"));
        let ids: Vec<&str> = names.iter().filter(is_one).filter_map(|name| name.strip_prefix(prefix)).collect();
        assert!(!ids.is_empty(), "{kind}");
        for id in ids {
            has(&template, &format!("{alarm}{id}"), &["Type: AWS::CloudWatch::Alarm", "Condition: HasAlarms"]);
        }
    }
    let (_, body) = template.split_once("DashboardBody: !Sub |\n").unwrap();
    let body: String = body.lines().take_while(|line| line.starts_with("        ")).collect();
    let dashboard: serde_json::Value = serde_json::from_str(&body).unwrap();
    let widgets = dashboard["widgets"].as_array().unwrap();
    assert!(widgets.len() >= 4 && widgets.iter().all(|widget| widget["properties"]["metrics"].is_array()), "{body}");
}
