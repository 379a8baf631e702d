//! The process environment, read once in `main` and handed on as a value.

use std::{env, ffi::OsString};

use rhubarb_core::config::Vars;

/// The variables of this process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment(Vec<(OsString, OsString)>);

impl Environment {
    /// Reads the variables of this process.
    pub(crate) fn read() -> Self {
        Self(env::vars_os().collect())
    }

    /// All of them, as they are.
    pub(crate) fn all(&self) -> Vec<(OsString, OsString)> {
        self.0.clone()
    }

    /// One of them; an empty one counts as absent.
    pub(crate) fn os(&self, name: &str) -> Option<&OsString> {
        self.0.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value)
    }
}

impl Vars for Environment {
    fn get(&self, name: &str) -> Option<String> {
        // Text that is no UTF-8 is shown as far as it goes: the reader of the setting refuses it by name.
        self.os(name).map(|value| value.to_string_lossy().into_owned())
    }
}
