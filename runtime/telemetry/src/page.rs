//! The metrics as a page that Prometheus reads.
//!
//! The page is made from the instruments when it is asked for, by OpenTelemetry's own exporter for Prometheus,
//! so that both ways out tell the same numbers. Nobody asks, and it costs the counting alone.

use std::sync::{Arc, OnceLock};

use opentelemetry_prometheus::PrometheusExporter;
use opentelemetry_sdk::error::OTelSdkError;
use prometheus::{Registry, TextEncoder};

/// The media type of [`Page::text`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

static PAGE: OnceLock<Page> = OnceLock::new();

/// The page of this process, if it has one.
#[must_use]
pub fn get() -> Option<&'static Page> {
    PAGE.get()
}

/// The page. Clones show the same.
#[derive(Clone, Debug)]
pub struct Page {
    registry: Arc<Registry>,
}

/// The page cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the metrics as text")]
pub struct Unwritable(#[from] prometheus::Error);

impl Page {
    /// Gives this process its page, once. Returns the reader that fills it.
    pub(crate) fn begin() -> Result<PrometheusExporter, OTelSdkError> {
        let registry = Registry::new();
        // The scope is one and the same; as a label it would only lengthen each line.
        let exporter =
            opentelemetry_prometheus::exporter().with_registry(registry.clone()).scope_info_enabled(false).build()?;
        PAGE.get_or_init(|| Self { registry: Arc::new(registry) });
        Ok(exporter)
    }

    /// What stands on it now.
    ///
    /// # Errors
    ///
    /// A name or a value is none that Prometheus takes.
    pub fn text(&self) -> Result<String, Unwritable> {
        Ok(TextEncoder::new().encode_to_string(&self.registry.gather())?)
    }
}
