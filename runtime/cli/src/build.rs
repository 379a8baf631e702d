//! Builds the functions that are cargo packages, and finds their binaries by what cargo says.
//!
//! Cargo is asked once for all of them, and with the same set of packages as `cargo run`, so that nothing
//! is compiled twice. Where a binary lies is taken from cargo's own messages: a target folder may be
//! anywhere.

use std::{collections::BTreeSet, path::PathBuf, process::Stdio};

use rhubarb_core::{
    config::{Config, Program, Vars as _},
    ids::FunctionName,
};
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
    let wanted = packages(&config);
    if wanted.is_empty() {
        return Ok(config);
    }
    let workspace = workspace(project, session).await?;
    for (function, package) in &wanted {
        workspace
            .binary_of(package)
            .map_err(|what| CliError::Configuration(format!("functions.{function}: {what}")))?;
    }
    let names: BTreeSet<&str> = wanted.iter().map(|(_, package)| package.as_str()).collect();
    session.screen.note(format!("building functions: {}", names.iter().copied().collect::<Vec<_>>().join(", ")));
    let arguments = workspace.arguments(&names, profile);
    let messages = cargo(project, session, &arguments.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    for function in config.functions.values_mut() {
        let Program::Package(package) = &function.program else { continue };
        let binary = workspace.binary_of(package).ok().and_then(|binary| executable(&messages, binary));
        let missing =
            || CliError::Configuration(format!("functions.{}: cargo built no binary of `{package}`", function.name));
        function.program = Program::Command(vec![binary.ok_or_else(missing)?]);
    }
    Ok(config)
}

fn packages(config: &Config) -> Vec<(FunctionName, String)> {
    let package = |name: &FunctionName, program: &Program| match program {
        Program::Package(package) => Some((name.clone(), package.clone())),
        Program::Command(_) => None,
    };
    config.functions.iter().filter_map(|(name, function)| package(name, &function.program)).collect()
}

/// Runs cargo in the project. Returns what it printed; its diagnostics go to standard error.
async fn cargo(project: &Project, session: &Session, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(session.vars.get("CARGO").unwrap_or_else(|| "cargo".to_owned()));
    command.args(arguments).current_dir(&project.root);
    output_of(command).await
}

