//! The function's lines in `rhubarb.toml`.

use std::path::Path;

use rhubarb_core::{
    config::{Config, NoVars, Overrides, default_queue},
    ids::{FunctionName, TaskName, WorkerName},
};

use super::template;
use crate::{
    exit::{CliError, Result},
    project::FILE,
};

/// The configuration with one more function, or the first one. What exists stays as it is, to the letter.
pub(super) fn with_function(existing: Option<&str>, name: &FunctionName, root: &Path) -> Result<String> {
    let Some(text) = existing else {
        let text = format!("[app]\nname = \"{}\"\n\n{}", app_name(root), function(name));
        return checked(text);
    };
    let config = parse(text)?;
    if config.functions.contains_key(name) {
        return Err(CliError::Usage(format!("{FILE} has a function `{name}` already: choose another name")));
    }
    let with = format!("{}\n\n{}", text.trim_end(), function(name));
    if parse(&with).is_ok_and(|config| default_runs(&config, name)) {
        return checked(with);
    }
    // The queue `default` is not for it: it gets a queue of its own.
    if config.queues.keys().any(|queue| queue.as_str() == name.as_str()) {
        return Err(CliError::Usage(format!("{FILE} has a queue `{name}` already: choose another name")));
    }
    let task =
        TaskName::new(&template::task_name(name.as_str())).map_err(|error| CliError::Usage(error.to_string()))?;
    let mut own = format!("{with}\n[queues.{name}]\nclass = \"ecs\"\nfunctions = [\"{name}\"]\n");
    if !config.tasks.contains_key(&task) {
        own.push_str(&format!("\n[tasks.{task}]\nqueue = \"{name}\"\n"));
    }
    if !parse(&own)?.workers.values().any(|worker| worker.queues.iter().any(|queue| queue.as_str() == name.as_str())) {
        own.push_str(&format!("\n[workers.{}]\nqueues = [\"{name}\"]\n", free_worker(&config, name)?));
    }
    checked(own)
}

fn function(name: &FunctionName) -> String {
    format!("[functions.{name}]\npackage = \"{name}\"\n")
}

/// True if tasks that name no queue reach the function and somebody serves them.
fn default_runs(config: &Config, name: &FunctionName) -> bool {
    let queue = default_queue();
    let runs = config.queue(&queue).is_some_and(|queue| queue.functions.contains(name));
    runs && config.workers.values().any(|worker| worker.queues.contains(&queue))
}

fn free_worker(config: &Config, name: &FunctionName) -> Result<WorkerName> {
    let names = [name.to_string(), format!("{name}-worker")];
    let free =
        names.iter().filter_map(|name| WorkerName::new(name).ok()).find(|name| !config.workers.contains_key(name));
    free.ok_or_else(|| CliError::Usage(format!("{FILE} has a worker `{name}` already: choose another name")))
}

/// A folder's name as a name for AWS.
fn app_name(root: &Path) -> String {
    let folder =
        root.canonicalize().ok().and_then(|root| root.file_name().map(|name| name.to_string_lossy().into_owned()));
    let folder = folder.unwrap_or_default().to_lowercase();
    let plain: String = folder.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(32).collect();
    let plain = plain.trim_matches(|c: char| !c.is_ascii_alphabetic() && !c.is_ascii_digit());
    let plain = plain.trim_start_matches(|c: char| !c.is_ascii_alphabetic());
    if plain.is_empty() { "app".to_owned() } else { plain.to_owned() }
}

fn parse(text: &str) -> Result<Config> {
    Ok(Config::parse(text, &NoVars, &Overrides::default())?)
}

fn checked(text: String) -> Result<String> {
    parse(&text).map(|_| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> FunctionName {
        FunctionName::new("hello").unwrap()
    }

    #[test]
    fn a_new_project_runs_the_function_on_its_default_queue() {
        let text = with_function(None, &hello(), Path::new(".")).unwrap();
        assert!(default_runs(&parse(&text).unwrap(), &hello()), "{text}");
    }

    #[test]
    fn a_second_function_of_a_small_project_needs_two_lines() {
        let first = with_function(None, &hello(), Path::new(".")).unwrap();
        let second = with_function(Some(&first), &FunctionName::new("bye").unwrap(), Path::new(".")).unwrap();
        assert_eq!(second, format!("{first}\n[functions.bye]\npackage = \"bye\"\n"));
    }

    #[test]
    fn beside_a_default_queue_that_is_for_others_it_gets_its_own_queue_task_and_worker() {
        let text = "# mine\n[app]\nname = \"shop\"\n[queues.default]\nfunctions = [\"a\"]\n[workers.w]\nqueues = [\"default\"]\n[functions.a]\npackage = \"a\"\n";
        let changed = with_function(Some(text), &hello(), Path::new(".")).unwrap();
        assert!(changed.starts_with(text));
        let config = parse(&changed).unwrap();
        let task = TaskName::new("hello").unwrap();
        let queue = config.route(&task, None, None).unwrap();
        assert_eq!(queue.as_str(), "hello");
        assert!(config.workers.values().any(|worker| worker.queues.contains(&queue)));
    }

    #[test]
    fn a_name_that_is_taken_is_refused() {
        let first = with_function(None, &hello(), Path::new(".")).unwrap();
        let error = with_function(Some(&first), &hello(), Path::new(".")).unwrap_err();
        assert!(error.text().unwrap().contains("already"));
    }
}
