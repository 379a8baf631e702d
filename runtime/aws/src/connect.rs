//! The connection that all clients share: HTTP with rustls, region and credentials from the standard
//! chain, time limits and retries set on purpose.
//!
//! A call that is refused, throttled or cut off is tried three times in all with jittered pauses; after
//! that the caller decides. A long poll is allowed its twenty seconds. Every request is counted
//! ([`Connection::requests`]), the repeated ones too: they are what AWS bills.

use std::{collections::BTreeMap, time::Duration};

use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_smithy_http_client::{
    Connector,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::http::{HttpConnectorSettings, SharedHttpClient, SharedHttpConnector};

use crate::requests::Requests;

/// The one TLS stack: `ring`, which builds in seconds.
const TLS: Provider = Provider::Rustls(CryptoMode::Ring);
/// Tries of one call: the first and two more.
pub(crate) const TRIES: u32 = 3;
/// No try begins later than this after the first.
pub(crate) const RETRY_TIME_MAX: Duration = Duration::from_secs(60);
/// A connection is there within this, or the try has failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest long poll (20 s), and time to carry ten messages of 1 MiB.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(35);

/// What is not left to the standard chain.
#[derive(Clone, Debug, Default)]
pub struct ConnectOptions {
    /// Instead of AWS's own endpoints: an emulator's. Also `AWS_ENDPOINT_URL`.
    pub endpoint_url: Option<String>,
}

/// What every client is made from.
#[derive(Clone, Debug)]
pub struct Connection {
    pub(crate) config: SdkConfig,
    /// To be given to every client as an interceptor.
    pub(crate) requests: Requests,
}

impl Connection {
    /// Reads region, endpoint and credentials' source from the standard places. Connects to nothing yet.
    pub async fn load(options: &ConnectOptions) -> Self {
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http_client());
        if let Some(url) = &options.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        Self::new(loader.load().await)
    }

    /// A connection to an emulator and to nothing else: its endpoint, with the credentials `test` that emulators
    /// take. Nothing is read from the environment.
    #[must_use]
    pub fn to_emulator(endpoint: &str, region: &'static str) -> Self {
        let credentials = Credentials::new("test", "test", None, None, "emulator");
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static(region))
            .endpoint_url(endpoint)
            .credentials_provider(SharedCredentialsProvider::new(credentials));
        Self::new(config.build())
    }

    /// A connection with a configuration of one's own: region, endpoint and credentials are taken as they are,
    /// and so is its HTTP client where it has one. Retries and time limits are ours.
    #[must_use]
    pub fn new(config: SdkConfig) -> Self {
        let http = config.http_client().unwrap_or_else(http_client);
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT).build();
        let config = config
            .into_builder()
            .http_client(http)
            .retry_config(RetryConfig::standard().with_max_attempts(TRIES))
            .timeout_config(timeouts)
            .build();
        Self { config, requests: Requests::default() }
    }

    /// What the clients of AWS's own crates are made from: with our HTTP client, time limits and retries.
    #[must_use]
    pub const fn sdk(&self) -> &SdkConfig {
        &self.config
    }

    /// The region, if one is configured.
    #[must_use]
    pub fn region(&self) -> Option<&Region> {
        self.config.region()
    }

    /// The HTTP of these clients for one that is not AWS's own, the object store: the same TLS and time limits.
    pub(crate) fn connector(&self) -> SharedHttpConnector {
        let settings =
            HttpConnectorSettings::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT).build();
        SharedHttpConnector::new(Connector::builder().connector_settings(settings).tls_provider(TLS).build())
    }

    /// How many requests its clients have sent so far, by operation: `SQS.ReceiveMessage`.
    #[must_use]
    pub fn requests(&self) -> BTreeMap<String, u64> {
        self.requests.counts()
    }
}

fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().tls_provider(TLS).build_https()
}
