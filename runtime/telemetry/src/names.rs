//! The names of spans, attributes and instruments: a public contract, so they stand in one place.
