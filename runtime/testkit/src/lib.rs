//! What tests share: an exercise for each seam, an in-memory backend, a simulation of the protocol.
//!
//! The exercises ([`exercise`]) state what a backend owes, one fact a function, and run unchanged
//! against every backend: so the small ones can be trusted as the real one's stand-in. The in-memory
//! backend ([`MemoryBackend`]) keeps everything in one process on a clock that tests move, with indexes
//! that lag and faults on request. The simulation ([`simulation`]) drives the protocol's own code over
//! it through thousands of interleavings. For the real services, [`emulator`] starts a local one, and
//! [`faultproxy`] stands before it and lets things go wrong; [`collector`] takes what is exported by OTLP. [`gpus`]
//! are a machine's GPUs after a script, and [`cuda`] runs kernels where there is no GPU;
//! [`ecs`] are the endpoints that ECS gives a container.
//! Nothing here is for production: a crash loses all.

mod clock;
pub mod collector;
pub mod cuda;
pub mod ecs;
pub mod emulator;
pub mod exercise;
mod faults;
pub mod gpus;
mod memory;
pub mod model;
pub mod simulation;

pub use clock::{Clock, Clockwork, ManualClock, PausedTime};
pub use faults::{Fault, Faults, Verb};
pub use memory::{MemoryBackend, MemoryOptions};
pub use rhubarb_faultproxy as faultproxy;
