//! What became of what was to be exported: a bound on what waits, and a count of what was lost.
//!
//! A collector that is down, or slower than the work, costs nothing but what it does not get: over the bound a
//! span is dropped at once, and what could not be sent is not kept. Both are counted, and told about at most
//! once a minute.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use opentelemetry::Context;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanExporter, SpanProcessor},
};

/// Nobody needs to hear more often that a collector is down.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// The account of one exporter.
#[derive(Debug)]
pub struct Account {
    queue_max: usize,
    waiting: AtomicUsize,
    dropped: AtomicU64,
    unsent: AtomicU64,
    sent: AtomicU64,
    begun: Instant,
    /// Seconds after `begun`, plus one, of the last telling; zero before the first.
    told: AtomicU64,
}

/// What has become of spans so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spans {
    /// The collector has them.
    pub sent: u64,
    /// They came when the buffer was full.
    pub dropped: u64,
    /// The collector did not take them.
    pub unsent: u64,
}

impl Account {
    /// An account of an exporter for which so much may wait.
    #[must_use]
    pub fn new(queue_max: usize) -> Arc<Self> {
        Arc::new(Self {
            queue_max,
            waiting: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
            unsent: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            begun: Instant::now(),
            told: AtomicU64::new(0),
        })
    }

    /// What has become of spans so far.
    #[must_use]
    pub fn spans(&self) -> Spans {
        Spans { sent: self.sent.load(Relaxed), dropped: self.dropped.load(Relaxed), unsent: self.unsent.load(Relaxed) }
    }

    /// How many wait to be sent.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    fn admits(&self) -> bool {
        let admitted =
            self.waiting.fetch_update(Relaxed, Relaxed, |waiting| (waiting < self.queue_max).then_some(waiting + 1));
        if admitted.is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
        admitted.is_ok()
    }

    fn left(&self, spans: usize, answer: &OTelSdkResult) {
        self.waiting.fetch_sub(spans.min(self.waiting.load(Relaxed)), Relaxed);
        let spans = u64::try_from(spans).unwrap_or(u64::MAX);
        match answer {
            Ok(()) => _ = self.sent.fetch_add(spans, Relaxed),
            Err(error) => {
                self.unsent.fetch_add(spans, Relaxed);
                if self.may_tell() {
                    let lost = self.spans();
                    tracing::warn!(
                        spans.unsent = lost.unsent, spans.dropped = lost.dropped, error = %error,
                        "cannot send spans to the collector, {} lost so far: {error}", lost.unsent + lost.dropped,
                    );
                }
            }
        }
    }

    fn may_tell(&self) -> bool {
        let now = self.begun.elapsed().as_secs() + 1;
        let due = |told: u64| told == 0 || now >= told + TELL_EVERY.as_secs();
        self.told.fetch_update(Relaxed, Relaxed, |told| due(told).then_some(now)).is_ok()
    }
}

/// Admits ended spans to the buffer behind it, as long as there is room.
#[derive(Debug)]
pub(crate) struct Admitting<P> {
    pub(crate) account: Arc<Account>,
    pub(crate) inner: P,
}

impl<P: SpanProcessor> SpanProcessor for Admitting<P> {
    fn on_start(&self, span: &mut Span, cx: &Context) {
        self.inner.on_start(span, cx);
    }

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.account.admits() {
            self.inner.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Counts what leaves the buffer.
#[derive(Debug)]
pub(crate) struct Counted<E> {
    pub(crate) account: Arc<Account>,
    pub(crate) inner: E,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let answer = self.inner.export(batch).await;
        self.account.left(spans, &answer);
        answer
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::error::OTelSdkError;

    use super::*;

    #[test]
    fn what_waits_is_bounded_and_what_is_lost_is_counted() {
        let account = Account::new(2);
        assert_eq!([account.admits(), account.admits(), account.admits()], [true, true, false]);
        account.left(1, &Ok(()));
        assert!(account.admits(), "room again");
        account.left(2, &Err(OTelSdkError::InternalFailure("down".to_owned())));
        assert_eq!((account.spans(), account.waiting()), (Spans { sent: 1, dropped: 1, unsent: 2 }, 0));
        assert!(!account.may_tell(), "told a moment ago");
    }
}
