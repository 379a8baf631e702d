//! The ways out of the metrics: OTLP over HTTP, read from the instruments once a minute unless
//! `OTEL_METRIC_EXPORT_INTERVAL` says another time; and the page for Prometheus.

use std::sync::Arc;

use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_http::HttpClient;
use opentelemetry_otlp::{ExporterBuildError, MetricExporter};
use opentelemetry_sdk::{
    Resource,
    metrics::{PeriodicReader, SdkMeterProvider},
};

use crate::{metrics, names, page::Page, settings::Exporter, transport::towards};

/// Makes the instruments, with each way out that is wanted; nothing where none is.
///
/// # Errors
///
/// A header or the endpoint cannot be used.
pub(crate) fn provider(
    otlp: Option<(&Exporter, Arc<dyn HttpClient>)>,
    page: bool,
    resource: Resource,
) -> Result<Option<SdkMeterProvider>, ExporterBuildError> {
    if otlp.is_none() && !page {
        return Ok(None);
    }
    let mut builder = SdkMeterProvider::builder().with_resource(resource);
    if let Some((exporter, client)) = otlp {
        let inner = towards(MetricExporter::builder().with_http(), exporter, client).build()?;
        builder = builder.with_reader(PeriodicReader::builder(inner).build());
    }
    if page {
        let reader = Page::begin().map_err(|error| ExporterBuildError::InternalFailure(error.to_string()))?;
        builder = builder.with_reader(reader);
    }
    let provider = builder.build();
    metrics::install(&provider.meter(names::SCOPE));
    Ok(Some(provider))
}
