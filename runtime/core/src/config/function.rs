//! A function: which executable it is, and how its processes are started and ended.

use std::{collections::BTreeMap, time::Duration};

use super::{
    bounds::{
        ENV_BYTES_MAX, IN_FLIGHT, IN_FLIGHT_DEFAULT, INIT_TIMEOUT, INIT_TIMEOUT_DEFAULT, LINE_CHARS_MAX,
        PATH_CHARS_MAX, SHUTDOWN_GRACE, SHUTDOWN_GRACE_DEFAULT, TASKS_PER_CHILD,
    },
    mistake::{Problem, quoted},
    sheet::Table,
    value::{Reading, duration, line, list, text_as, whole},
};
use crate::ids::FunctionName;

/// A section `[functions.NAME]` with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FunctionConfig {
    /// The function's name.
    pub name: FunctionName,
    /// What is started.
    pub program: Program,
    /// Where it is started, relative to the configuration file; that file's folder if none.
    pub working_dir: Option<String>,
    /// Its own environment variables, beside those that the host sets.
    pub env: BTreeMap<String, String>,
    /// How long a process may go on after it was asked to stop, before it is killed.
    pub shutdown_grace: Duration,
    /// Invocations that one process takes at the same time.
    pub in_flight: u32,
    /// How long a process may take from its start to its first `next`.
    pub init_timeout: Duration,
    /// After how many tasks a process is replaced.
    pub max_tasks_per_child: Option<u32>,
}

/// What a function process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// The binary of a cargo package of this project.
    Package(String),
    /// Any executable with its arguments; never empty.
    Command(Vec<String>),
}

pub(super) fn read(name: FunctionName, table: &Table<'_, '_>) -> FunctionConfig {
    let env = table.map("env", variable_name, text_as(variable_value));
    FunctionConfig {
        name,
        program: read_program(table),
        working_dir: table.read("working_dir", text_as(line(PATH_CHARS_MAX))),
        env: env.into_iter().collect(),
        shutdown_grace: table.read("shutdown_grace", duration(SHUTDOWN_GRACE)).unwrap_or(SHUTDOWN_GRACE_DEFAULT),
        in_flight: table.read("in_flight", whole(IN_FLIGHT)).unwrap_or(IN_FLIGHT_DEFAULT),
        init_timeout: table.read("init_timeout", duration(INIT_TIMEOUT)).unwrap_or(INIT_TIMEOUT_DEFAULT),
        max_tasks_per_child: table.read("max_tasks_per_child", whole(TASKS_PER_CHILD)),
    }
}

fn read_program(table: &Table<'_, '_>) -> Program {
    let package = table.read("package", text_as(package_name));
    let command = table.read("command", command);
    let both = table.sheet().is_given(&table.path("package")) && table.sheet().is_given(&table.path("command"));
    if both {
        let problem = Problem::new("the function has a package and a command", "keep one of them");
        table.sheet().mistake(&table.path("command"), problem);
    }
    match (package, command) {
        (Some(package), _) => Program::Package(package),
        (None, Some(command)) => Program::Command(command),
        (None, None) => {
            let is_given = ["package", "command"].map(|key| table.sheet().is_given(&table.path(key)));
            if is_given == [false, false] {
                let fix = r#"name its cargo package, or write command = ["…"]"#;
                table.missing("package", fix);
            }
            Program::Command(Vec::new())
        }
    }
}

fn package_name(text: &str) -> Reading<String> {
    let first_is_letter = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let all_allowed = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if first_is_letter && all_allowed && text.len() <= 64 {
        return Ok(text.to_owned());
    }
    let what = format!("{} is no name of a cargo package", quoted(text));
    Err(Problem::new(what, "write the `name` of its Cargo.toml"))
}

fn command(value: &toml::de::DeValue<'_>) -> Reading<Vec<String>> {
    let words = list(text_as(|text| {
        if text.contains('\0') {
            Err(Problem::new("it holds a NUL character", "leave it out"))
        } else {
            Ok(text.to_owned())
        }
    }))(value)?;
    match words.first() {
        Some(program) if !program.is_empty() => Ok(words),
        _ => {
            let fix = r#"write the program first, e.g. ["python3", "-m", "awslambdaric", "app.handler"]"#;
            Err(Problem::new("it names no program", fix))
        }
    }
}

/// The host owns these: they say where the Runtime API listens, and which devices are leased.
const RESERVED: [&str; 4] =
    ["CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES", "LAMBDA_RUNTIME_DIR"];

fn variable_name(text: &str) -> Reading<String> {
    let first_is_letter = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let all_allowed = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !first_is_letter || !all_allowed || text.len() > LINE_CHARS_MAX {
        let what = format!("{} is no name of a variable", quoted(text));
        return Err(Problem::new(what, "use letters, digits and `_`, first no digit"));
    }
    let upper = text.to_ascii_uppercase();
    let is_reserved =
        upper.starts_with("AWS_LAMBDA_") || upper.starts_with("RHUBARB_") || RESERVED.contains(&upper.as_str());
    if is_reserved {
        return Err(Problem::new("the host sets this variable itself", "choose another name"));
    }
    Ok(text.to_owned())
}

fn variable_value(text: &str) -> Reading<String> {
    if text.contains('\0') {
        return Err(Problem::new("it holds a NUL character", "leave it out"));
    }
    if text.len() > ENV_BYTES_MAX {
        let what = format!("it has {} bytes", text.len());
        return Err(Problem::new(what, format!("at most {ENV_BYTES_MAX} are allowed")));
    }
    Ok(text.to_owned())
}
