//! The GPUs of an agent's machine: which there are, who has them, and whether they may be used.
//!
//! * `pool`: leases; `lease`: one of them, as the host sees it.
//! * `guard`: what keeps agents off each other's devices. `quarantine`: devices out of use.
//! * `check`: looking at devices between leases; `watch`: looking at all of them regularly.
//! * `helper`: asks the process that asks the driver.
//!
//! Nothing here loads CUDA or NVML: the driver is behind `rhubarb_core::gpu::GpuSource`. What outlives a crash of the
//! agent are the notes in lock files and the quarantines; everything else is found out anew at the next start.

mod check;
mod guard;
pub mod helper;
mod lease;
mod pool;
mod quarantine;
mod survivor;
#[cfg(test)]
mod tests;
mod usage;
mod watch;

pub use self::{
    guard::NoGuard,
    pool::{GpuPool, LOCKS_DEFAULT},
    quarantine::{Quarantine, lift, quarantine, quarantine_of},
};
pub(crate) use self::{
    guard::Taker,
    lease::GpuLease,
    pool::{PoolParts, Serving},
};
