//! The broker over an emulator of SQS.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper that fails is a failed test")]

mod common;

use common::{RealTime, config, connection};
use rhubarb_aws::SqsBroker;
use rhubarb_core::limits::Limits;
use rhubarb_testkit::{emulator::Emulator, exercise};

#[tokio::test]
async fn the_broker_is_as_brokers_are() {
    let emulator = Emulator::start();
    let broker = SqsBroker::new(&connection(&emulator), &config(""), Limits::AWS, true);
    exercise::broker(&broker, &RealTime).await;
}
