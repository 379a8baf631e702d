//! `rhubarb new function`: a function of one's own that runs.
//!
//! Files that exist are only ever added to, and what is added is checked before anything is written: a
//! name that is taken or a file that cannot be understood leaves everything as it was.

mod cargo;
mod config;
mod template;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use rhubarb_core::ids::FunctionName;
use serde::Serialize;

use crate::{
    exit::{CliError, Result},
    project::{self, FILE},
    session::{Session, here},
};

/// Begin something new
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  rhubarb new function hello
  rhubarb dev                                                     # in one terminal
  rhubarb enqueue hello --args '{\"name\":\"you\"}' --wait            # in another

In a folder without rhubarb.toml it begins a project too.")]
pub(crate) struct New {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Write a function that runs, and add it to rhubarb.toml
    Function(NewFunction),
}

#[derive(Args, Debug)]
struct NewFunction {
    /// Its name: lower-case letters, digits, `-` and `_`
    name: FunctionName,
    /// The folder of its crate, below that of rhubarb.toml [default: functions/NAME]
    #[arg(long, value_name = "FOLDER")]
    path: Option<PathBuf>,
}

/// A file to write.
struct Change {
    path: PathBuf,
    text: String,
    told: &'static str,
}

/// A file that was written, for programs.
#[derive(Serialize)]
struct Written {
    path: String,
    change: &'static str,
}

impl New {
    /// Writes it.
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let What::Function(function) = self.what;
        let root = match &session.global.config {
            Some(file) => {
                file.parent().filter(|root| !root.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
            }
            None => here().map(|here| project::find(&here).map_or(here, |file| folder_of(&file)))?,
        };
        let changes = plan(&function, &root)?;
        for change in &changes {
            write(change)?;
            let path = project::shown(&change.path);
            match session.screen.json() {
                true => session.screen.document(&Written { path, change: change.told })?,
                false => session.screen.line(format!("{} {path}", change.told))?,
            }
        }
        let name = &function.name;
        let task = template::task_name(name.as_str());
        session.screen.note(format!(
            "\nThe crate `rhubarb` that it depends on is the one this command was built from; its Cargo.toml says where.\n\
             Run it:\n  rhubarb dev\nand from a second terminal:\n  rhubarb enqueue {task} --args '{{\"name\":\"you\"}}' --wait"
        ));
        Ok(())
    }
}

fn folder_of(file: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new(".")).to_owned()
}

/// Everything that is to be written, in the order of writing: what others depend on comes last.
fn plan(function: &NewFunction, root: &Path) -> Result<Vec<Change>> {
    let name = function.name.as_str();
    template::check(name).map_err(CliError::Usage)?;
    let below = function.path.clone().unwrap_or_else(|| Path::new("functions").join(name));
    let member = member(&below)?;
    let folder = root.join(&below);
    if folder.exists() {
        let shown = project::shown(&folder);
        return Err(CliError::Usage(format!(
            "{shown} exists already: choose another name, or another folder with --path"
        )));
    }
    let workspace = read(&root.join("Cargo.toml"))?;
    let configuration = read(&root.join(FILE))?;
    let mut changes = vec![
        Change { path: folder.join("Cargo.toml"), text: cargo::package(name, workspace.as_deref())?, told: "wrote" },
        Change { path: folder.join("src").join("main.rs"), text: template::main(name), told: "wrote" },
    ];
    if let Some(text) = cargo::with_member(workspace.as_deref(), &member)? {
        let told = if workspace.is_some() { "added it to the members of" } else { "wrote" };
        changes.push(Change { path: root.join("Cargo.toml"), text, told });
    }
    let told = if configuration.is_some() { "added it to" } else { "wrote" };
    let text = config::with_function(configuration.as_deref(), &function.name, root)?;
    changes.push(Change { path: root.join(FILE), text, told });
    Ok(changes)
}

/// The crate's folder as cargo's list of members wants it.
fn member(below: &Path) -> Result<String> {
    let plain = below.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    let text = below.to_str().filter(|text| plain && !text.contains(['"', '\\', '\n', '*']));
    let wrong = || CliError::Usage("--path is a folder below that of rhubarb.toml, e.g. --path functions/hello".into());
    text.map(|text| text.trim_end_matches('/').to_owned()).ok_or_else(wrong)
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CliError::io(format_args!("read {}", project::shown(path)), &error)),
    }
}

fn write(change: &Change) -> Result<()> {
    let folder = folder_of(&change.path);
    let written = fs::create_dir_all(&folder).and_then(|()| fs::write(&change.path, &change.text));
    written.map_err(|error| CliError::io(format_args!("write {}", project::shown(&change.path)), &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_lies_below_the_project() {
        assert_eq!(member(Path::new("functions/hello/")).ok().as_deref(), Some("functions/hello"));
        for path in ["../hello", "/hello", "a/../b", "a\"b", "a/*"] {
            assert!(member(Path::new(path)).is_err(), "{path}");
        }
    }
}
