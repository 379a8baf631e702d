//! Telemetry of a sandbox: flushed before each answer, since everything stands still after it.
//!
//! A collector that does not answer must not take a function's time for long: a flush is bounded, and after one
//! that was too slow none is waited for during half a minute. What was not sent then goes with a later flush, or
//! is lost with the sandbox.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use rhubarb_core::config::Vars;
use rhubarb_telemetry::{
    Telemetry, resource,
    settings::Settings,
    spans::{Context, Invocation},
};

/// What a flush may add to an invocation, unless its deadline is nearer.
const FLUSH_MAX: Duration = Duration::from_millis(500);
/// What the answer itself keeps of the time before the deadline.
const ANSWER_TIME: Duration = Duration::from_millis(200);

/// What is exported from one sandbox.
pub(crate) struct OfSandbox {
    pub(crate) telemetry: Telemetry,
    is_cold: AtomicBool,
}

impl OfSandbox {
    /// Starts what the environment asks for. A mistake in it turns telemetry off and is returned to be logged:
    /// tasks do not wait for it to be mended.
    pub(crate) fn start(vars: &dyn Vars) -> (Self, Option<String>) {
        let started = Settings::read(vars).map_err(|error| error.to_string()).and_then(|settings| {
            let resource = resource::describe(&settings, vars, "rhubarb-lambda");
            Telemetry::start(&settings, resource).map_err(|error| error.to_string())
        });
        let (telemetry, mistake) = match started {
            Ok(telemetry) => (telemetry, None),
            Err(mistake) => (Telemetry::default(), Some(mistake)),
        };
        (Self { telemetry, is_cold: AtomicBool::new(true) }, mistake)
    }

    /// The context of one invocation: its attempts say which one they ran in.
    pub(crate) fn invocation(&self, context: &lambda_runtime::Context) -> Context {
        let (id, xray) = (context.request_id.clone(), context.xray_trace_id.clone());
        Context::current_with_value(Invocation { id, cold: self.is_cold.swap(false, Relaxed), xray })
    }

    /// Sends what waits before the answer.
    pub(crate) async fn flush(&self, deadline: SystemTime) {
        let left = deadline.duration_since(SystemTime::now()).unwrap_or_default();
        self.telemetry.flush(FLUSH_MAX.min(left.saturating_sub(ANSWER_TIME))).await;
    }
}
