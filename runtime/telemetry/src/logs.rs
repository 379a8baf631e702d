//! The log: lines for people or as JSON, each of an attempt with its trace; and log lines by OTLP.
//!
//! The trace of a line is that of the context it is written in, whether or not anything is exported: a producer
//! may have one where this process has no collector. Arguments and outputs of tasks are never logged here.

use std::{fmt, sync::Arc};

use opentelemetry::{Context, trace::TraceContextExt as _};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_http::HttpClient;
use opentelemetry_otlp::{ExporterBuildError, LogExporter};
use opentelemetry_sdk::{
    Resource,
    logs::{BatchConfigBuilder, BatchLogProcessor, SdkLoggerProvider},
};
use tracing::{Event, Subscriber};
use tracing_subscriber::{
    Layer,
    filter::filter_fn,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use crate::{
    names,
    settings::{Exporter, Settings},
    transport::towards,
};

/// What a function prints is logged under this target, at level `info`.
pub const FUNCTION: &str = "function";

/// Adds the trace to each line that another format writes.
#[derive(Clone, Copy, Debug)]
pub struct Traced<F> {
    lines: F,
    is_json: bool,
}

impl<F> Traced<F> {
    /// Lines for people: the trace stands at their end.
    pub const fn human(lines: F) -> Self {
        Self { lines, is_json: false }
    }

    /// JSON documents: the trace is two more fields.
    pub const fn json(lines: F) -> Self {
        Self { lines, is_json: true }
    }
}

impl<S, N, F> FormatEvent<S, N> for Traced<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, cx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let trace = Context::map_current(|cx| {
            let span = cx.span();
            let context = span.span_context();
            context.is_valid().then(|| (context.trace_id(), context.span_id()))
        });
        let Some((trace, span)) = trace else { return self.lines.format_event(cx, writer, event) };
        let mut line = String::new();
        self.lines.format_event(cx, Writer::new(&mut line), event)?;
        let line = line.trim_end_matches('\n');
        let (trace_id, span_id) = (names::LOG_TRACE_ID, names::LOG_SPAN_ID);
        match line.strip_suffix('}').filter(|_| self.is_json) {
            Some(open) => writeln!(writer, "{open},\"{trace_id}\":\"{trace}\",\"{span_id}\":\"{span}\"}}"),
            None => writeln!(writer, "{line} {trace_id}={trace}"),
        }
    }
}

/// A layer that sends log lines by OTLP, with the trace that they are written in. What the exporter itself says,
/// and the client that it uses, is left out: it would never end.
pub fn exported<S>(provider: &SdkLoggerProvider) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let own = ["opentelemetry", "hyper", "rhubarb_telemetry"];
    let others = filter_fn(move |about| !own.iter().any(|own| about.target().starts_with(own)));
    OpenTelemetryTracingBridge::new(provider).with_filter(others)
}

/// A provider that sends log lines to `exporter`'s endpoint. They wait in a buffer of the same size as spans do.
///
/// # Errors
///
/// A header or the endpoint cannot be used.
pub(crate) fn provider(
    settings: &Settings,
    exporter: &Exporter,
    client: Arc<dyn HttpClient>,
    resource: Resource,
) -> Result<SdkLoggerProvider, ExporterBuildError> {
    let lines = towards(LogExporter::builder().with_http(), exporter, client).build()?;
    let buffer = BatchConfigBuilder::default()
        .with_max_queue_size(settings.buffer.queue_max)
        .with_max_export_batch_size(settings.buffer.batch_max)
        .with_scheduled_delay(settings.buffer.delay)
        .build();
    let batches = BatchLogProcessor::builder(lines).with_batch_config(buffer).build();
    Ok(SdkLoggerProvider::builder().with_resource(resource).with_log_processor(batches).build())
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Mutex, PoisonError},
    };

    use rhubarb_core::envelope::Trace;
    use tracing_subscriber::{
        Registry,
        fmt::{
            self,
            format::{DefaultFields, JsonFields},
        },
        layer::SubscriberExt as _,
    };

    use super::*;
    use crate::spans;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Writes one line within a trace and one outside.
    fn lines<F, N>(format: Traced<F>, fields: N) -> Vec<String>
    where
        Traced<F>: FormatEvent<Registry, N> + Send + Sync + 'static,
        N: for<'a> FormatFields<'a> + Send + Sync + 'static,
    {
        let written = Written::default();
        let writer = written.clone();
        let layer = fmt::layer().fmt_fields(fields).event_format(format).with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let trace = Trace { traceparent: Some(TRACE.to_owned()), tracestate: None };
            let within = spans::context_of(&trace).unwrap().attach();
            tracing::info!(task.id = "t", "within");
            drop(within);
            tracing::info!("outside");
        });
        let written = written.0.lock().unwrap();
        String::from_utf8_lossy(&written).lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_line_of_an_attempt_says_its_trace_and_others_say_none() {
        let json = lines(Traced::json(fmt::format().json().flatten_event(true)), JsonFields::new());
        let within: serde_json::Value = serde_json::from_str(&json[0]).unwrap();
        assert_eq!(within["trace_id"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!((&within["span_id"], &within["task.id"]), (&"b7ad6b7169203331".into(), &"t".into()));
        assert!(serde_json::from_str::<serde_json::Value>(&json[1]).unwrap().get("trace_id").is_none());
        let human = lines(Traced::human(fmt::format().with_ansi(false).compact()), DefaultFields::new());
        assert!(human[0].ends_with(" trace_id=0af7651916cd43dd8448eb211c80319c"), "{human:?}");
        assert!(human[0].contains("within task.id=\"t\""), "{human:?}");
        assert!(human[1].ends_with("outside"), "{human:?}");
    }
}
