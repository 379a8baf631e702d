//! What the standard `OTEL_…` variables ask for.
