//! Which queue a task goes to, and what the configuration knows about who runs it there.

use super::{Config, bounds::DEFAULT_NAME, mistake::suggest};
use crate::{
    ids::{QueueName, TaskName},
    routing::Routes,
};

/// The queue of tasks that name none. It exists in every configuration.
#[must_use]
pub fn default_queue() -> QueueName {
    #[expect(clippy::expect_used, reason = "a constant that a test reads")]
    QueueName::new(DEFAULT_NAME).expect("`default` is a valid queue name")
}

/// Says why a task has no queue to go to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{by} sends task `{task}` to queue `{queue}`, which does not exist; {fix}")]
pub struct RouteError {
    /// The task.
    pub task: TaskName,
    /// The queue that does not exist.
    pub queue: QueueName,
    /// Who named it.
    pub by: RoutedBy,
    fix: String,
}

/// What decided the queue of a task; each beats those below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoutedBy {
    /// The option of the call.
    Call,
    /// The configuration's `[tasks.NAME]`.
    Config,
    /// The task's type.
    Type,
    /// Nobody: it is `default`.
    Nobody,
}

impl std::fmt::Display for RoutedBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Call => "the call",
            Self::Config => "the configuration",
            Self::Type => "the task's type",
            Self::Nobody => "nobody",
        })
    }
}

impl Config {
    /// Decides the queue of a task: what the call says, else `[tasks.NAME]`, else what the task's
    /// type says, else `default`.
    ///
    /// # Errors
    ///
    /// The queue so named does not exist.
    pub fn route(
        &self,
        task: &TaskName,
        of_call: Option<&QueueName>,
        of_type: Option<&QueueName>,
    ) -> Result<QueueName, RouteError> {
        let of_config = self.tasks.get(task).and_then(|task| task.queue.as_ref());
        let named = [(RoutedBy::Call, of_call), (RoutedBy::Config, of_config), (RoutedBy::Type, of_type)];
        let (by, queue) = named
            .into_iter()
            .find_map(|(by, queue)| queue.map(|queue| (by, queue.clone())))
            .unwrap_or_else(|| (RoutedBy::Nobody, default_queue()));
        if self.queues.contains_key(&queue) {
            return Ok(queue);
        }
        let fix = suggest(queue.as_str(), self.queues.keys().map(QueueName::as_str));
        Err(RouteError { task: task.clone(), queue, by, fix })
    }

    /// Returns the functions of a queue with what the configuration says about who runs which task.
    /// What they say themselves at their first start comes to it later. None: no such queue.
    #[must_use]
    pub fn routes(&self, queue: &QueueName) -> Option<Routes> {
        let functions = &self.queue(queue)?.functions;
        let pinned = self.tasks.values().filter_map(|task| {
            let function = task.function.as_ref().filter(|function| functions.contains(function))?;
            Some((task.name.clone(), function.clone()))
        });
        Some(Routes::new(functions.clone(), pinned.collect()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{NoVars, Overrides};

    const FILE: &str = r#"
        [app]
        name = "shop"
        [functions.mail]
        package = "mail"
        [functions.stock]
        package = "stock"
        [queues.high]
        functions = ["mail", "stock"]
        [queues.low]
        functions = ["mail"]
        [workers.all]
        queues = ["high", "low"]
        [tasks.send_mail]
        queue = "low"
        [tasks.count_stock]
        function = "stock"
    "#;

    fn config() -> Config {
        Config::parse(FILE, &NoVars, &Overrides::default()).unwrap()
    }

    fn queue(name: &str) -> QueueName {
        QueueName::new(name).unwrap()
    }

    fn task(name: &str) -> TaskName {
        TaskName::new(name).unwrap()
    }

    #[test]
    fn the_call_beats_the_configuration_which_beats_the_type() {
        let (config, high, low) = (config(), queue("high"), queue("low"));
        let mail = task("send_mail");
        assert_eq!(config.route(&mail, Some(&high), Some(&high)), Ok(high.clone()));
        assert_eq!(config.route(&mail, None, Some(&high)), Ok(low.clone()));
        assert_eq!(config.route(&task("other"), None, Some(&low)), Ok(low));
        assert_eq!(config.route(&task("other"), None, None), Ok(default_queue()));
    }

    #[test]
    fn an_unknown_queue_names_who_asked_for_it_and_what_was_meant() {
        let error = config().route(&task("other"), Some(&queue("hihg")), None).unwrap_err();
        assert_eq!(error.by, RoutedBy::Call);
        assert_eq!(
            error.to_string(),
            "the call sends task `other` to queue `hihg`, which does not exist; did you mean \"high\"?"
        );
    }

    #[test]
    fn a_function_is_known_where_the_task_names_it_or_the_queue_has_one() {
        let config = config();
        let (mail, stock) = ("mail".parse().unwrap(), "stock".parse().unwrap());
        let (high, low) = (config.routes(&queue("high")).unwrap(), config.routes(&queue("low")).unwrap());
        assert_eq!(high.function_of(&task("count_stock")), Some(&stock));
        assert_eq!(high.function_of(&task("other")), None, "one of two: they say at their start");
        assert_eq!(low.function_of(&task("other")), Some(&mail));
        assert_eq!(low.function_of(&task("count_stock")), Some(&mail), "not a function of this queue");
        assert!(config.routes(&queue("none")).is_none());
    }

    proptest! {
        #[test]
        fn a_route_ends_at_a_queue_that_exists_and_the_first_who_names_one_decides(
            name in "[a-z][a-z_]{0,11}", of_call in proptest::option::of("high|low|none"), of_type in proptest::option::of("high|low|none"),
        ) {
            let config = config();
            let (of_call, of_type) = (of_call.as_deref().map(queue), of_type.as_deref().map(queue));
            let first = of_call.clone().or(of_type.clone()).unwrap_or_else(default_queue);
            match config.route(&task(&name), of_call.as_ref(), of_type.as_ref()) {
                Ok(queue) => {
                    prop_assert!(config.queue(&queue).is_some());
                    prop_assert_eq!(queue, first);
                }
                Err(error) => prop_assert_eq!(error.queue.as_str(), "none"),
            }
        }
    }
}
