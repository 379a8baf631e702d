//! How queues are named in spans: as the broker names them, so that a producer in any language and its consumer
//! here speak of the same destination.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use opentelemetry::{KeyValue, StringValue};
use rhubarb_core::{
    backend::Broker,
    config::{Backend, Config, QueueConfig},
    ids::QueueName,
};

use crate::names;

/// The queues of one application.
#[derive(Debug, Default)]
pub struct Queues {
    system: &'static str,
    by_name: BTreeMap<QueueName, Destination>,
}

#[derive(Debug)]
struct Destination {
    name: Arc<str>,
    url: OnceLock<Arc<str>>,
}

impl Queues {
    /// The queues of a configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let on_aws = config.app.backend == Backend::Aws;
        let by_name = config.queues.values().map(|queue| (queue.name.clone(), Destination::of(config, queue, on_aws)));
        Self { system: if on_aws { names::AWS_SQS } else { names::EMBEDDED }, by_name: by_name.collect() }
    }

    /// Asks the broker for the URLs of these queues. What it cannot say at the moment is left out of spans.
    pub async fn locate(&self, broker: &dyn Broker, queues: &[QueueName]) {
        for queue in queues {
            let Some(destination) = self.by_name.get(queue).filter(|queue| queue.url.get().is_none()) else { continue };
            if let Ok(Some(url)) = broker.locate(queue).await {
                // Somebody else may have been first, with the same URL.
                let _ = destination.url.set(url.into());
            }
        }
    }

    /// The destination's name, for a span's.
    pub(crate) fn name(&self, queue: &QueueName) -> Arc<str> {
        self.by_name.get(queue).map_or_else(|| queue.as_str().into(), |queue| Arc::clone(&queue.name))
    }

    /// What a measured attempt says of its queue.
    pub(crate) fn process(&self, queue: &QueueName) -> [KeyValue; 3] {
        [
            KeyValue::new(names::MESSAGING_SYSTEM, self.system),
            KeyValue::new(names::MESSAGING_OPERATION_NAME, names::PROCESS),
            KeyValue::new(names::MESSAGING_DESTINATION_NAME, StringValue::from(self.name(queue))),
        ]
    }

    /// What every span about this queue says.
    pub(crate) fn attributes(&self, queue: &QueueName, operation: &'static str) -> Vec<KeyValue> {
        let mut attributes = vec![
            KeyValue::new(names::MESSAGING_SYSTEM, self.system),
            KeyValue::new(names::MESSAGING_OPERATION_NAME, operation),
            KeyValue::new(names::MESSAGING_OPERATION_TYPE, operation),
            KeyValue::new(names::MESSAGING_DESTINATION_NAME, StringValue::from(self.name(queue))),
        ];
        let url = self.by_name.get(queue).and_then(|queue| queue.url.get());
        attributes.extend(url.map(|url| KeyValue::new(names::AWS_SQS_QUEUE_URL, StringValue::from(Arc::clone(url)))));
        attributes
    }
}

impl Destination {
    fn of(config: &Config, queue: &QueueConfig, on_aws: bool) -> Self {
        let url = queue.url.as_deref().filter(|_| on_aws);
        let name: Arc<str> = match url.and_then(|url| url.rsplit('/').next()) {
            Some(name) => name.into(),
            None if on_aws => config.app.aws_queue_name(queue).into(),
            None => queue.name.as_str().into(),
        };
        Self { name, url: url.map_or_else(OnceLock::new, |url| OnceLock::from(Arc::<str>::from(url))) }
    }
}
