//! The bootstrap on AWS: rows in DynamoDB, queues on SQS, blobs in S3.

use std::{process::ExitCode, sync::Arc};

use rhubarb_aws::{AwsBackend, AwsOptions};
use rhubarb_core::{
    backend::Backend,
    config::{Config, Overrides},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // What is deployed here serves SQS, also where the same file says `local` for a laptop.
    let overrides = Overrides { backend: Some("aws".to_owned()), ..Overrides::default() };
    rhubarb_lambda::run(overrides, async |config: &Config| {
        let backend = AwsBackend::connect(config, AwsOptions::default()).await?;
        Ok(Arc::new(backend) as Arc<dyn Backend>)
    })
    .await
}
