//! Telemetry: spans and metrics through the OpenTelemetry API, and, with the feature `export`, the exporters
//! and the log.
//!
//! Libraries (`host`, `agent`, the sdk) record through the API alone: without a provider each call ends at
//! once, and a program that embeds them brings its own. The programs (`cli`, `lambda`, a function with the
//! sdk's feature `otel`) start an exporter where the standard `OTEL_…` variables ask for one. What a crash
//! leaves unsent is lost; nothing else ever waits for a collector.
//!
//! * [`names`]: every name and attribute, in one place.
//! * [`metrics`]: the instruments.
//! * [`settings`], [`resource`]: what the environment asks for, and who is speaking.
//! * [`traces`], [`logs`]: the exporters of spans and log lines, and the log itself.

pub mod metrics;
pub mod names;

#[cfg(feature = "export")]
pub mod logs;
#[cfg(feature = "export")]
pub mod resource;
#[cfg(feature = "export")]
pub mod settings;
#[cfg(feature = "export")]
pub mod traces;
