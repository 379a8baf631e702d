//! Rhubarb's backend on AWS: queues on SQS, rows in one DynamoDB table, blobs in S3, schedules on
//! EventBridge Scheduler.
//!
//! # What an emulator does otherwise
//!
//! The tests run over emulators, which accept what AWS refuses and refuse what it accepts. Where that matters, our
//! own code keeps AWS's rule, and a test with made-up answers (`scripted`) shows it.
//!
//! | the rule of AWS | the emulator | who keeps the rule |
//! |---|---|---|
//! | SQS: a delay of 900 s at most | MiniStack accepts more | the limits, before the send |
//! | SQS: hidden for 12 hours at most, counted from the receive | MiniStack accepts more | `broker::receipts` cuts the extension |
//! | SQS: 10 attributes a message, 1 MiB with its attributes | MiniStack counts the body alone | the limits, before the send |
//! | SQS: a delete with an older receipt of a message is answered with success | MiniStack: `ReceiptHandleIsInvalid` | taken as success |
//! | SQS: a purge within 60 s of another is refused | MiniStack purges | the purge waits and asks again |
//! | SQS: `AWSTraceHeader` of each message of a batch | MiniStack loses it in batches | nobody: a trace breaks there |
//! | SQS: counts are about, and a short poll may miss messages | MiniStack is exact | callers look again |
//! | SQS: fair queues (`MessageGroupId` on a standard queue) share by group | MiniStack keeps the order of sending | nobody: an emulator's order is not fair |
//! | Scheduler: the placeholder of the tick's time is filled in | MiniStack leaves it as it is | the claim, from the schedule's rule and the time of sending |
//! | Scheduler: at most a minute late, rates at even distances | MiniStack looks every 10 s, and counts on from there | nobody: each firing is one task |

mod backend;
mod blobs;
mod broker;
mod connect;
mod error;
mod names;
mod poll;
mod requests;
mod schedules;
#[cfg(test)]
mod scripted;
mod table;
mod worn;

pub use backend::{AwsBackend, AwsOptions};
pub use blobs::S3Blobs;
pub use broker::SqsBroker;
pub use connect::{ConnectOptions, Connection};
pub use schedules::AwsSchedules;
pub use table::{DynamoSchedules, DynamoTasks, DynamoWorkers, ServerClock, Table};
