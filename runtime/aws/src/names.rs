//! Which queue of SQS a queue of the configuration is: its name, its kind, and its URL once SQS has told it.
//!
//! A URL is asked for once and kept, until a call says that the queue has gone. A queue with a `url` of its own
//! is never asked for. Everything here is lost with the process and found again at the next call.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use rhubarb_core::{config::Config, ids::QueueName};

/// What a dead-letter queue's name ends in.
const DEAD: &str = "-dead";
/// What a FIFO queue's name ends in, as SQS wants it.
const FIFO: &str = ".fifo";

/// A queue as SQS knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// Its name on SQS.
    pub(crate) name: String,
    /// Whether it keeps the order of its groups.
    pub(crate) fifo: bool,
    /// Where it is, if the configuration says so: then it is somebody else's, and we only use it.
    pub(crate) url: Option<Arc<str>>,
}

/// The queues of an application.
#[derive(Debug)]
pub(crate) struct Names {
    prefix: String,
    known: HashMap<QueueName, Named>,
    urls: RwLock<HashMap<QueueName, Arc<str>>>,
    max_receives: RwLock<HashMap<QueueName, u32>>,
}

impl Names {
    /// The queues of a configuration. A queue that it does not have is a standard one.
    pub(crate) fn of(config: &Config) -> Self {
        let known: HashMap<_, _> = config
            .queues
            .values()
            .map(|queue| {
                let name = config.app.aws_queue_name(queue);
                (queue.name.clone(), Named { name, fifo: queue.fifo, url: queue.url.as_deref().map(Arc::from) })
            })
            .collect();
        let max_receives = config.queues.values().map(|queue| (queue.name.clone(), queue.max_receives)).collect();
        Self {
            prefix: format!("{}-{}-", config.app.name, config.app.stage),
            known,
            urls: RwLock::default(),
            max_receives: RwLock::new(max_receives),
        }
    }

    /// The queue on SQS.
    pub(crate) fn get(&self, queue: &QueueName) -> Named {
        if let Some(named) = self.known.get(queue) {
            return named.clone();
        }
        let fifo = self.is_dead_of_fifo(queue);
        let suffix = if fifo { FIFO } else { "" };
        Named { name: format!("{}{queue}{suffix}", self.prefix), fifo, url: None }
    }

    /// True if the queue keeps the order of its groups.
    pub(crate) fn is_fifo(&self, queue: &QueueName) -> bool {
        self.known.get(queue).map_or_else(|| self.is_dead_of_fifo(queue), |named| named.fifo)
    }

    /// A FIFO queue's dead letters go to a FIFO queue: SQS allows no other.
    fn is_dead_of_fifo(&self, queue: &QueueName) -> bool {
        let source = queue.as_str().strip_suffix(DEAD);
        source.is_some_and(|source| self.known.get(source).is_some_and(|named| named.fifo))
    }

    /// The URL, if it is known.
    pub(crate) fn url(&self, queue: &QueueName) -> Option<Arc<str>> {
        let own = self.known.get(queue).and_then(|named| named.url.clone());
        own.or_else(|| self.urls.read().unwrap_or_else(PoisonError::into_inner).get(queue).cloned())
    }

    /// Keeps a URL.
    pub(crate) fn found(&self, queue: &QueueName, url: Arc<str>) {
        self.urls.write().unwrap_or_else(PoisonError::into_inner).insert(queue.clone(), url);
    }

    /// Forgets a URL that leads nowhere.
    pub(crate) fn lost(&self, queue: &QueueName) {
        self.urls.write().unwrap_or_else(PoisonError::into_inner).remove(queue);
    }

    /// After how many receives SQS moves a message aside, as far as we know.
    pub(crate) fn max_receives(&self, queue: &QueueName) -> Option<u32> {
        self.max_receives.read().unwrap_or_else(PoisonError::into_inner).get(queue).copied()
    }

    /// Notes after how many receives SQS moves a message aside; `None` where it never does.
    pub(crate) fn note_max_receives(&self, queue: &QueueName, max: Option<u32>) {
        let mut known = self.max_receives.write().unwrap_or_else(PoisonError::into_inner);
        match max {
            Some(max) => known.insert(queue.clone(), max),
            None => known.remove(queue),
        };
    }
}

/// The account that a queue's URL names: `https://sqs.REGION.amazonaws.com/ACCOUNT/NAME`.
pub(crate) fn account_of(url: &str) -> Option<&str> {
    let account = url.rsplit('/').nth(1)?;
    (account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit())).then_some(account)
}

#[cfg(test)]
mod tests {
    use rhubarb_core::config::{NoVars, Overrides};

    use super::*;

    const TEXT: &str = r#"
        [app]
        name = "shop"
        stage = "prod"
        [queues.orders]
        fifo = true
        functions = ["f"]
        [queues.theirs]
        functions = ["f"]
        url = "https://sqs.eu-central-1.amazonaws.com/123456789012/legacy"
        max_receives = 7
        [functions.f]
        package = "f"
    "#;

    fn queue(name: &str) -> QueueName {
        QueueName::new(name).unwrap()
    }

    #[test]
    fn a_queue_has_the_name_that_the_deployment_gives_it() {
        let names = Names::of(&Config::parse(TEXT, &NoVars, &Overrides::default()).unwrap());
        assert_eq!(names.get(&queue("orders")).name, "shop-prod-orders.fifo");
        assert_eq!(names.get(&queue("orders-dead")).name, "shop-prod-orders-dead.fifo");
        assert_eq!(names.get(&queue("default")).name, "shop-prod-default");
        assert_eq!(names.get(&queue("default-dead")).name, "shop-prod-default-dead");
        assert!(names.is_fifo(&queue("orders-dead")) && !names.is_fifo(&queue("default-dead")));
        assert_eq!(names.max_receives(&queue("theirs")), Some(7));
    }

    #[test]
    fn a_queue_with_a_url_is_not_asked_for() {
        let names = Names::of(&Config::parse(TEXT, &NoVars, &Overrides::default()).unwrap());
        let url = names.url(&queue("theirs")).unwrap();
        assert!(url.ends_with("/legacy"));
        names.lost(&queue("theirs"));
        assert_eq!(names.url(&queue("theirs")), Some(url));
        assert_eq!(names.url(&queue("default")), None);
    }

    #[test]
    fn the_account_is_read_from_a_url() {
        assert_eq!(account_of("https://sqs.eu-central-1.amazonaws.com/123456789012/q"), Some("123456789012"));
        assert_eq!(account_of("http://127.0.0.1:4566/000000000000/q.fifo"), Some("000000000000"));
        assert_eq!(account_of("http://127.0.0.1:4566/queue/q"), None);
    }
}
