//! Rhubarb's backend on AWS: queues on SQS, rows in one DynamoDB table, blobs in S3.

mod connect;
mod error;
mod requests;

pub use connect::{ConnectOptions, Connection};
