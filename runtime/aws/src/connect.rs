//! The connection that all clients share: HTTP with rustls, region and credentials from the standard
//! chain, time limits and retries set on purpose.
//!
//! A call that is refused, throttled or cut off is tried three times in all with jittered pauses; after
//! that the caller decides. A long poll is allowed its twenty seconds.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::http::SharedHttpClient;

/// Tries of one call: the first and two more.
const TRIES: u32 = 3;
/// A connection is there within this, or the try has failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest long poll (20 s), and time to carry ten messages of 1 MiB.
const READ_TIMEOUT: Duration = Duration::from_secs(35);

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
    /// For clients that are not AWS's own: the object store.
    pub(crate) http: SharedHttpClient,
}

impl Connection {
    /// Reads region, endpoint and credentials' source from the standard places. Connects to nothing yet.
    pub async fn load(options: &ConnectOptions) -> Self {
        let http =
            aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http.clone())
            .retry_config(RetryConfig::standard().with_max_attempts(TRIES))
            .timeout_config(
                TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT).build(),
            );
        if let Some(url) = &options.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        Self { config: loader.load().await, http }
    }

    /// The region, if one is configured.
    #[must_use]
    pub fn region(&self) -> Option<&Region> {
        self.config.region()
    }
}
