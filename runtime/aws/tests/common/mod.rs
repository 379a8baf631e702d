//! What every test over an emulator begins with.

#![allow(dead_code, reason = "each test binary takes what it needs")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper that fails is a failed test")]

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_smithy_async::time::TimeSource;
use rhubarb_aws::Connection;
use rhubarb_core::{
    config::{Config, NoVars, Overrides},
    ids::TaskId,
    time::Timestamp,
};
use rhubarb_testkit::{
    Clockwork,
    emulator::{Emulator, REGION},
};

/// A connection to an emulator and to nothing else.
pub(crate) fn connection(emulator: &Emulator) -> Connection {
    connection_to(emulator.endpoint())
}

/// A connection to an endpoint of this machine.
pub(crate) fn connection_to(endpoint: &str) -> Connection {
    Connection::to_emulator(endpoint, REGION)
}

/// The same of a machine whose clock is wrong.
pub(crate) fn connection_of(clock: WrongClock, endpoint: &str) -> Connection {
    Connection::new(connection_to(endpoint).sdk().to_builder().time_source(clock).build())
}

/// The wall clock of a machine that goes right, but is so far ahead or behind.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WrongClock {
    Ahead(Duration),
    Behind(Duration),
}

impl TimeSource for WrongClock {
    fn now(&self) -> SystemTime {
        match self {
            Self::Ahead(by) => SystemTime::now() + *by,
            Self::Behind(by) => SystemTime::now() - *by,
        }
    }
}

/// Real time: an emulator is waited for.
pub(crate) struct RealTime;

#[async_trait]
impl Clockwork for RealTime {
    async fn advance(&self, by: Duration) {
        tokio::time::sleep(by).await;
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_system(SystemTime::now())
    }

    fn reach(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn passes_by_itself(&self) -> bool {
        true
    }

    fn lag(&self) -> Duration {
        Duration::from_secs(3)
    }
}

/// A configuration: an application of a name of its own, and these sections.
pub(crate) fn config(sections: &str) -> Config {
    let name = format!("t{}", TaskId::mint().to_string().rsplit('-').next().unwrap());
    let text = format!("[app]\nname = \"{name}\"\nbackend = \"aws\"\n[functions.f]\npackage = \"f\"\n{sections}");
    Config::parse(&text, &NoVars, &Overrides::default()).unwrap()
}
