//! Builds the functions that are cargo packages, and finds their binaries by what cargo says.
//!
//! Cargo is asked for each package once, all together, so that nothing is compiled twice. Where a binary
//! lies is taken from cargo's own messages: a target folder may be anywhere.

use std::{collections::BTreeMap, io, process::Stdio};

use rhubarb_core::config::{Config, Program, Vars as _};
use serde::Deserialize;
use tokio::process::Command;

use crate::{
    exit::{CliError, Result},
    project::Project,
    session::Session,
};

/// How functions are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quickly, to run slowly.
    Dev,
    /// Slowly, to run quickly.
    Release,
}

impl Profile {
    /// The one that this program was compiled with.
    pub(crate) const fn own() -> Self {
        if cfg!(debug_assertions) { Self::Dev } else { Self::Release }
    }
}

/// Builds every function that is a package. Returns the configuration with the binaries' paths in place
/// of the packages' names.
pub(crate) async fn functions(project: &Project, profile: Profile, session: &Session) -> Result<Config> {
    let mut config = Config::clone(&project.config);
    let packages: Vec<String> = packages(&config);
    if packages.is_empty() {
        return Ok(config);
    }
    session.screen.note(format!("building functions: {}", packages.join(", ")));
    let cargo = session.vars.get("CARGO").unwrap_or_else(|| "cargo".to_owned());
    let mut command = Command::new(&cargo);
    command.arg("build").arg("--message-format=json-render-diagnostics").current_dir(&project.root);
    if profile == Profile::Release {
        command.arg("--release");
    }
    for package in &packages {
        command.args(["--package", package]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
    let output = command.spawn().map_err(|error| no_cargo(&cargo, &error))?.wait_with_output().await;
    let output = output.map_err(|error| CliError::io("wait for cargo", &error))?;
    if !output.status.success() {
        return Err(CliError::Configuration("the functions do not compile: see cargo's messages above".into()));
    }
    let binaries = binaries(&String::from_utf8_lossy(&output.stdout));
    for function in config.functions.values_mut() {
        let Program::Package(package) = &function.program else { continue };
        let binary = binaries.get(package).ok_or_else(|| {
            let name = &function.name;
            CliError::Configuration(format!(
                "functions.{name}: package `{package}` has no binary; give it a src/main.rs"
            ))
        })?;
        function.program = Program::Command(vec![binary.clone()]);
    }
    Ok(config)
}

fn packages(config: &Config) -> Vec<String> {
    let named = config.functions.values().filter_map(|function| match &function.program {
        Program::Package(package) => Some(package.clone()),
        Program::Command(_) => None,
    });
    let distinct: std::collections::BTreeSet<String> = named.collect();
    distinct.into_iter().collect()
}

/// A line of cargo's messages, as far as we read it.
#[derive(Deserialize)]
struct Message {
    executable: Option<String>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// The binaries of a build, by their names.
fn binaries(messages: &str) -> BTreeMap<String, String> {
    let read = |line: &str| serde_json::from_str::<Message>(line).ok();
    messages.lines().filter_map(read).filter_map(|message| Some((message.target?.name, message.executable?))).collect()
}

fn no_cargo(cargo: &str, error: &io::Error) -> CliError {
    CliError::Configuration(format!(
        "cannot run `{cargo}` to build the functions: {error}; install Rust, or use --no-build with built binaries",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binaries_are_found_in_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"serde"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"hello"},"executable":"/t/release/hello"}
not json
{"reason":"build-finished","success":true}"#;
        assert_eq!(binaries(messages), BTreeMap::from([("hello".to_owned(), "/t/release/hello".to_owned())]));
    }
}
