//! Telemetry: spans and metrics through the OpenTelemetry API, and, with the feature `export`, the exporters
//! and the log.
//!
//! Libraries (`host`, `agent`, the sdk) record through the API alone: without a provider each call ends at
//! once, and a program that embeds them brings its own. The programs (`cli`, `lambda`, a function with the
//! sdk's feature `otel`) start an exporter where the standard `OTEL_…` variables ask for one. What a crash
//! leaves unsent is lost; nothing else ever waits for a collector.
//!
//! * [`names`]: every name and attribute, in one place.
//! * [`queues`], [`spans`]: how queues are named, and the spans about them.
//! * [`metrics`]: the instruments.
//! * `settings`, `resource`: what the environment asks for, and who is speaking.
//! * `Telemetry`: the exporters, from their start to their end; `account`: what was lost, `transport`: the
//!   way to a collector; `page`: the metrics for Prometheus.
//! * `logs`: the log itself, and log lines by OTLP; `sink`: its way to standard error, which stops nobody.

mod family;
pub mod metrics;
pub mod names;
pub mod queues;
pub mod spans;

#[cfg(feature = "export")]
pub mod account;
#[cfg(feature = "export")]
pub mod logs;
#[cfg(feature = "export")]
mod meters;
#[cfg(feature = "export")]
pub mod page;
#[cfg(feature = "export")]
pub mod resource;
#[cfg(feature = "export")]
pub mod settings;
#[cfg(feature = "export")]
pub mod sink;
#[cfg(feature = "export")]
mod start;
#[cfg(feature = "export")]
mod traces;
#[cfg(feature = "export")]
pub mod transport;

#[cfg(feature = "export")]
pub use start::{StartError, Telemetry};
