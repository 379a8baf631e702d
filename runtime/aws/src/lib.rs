//! Rhubarb's backend on AWS: queues on SQS, rows in one DynamoDB table, blobs in S3.

mod blobs;
mod broker;
mod connect;
mod error;
mod names;
mod requests;
mod table;

pub use blobs::S3Blobs;
pub use broker::SqsBroker;
pub use connect::{ConnectOptions, Connection};
pub use table::{DynamoSchedules, DynamoTasks, DynamoWorkers, ServerClock, Table};
