//! The first command of the README: the demo, with real trainings of few rounds, by the functions as they are built
//! beside the test.

use rhubarb_testkit::collector::Collector;
use rhubarb_tests::{App, PATIENCE, binary, over_aws};

use crate::traces::connected;

/// The example application, each function by its binary instead of its package.
fn example() -> App {
    let text = include_str!("../../rhubarb.toml");
    // The harness has an `[app]` of its own.
    let (_, rest) = text.split_once("\n# Queues").unwrap();
    let by_command = |line: &str| match line.strip_prefix("package = \"").and_then(|rest| rest.split_once('"')) {
        Some((package, _)) => format!("command = ['{}']\n", binary(package).display()),
        None => format!("{line}\n"),
    };
    App::over(&rest.lines().skip(1).map(by_command).collect::<String>(), false)
}

#[tokio::test]
async fn the_demo_trains_and_judges_its_models_and_keeps_no_short_task_waiting() {
    // It brings its own store: one run of it is enough.
    if over_aws() {
        return;
    }
    let (app, collector) = (example(), Collector::start().await);
    let mut command = app.command(&["demo", "--epochs", "2", "--no-build"]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint()).env("OTEL_METRICS_EXPORTER", "none");
    let output = command.env("OTEL_BSP_MAX_QUEUE_SIZE", "65536").output();
    // It is long by what it does: short tasks alone for ten seconds, then two trainings.
    let output = tokio::time::timeout(PATIENCE * 5, output).await.unwrap().unwrap();
    let (table, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{table}{said}");
    for title in [
        "preprocess_dataset",
        "train_model demo-one",
        "train_model demo-two",
        "quantify_tissue",
        "run_evaluation demo-earlier",
        "run_evaluation demo-one",
        "run_evaluation demo-two",
    ] {
        let line = table.lines().find(|line| line.starts_with(title)).unwrap_or_else(|| panic!("no {title}:\n{table}"));
        assert!(line.contains(" succeeded "), "{line}");
    }
    for short in ["update_job_metrics x ", "cleanup_checkpoints x ", "scan_failed_jobs x "] {
        assert!(table.lines().any(|line| line.starts_with(short)), "no {short}:\n{table}");
    }
    assert!(table.contains("while training ran") && table.contains("with no training"), "{table}");
    assert!(app.path().join(".rhubarb/demo/overlay.png").is_file(), "{table}");

    // Its story is whole: every span has its parent, and every root task is one trace with all that it led to.
    let spans = collector.spans();
    let attempts = connected(&spans);
    assert_eq!(collector.wrong(), Vec::<String>::new());
    assert!(attempts.len() > 100 && attempts.iter().all(|attempts| *attempts > 0), "{attempts:?}");
}
