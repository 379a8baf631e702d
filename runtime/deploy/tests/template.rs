//! The template: that it says what the configuration says, and that AWS's linter has nothing against it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test cannot go on without what its helpers set up")]

use std::{fs, path::Path, process::Command};

use rhubarb_core::config::{Config, NoVars, Overrides};
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
[functions.orders]
package = "orders"
env = { GREETING = "a \"b\"\n- !Ref Table # $Table", NUMBER = "10", ON = "on" }
[functions.reports]
command = ["python3", "-m", "awslambdaric", "app.handler"]
[schedules.nightly]
rate = "1 day"
task = "report"
"#;

fn config(text: &str) -> Config {
    Config::parse(text, &NoVars, &Overrides::default()).unwrap()
}

fn made(text: &str) -> String {
    template(&config(text)).unwrap()
}

fn refused(text: &str) -> String {
    template(&config(text)).unwrap_err().to_string()
}

/// The lines of one entry of a section.
fn entry<'a>(template: &'a str, id: &str) -> &'a str {
    let start = template.find(&format!("\n  {id}:\n")).unwrap_or_else(|| panic!("no {id}")) + 1;
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
    let elsewhere = &role[role.find("EveryQueue").unwrap()..];
    assert!(!elsewhere.contains("sqs:ReceiveMessage") && !elsewhere.contains("sqs:DeleteMessage"), "{elsewhere}");
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

#[test]
fn whether_there_is_compute_decides_over_nothing_else() {
    let template = made(EVERYTHING);
    let uses: Vec<&str> = template.lines().filter(|line| line.contains("HasCompute")).collect();
    assert_eq!(
        uses,
        [r#"  HasCompute: !Equals [!Ref Compute, "true"]"#, "    Value: !If [HasCompute, made, left out]"]
    );
}

#[test]
fn only_who_has_schedules_is_told_that_they_do_not_fire() {
    assert!(made(EVERYTHING).contains("schedules of rhubarb.toml are not part of it yet"));
    assert!(!made("[app]\nname = \"shop\"\n").contains("schedules of rhubarb.toml"));
}

#[test]
fn the_stage_keeps_installations_apart() {
    let overrides = Overrides { stage: Some("prod".into()), ..Overrides::default() };
    let template = template(&Config::parse("[app]\nname = \"shop\"\n", &NoVars, &overrides).unwrap()).unwrap();
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
