//! Where settings come from besides the file: environment variables, and options of the command.
//!
//! The environment is handed in, so that a test brings a map and nothing below `main` reads the
//! real one. An option beats a variable, a variable beats the file; all of them are checked.

use std::collections::{BTreeMap, HashMap};

/// The environment, or what a test puts in its place.
pub trait Vars {
    /// Returns the value of the variable `name`; an empty one counts as absent.
    fn get(&self, name: &str) -> Option<String>;
}

/// No variables at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoVars;

impl Vars for NoVars {
    fn get(&self, _: &str) -> Option<String> {
        None
    }
}

impl Vars for HashMap<String, String> {
    fn get(&self, name: &str) -> Option<String> {
        Self::get(self, name).filter(|value| !value.is_empty()).cloned()
    }
}

impl Vars for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<String> {
        Self::get(self, name).filter(|value| !value.is_empty()).cloned()
    }
}

/// One environment variable that takes the place of a key of the section `app`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    /// The variable's name.
    pub name: &'static str,
    /// The option of the command line that beats it.
    pub flag: Option<&'static str>,
    /// The key that both take the place of.
    pub key: &'static str,
}

/// Every variable that the configuration reads. What an agent takes from the environment beside
/// these (`RHUBARB_QUEUES`, …) are the options of its command.
pub const VARIABLES: &[Variable] = &[
    Variable { name: "RHUBARB_APP", flag: None, key: "name" },
    Variable { name: "RHUBARB_STAGE", flag: Some("--stage"), key: "stage" },
    Variable { name: "RHUBARB_BACKEND", flag: Some("--backend"), key: "backend" },
    Variable { name: "RHUBARB_DIR", flag: Some("--dir"), key: "dir" },
    Variable { name: "RHUBARB_DURABILITY", flag: None, key: "durability" },
    Variable { name: "RHUBARB_TABLE", flag: None, key: "table" },
    Variable { name: "RHUBARB_BUCKET", flag: None, key: "bucket" },
    Variable { name: "RHUBARB_METRICS", flag: None, key: "metrics" },
    Variable { name: "RHUBARB_TRACES", flag: None, key: "traces" },
];

/// What the command line says in place of the file and the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--stage`
    pub stage: Option<String>,
    /// `--backend`, and `--aws` for `aws`
    pub backend: Option<String>,
    /// `--dir`
    pub dir: Option<String>,
}

impl Overrides {
    pub(super) fn get(&self, flag: &str) -> Option<&str> {
        match flag {
            "--stage" => self.stage.as_deref(),
            "--backend" => self.backend.as_deref(),
            "--dir" => self.dir.as_deref(),
            _ => None,
        }
    }
}
