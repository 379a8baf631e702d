//! What must hold between keys: names that are defined, relations that would fail later.
//!
//! Rules look at the configuration with its defaults filled in, one section a file, and complain at
//! the key that is best changed. A key that could not be read is not complained about again.

mod queues;
pub(in crate::config) mod schedules;
mod tasks;
mod workers;

use std::{collections::BTreeMap, fmt::Display};

use super::{
    Config, FunctionConfig,
    bounds::ENV_BYTES_MAX,
    mistake::{Problem, suggest},
    sheet::{Sheet, join},
};

/// Checks everything.
pub(super) fn check(config: &Config, sheet: &Sheet) {
    for queue in config.queues.values() {
        queues::check(config, queue, sheet);
    }
    for function in config.functions.values() {
        check_function(function, sheet);
    }
    for worker in config.workers.values() {
        workers::check(config, worker, sheet);
    }
    for task in config.tasks.values() {
        tasks::check(config, task, sheet);
    }
    for schedule in config.schedules.values() {
        schedules::check(config, schedule, sheet);
    }
    workers::warn_of_unserved_queues(config, sheet);
}

fn check_function(function: &FunctionConfig, sheet: &Sheet) {
    let entry = Entry::new(sheet, "functions", &function.name);
    let bytes = env_bytes(&function.env);
    if bytes > ENV_BYTES_MAX {
        entry.mistake("env", format!("it has {bytes} bytes"), format!("at most {ENV_BYTES_MAX} are allowed"));
    }
}

/// Bytes of an environment as Linux and Lambda count it: names, values and a separator each.
fn env_bytes(env: &BTreeMap<String, String>) -> usize {
    env.iter().map(|(name, value)| name.len() + value.len() + 2).sum()
}

/// One named table, to complain about its keys.
struct Entry<'s> {
    sheet: &'s Sheet,
    path: String,
}

impl<'s> Entry<'s> {
    fn new(sheet: &'s Sheet, kind: &str, name: impl AsRef<str>) -> Self {
        Self { sheet, path: join(kind, name.as_ref()) }
    }

    fn is_given(&self, key: &str) -> bool {
        self.sheet.is_given(&self.path_of(key))
    }

    fn mistake(&self, key: &str, what: impl Into<String>, fix: impl Into<String>) {
        self.sheet.mistake(&self.path_of(key), Problem::new(what, fix));
    }

    fn warning(&self, what: impl Into<String>, fix: impl Into<String>) {
        self.sheet.warning(&self.path, Problem::new(what, fix));
    }

    /// Complains where both of two keys are given that contradict each other.
    fn only_one_of(&self, keys: [&str; 2]) {
        if keys.iter().all(|key| self.is_given(key)) {
            let [one, other] = keys;
            self.mistake(other, format!("{one} is given too, and the two contradict each other"), "keep one of them");
        }
    }

    /// Complains about a name that no section defines.
    fn defined<N: Ord + AsRef<str> + Display, V>(&self, key: &str, kind: &str, name: &N, all: &BTreeMap<N, V>) {
        if !all.contains_key(name) {
            let fix = suggest(name.as_ref(), all.keys().map(AsRef::as_ref));
            self.mistake(key, format!("there is no {kind} `{name}`"), fix);
        }
    }

    fn path_of(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }
}
