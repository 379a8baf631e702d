//! An application's place on an emulator of AWS: an emulator of its own, with its queues, table and bucket.

use std::{path::Path, sync::Arc};

use rhubarb::{
    Client,
    core::config::{Config, NoVars, Overrides},
};
use rhubarb_aws::{AwsBackend, AwsOptions, Connection};
use rhubarb_testkit::emulator::{Emulator, REGION};
use tokio::sync::OnceCell;

/// An emulator, and what was made on it.
pub struct Cloud {
    emulator: Emulator,
    made: OnceCell<AwsBackend>,
}

impl Cloud {
    /// Starts an emulator; nothing is made yet.
    #[must_use]
    pub fn start() -> Self {
        Self { emulator: Emulator::start(), made: OnceCell::new() }
    }

    /// What `[app]` says about it. The stage is this test's alone: an emulator may be shared.
    #[must_use]
    pub fn settings(&self) -> String {
        format!("stage = \"t{}\"\nbackend = \"aws\"\n", std::process::id())
    }

    /// The variables that lead a command to it.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        self.emulator.variables()
    }

    /// Where it listens.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        self.emulator.endpoint()
    }

    /// Makes the queues, the table and the bucket of the application in this folder, once.
    #[expect(clippy::expect_used, reason = "a test cannot go on without its queues")]
    pub async fn make(&self, folder: &Path) -> &AwsBackend {
        let make = async || {
            let options = AwsOptions { create: true, ..AwsOptions::default() };
            AwsBackend::over(self.connection(), &config(folder), options).await
        };
        self.made.get_or_try_init(make).await.expect("queues, table and bucket can be made")
    }

    /// A client of the application in this folder.
    pub async fn client(&self, folder: &Path) -> Client {
        let backend = self.make(folder).await.clone();
        Client::new(Arc::new(backend), Arc::new(config(folder)))
    }

    /// A connection to it and to nothing else.
    #[must_use]
    pub fn connection(&self) -> Connection {
        Connection::to_emulator(self.endpoint(), REGION)
    }
}

#[expect(clippy::expect_used, reason = "a test cannot go on without its configuration")]
fn config(folder: &Path) -> Config {
    let text = std::fs::read_to_string(folder.join("rhubarb.toml")).expect("rhubarb.toml is there");
    Config::parse(&text, &NoVars, &Overrides::default()).expect("the configuration is right")
}
