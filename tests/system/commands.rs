//! The command line where a line of `every_command` does not tell it: its start, its mistakes, what it writes.

use rhubarb::core::row::State;
use rhubarb_tests::{App, enqueue, settled};
use serde_json::json;

const COMMANDS: &str = r#"
[queues.default]
[queues.high]
[workers.all]
queues = ["default", "high"]
concurrency = 1
"#;

#[tokio::test]
async fn check_tells_every_mistake_with_its_line() {
    let toml = "[queues.work]\ntimeout = \"25 hourz\"\nfunctions = [\"gone\"]\n[workers.all]\nqueues = [\"wrok\"]\n";
    let app = App::over(toml, false);
    let ran = app.run(&["check"]).await;
    assert_eq!(ran.code, Some(64));
    for words in ["rhubarb.toml:", "queues.work.timeout", "gone", "wrok"] {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
}

#[tokio::test]
async fn a_missing_function_binary_is_named_with_the_way_to_build_it() {
    let app = App::new(
        "[functions.gone]\npackage = \"gone\"\n[queues.default]\nfunctions = [\"gone\"]\n[workers.all]\nqueues = [\"default\"]\n",
    );
    let ran = app.run(&["agent", "all"]).await;
    assert_ne!(ran.code, Some(0));
    assert!(ran.stderr.contains("cargo build") && ran.stderr.contains("gone"), "{}", ran.stderr);
}

#[test]
fn the_readme_lists_every_key_of_the_configuration() {
    let readme = include_str!("../../README.md");
    let reference = rhubarb::core::config::reference_markdown();
    assert!(readme.contains(reference.trim()), "paste what `rhubarb config` prints into the README");
}

#[tokio::test]
async fn a_new_function_is_written_in_a_project_of_ones_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = tokio::process::Command::new(rhubarb_tests::binary("rhubarb"));
    let output = command.args(["new", "function", "hello"]).current_dir(folder.path()).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let main = std::fs::read_to_string(folder.path().join("functions/hello/src/main.rs")).unwrap();
    assert!(main.lines().count() <= 20, "{main}");
    let mut check = tokio::process::Command::new(rhubarb_tests::binary("rhubarb"));
    let output = check.arg("check").current_dir(folder.path()).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn dev_runs_every_worker_and_a_second_one_is_refused() {
    // One `dev` a folder is a rule of the embedded store.
    let app = App::over(COMMANDS, false);
    let client = app.client().await;
    let dev = rhubarb_tests::AgentProcess::start(app.command(&["dev"])).await;
    // It is told before anything is built: this cannot be.
    let config = app.path().join("rhubarb.toml");
    let unbuilt = "\n[functions.unbuilt]\npackage = \"no-such-package\"\n";
    std::fs::write(&config, std::fs::read_to_string(&config).unwrap() + unbuilt).unwrap();
    let second = app.run(&["dev"]).await;
    assert_ne!(second.code, Some(0));
    assert!(second.stderr.contains("dev") && !second.stderr.contains("no-such-package"), "{}", second.stderr);
    let id = enqueue(&client, "noop", json!({}), "high").await;
    assert_eq!(settled(&client, id).await.record.state, State::Succeeded);
    let (status, log) = dev.stop().await;
    assert!(status.success(), "{log}");
}

#[tokio::test]
async fn a_folder_that_cannot_hold_the_store_is_named() {
    let app = App::over(COMMANDS, false);
    std::fs::write(app.path().join("a-file"), "").unwrap();
    for folder in ["a-file", "/proc/nowhere"] {
        let ran = app.run(&["--dir", folder, "queues"]).await;
        assert_eq!(ran.code, Some(69), "{ran:?}");
        assert!(ran.stderr.contains(folder), "{}", ran.stderr);
    }
}
