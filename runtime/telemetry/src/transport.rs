//! The way to a collector: the HTTP client that is in the tree anyway, on a thread of its own.
//!
//! An exporter is driven by the SDK's threads, which know no runtime, and must go on while the runtime of the
//! program is busy or blocked. So requests run on a runtime of one thread that does nothing else.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use http::{Request, Response};
use opentelemetry_http::{Bytes, HttpClient, HttpError, hyper::HyperClient};
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::settings::Exporter;

/// The thread that talks to collectors. Dropping it ends what is under way.
#[derive(Debug)]
pub struct Transport {
    handle: Handle,
    /// Taken by the end alone.
    runtime: Option<Runtime>,
}

impl Transport {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// The system gives no thread.
    pub fn start() -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("telemetry").enable_all().build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// A client whose requests take so long at most.
    #[must_use]
    pub fn client(&self, timeout: Duration) -> Arc<dyn HttpClient> {
        let client = HyperClient::with_default_connector(timeout, None);
        Arc::new(OnThread { client, handle: self.handle.clone() })
    }

    /// Runs something that blocks beside the program's own runtime, and waits for it no longer than `within`.
    /// Returns whether it ended and said yes.
    pub async fn block(&self, within: Duration, work: impl FnOnce() -> bool + Send + 'static) -> bool {
        let done = self.handle.spawn_blocking(work);
        tokio::time::timeout(within, done).await.is_ok_and(|done| done.unwrap_or(false))
    }
}

/// Sets where an exporter of any signal sends to, and how.
pub(crate) fn towards<B: WithExportConfig + WithHttpConfig>(
    builder: B,
    exporter: &Exporter,
    client: Arc<dyn HttpClient>,
) -> B {
    builder
        .with_shared_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(&exporter.endpoint)
        .with_headers(exporter.headers.clone())
        .with_timeout(exporter.timeout)
}

impl Drop for Transport {
    /// Within a runtime nobody may wait for another one's end.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[derive(Debug)]
struct OnThread {
    client: HyperClient,
    handle: Handle,
}

#[async_trait]
impl HttpClient for OnThread {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        self.handle.spawn(async move { client.send_bytes(request).await }).await?
    }
}
