//! One value with every face, and the receives behind its takes.
//!
//! Queue and table are two services, so the joined verbs are the two-step ones of the core: row first, then the
//! queue. A take differs in where its deliveries come from ([`crate::poll`]) and in that worn messages are sent
//! anew ([`crate::worn`]).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use rhubarb_core::{
    backend::{
        Backend, Blobs, Broker, ClaimPolicy, Delivery, QueueSpec, Result, Schedules, StoreError, Take, Taken, Tasks,
        Workers, claim_deliveries,
    },
    config::{Config, QueueConfig},
    ids::QueueName,
    limits::Limits,
};

use crate::{
    blobs::S3Blobs,
    broker::SqsBroker,
    connect::{ConnectOptions, Connection},
    names::account_of,
    poll::Polls,
    schedules::AwsSchedules,
    table::{DynamoTasks, DynamoWorkers, Table},
    worn,
};

/// Messages of one take: ten receives at once, ten messages each.
const TAKE_MAX: usize = 100;
/// How long a closed backend waits for its long polls.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// How to open the backend.
#[derive(Clone, Debug)]
pub struct AwsOptions {
    /// What is not left to the standard chain.
    pub connect: ConnectOptions,
    /// Makes queues, table and bucket that are missing: for tests and quick starts on an emulator.
    pub create: bool,
    /// What may be asked for.
    pub limits: Limits,
}

impl Default for AwsOptions {
    /// The standard chain, nothing is made, AWS's limits.
    fn default() -> Self {
        Self { connect: ConnectOptions::default(), create: false, limits: Limits::AWS }
    }
}

/// The backend on AWS: SQS, one DynamoDB table, S3. Cheap to clone; clones share what they know.
#[derive(Clone, Debug)]
pub struct AwsBackend {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    connection: Connection,
    broker: SqsBroker,
    polls: Polls,
    table: Table,
    tasks: DynamoTasks,
    workers: DynamoWorkers,
    schedules: AwsSchedules,
    blobs: S3Blobs,
}

impl AwsBackend {
    /// Opens the backend of a configuration: endpoint, region and credentials by `options` and the standard chain.
    ///
    /// # Errors
    ///
    /// `Broken` names what is missing (region, credentials, queue, table, bucket) and how to mend it.
    pub async fn connect(config: &Config, options: AwsOptions) -> Result<Self> {
        let connection = Connection::load(&options.connect).await;
        Self::over(connection, config, options).await
    }

    /// Opens the backend over a connection of one's own. `options.connect` is not looked at.
    ///
    /// # Errors
    ///
    /// As [`Self::connect`].
    pub async fn over(connection: Connection, config: &Config, options: AwsOptions) -> Result<Self> {
        let AwsOptions { create, limits, .. } = options;
        let broker = SqsBroker::new(&connection, config, limits.clone(), create);
        let table = Table::new(&connection, &config.app.aws_table_name()).with_limits(limits.clone());
        if create {
            let specs: Vec<QueueSpec> = config.queues.values().map(spec_of).collect();
            broker.declare(&specs).await?;
            table.create().await?;
        }
        let blobs = S3Blobs::new(&connection, &bucket_of(config, &broker).await?, "")?;
        if create {
            blobs.create().await?;
        }
        let inner = Inner {
            polls: Polls::new(broker.clone()),
            tasks: DynamoTasks::new(table.clone()),
            workers: DynamoWorkers::new(table.clone()),
            schedules: AwsSchedules::new(&connection, config, &broker, &table, limits),
            connection,
            broker,
            table,
            blobs,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Checks that table and bucket are there and as they must be. The queues are checked where they are declared.
    ///
    /// # Errors
    ///
    /// `Broken` says what is wrong and how to mend it.
    pub async fn verify(&self) -> Result<()> {
        self.inner.table.verify().await?;
        self.inner.blobs.verify().await
    }

    /// A queue's URL, as plain producers want it.
    ///
    /// # Errors
    ///
    /// `NoQueue`, or SQS cannot be reached.
    pub async fn queue_url(&self, queue: &QueueName) -> Result<Arc<str>> {
        self.inner.broker.url(queue).await
    }

    /// How many requests were sent so far, by operation: `SQS.ReceiveMessage`.
    #[must_use]
    pub fn requests(&self) -> BTreeMap<String, u64> {
        self.inner.connection.requests()
    }
}

#[async_trait]
impl Backend for AwsBackend {
    fn broker(&self) -> &dyn Broker {
        &self.inner.broker
    }

    fn tasks(&self) -> &dyn Tasks {
        &self.inner.tasks
    }

    fn blobs(&self) -> &dyn Blobs {
        &self.inner.blobs
    }

    fn schedules(&self) -> &dyn Schedules {
        &self.inner.schedules
    }

    fn workers(&self) -> &dyn Workers {
        &self.inner.workers
    }

    async fn take(&self, take: Take<'_>) -> Result<Taken> {
        let Take { policy, worker, max, wait } = take;
        let deliveries = self.deliveries(&policy.queue, max, policy.lease, wait).await?;
        let received = deliveries.len();
        let deliveries = self.send_worn_anew(policy, deliveries).await;
        let sent_anew = received - deliveries.len();
        let mut taken = claim_deliveries(self, policy, worker, deliveries).await.taken;
        // Gone from the queue without a task: the taker looks again.
        taken.idle += sent_anew;
        Ok(taken)
    }

    async fn deliveries(
        &self,
        queue: &QueueName,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Delivery>> {
        self.inner.polls.take(queue, max.min(TAKE_MAX), visibility, wait).await
    }

    async fn send_worn_anew(&self, policy: &ClaimPolicy, deliveries: Vec<Delivery>) -> Vec<Delivery> {
        worn::send_anew(&self.inner.broker, &policy.queue, policy.raw_task.as_ref(), deliveries).await
    }

    async fn wait_ready(&self, queues: &[QueueName], wait: Duration) -> Result<()> {
        self.inner.polls.wait_ready(queues, wait).await
    }

    async fn close(&self) {
        self.inner.polls.close(CLOSE_WITHIN).await;
    }
}

/// A queue as the deployment makes it.
fn spec_of(queue: &QueueConfig) -> QueueSpec {
    let dead_letters = queue.dead_letters();
    let max_receives = dead_letters.is_some().then_some(queue.max_receives);
    QueueSpec { queue: queue.name.clone(), max_receives, dead_letters }
}

/// The bucket: named, or by the account, which any queue's URL tells.
async fn bucket_of(config: &Config, broker: &SqsBroker) -> Result<String> {
    if config.app.bucket.is_some() {
        return Ok(config.app.aws_bucket_name(""));
    }
    // A queue with a URL of its own may be another account's.
    let (own, foreign): (Vec<&QueueConfig>, Vec<&QueueConfig>) =
        config.queues.values().partition(|queue| queue.url.is_none());
    for queue in own.into_iter().chain(foreign) {
        match broker.url(&queue.name).await {
            Ok(url) => {
                if let Some(account) = account_of(&url) {
                    return Ok(config.app.aws_bucket_name(account));
                }
            }
            Err(StoreError::NoQueue(_)) => {}
            Err(error) => return Err(error),
        }
    }
    let name = config.app.aws_bucket_name("<account>");
    let fix = format!(
        "its bucket is `{name}`, and no queue of it is there to tell the account: deploy it (`rhubarb deploy template`), \
         name the bucket (`bucket` in [app], RHUBARB_BUCKET), or check AWS_REGION and AWS_ENDPOINT_URL"
    );
    Err(StoreError::Broken { what: format!("find the application `{}`", config.app.name), fix })
}
