//! The exporter of spans: OTLP over HTTP, batched on the SDK's own thread.

use std::sync::Arc;

use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_http::HttpClient;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchConfigBuilder, BatchSpanProcessor, IdGenerator, RandomIdGenerator, Sampler, SdkTracerProvider},
};

use crate::{
    account::{Account, Admitting, Counted},
    family,
    settings::{Exporter, Sampling, Settings},
    transport::towards,
};

/// A provider that sends spans to `exporter`'s endpoint.
///
/// # Errors
///
/// A header or the endpoint cannot be used.
pub(crate) fn provider(
    settings: &Settings,
    exporter: &Exporter,
    client: Arc<dyn HttpClient>,
    resource: Resource,
    account: &Arc<Account>,
) -> Result<SdkTracerProvider, ExporterBuildError> {
    let inner = towards(SpanExporter::builder().with_http(), exporter, client).build()?;
    // One more than is ever admitted, so that the account alone decides what is dropped.
    let buffer = BatchConfigBuilder::default()
        .with_max_queue_size(settings.buffer.queue_max + 1)
        .with_max_export_batch_size(settings.buffer.batch_max)
        .with_scheduled_delay(settings.buffer.delay)
        .build();
    let counted = Counted { account: Arc::clone(account), inner };
    let batches = BatchSpanProcessor::builder(counted).with_batch_config(buffer).build();
    Ok(SdkTracerProvider::builder()
        .with_resource(resource)
        .with_sampler(sampler(settings.sampling))
        .with_id_generator(Ids::default())
        .with_span_processor(Admitting { account: Arc::clone(account), inner: batches })
        .build())
}

fn sampler(sampling: Sampling) -> Sampler {
    let own = match sampling.ratio {
        ratio if ratio >= 1.0 => Sampler::AlwaysOn,
        ratio if ratio <= 0.0 => Sampler::AlwaysOff,
        ratio => Sampler::TraceIdRatioBased(ratio),
    };
    if sampling.parent_based { Sampler::ParentBased(Box::new(own)) } else { own }
}

/// Random ids, save that a task's trace follows from its family.
#[derive(Debug, Default)]
struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        family::next().map_or_else(|| self.0.new_trace_id(), TraceId::from)
    }

    fn new_span_id(&self) -> SpanId {
        self.0.new_span_id()
    }
}