/// Runs a build to its end. Returns what it printed; its diagnostics go to standard error.
pub(crate) async fn output_of(mut command: Command) -> Result<String> {
    command.kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let child = command.spawn().map_err(|error| {
        let program = command.as_std().get_program().display();
        CliError::Configuration(format!(
            "cannot run `{program}` to build the functions: {error}; install Rust, or use --no-build with built binaries",
        ))
    })?;
    let output = child.wait_with_output().await.map_err(|error| CliError::io("wait for cargo", &error))?;
    if !output.status.success() {
        return Err(CliError::Configuration("the functions cannot be built: see cargo's messages above".into()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What cargo knows of the project's packages.
pub(crate) async fn workspace(project: &Project, session: &Session) -> Result<Workspace> {
    read(&cargo(project, session, &["metadata", "--no-deps", "--format-version=1"]).await?)
}

fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| CliError::Configuration(format!("cannot read cargo's answer: {error}")))
}

/// `cargo metadata`, as far as we read it.
#[derive(Deserialize)]
pub(crate) struct Workspace {
    packages: Vec<Package>,
    workspace_default_members: BTreeSet<String>,
    /// Where its `Cargo.toml` lies.
    pub(crate) workspace_root: PathBuf,
    /// Where builds go.
    pub(crate) target_directory: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

impl Target {
    fn is_binary(&self) -> bool {
        self.kind.iter().any(|kind| kind == "bin")
    }
}

impl Workspace {
    /// The binary of a package: its only one, or the one of its name.
    pub(crate) fn binary_of(&self, package: &str) -> Result<&str, String> {
        let Some(found) = self.packages.iter().find(|found| found.name == package) else {
            let known: Vec<&str> = self.packages.iter().map(|package| package.name.as_str()).collect();
            return Err(format!("the workspace has no package `{package}`; it has {}", known.join(", ")));
        };
        let binaries: Vec<&str> =
            found.targets.iter().filter(|target| target.is_binary()).map(|target| target.name.as_str()).collect();
        match binaries.as_slice() {
            [] => Err(format!("package `{package}` has no binary: give it a src/main.rs")),
            [only] => Ok(only),
            several if several.contains(&package) => {
                several.iter().find(|name| **name == package).copied().ok_or_else(String::new)
            }
            several => {
                Err(format!("package `{package}` has the binaries {}: none is called `{package}`", several.join(", ")))
            }
        }
    }

    /// What cargo is called with. Where all functions are among the default members, those are the set
    /// of packages, as with `cargo run`; cargo chooses the features of what they share by that set.
    fn arguments(&self, packages: &BTreeSet<&str>, profile: Profile) -> Vec<String> {
        let mut arguments = vec!["build".to_owned(), "--message-format=json-render-diagnostics".to_owned()];
        if profile == Profile::Release {
            arguments.push("--release".to_owned());
        }
        let is_default = |package: &Package| self.workspace_default_members.contains(&package.id);
        let wanted: Vec<&Package> = self.packages.iter().filter(|p| packages.contains(p.name.as_str())).collect();
        if !wanted.iter().all(|package| is_default(package)) {
            arguments.extend(packages.iter().flat_map(|package| ["--package".to_owned(), (*package).to_owned()]));
        }
        let binaries = packages.iter().filter_map(|package| self.binary_of(package).ok());
        arguments.extend(binaries.flat_map(|binary| ["--bin".to_owned(), binary.to_owned()]));
        arguments
    }
}

/// A line of cargo's messages, as far as we read it.
#[derive(Deserialize)]
struct Message {
    executable: Option<String>,
    target: Option<Target>,
}

/// Where a build has put a binary.
pub(crate) fn executable(messages: &str, binary: &str) -> Option<String> {
    let read = |line: &str| serde_json::from_str::<Message>(line).ok();
    let of_it =
        |message: &Message| message.target.as_ref().is_some_and(|target| target.is_binary() && target.name == binary);
    messages.lines().filter_map(read).filter(of_it).find_map(|message| message.executable)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn workspace(defaults: &[&str]) -> Workspace {
        let package = |name: &str, kinds: &[(&str, &str)]| {
            let targets: Vec<_> = kinds.iter().map(|(name, kind)| json!({"name": name, "kind": [kind]})).collect();
            json!({"id": name, "name": name, "targets": targets})
        };
        let packages = [
            package("hello", &[("hello", "lib"), ("hello", "bin")]),
            package("bye", &[("other", "bin")]),
            package("library", &[("library", "lib")]),
        ];
        let (root, target) = ("/project", "/project/target");
        serde_json::from_value(
            json!({"packages": packages, "workspace_default_members": defaults, "workspace_root": root, "target_directory": target}),
        )
        .unwrap()
    }

    #[test]
    fn a_package_is_known_by_its_binary() {
        let workspace = workspace(&[]);
        assert_eq!(workspace.binary_of("hello"), Ok("hello"));
        assert_eq!(workspace.binary_of("bye"), Ok("other"));
        assert!(workspace.binary_of("library").unwrap_err().contains("src/main.rs"));
        assert!(workspace.binary_of("gone").unwrap_err().contains("it has hello, bye, library"));
    }

    #[test]
    fn functions_are_built_with_the_packages_that_cargo_run_takes() {
        let wanted = BTreeSet::from(["hello", "bye"]);
        let all = workspace(&["hello", "bye", "library"]).arguments(&wanted, Profile::Release);
        assert_eq!(all[2..], ["--release", "--bin", "other", "--bin", "hello"]);
        let some = workspace(&["hello"]).arguments(&wanted, Profile::Dev);
        assert_eq!(some[2..], ["--package", "bye", "--package", "hello", "--bin", "other", "--bin", "hello"]);
    }

    #[test]
    fn binaries_are_found_in_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"hello","kind":["lib"]},"executable":null}
{"reason":"compiler-artifact","target":{"name":"hello","kind":["bin"]},"executable":"/t/release/hello"}
not json
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "hello").as_deref(), Some("/t/release/hello"));
        assert_eq!(executable(messages, "bye"), None);
    }
}
