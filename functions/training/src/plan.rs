//! What one epoch does, drawn before it begins: the same draws for every device.

use fastrand::Rng;

use crate::distort::Distortion;
use crate::task::TrainModel;

/// What an epoch shows, in which order, and how large its steps are.
pub(crate) struct Plan {
    /// The pictures in their order; each comes once for each of its versions.
    pub(crate) order: Vec<u32>,
    /// One for each picture shown; none where they are shown as they are.
    pub(crate) distortions: Vec<Distortion>,
    /// How many pictures make a step; the last may have fewer.
    pub(crate) batch_size: usize,
    /// The size of each step.
    pub(crate) rates: Vec<f32>,
}

impl Plan {
    /// Draws the epoch after `epochs_done` ones of a task, over so many pictures.
    pub(crate) fn draw(task: &TrainModel, epochs_done: u32, pictures: u32, rng: &mut Rng) -> Self {
        let versions = task.distortions.max(1);
        let mut order: Vec<u32> = std::iter::repeat_n(0..pictures, versions).flatten().collect();
        rng.shuffle(&mut order);
        let distorted = if task.distortions > 0 { order.len() } else { 0 };
        let distortions = (0..distorted).map(|_| Distortion::random(rng)).collect();
        let steps = order.len().div_ceil(task.batch_size);
        let rate = |step: usize| {
            let epochs = epochs_done as f32 + step as f32 / steps as f32;
            task.rate_at(epochs / task.epochs as f32)
        };
        Self { order, distortions, batch_size: task.batch_size, rates: (0..steps).map(rate).collect() }
    }
}
