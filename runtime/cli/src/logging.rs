//! Logs: to standard error, for people or as JSON.
//!
//! The first of these that is given decides the level: `--log-level` or `RHUBARB_LOG_LEVEL`, `-v`,
//! `RUST_LOG`, and what the command itself finds fitting.

use tracing_subscriber::{EnvFilter, filter::Directive};

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

/// Starts logging for this process.
pub(crate) fn start(choice: &LogChoice<'_>, screen: &Screen) -> Result<()> {
    let directives = choice.directives();
    let filter = filter(&directives)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(screen.clone());
    let started = match choice.format {
        LogFormat::Human => builder.with_ansi(screen.draws()).with_target(false).compact().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
    started.map_err(|error| CliError::Configuration(format!("cannot start logging: {error}")))
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
