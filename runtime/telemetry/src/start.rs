//! Starts what the settings ask for, flushes it, and ends it, each within a bound.
//!
//! Without an exporter nothing is started: no thread, no layer, no provider. What is unsent when the process
//! is killed is lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use opentelemetry::{global, trace::TracerProvider as _};
use opentelemetry_otlp::ExporterBuildError;
use opentelemetry_sdk::{Resource, logs::SdkLoggerProvider, metrics::SdkMeterProvider, trace::SdkTracerProvider};

use crate::{
    account::{Account, Spans},
    logs, meters, names,
    settings::Settings,
    spans, traces,
    transport::Transport,
};

/// After a flush that did not end in time, none is waited for so long: a collector that is down must not cost
/// every task the bound.
const DISTRUST: Duration = Duration::from_secs(30);

/// Why telemetry does not start. Whoever meets it may go on without.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A header, an endpoint or a compression cannot be used.
    #[error("cannot make the OTLP exporter: {0}")]
    Exporter(#[from] ExporterBuildError),
    /// The system gives no thread.
    #[error("cannot start the thread that talks to the collector")]
    Thread(#[source] std::io::Error),
}

/// What exports, until it is ended.
#[derive(Debug, Default)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
    logs: Option<SdkLoggerProvider>,
    account: Option<Arc<Account>>,
    transport: Option<Transport>,
    /// Milliseconds after `begun` until which no flush is waited for.
    distrusted_until: AtomicU64,
    begun: Option<Instant>,
}

impl Telemetry {
    /// Starts the exporters, and makes their providers those of the process.
    ///
    /// # Errors
    ///
    /// See [`StartError`]; nothing is then exported.
    pub fn start(settings: &Settings, resource: Resource) -> Result<Self, StartError> {
        if !settings.exports() {
            let metrics = meters::provider(None, settings.page, resource)?;
            return Ok(Self { metrics, ..Self::default() });
        }
        let transport = Transport::start().map_err(StartError::Thread)?;
        let account = Account::new(settings.buffer.queue_max);
        let traces = settings.traces.as_ref().map(|exporter| {
            traces::provider(settings, exporter, transport.client(exporter.timeout), resource.clone(), &account)
        });
        let otlp = settings.metrics.as_ref().map(|exporter| (exporter, transport.client(exporter.timeout)));
        let metrics = meters::provider(otlp, settings.page, resource.clone())?;
        let logs = settings
            .logs
            .as_ref()
            .map(|exporter| logs::provider(settings, exporter, transport.client(exporter.timeout), resource.clone()));
        let (traces, logs) = (traces.transpose()?, logs.transpose()?);
        if let Some(metrics) = &metrics {
            global::set_meter_provider(metrics.clone());
        }
        if let Some(traces) = &traces {
            global::set_tracer_provider(traces.clone());
            spans::turn_on();
        }
        Ok(Self {
            traces,
            metrics,
            logs,
            account: Some(account),
            transport: Some(transport),
            distrusted_until: AtomicU64::new(0),
            begun: Some(Instant::now()),
        })
    }

    /// The provider of log lines, for [`logs::exported`].
    #[must_use]
    pub const fn logs(&self) -> Option<&SdkLoggerProvider> {
        self.logs.as_ref()
    }

    /// The tracer that spans of the crate `tracing` go to, for a layer of it.
    #[must_use]
    pub fn tracer(&self) -> Option<opentelemetry_sdk::trace::SdkTracer> {
        self.traces.as_ref().map(|traces| traces.tracer(names::SCOPE))
    }

    /// What has become of spans so far.
    #[must_use]
    pub fn spans(&self) -> Spans {
        self.account.as_ref().map(|account| account.spans()).unwrap_or_default()
    }

    /// Sends what waits, and waits for it no longer than `within`; after a flush that took longer, for a while
    /// not at all. Returns whether everything was sent.
    pub async fn flush(&self, within: Duration) -> bool {
        let (Some(transport), Some(begun)) = (&self.transport, self.begun) else { return true };
        let now = || u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        if now() < self.distrusted_until.load(Relaxed) {
            return false;
        }
        let (traces, metrics, logs) = (self.traces.clone(), self.metrics.clone(), self.logs.clone());
        let sent = transport.block(within, move || {
            let traces = traces.is_none_or(|traces| traces.force_flush().is_ok());
            let logs = logs.is_none_or(|logs| logs.force_flush().is_ok());
            let metrics = metrics.is_none_or(|metrics| metrics.force_flush().is_ok());
            traces && logs && metrics
        });
        let sent = sent.await;
        if !sent {
            let distrust = u64::try_from(DISTRUST.as_millis()).unwrap_or(u64::MAX);
            self.distrusted_until.store(now().saturating_add(distrust), Relaxed);
        }
        sent
    }

    /// Sends what waits, within the bound, and ends. Says what was lost, if anything was.
    pub async fn end(mut self, within: Duration) {
        let Some(transport) = self.transport.take() else { return };
        let (traces, metrics, logs) = (self.traces.take(), self.metrics.take(), self.logs.take());
        let sent = transport.block(within, move || {
            let ended = [
                traces.is_none_or(|traces| traces.shutdown_with_timeout(within).is_ok()),
                logs.is_none_or(|logs| logs.shutdown_with_timeout(within).is_ok()),
                metrics.is_none_or(|metrics| metrics.shutdown_with_timeout(within).is_ok()),
            ];
            ended.iter().all(|ended| *ended)
        });
        let sent = sent.await;
        let spans = self.spans();
        let waiting = self.account.as_ref().map_or(0, |account| account.waiting());
        let lost = spans.dropped + spans.unsent + u64::try_from(waiting).unwrap_or(u64::MAX);
        if lost > 0 || !sent {
            tracing::warn!(spans.lost = lost, spans.sent = spans.sent, "{lost} spans did not reach the collector");
        }
    }
}
