//! What is served: read from `rhubarb.toml` beside the bootstrap and from the environment, and checked,
//! before anything starts.
//!
//! A mistake is an init error: Lambda reports it with every invocation it tries, and the messages stay in
//! their queue until it is mended.

use std::{
    collections::HashMap,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use rhubarb_core::{
    config::{Config, Mistakes, Overrides, QueueClass, QueueConfig, Vars},
    ids::{QueueName, WorkerId},
};
use rhubarb_host::functions::FunctionSpec;

use crate::programs::{self, NoProgram};

/// The variable that names the queue that is served.
pub const QUEUE: &str = "RHUBARB_QUEUE";
/// Characters of the log stream's name that tell sandboxes apart in a worker's name.
const STREAM_CHARS: usize = 16;

/// Why a sandbox does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// There is no configuration.
    #[error("cannot read `{path}`: `rhubarb package` puts a copy of the configuration beside the bootstrap")]
    NoConfig {
        /// Where it should be.
        path: PathBuf,
        /// Why it cannot be read.
        source: std::io::Error,
    },
    /// It holds mistakes.
    #[error("{0}")]
    Config(Mistakes),
    /// Nobody says which queue is served.
    #[error("RHUBARB_QUEUE is not set: write the name of the queue that this function serves")]
    NoQueue,
    /// The configuration does not have the queue.
    #[error("RHUBARB_QUEUE is `{queue}`, and there is no such queue: the queues of class lambda are {known}")]
    UnknownQueue {
        /// What the variable says.
        queue: String,
        /// The queues that Lambda can serve.
        known: String,
    },
    /// Lambda does not serve the queue.
    #[error("queue {0} is of class ecs: an agent serves it. Write class = \"lambda\", or deploy no function for it")]
    NotLambda(QueueName),
    /// The queue's function is not defined.
    #[error("queue {0} names no function that is defined")]
    NoFunction(QueueName),
    /// The function's executable is not there.
    #[error(transparent)]
    Program(#[from] NoProgram),
    /// The backend cannot be used.
    #[error("cannot use the backend: {0}")]
    Backend(String),
}

impl InitError {
    /// What Lambda shows as the type of the error.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NoFunction(_) | Self::Program(_) => "Rhubarb.NoFunction",
            Self::Backend(_) => "Rhubarb.Backend",
            Self::NoConfig { .. }
            | Self::Config(_)
            | Self::NoQueue
            | Self::UnknownQueue { .. }
            | Self::NotLambda(_) => "Rhubarb.Configuration",
        }
    }
}

/// What one sandbox serves.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The whole configuration.
    pub config: Arc<Config>,
    /// The queue.
    pub queue: Arc<QueueConfig>,
    /// Its function.
    pub function: FunctionSpec,
    /// The sandbox's name among the workers.
    pub worker: WorkerId,
}

impl Plan {
    /// Reads the configuration in `root` and finds the queue and its function. `overrides` stand above the
    /// environment.
    ///
    /// # Errors
    ///
    /// Says what is missing or wrong, and how to mend it.
    pub fn read(root: &Path, vars: &[(OsString, OsString)], overrides: &Overrides) -> Result<Self, InitError> {
        let path = root.join("rhubarb.toml");
        let text = std::fs::read_to_string(&path).map_err(|source| InitError::NoConfig { path, source })?;
        let by_name = texts(vars);
        let config = Config::parse(&text, &by_name, overrides).map_err(InitError::Config)?;
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let name = by_name.get(QUEUE).ok_or(InitError::NoQueue)?;
        let queue = find(&config, &name)?;
        if queue.class != QueueClass::Lambda {
            return Err(InitError::NotLambda(queue.name.clone()));
        }
        let function = queue.functions.first().and_then(|name| config.functions.get(name));
        let function = function.ok_or_else(|| InitError::NoFunction(queue.name.clone()))?;
        let process = Arc::new(programs::process_of(function, root, vars)?);
        let function = FunctionSpec { config: function.clone(), process };
        let worker = worker_id(&queue.name, by_name.get("AWS_LAMBDA_LOG_STREAM_NAME").as_deref());
        let queue = Arc::new(queue.clone());
        Ok(Self { config: Arc::new(config), queue, function, worker })
    }

    /// The name of the queue on AWS, by which an event's records name it.
    #[must_use]
    pub fn queue_on_aws(&self) -> String {
        let of_url = self.queue.url.as_ref().and_then(|url| url.rsplit('/').next());
        of_url.map_or_else(|| self.config.app.aws_queue_name(&self.queue), str::to_owned)
    }
}

/// The variables whose names and values are text.
pub(crate) fn texts(vars: &[(OsString, OsString)]) -> impl Vars + use<> {
    let text = |(name, value): &(OsString, OsString)| Some((name.to_str()?.to_owned(), value.to_str()?.to_owned()));
    vars.iter().filter_map(text).collect::<HashMap<_, _>>()
}

fn find<'a>(config: &'a Config, name: &str) -> Result<&'a QueueConfig, InitError> {
    let found = QueueName::new(name).ok().and_then(|name| config.queue(&name));
    found.ok_or_else(|| {
        let lambdas = config.queues.values().filter(|queue| queue.class == QueueClass::Lambda);
        let known: Vec<&str> = lambdas.map(|queue| queue.name.as_str()).collect();
        InitError::UnknownQueue { queue: name.escape_default().to_string(), known: known.join(", ") }
    })
}

/// `lambda-<queue>-<end of the log stream's name>`: no two sandboxes share a log stream, and whoever reads
/// the name of a task's holder finds its log by it. A place without log streams gets chance in its stead.
fn worker_id(queue: &QueueName, stream: Option<&str>) -> WorkerId {
    let stream: String = stream.unwrap_or_default().chars().filter(char::is_ascii_alphanumeric).collect();
    let end = match stream.len() {
        0 => uuid::Uuid::now_v7().simple().to_string(),
        length => stream[length.saturating_sub(STREAM_CHARS)..].to_owned(),
    };
    #[expect(clippy::expect_used, reason = "a queue's name, letters and digits: under 128, as a test shows")]
    WorkerId::new(&format!("lambda-{queue}-{end}")).expect("a valid worker id")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_is_named_after_its_log_stream() {
        let queue = QueueName::new("maintenance").unwrap();
        let stream = "2026/11/22/[$LATEST]0123456789abcdef0123456789abcdef";
        assert_eq!(worker_id(&queue, Some(stream)).as_str(), "lambda-maintenance-0123456789abcdef");
        assert_ne!(worker_id(&queue, None), worker_id(&queue, Some("")));
        let longest = QueueName::new(&"q".repeat(64)).unwrap();
        assert!(worker_id(&longest, None).as_str().len() <= 128);
    }
}
