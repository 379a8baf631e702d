//! Trains a small neural network on a data set.
//!
//! Work is done in epochs. After some of them the whole state is kept as a checkpoint; a training that
//! was cut off goes on from the last one and ends with the same model, bit for bit, as one that was
//! never disturbed. What a crash costs is the epochs since the last checkpoint. A task to which a GPU was leased learns
//! there, every other one on the processor; either goes on from the other's checkpoints.

mod checkpoint;
mod cpu;
mod cuda;
mod device;
mod distort;
mod handler;
mod plan;
mod task;
mod trainer;

pub use cpu::Cpu;
pub use cuda::KERNELS;
pub use device::Place;
pub use handler::train_model;
pub use task::{InvalidSetting, TrainModel, TrainedModel};
pub use trainer::{Epoch, TrainError, Trainer};
