//! Rhubarb's backend on AWS: queues on SQS, rows in one DynamoDB table, blobs in S3.

mod broker;
mod connect;
mod error;
mod names;
mod requests;

pub use broker::SqsBroker;
pub use connect::{ConnectOptions, Connection};
