//! The log of the place: JSON lines on the standard output, which Lambda takes to CloudWatch. They are written at once, by
//! no thread of their own: Lambda always reads, and between invocations a sandbox's threads stand still.

use rhubarb_core::config::Vars;
use rhubarb_host::listener::FUNCTION;
use rhubarb_telemetry::{
    Telemetry,
    logs::{self, Traced},
};
use tracing::Level;
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Starts logging. `RUST_LOG` chooses what is logged (`debug`, or `info,rhubarb_host=debug`), or else
/// Lambda's own setting, which comes as `AWS_LAMBDA_LOG_LEVEL`; without both it is `info`.
///
/// What a function prints is logged at level `info` whatever the level is. By OTLP goes what is logged here too,
/// where that is asked for.
pub(crate) fn start(vars: &dyn Vars, telemetry: &Telemetry) {
    let asked = vars.get("RUST_LOG").or_else(|| vars.get("AWS_LAMBDA_LOG_LEVEL").map(|level| ours(&level).to_owned()));
    let (targets, unread) = match asked.as_deref().map(str::parse::<Targets>) {
        Some(Ok(targets)) => (targets, None),
        Some(Err(error)) => (Targets::new().with_default(Level::INFO), Some(error)),
        None => (Targets::new().with_default(Level::INFO), None),
    };
    let format = fmt::format().json().flatten_event(true).with_current_span(false);
    let lines = fmt::layer().fmt_fields(fmt::format::JsonFields::new()).event_format(Traced::json(format));
    let filter = targets.with_target(FUNCTION, Level::INFO);
    let exported = telemetry.logs().map(logs::exported);
    let started = tracing_subscriber::registry().with(filter).with(lines).with(exported).try_init();
    // A second start in one process, in a test: the first log goes on.
    if started.is_ok()
        && let Some(error) = unread
    {
        tracing::warn!(error = %error, "RUST_LOG is no log filter; logging at level info");
    }
}

/// Lambda's levels in our words.
fn ours(level: &str) -> &str {
    match level {
        "FATAL" => "ERROR",
        level => level,
    }
}
