//! Opens a client by the folder of a project, over the embedded backend.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rhubarb_core::{
    backend::StoreError,
    config::{Backend as Kind, Config, Durability, Mistakes, Overrides, Vars},
};
use rhubarb_local::{LocalBackend, Options};

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
        "{path} names the backend `{backend}`: this program links `local` only; make the backend and use `Client::new`"
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
    /// same folder run what it enqueues.
    ///
    /// # Errors
    ///
    /// The file cannot be read or has mistakes, or the store cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let file = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
        let text = fs::read_to_string(&file).map_err(|source| OpenError::Read { path: file.clone(), source })?;
        let config = Config::parse(&text, &Environment, &Overrides::default())
            .map_err(|mistakes| mistakes.in_file(file.display().to_string()))?;
        if config.app.backend != Kind::Local {
            return Err(OpenError::Backend { path: file, backend: config.app.backend.as_str() });
        }
        let folder = file.parent().unwrap_or(Path::new("")).join(&config.app.dir);
        let backend = LocalBackend::open(folder, options(&config))?;
        Ok(Self::new(Arc::new(backend), Arc::new(config)))
    }
}

fn options(config: &Config) -> Options {
    let durability = match config.app.durability {
        Durability::Normal => rhubarb_local::Durability::Normal,
        Durability::Full => rhubarb_local::Durability::Full,
    };
    Options { durability, ..Options::default() }
}
