//! Are the queues there, and as the configuration wants them?
//!
//! The deployment makes queues; a start only looks. A queue that is missing or contradicts the configuration is
//! an error that names the queue, the attribute, what was found and what is right. Tests and quick starts on an
//! emulator may have missing queues made; what exists is never changed. A queue that the configuration names by
//! its `url` is somebody else's: it must be there, and its own count of receives is gone by.
//!
//! Whether a queue is a FIFO queue needs no look: SQS lets no other have a name that ends in `.fifo`, the names
//! here are made so, and the configuration checks those that come with a `url`.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_sqs::types::QueueAttributeName;
use futures::future::try_join_all;
use rhubarb_core::{
    backend::{QueueSpec, Result, StoreError},
    ids::QueueName,
};
use serde::{Deserialize, Serialize};

use super::SqsBroker;
use crate::names::Named;

/// Queues that are looked at at the same time.
const AT_ONCE: usize = 8;

type Attributes = HashMap<QueueAttributeName, String>;

/// The attribute that says when a message moves aside, and where to.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RedrivePolicy {
    dead_letter_target_arn: String,
    /// A number, or one in quotes: SQS takes both and gives back what it was given.
    max_receive_count: serde_json::Value,
}

impl RedrivePolicy {
    fn max_receives(&self) -> Option<u32> {
        match &self.max_receive_count {
            serde_json::Value::Number(number) => u32::try_from(number.as_u64()?).ok(),
            serde_json::Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }

    fn dead_letters(&self) -> &str {
        self.dead_letter_target_arn.rsplit(':').next().unwrap_or_default()
    }
}

impl SqsBroker {
    pub(super) async fn declare_all(&self, specs: &[QueueSpec]) -> Result<()> {
        // Dead letters first: a queue can only name what exists.
        let dead: BTreeSet<&QueueName> = specs.iter().filter_map(|spec| self.own_dead_letters(spec)).collect();
        for some in Vec::from_iter(dead).chunks(AT_ONCE) {
            try_join_all(some.iter().map(|queue| self.declare_dead(queue))).await?;
        }
        for some in specs.chunks(AT_ONCE) {
            try_join_all(some.iter().map(|spec| self.declare_one(spec))).await?;
        }
        Ok(())
    }

