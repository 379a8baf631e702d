//! What every test over an emulator begins with.

#![allow(dead_code, reason = "each test binary takes what it needs")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper that fails is a failed test")]

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
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
    let credentials = Credentials::new("test", "test", None, None, "test");
    Connection::new(
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .endpoint_url(endpoint)
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .build(),
    )
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
