//! Opens a client by the folder of a project, over the backend that its configuration names.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rhubarb_core::{
    backend::{Backend, StoreError},
    config::{Backend as Kind, Config, Mistakes, Overrides, Vars},
};

use super::Client;

const FILE: &str = "rhubarb.toml";

/// Why a client cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The configuration file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The configuration has mistakes.
    #[error(transparent)]
    Config(#[from] Mistakes),
    /// The configuration names a backend that this program does not link.
    #[error(
        "{path} names the backend `{backend}`, which this program does not link: add the feature `{backend}` of `rhubarb`"
    )]
    Backend {
        /// The file.
        path: PathBuf,
        /// The backend.
        backend: &'static str,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The environment of this process: opening a client is part of `main`.
struct Environment;

impl Vars for Environment {
    fn get(&self, name: &str) -> Option<String> {
        env::var(name).ok().filter(|value| !value.is_empty())
    }
}

impl Client {
    /// Opens a client by `rhubarb.toml`, or by the folder it lies in. Agents of other processes on the
    /// same folder, or the same application on AWS, run what it enqueues. Over AWS, region, credentials and
    /// endpoint come from the standard variables and files.
    ///
    /// # Errors
    ///
    /// The file cannot be read or has mistakes, or the backend cannot be opened.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let file = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
        let text = fs::read_to_string(&file).map_err(|source| OpenError::Read { path: file.clone(), source })?;
        let config = Config::parse(&text, &Environment, &Overrides::default())
            .map_err(|mistakes| mistakes.in_file(file.display().to_string()))?;
        let backend: Arc<dyn Backend> = match config.app.backend {
            #[cfg(feature = "local")]
            Kind::Local => Arc::new(local(&file, &config)?),
            #[cfg(feature = "aws")]
            Kind::Aws => Arc::new(rhubarb_aws::AwsBackend::connect(&config, rhubarb_aws::AwsOptions::default()).await?),
            #[cfg(not(all(feature = "local", feature = "aws")))]
            other => return Err(OpenError::Backend { path: file, backend: other.as_str() }),
        };
        Ok(Self::new(backend, Arc::new(config)))
    }
}

#[cfg(feature = "local")]
fn local(file: &Path, config: &Config) -> Result<rhubarb_local::LocalBackend, StoreError> {
    use rhubarb_core::config::Durability;
    let folder = file.parent().unwrap_or(Path::new("")).join(&config.app.dir);
    let durability = match config.app.durability {
        Durability::Normal => rhubarb_local::Durability::Normal,
        Durability::Full => rhubarb_local::Durability::Full,
    };
    rhubarb_local::LocalBackend::open(
        folder,
        rhubarb_local::Options { durability, ..rhubarb_local::Options::default() },
    )
}
