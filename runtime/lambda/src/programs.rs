//! The function beside the bootstrap: which executable it is, and what environment its processes get.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use rhubarb_core::config::{FunctionConfig, Program};
use rhubarb_host::process::ProcessSpec;
use rustix::fs::Access;

/// A function whose executable is not there, or cannot be executed.
#[derive(Debug, thiserror::Error)]
pub enum NoProgram {
    /// The zip lacks it.
    #[error(
        "functions.{function}: there is no `{path}`: `rhubarb package` puts the binary of package `{package}` beside \
         the bootstrap"
    )]
    NoBinary {
        /// The function.
        function: String,
        /// Its cargo package.
        package: String,
        /// Where it should be.
        path: PathBuf,
    },
    /// A command's program is nowhere.
    #[error("functions.{function}: there is no program `{program}`: check `command`, and what the image or zip holds")]
    NoCommand {
        /// The function.
        function: String,
        /// The first word of its command.
        program: String,
    },
    /// It lost its mode on the way into the zip.
    #[error("functions.{function}: `{path}` is not executable: keep file modes when you zip it")]
    NotExecutable {
        /// The function.
        function: String,
        /// The file.
        path: PathBuf,
    },
}

/// Describes the function as it is started here. `root` is the folder of the zip, or of the image's files.
///
/// # Errors
///
/// Its executable is not there or cannot be executed.
pub fn process_of(
    function: &FunctionConfig,
    root: &Path,
    vars: &[(OsString, OsString)],
) -> Result<ProcessSpec, NoProgram> {
    let folder = function.working_dir.as_ref().map_or_else(|| root.to_owned(), |dir| root.join(dir));
    let command: Vec<OsString> = match &function.program {
        Program::Package(package) => {
            let path = root.join(package);
            if !path.is_file() {
                let (function, package) = (function.name.to_string(), package.clone());
                return Err(NoProgram::NoBinary { function, package, path });
            }
            check_mode(function, &path)?;
            vec![path.into()]
        }
        Program::Command(words) => {
            check_command(function, words, &folder, vars)?;
            words.iter().map(OsString::from).collect()
        }
    };
    let mut spec = ProcessSpec::new(function.name.as_str(), command);
    spec.working_dir = Some(folder);
    spec.env = environment(function, vars);
    spec.concurrency = usize::try_from(function.in_flight).unwrap_or(1);
    spec.init_timeout = function.init_timeout;
    Ok(spec)
}

fn check_mode(function: &FunctionConfig, path: &Path) -> Result<(), NoProgram> {
    rustix::fs::access(path, Access::EXEC_OK)
        .map_err(|_| NoProgram::NotExecutable { function: function.name.to_string(), path: path.to_owned() })
}

fn check_command(
    function: &FunctionConfig,
    words: &[String],
    folder: &Path,
    vars: &[(OsString, OsString)],
) -> Result<(), NoProgram> {
    let missing =
        |program: &str| NoProgram::NoCommand { function: function.name.to_string(), program: program.to_owned() };
    let Some(program) = words.first() else { return Err(missing("")) };
    if program.contains('/') {
        let path = folder.join(program);
        return if path.is_file() { check_mode(function, &path) } else { Err(missing(program)) };
    }
    let own = function.env.get("PATH").map(OsString::from);
    let path = own.or_else(|| vars.iter().find(|(name, _)| name == "PATH").map(|(_, path)| path.clone()));
    let mut folders = path.iter().flat_map(|path| std::env::split_paths(path));
    if folders.any(|folder| folder.join(program).is_file()) { Ok(()) } else { Err(missing(program)) }
}

/// All of Lambda's environment but the host's own settings: here the place belongs to the function alone, and
/// what was set on the Lambda function was set for it. What its section says comes last and so wins.
fn environment(function: &FunctionConfig, vars: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
    let is_ours =
        |name: &OsString| name.as_encoded_bytes().starts_with(b"RHUBARB_") || name == "AWS_LAMBDA_RUNTIME_API";
    let inherited = vars.iter().filter(|(name, _)| !is_ours(name));
    let own = function.env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    inherited.cloned().chain(own).collect()
}
