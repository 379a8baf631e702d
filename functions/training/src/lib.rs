//! Trains a small neural network on a data set.
//!
//! Work is done in epochs. After some of them the whole state is kept as a checkpoint; a training that
//! was cut off goes on from the last one and ends with the same model, bit for bit, as one that was
//! never disturbed. What a crash costs is the epochs since the last checkpoint.

mod checkpoint;
mod cpu;
mod distort;
mod handler;
mod task;
mod trainer;

pub use cpu::Cpu;
pub use handler::train_model;
pub use task::{InvalidSetting, TrainModel, TrainedModel};
pub use trainer::{Epoch, TrainError, Trainer};
