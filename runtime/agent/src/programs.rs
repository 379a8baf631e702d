//! Which executable a function is, and what environment its processes get.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    sync::Arc,
};

use rhubarb_core::{
    config::{Config, FunctionConfig, Program, QueueConfig, WorkerConfig},
    ids::{FunctionName, QueueName},
};
use rhubarb_host::{functions::FunctionSpec, process::ProcessSpec};

/// What a function inherits of the agent's environment: what any program needs to run, where MPS shares out GPUs, and
/// what AWS SDKs find their credentials by. Everything else of the agent's stays the agent's.
const INHERITED: &[&str] = &[
    "PATH",
    "HOME",
    "TMPDIR",
    "LANG",
    "LC_ALL",
    "TZ",
    "LD_LIBRARY_PATH",
    "CUDA_MPS_PIPE_DIRECTORY",
    "RUST_BACKTRACE",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_PROFILE",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_ENDPOINT_URL",
];

/// A function tells its own spans to the same collector, if it tells any.
const INHERITED_PREFIX: &[u8] = b"OTEL_";

/// A function whose executable is not there.
#[derive(Debug, thiserror::Error)]
#[error(
    "functions.{function}: there is no binary of package `{package}` in {}; build it with `cargo build --release -p {package}`",
    folders(.looked)
)]
pub struct NoBinary {
    /// The function.
    pub function: FunctionName,
    /// Its cargo package.
    pub package: String,
    /// The folders that were looked in.
    pub looked: Vec<PathBuf>,
}

fn folders(looked: &[PathBuf]) -> String {
    let shown: Vec<String> = looked.iter().map(|folder| folder.display().to_string()).collect();
    shown.join(", ")
}

/// Describes the functions of some queues as they are started here. `root` is the folder of the
/// configuration, `beside` the folder of this program, where an installation keeps its functions.
///
/// # Errors
///
/// The binary of a package is in none of the folders.
pub fn functions_of(
    config: &Config,
    worker: &WorkerConfig,
    queues: &BTreeMap<QueueName, Arc<QueueConfig>>,
    root: &Path,
    beside: Option<&Path>,
    vars: &[(OsString, OsString)],
) -> Result<BTreeMap<FunctionName, FunctionSpec>, NoBinary> {
    let mut specs = BTreeMap::new();
    for queue in queues.values() {
        for name in &queue.functions {
            let Some(function) = config.functions.get(name) else { continue };
            let mut spec = process_spec(function, root, beside, vars)?;
            spec.memory_limit = worker.max_memory_per_child.map(|size| size.as_bytes());
            specs.insert(name.clone(), FunctionSpec { config: function.clone(), process: Arc::new(spec) });
        }
    }
    Ok(specs)
}

fn process_spec(
    function: &FunctionConfig,
    root: &Path,
    beside: Option<&Path>,
    vars: &[(OsString, OsString)],
) -> Result<ProcessSpec, NoBinary> {
    let command = match &function.program {
        Program::Command(words) => words.iter().map(OsString::from).collect(),
        Program::Package(package) => vec![binary_of(function, package, root, beside)?.into()],
    };
    let mut spec = ProcessSpec::new(function.name.as_str(), command);
    spec.working_dir = Some(function.working_dir.as_ref().map_or_else(|| root.to_owned(), |dir| root.join(dir)));
    spec.env = environment(function, vars);
    spec.concurrency = usize::try_from(function.in_flight).unwrap_or(1);
    spec.init_timeout = function.init_timeout;
    Ok(spec)
}

fn binary_of(
    function: &FunctionConfig,
    package: &str,
    root: &Path,
    beside: Option<&Path>,
) -> Result<PathBuf, NoBinary> {
    let built = ["release", "debug"].map(|profile| root.join("target").join(profile));
    // A command built in this project runs what was built beside it. An installed one looks beside itself
    // last: there may lie other people's programs.
    let (ours, installed) = beside.map(Path::to_owned).map_or((None, None), |folder| {
        if built.contains(&folder) { (Some(folder), None) } else { (None, Some(folder)) }
    });
    let looked: Vec<PathBuf> = ours.into_iter().chain(built).chain(installed).collect();
    let found = looked.iter().map(|folder| folder.join(package)).find(|path| path.is_file());
    found.ok_or_else(|| NoBinary { function: function.name.clone(), package: package.to_owned(), looked })
}

fn environment(function: &FunctionConfig, vars: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
    let is_allowed = |name: &OsString| {
        INHERITED.iter().any(|allowed| OsStr::new(allowed) == name)
            || name.as_encoded_bytes().starts_with(INHERITED_PREFIX)
    };
    let inherited = vars.iter().filter(|(name, _)| is_allowed(name));
    // A process that holds no device sees none; one that does is given its own when it starts.
    let no_gpus = [(OsString::from("CUDA_VISIBLE_DEVICES"), OsString::new())];
    let own = function.env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    // What the function's section says comes last and so wins.
    inherited.cloned().chain(no_gpus).chain(own).collect()
}
