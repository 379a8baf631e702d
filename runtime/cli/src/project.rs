//! The project: where `rhubarb.toml` is, what it says, and the backend that it names.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rhubarb_core::{
    backend::Backend,
    config::{Backend as BackendKind, Config, Durability, Overrides, QueueClass, Vars, WorkerConfig},
    ids::QueueName,
    limits::Limits,
};
use rhubarb_local::LocalBackend;

use crate::exit::{CliError, Result};

/// The configuration file's name.
pub(crate) const FILE: &str = "rhubarb.toml";

/// A configuration and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Project {
    /// Its folder: relative paths in the file start here.
    pub(crate) root: PathBuf,
    /// What it says.
    pub(crate) config: Arc<Config>,
}

impl Project {
    /// Reads and checks a configuration file.
    pub(crate) fn read(file: &Path, vars: &dyn Vars, overrides: &Overrides) -> Result<Self> {
        let text = Self::text(file)?;
        let config = Config::parse(&text, vars, overrides).map_err(|mistakes| mistakes.in_file(shown(file)))?;
        let root = file.parent().filter(|root| !root.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let root = root.canonicalize().map_err(|error| CliError::io("find the folder of rhubarb.toml", &error))?;
        Ok(Self { root, config: Arc::new(config) })
    }

    /// The text of a configuration file.
    pub(crate) fn text(file: &Path) -> Result<String> {
        fs::read_to_string(file).map_err(|error| CliError::io(format_args!("read {}", shown(file)), &error))
    }

    /// Logs what does not stop a start, but is hardly meant.
    pub(crate) fn warn(&self) {
        for warning in &self.config.warnings {
            tracing::warn!("{warning}");
        }
    }

    /// Where the embedded backend keeps its files.
    pub(crate) fn dir(&self) -> PathBuf {
        self.root.join(&self.config.app.dir)
    }

    /// Opens the backend that the configuration names; `endpoint_url` is an emulator's.
    pub(crate) async fn open(&self, endpoint_url: Option<&str>) -> Result<Arc<dyn Backend>> {
        match self.config.app.backend {
            BackendKind::Local => Ok(Arc::new(self.open_local()?)),
            BackendKind::Aws => self.open_aws(endpoint_url).await,
        }
    }

    #[cfg(feature = "aws")]
    async fn open_aws(&self, endpoint_url: Option<&str>) -> Result<Arc<dyn Backend>> {
        let connect = rhubarb_aws::ConnectOptions { endpoint_url: endpoint_url.map(str::to_owned) };
        let options = rhubarb_aws::AwsOptions { connect, ..rhubarb_aws::AwsOptions::default() };
        let backend = rhubarb_aws::AwsBackend::connect(&self.config, options).await?;
        backend.verify().await?;
        Ok(Arc::new(backend))
    }

    #[cfg(not(feature = "aws"))]
    #[expect(clippy::unused_async, reason = "with the feature `aws` it waits")]
    async fn open_aws(&self, _: Option<&str>) -> Result<Arc<dyn Backend>> {
        Err(CliError::Configuration(
            "this rhubarb was built without AWS: build it with the feature, as in `cargo run --release --features aws -- …` \
             or `cargo install --path runtime/cli --features aws`"
                .into(),
        ))
    }

    /// What a worker of this project serves: on AWS an agent leaves queues of class `lambda` to Lambda,
    /// unless `feeds_lambda`.
    ///
    /// # Errors
    ///
    /// Nothing is left to serve.
    pub(crate) fn served(&self, mut worker: WorkerConfig, feeds_lambda: bool) -> Result<WorkerConfig> {
        if self.config.app.backend == BackendKind::Local || feeds_lambda {
            return Ok(worker);
        }
        let is_fed = |queue: &QueueName| self.config.queue(queue).is_none_or(|queue| queue.class != QueueClass::Lambda);
        worker.queues.retain(is_fed);
        worker.weights.retain(|queue, _| is_fed(queue));
        if worker.queues.is_empty() {
            return Err(CliError::Configuration(format!(
                "the worker `{}` serves only queues of class `lambda`, which AWS Lambda feeds: give it others, or say --feed-lambda \
                 where no Lambda runs",
                worker.name,
            )));
        }
        Ok(worker)
    }

    /// Makes sure that one process of this kind works in the folder of the embedded backend. The kernel
    /// gives the lock back when this process ends, however it ends.
    /// AWS needs none: workers there are told apart by their names.
    pub(crate) fn lock(&self, kind: &str) -> Result<Option<File>> {
        if self.config.app.backend == BackendKind::Aws {
            return Ok(None);
        }
        let path = self.dir().join(format!("{kind}.lock"));
        let failed = |error: &io::Error| CliError::io(format_args!("lock {}", shown(&path)), error);
        let file =
            File::options().create(true).truncate(false).write(true).open(&path).map_err(|error| failed(&error))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Err(CliError::Configuration(format!(
                "another `rhubarb {kind}` or demo runs on {}: stop it first, or give this one a folder of its own with --dir",
                shown(&self.dir()),
            ))),
            Err(TryLockError::Error(error)) => Err(failed(&error)),
        }
    }

    fn open_local(&self) -> Result<LocalBackend> {
        let durability = match self.config.app.durability {
            Durability::Normal => rhubarb_local::Durability::Normal,
            Durability::Full => rhubarb_local::Durability::Full,
        };
        let options = rhubarb_local::Options { durability, limits: Limits::AWS, ..rhubarb_local::Options::default() };
        Ok(LocalBackend::open(self.dir(), options)?)
    }
}

/// Checks that the configuration has these queues.
pub(crate) fn know(config: &Config, queues: &[QueueName]) -> Result<()> {
    let Some(unknown) = queues.iter().find(|queue| config.queue(queue).is_none()) else { return Ok(()) };
    let known: Vec<&str> = config.queues.keys().map(QueueName::as_str).collect();
    Err(CliError::Configuration(format!("there is no queue `{unknown}`: the queues are {}", known.join(", "))))
}

/// Finds the configuration file from a folder upwards.
pub(crate) fn find(from: &Path) -> Result<PathBuf> {
    let found = from.ancestors().map(|folder| folder.join(FILE)).find(|file| file.is_file());
    found.ok_or_else(|| {
        CliError::Configuration(format!(
            "there is no {FILE} in {} or above it: go to your project, name the file with --config, or begin one with `rhubarb new function NAME`",
            from.display(),
        ))
    })
}

/// A path as people like to read it: relative where it lies below the current folder.
pub(crate) fn shown(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let relative = here.as_deref().and_then(|here| path.strip_prefix(here).ok());
    relative.filter(|path| !path.as_os_str().is_empty()).unwrap_or(path).display().to_string()
}
