//! Builds for Lambda: the functions in the project, the host from Rhubarb's own sources.
//!
//! Functions with the profile `dist`, whose binaries are small, unless another is asked for: a project that has no
//! `dist` gets ours. The host then with `bootstrap`, which makes it smaller still.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use rhubarb_core::config::Vars as _;
use rhubarb_deploy::Arch;
use tokio::process::Command;

use super::linker::Linker;
use crate::{
    build::{self, Workspace, executable, output_of},
    exit::{CliError, Result},
    project::Project,
    session::Session,
};

/// Where the host's crate lies: in the repository that this program was built from.
const HOST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../lambda");
/// Its package, and its binary.
const HOST_BINARY: &str = "rhubarb-lambda";
const DIST: &str = "dist";
/// The host's, in Rhubarb's own sources, where functions are built with `dist`.
const HOST_PROFILE: &str = "bootstrap";
/// The profile of that name, where the project has none.
const DIST_KEYS: [&str; 5] = [
    r#"profile.dist.inherits="release""#,
    r#"profile.dist.lto="fat""#,
    "profile.dist.codegen-units=1",
    r#"profile.dist.opt-level="s""#,
    "profile.dist.strip=true",
];

/// Builds for one processor.
pub(super) struct Builder<'a> {
    pub(super) project: &'a Project,
    pub(super) session: &'a Session,
    pub(super) linker: &'a Linker,
    pub(super) profile: &'a str,
    pub(super) arch: Arch,
}

impl Builder<'_> {
    /// Builds the host, and returns where it lies.
    pub(super) async fn bootstrap(&self) -> Result<PathBuf> {
        let manifest = Path::new(HOST).join("Cargo.toml");
        let manifest = manifest.canonicalize().map_err(|_| {
            CliError::Configuration(
                "the repository that this rhubarb was built from is gone, and with it the sources of the bootstrap: \
                 install rhubarb from a repository that stays, or give a built one with --bootstrap"
                    .into(),
            )
        })?;
        let workspace = build::workspace(self.project, self.session).await?;
        self.session.screen.note(format!("building the bootstrap for {}", self.arch));
        let profile = if self.profile == DIST { HOST_PROFILE } else { self.profile };
        let mut command = self.command(&workspace, profile);
        command.arg("--manifest-path").arg(manifest).args(["--package", HOST_BINARY, "--bin", HOST_BINARY]);
        let messages = output_of(command).await?;
        built(&messages, HOST_BINARY)
    }

    /// Builds the binaries of these packages, and returns where each lies.
    pub(super) async fn functions(&self, packages: impl Iterator<Item = &str>) -> Result<BTreeMap<String, PathBuf>> {
        let workspace = build::workspace(self.project, self.session).await?;
        let mut binaries = BTreeMap::new();
        for package in packages {
            let binary = workspace.binary_of(package).map_err(CliError::Configuration)?;
            binaries.insert(package.to_owned(), binary.to_owned());
        }
        let names: BTreeSet<&str> = binaries.keys().map(String::as_str).collect();
        let listed: Vec<&str> = names.into_iter().collect();
        self.session.screen.note(format!("building for {}: {}", self.arch, listed.join(", ")));
        let mut command = self.command(&workspace, self.profile);
        if self.profile == DIST && !has_dist(&workspace)? {
            command.args(DIST_KEYS.iter().flat_map(|key| ["--config", key]));
        }
        for (package, binary) in &binaries {
            command.args(["--package", package, "--bin", binary]);
        }
        let messages = output_of(command).await?;
        binaries.into_iter().map(|(package, binary)| Ok((package, built(&messages, &binary)?))).collect()
    }

    fn command(&self, workspace: &Workspace, profile: &str) -> Command {
        let mut command = self.linker.build(self.arch);
        command.current_dir(&self.project.root).args([
            "--profile",
            profile,
            "--message-format=json-render-diagnostics",
        ]);
        command.arg("--target-dir").arg(&workspace.target_directory);
        command
    }
}

/// Whether Rust can compile for this processor here.
pub(super) async fn is_installed(arch: Arch, project: &Project, session: &Session) -> bool {
    let rustc = session.vars.get("RUSTC").unwrap_or_else(|| "rustc".to_owned());
    let mut command = Command::new(rustc);
    command.args(["--print", "target-libdir", "--target", arch.target()]).current_dir(&project.root);
    let said = command.kill_on_drop(true).output().await.ok().filter(|output| output.status.success());
    said.is_some_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

fn built(messages: &str, binary: &str) -> Result<PathBuf> {
    let found = executable(messages, binary).map(PathBuf::from);
    found.ok_or_else(|| CliError::Configuration(format!("cargo built no binary `{binary}`")))
}

fn has_dist(workspace: &Workspace) -> Result<bool> {
    let path = workspace.workspace_root.join("Cargo.toml");
    let text = fs::read_to_string(&path).map_err(|error| CliError::io("read Cargo.toml", &error))?;
    let table: toml::Table = toml::from_str(&text)
        .map_err(|error| CliError::Configuration(format!("Cargo.toml cannot be read: {error}")))?;
    Ok(table.get("profile").and_then(|profiles| profiles.get(DIST)).is_some())
}
