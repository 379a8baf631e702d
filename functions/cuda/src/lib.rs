//! How a function runs kernels on the NVIDIA device that was leased to it.
//!
//! A function builds and starts on machines that have neither CUDA nor a device: the driver and CUDA's libraries are
//! looked for when a [`Gpu`] is opened, and what is missing is named. Kernels travel as source text and are compiled
//! for the device that is there. The device is the first that CUDA shows: the agent starts a process with exactly those
//! that were leased to its task (`CUDA_VISIBLE_DEVICES`). Nothing here outlives the process, so a crash leaves nothing behind.

mod error;
mod gpu;
mod kernel;

pub use cudarc::cublas;
pub use cudarc::driver::{CudaSlice, CudaView};
pub use error::CudaError;
pub use gpu::Gpu;
pub use kernel::{Call, Kernel, Kernels, compile};
