//! The exporter of spans.
