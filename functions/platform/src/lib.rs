//! What the functions of the training platform share.
//!
//! Preprocessing writes a data set, training reads it and writes a model, evaluation reads both. This
//! crate holds these two nouns and the file format in which they travel, so that no function needs to
//! link another. Everything here is a value in memory; where the bytes are kept is the caller's business.

pub mod artifact;
mod dataset;
mod model;
mod name;
mod network;

pub use artifact::{ArtifactError, sha256};
pub use dataset::{Dataset, Samples};
pub use model::{Model, TrainedOn};
pub use name::{ArtifactName, InvalidName};
pub use network::{Layer, Network};
