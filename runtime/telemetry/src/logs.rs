//! The log, and log lines by OTLP.
