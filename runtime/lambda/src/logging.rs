//! The log of the place: JSON lines on the standard output, which Lambda takes to CloudWatch.

use rhubarb_core::config::Vars;
use tracing::Level;
use tracing_subscriber::{filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// What a function prints is logged under this name, at level `info`, whatever the level is.
pub(crate) const FUNCTION: &str = "function";

/// Starts logging. `RUST_LOG` chooses what is logged (`debug`, or `info,rhubarb_host=debug`), or else
/// Lambda's own setting, which comes as `AWS_LAMBDA_LOG_LEVEL`; without both it is `info`.
pub(crate) fn start(vars: &dyn Vars) {
    let asked = vars.get("RUST_LOG").or_else(|| vars.get("AWS_LAMBDA_LOG_LEVEL").map(|level| ours(&level).to_owned()));
    let (targets, unread) = match asked.as_deref().map(str::parse::<Targets>) {
        Some(Ok(targets)) => (targets, None),
        Some(Err(error)) => (Targets::new().with_default(Level::INFO), Some(error)),
        None => (Targets::new().with_default(Level::INFO), None),
    };
    let lines = tracing_subscriber::fmt::layer().json().flatten_event(true).with_current_span(false);
    let started =
        tracing_subscriber::registry().with(targets.with_target(FUNCTION, Level::INFO)).with(lines).try_init();
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
