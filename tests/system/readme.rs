//! The README's own commands, as a reader's shell would run them: with this build and the tests' Python in its path.

use std::path::Path;

use rhubarb_tests::{PATIENCE, binary};
use tokio::process::Command;

const README: &str = include_str!("../../README.md");
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../.venv/bin");

/// The fenced block of the README that holds these words.
pub(crate) fn block(language: &str, words: &str) -> &'static str {
    let blocks = README.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix(language));
    blocks.into_iter().find(|block| block.contains(words)).unwrap()
}

/// What a shell prints that runs this script to its end.
pub(crate) async fn said(folder: &Path, script: &str, variables: &[(&'static str, String)]) -> String {
    let build = binary("rhubarb");
    let build = build.parent().map(Path::to_string_lossy).unwrap_or_default();
    let path = format!("{build}:{PYTHON}:{}", std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("sh");
    shell.args(["-euc", script]).current_dir(folder).kill_on_drop(true).env("PATH", path);
    shell.envs(variables.iter().cloned()).env("AWS_DEFAULT_REGION", "eu-central-1");
    // The emulator speaks plain HTTP: whatever would go to AWS itself finds nobody.
    shell.env("HTTPS_PROXY", "http://127.0.0.1:1");
    let ran = tokio::time::timeout(PATIENCE, shell.output()).await.unwrap().unwrap();
    assert!(ran.status.success(), "{script}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8_lossy(&ran.stdout).trim().to_owned()
}
