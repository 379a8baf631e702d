//! The spans of a function: what its handlers do hangs under the attempt, and goes to the collector.
//!
//! Nothing starts unless the `OTEL_…` variables ask for it. Spans of the crate `tracing` and of OpenTelemetry's
//! own API both count; a program that has set a subscriber of its own before keeps it, and adds a layer of
//! `tracing-opentelemetry` there for the first kind. On AWS Lambda a flush before each answer adds to the
//! invocation, within a bound; elsewhere they go in the background, and the last ones when the host asks the
//! process to end. A process that is killed loses what it had not sent.

use std::{collections::HashMap, env, sync::Arc, time::Duration};

use rhubarb_core::envelope::Trace;
use rhubarb_telemetry::{
    Telemetry, logs, resource,
    settings::Settings,
    spans::{self, Context},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{Layer as _, filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// What a flush may add to an invocation on Lambda.
const FLUSH_MAX: Duration = Duration::from_millis(500);
/// What the last flush has when the host asks the process to end: less than its default grace.
const END_MAX: Duration = Duration::from_secs(1);

/// The telemetry of one function process.
pub(super) struct Otel {
    telemetry: Arc<Telemetry>,
    stands_still: bool,
}

impl Otel {
    /// Starts what the environment asks for. A mistake in it turns telemetry off: tasks do not wait for that.
    pub(super) fn start() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let vars: HashMap<String, String> = env::vars_os().filter_map(text).collect();
        let name = vars.get("AWS_LAMBDA_FUNCTION_NAME").cloned().unwrap_or_else(|| "function".to_owned());
        let started = Settings::read(&vars).map_err(|error| error.to_string()).and_then(|settings| {
            let resource = resource::describe(&settings, &vars, &name);
            Telemetry::start(&settings, resource).map_err(|error| error.to_string())
        });
        let telemetry = Arc::new(started.unwrap_or_else(|mistake| {
            eprintln!("telemetry of function {name} is off: {mistake}");
            Telemetry::default()
        }));
        subscribe(&telemetry, vars.get("RUST_LOG").map(String::as_str));
        let is_on = telemetry.tracer().is_some() || telemetry.logs().is_some();
        if is_on {
            tokio::spawn(end_when_asked(Arc::clone(&telemetry)));
        }
        Self { telemetry, stands_still: is_on && resource::is_lambda(&vars) }
    }

    /// Sends what waits, where the process stands still after the answer.
    pub(super) async fn before_answer(&self) {
        if self.stands_still {
            self.telemetry.flush(FLUSH_MAX).await;
        }
    }
}

/// The context that a handler runs in: its attempt's.
pub(super) fn context(traceparent: Option<&str>, tracestate: Option<&str>) -> Context {
    let trace = Trace { traceparent: traceparent.map(str::to_owned), tracestate: tracestate.map(str::to_owned) };
    spans::context_of(&trace).unwrap_or_default()
}

/// The place in a trace where the caller is, as a request carries it.
pub(crate) fn here() -> Option<Trace> {
    Context::map_current(spans::trace_of)
}

fn subscribe(telemetry: &Telemetry, asked: Option<&str>) {
    let Some(tracer) = telemetry.tracer() else { return };
    let asked = asked.and_then(|asked| asked.parse::<Targets>().ok());
    // What the client of the collector does is no part of any task.
    let own = ["hyper", "hyper_util", "opentelemetry", "opentelemetry_sdk", "tokio", "lambda_runtime"];
    let targets = own
        .into_iter()
        .fold(asked.unwrap_or_else(|| Targets::new().with_default(tracing::Level::INFO)), |targets, own| {
            targets.with_target(own, tracing_subscriber::filter::LevelFilter::OFF)
        });
    let layer = tracing_opentelemetry::layer().with_tracer(tracer).with_filter(targets);
    let exported = telemetry.logs().map(logs::exported);
    // One that the program has set stays.
    let _ = tracing_subscriber::registry().with(layer).with(exported).try_init();
}

/// The host asks a process to end by SIGTERM, and kills it after a grace.
async fn end_when_asked(telemetry: Arc<Telemetry>) {
    let Ok(mut asked) = signal(SignalKind::terminate()) else { return };
    asked.recv().await;
    telemetry.flush(END_MAX).await;
    // What SIGTERM does to a process that does not hear it.
    std::process::exit(143);
}
