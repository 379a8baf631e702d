//! Counts requests by operation: what a task costs, and whether an idle agent keeps quiet.
//!
//! The metrics are told how each ended. Each try is one, since AWS bills each. The counts are this process's own and end with it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        interceptors::{
            Intercept,
            context::{BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef},
            dyn_dispatch_hint,
        },
        orchestrator::Metadata,
        runtime_components::RuntimeComponents,
    },
};
use aws_smithy_types::config_bag::ConfigBag;

/// Tells the metrics how a request ended: the status of a refusal, or that no answer came.
pub(crate) fn answered(service: &str, operation: &str, status: Option<u16>) {
    let Some(metrics) = rhubarb_telemetry::metrics::get() else { return };
    match status {
        Some(status) if status < 400 => metrics.aws_request(service, operation, None),
        Some(status) => metrics.aws_request(service, operation, Some(&status.to_string())),
        None => metrics.aws_request(service, operation, Some("connection")),
    }
}

/// The requests of a connection. Clones share their counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests(Arc<Mutex<BTreeMap<String, u64>>>);

impl Requests {
    /// Counts one request of a client that takes no interceptor.
    pub(crate) fn note(&self, service: &str, operation: &str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(format!("{service}.{operation}")).or_default() += 1;
    }

    /// The counts so far.
    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[dyn_dispatch_hint]
impl Intercept for Requests {
    fn name(&self) -> &'static str {
        "Requests"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(operation) = bag.load::<Metadata>() {
            self.note(operation.service(), operation.name());
        }
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(operation) = bag.load::<Metadata>() {
            let status = context.response().map(|response| response.status().as_u16());
            answered(operation.service(), operation.name(), status);
        }
        Ok(())
    }
}
