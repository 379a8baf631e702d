//! Logs: to standard error, for people or as JSON.
//!
//! The first of these that is given decides the level: `--log-level` or `RHUBARB_LOG_LEVEL`, `-v`,
//! `RUST_LOG`, and what the command itself finds fitting.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    panic, thread,
};

use rhubarb_core::config::Vars;
use rhubarb_telemetry::{
    Telemetry,
    logs::{self, Traced},
};
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::Directive, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::{
    exit::{CliError, Result},
    screen::Screen,
};

/// In which form logs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    #[default]
    Human,
    /// One JSON document a line.
    Json,
}

impl LogFormat {
    /// Variables that only a container has: those of ECS and of Kubernetes, and the one that podman and others set.
    const OF_CONTAINERS: [&str; 3] = ["ECS_CONTAINER_METADATA_URI_V4", "KUBERNETES_SERVICE_HOST", "container"];

    /// The form that fits the place, where none is asked for.
    pub(crate) fn fitting(vars: &dyn Vars) -> Self {
        let is_container = Self::OF_CONTAINERS.into_iter().any(|name| vars.get(name).is_some());
        if is_container { Self::Json } else { Self::Human }
    }
}

/// What was asked for.
#[derive(Clone, Debug)]
pub(crate) struct LogChoice<'a> {
    /// `--log-level`.
    pub(crate) level: Option<&'a str>,
    /// How often `-v` was given.
    pub(crate) verbose: u8,
    /// `RUST_LOG`.
    pub(crate) rust_log: Option<String>,
    /// What the command finds fitting.
    pub(crate) fitting: &'a str,
    /// In which form.
    pub(crate) format: LogFormat,
}

impl LogChoice<'_> {
    fn directives(&self) -> String {
        let verbose = match self.verbose {
            0 => None,
            1 => Some("info"),
            2 => Some("debug"),
            _ => Some("trace"),
        };
        let chosen = self.level.or(verbose).map(ToOwned::to_owned).or_else(|| self.rust_log.clone());
        chosen.unwrap_or_else(|| self.fitting.to_owned())
    }
}

/// Starts logging for this process: to the screen, and by OTLP where that is asked for.
pub(crate) fn start(choice: &LogChoice<'_>, screen: &Screen, telemetry: &Telemetry) -> Result<()> {
    let directives = choice.directives();
    let filter = filter(&directives)?;
    // It would complain to standard error itself, which may block.
    let lines = fmt::layer().with_writer(screen.clone()).log_internal_errors(false);
    let lines = match choice.format {
        LogFormat::Human => {
            let format = fmt::format().with_ansi(screen.draws()).with_target(false).compact();
            lines.with_ansi(screen.draws()).event_format(Traced::human(format)).boxed()
        }
        LogFormat::Json => {
            let format = fmt::format().json().flatten_event(true).with_current_span(false);
            lines.fmt_fields(fmt::format::JsonFields::new()).event_format(Traced::json(format)).boxed()
        }
    };
    let exported = telemetry.logs().map(logs::exported);
    let started = tracing_subscriber::registry().with(filter).with(lines).with(exported).try_init();
    started.map_err(|error| CliError::Configuration(format!("cannot start logging: {error}")))?;
    log_panics(screen.clone());
    Ok(())
}

/// Logs panics as everything else: the standard library would write to standard error itself, which may block.
fn log_panics(screen: Screen) {
    panic::set_hook(Box::new(move |panic| {
        let (thread, backtrace) = (thread::current(), Backtrace::capture());
        let mut told = format!("thread `{}` {panic}", thread.name().unwrap_or("unnamed"));
        if backtrace.status() == BacktraceStatus::Captured {
            told = format!("{told}\n{backtrace}");
        }
        match tracing::enabled!(tracing::Level::ERROR) {
            true => tracing::error!("{told}"),
            false => screen.note(&told),
        }
        // It may be the last that this process says.
        screen.end();
    }));
}

fn filter(directives: &str) -> Result<EnvFilter> {
    let wrong = |directive: &str| {
        CliError::Usage(format!(
            "`{}` is no log level: use error, warn, info, debug or trace, or directives such as `warn,rhubarb_agent=debug`",
            directive.escape_default(),
        ))
    };
    let mut filter = EnvFilter::default();
    for directive in directives.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
        // A bare word that is no level would be taken for the name of a module, and silence everything.
        let is_level = ["off", "error", "warn", "info", "debug", "trace"].contains(&directive.to_lowercase().as_str());
        if !is_level && !directive.contains(['=', '[', ':', '_']) {
            return Err(wrong(directive));
        }
        filter = filter.add_directive(directive.parse::<Directive>().map_err(|_| wrong(directive))?);
    }
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directives(level: Option<&str>, verbose: u8, rust_log: Option<&str>) -> String {
        let rust_log = rust_log.map(ToOwned::to_owned);
        LogChoice { level, verbose, rust_log, fitting: "warn", format: LogFormat::Human }.directives()
    }

    #[test]
    fn the_option_beats_v_and_v_beats_rust_log() {
        assert_eq!(directives(Some("error"), 2, Some("info")), "error");
        assert_eq!(directives(None, 2, Some("info")), "debug");
        assert_eq!(directives(None, 0, Some("info")), "info");
        assert_eq!(directives(None, 0, None), "warn");
    }

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        assert!(filter("wran").is_err());
        assert!(filter("info,rhubarb_agent=nonsense").is_err());
        assert!(filter("warn,rhubarb_agent=debug").is_ok());
    }
}
