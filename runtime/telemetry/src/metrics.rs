//! The instruments of the runtime.
