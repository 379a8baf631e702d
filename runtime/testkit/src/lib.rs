//! What tests share: an exercise for each seam, and an in-memory backend.
//!
//! The exercises ([`exercise`]) state what a backend owes, one fact a function, and run unchanged
//! against every backend: so the small ones can be trusted as the real one's stand-in. The in-memory
//! backend ([`MemoryBackend`]) keeps everything in one process on a clock that tests move, with indexes
//! that lag and faults on request. Nothing here is for production: a crash loses all.

mod clock;
pub mod exercise;
mod faults;
mod memory;

pub use clock::{Clock, Clockwork, ManualClock, PausedTime};
pub use faults::{Fault, Faults, Verb};
pub use memory::{MemoryBackend, MemoryOptions};