    /// The dead-letter queue, where it is ours to look after.
    fn own_dead_letters<'a>(&self, spec: &'a QueueSpec) -> Option<&'a QueueName> {
        let foreign = self.inner.names.get(&spec.queue).url.is_some();
        spec.dead_letters.as_ref().filter(|_| !foreign)
    }

    async fn declare_dead(&self, queue: &QueueName) -> Result<()> {
        let named = self.inner.names.get(queue);
        let found = self.found_or_made(queue, &named, None).await?;
        self.check_own(queue, &named, &found)
    }

    async fn declare_one(&self, spec: &QueueSpec) -> Result<()> {
        let QueueSpec { queue, max_receives, .. } = spec;
        let named = self.inner.names.get(queue);
        let dead = self.own_dead_letters(spec);
        let redrive = max_receives.zip(dead);
        let found = self.found_or_made(queue, &named, redrive).await?;
        let policy = found.get(&QueueAttributeName::RedrivePolicy).map(String::as_str).filter(|text| !text.is_empty());
        let policy: Option<RedrivePolicy> = policy.and_then(|text| serde_json::from_str(text).ok());
        if named.url.is_some() {
            warn_of_retention(queue, &found, self.retention());
        } else {
            self.check_own(queue, &named, &found)?;
            if let Some((max, dead)) = redrive {
                check_redrive(queue, &named, policy.as_ref(), max, &self.inner.names.get(dead).name)?;
            }
        }
        self.inner.names.note_max_receives(queue, policy.and_then(|policy| policy.max_receives()));
        Ok(())
    }

    /// The attributes of a queue, which is made first where it may be.
    async fn found_or_made(
        &self,
        queue: &QueueName,
        named: &Named,
        redrive: Option<(u32, &QueueName)>,
    ) -> Result<Attributes> {
        match self.attributes(queue).await {
            Err(StoreError::NoQueue(_)) if self.inner.create && named.url.is_none() => {
                self.make(queue, named, redrive).await?;
                self.attributes(queue).await
            }
            Err(StoreError::NoQueue(_)) => Err(self.missing(queue, named)),
            other => other,
        }
    }

    async fn attributes(&self, queue: &QueueName) -> Result<Attributes> {
        let url = self.url(queue).await?;
        let request = self.inner.client.get_queue_attributes().queue_url(&*url);
        let answer = request.attribute_names(QueueAttributeName::All).send().await;
        let answer = answer.map_err(|error| self.failed("read the attributes of", queue, &error))?;
        Ok(answer.attributes.unwrap_or_default())
    }

    /// A queue's ARN, as SQS knows it.
    pub(crate) async fn arn(&self, queue: &QueueName) -> Result<String> {
        Ok(self.attributes(queue).await?.remove(&QueueAttributeName::QueueArn).unwrap_or_default())
    }

    async fn make(&self, queue: &QueueName, named: &Named, redrive: Option<(u32, &QueueName)>) -> Result<()> {
        let mut request = self
            .inner
            .client
            .create_queue()
            .queue_name(&named.name)
            .attributes(QueueAttributeName::MessageRetentionPeriod, self.retention().to_string());
        if named.fifo {
            request = request.attributes(QueueAttributeName::FifoQueue, "true");
        }
        if let Some((max, dead)) = redrive {
            let arn = self.arn(dead).await?;
            let policy = RedrivePolicy { dead_letter_target_arn: arn, max_receive_count: max.into() };
            let policy = serde_json::to_string(&policy).map_err(|error| StoreError::Invalid(error.to_string()))?;
            request = request.attributes(QueueAttributeName::RedrivePolicy, policy);
        }
        let answer = request.send().await.map_err(|error| self.failed("make", queue, &error))?;
        self.inner.names.found(queue, answer.queue_url.unwrap_or_default().into());
        Ok(())
    }

    /// Seconds that a queue keeps a message.
    fn retention(&self) -> u64 {
        self.inner.limits.retention.as_secs()
    }

    fn missing(&self, queue: &QueueName, named: &Named) -> StoreError {
        let (name, region) = (&named.name, &self.inner.region);
        let fix = match &named.url {
            Some(url) => format!("SQS has no queue at {url}: check `url` of [queues.{queue}]"),
            None => format!(
                "SQS has no queue `{name}` in {region}: deploy the application (`rhubarb deploy template`), or check \
                 `name` and `stage` of [app], AWS_REGION and AWS_ENDPOINT_URL"
            ),
        };
        StoreError::Broken { what: format!("use queue `{queue}`"), fix }
    }

    /// What must hold of every queue of ours: a message outlives a long weekend, and its task's row outlives it.
    fn check_own(&self, queue: &QueueName, named: &Named, found: &Attributes) -> Result<()> {
        let (retention, right) = (retention_of(found), self.retention());
        if retention != Some(right) {
            return Err(contradiction(queue, named, "MessageRetentionPeriod", &show(retention), &right.to_string()));
        }
        Ok(())
    }
}

fn check_redrive(queue: &QueueName, named: &Named, policy: Option<&RedrivePolicy>, max: u32, dead: &str) -> Result<()> {
    let found = policy.and_then(RedrivePolicy::max_receives);
    if found != Some(max) {
        return Err(contradiction(queue, named, "RedrivePolicy's maxReceiveCount", &show(found), &max.to_string()));
    }
    match policy.map(RedrivePolicy::dead_letters) {
        Some(found) if found == dead => Ok(()),
        found => Err(contradiction(queue, named, "RedrivePolicy's deadLetterTargetArn", &show(found), dead)),
    }
}

fn retention_of(found: &Attributes) -> Option<u64> {
    found.get(&QueueAttributeName::MessageRetentionPeriod)?.parse().ok()
}

fn warn_of_retention(queue: &QueueName, found: &Attributes, right: u64) {
    if let Some(retention) = retention_of(found).filter(|retention| *retention < right) {
        tracing::warn!(
            queue.name = %queue, retention_seconds = retention,
            "queue {queue} forgets messages after {retention} s; {right} s (14 days) outlive a long weekend",
        );
    }
}

fn show(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

fn contradiction(queue: &QueueName, named: &Named, attribute: &str, found: &str, right: &str) -> StoreError {
    let name = &named.name;
    let fix = format!(
        "its {attribute} on SQS (`{name}`) is {found}, the configuration wants {right}: deploy the template again, or \
         change [queues.{queue}]"
    );
    StoreError::Broken { what: format!("use queue `{queue}`"), fix }
}
