//! A small neural network: layers of weighted sums with a bend between them.
//!
//! Only what every user of a network needs is here: its numbers, its answer, and how both are kept. How
//! it learns is the training function's own business.

use fastrand::Rng;
use ndarray::{Array1, Array2, ArrayView2, Axis};

use crate::artifact::{ArtifactError, Reader, Writer};

/// Layers from pixels to classes. Between two layers, negative values become zero (ReLU).
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// From the first, which sees the pixels, to the last, which has one output for each class.
    pub layers: Vec<Layer>,
}

/// One weighted sum: `outputs = inputs · weights + bias`.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// A row for each input, a column for each output.
    pub weights: Array2<f32>,
    /// One for each output.
    pub bias: Array1<f32>,
}

impl Network {
    /// A network that has learnt nothing, with layers of these sizes (pixels first, classes last).
    ///
    /// Weights are random with the spread that keeps a signal's strength through ReLU layers (He et al., 2015).
    pub fn random(sizes: &[usize], rng: &mut Rng) -> Self {
        let layer = |pair: &[usize]| {
            let limit = (6.0 / pair[0] as f32).sqrt();
            let weights = Array2::from_shape_simple_fn((pair[0], pair[1]), || limit * (2.0 * rng.f32() - 1.0));
            Layer { weights, bias: Array1::zeros(pair[1]) }
        };
        Self { layers: sizes.windows(2).map(layer).collect() }
    }

    /// What every layer says of the pictures (one a row); the last has a score for each class.
    pub fn forward(&self, images: ArrayView2<'_, f32>) -> Vec<Array2<f32>> {
        let mut outputs: Vec<Array2<f32>> = Vec::with_capacity(self.layers.len());
        for (depth, layer) in self.layers.iter().enumerate() {
            let inputs = outputs.last().map_or(images, |last| last.view());
            let mut output = inputs.dot(&layer.weights);
            output += &layer.bias;
            if depth + 1 < self.layers.len() {
                // Not `max`: that would turn a value that is no number into zero, and hide it.
                output.mapv_inplace(|value| if value < 0.0 { 0.0 } else { value });
            }
            outputs.push(output);
        }
        outputs
    }

    /// The most likely class of each picture.
    pub fn classify(&self, images: ArrayView2<'_, f32>) -> Vec<u8> {
        let scores = self.forward(images).pop().unwrap_or_default();
        scores.axis_iter(Axis(0)).map(|row| most_likely(row.iter().copied())).collect()
    }

    /// The sizes of its layers: pixels first, classes last.
    pub fn sizes(&self) -> Vec<usize> {
        let inputs = self.layers.first().map(|layer| layer.weights.nrows());
        inputs.into_iter().chain(self.layers.iter().map(|layer| layer.bias.len())).collect()
    }

    /// How many pixels it looks at, and how many classes it knows.
    pub fn shape(&self) -> (usize, usize) {
        let pixels = self.layers.first().map_or(0, |layer| layer.weights.nrows());
        let classes = self.layers.last().map_or(0, |layer| layer.bias.len());
        (pixels, classes)
    }

    /// Adds the layers to an artifact, as `PREFIX.0.weights`, `PREFIX.0.bias`, …
    pub fn write(&self, prefix: &str, writer: &mut Writer) {
        for (depth, layer) in self.layers.iter().enumerate() {
            writer.floats(format!("{prefix}.{depth}.weights"), &layer.weights);
            writer.floats(format!("{prefix}.{depth}.bias"), &layer.bias);
        }
    }

    /// Reads layers of these sizes from an artifact.
    pub fn read(prefix: &str, sizes: &[usize], reader: &Reader<'_>) -> Result<Self, ArtifactError> {
        let mut layers = Vec::new();
        for (depth, pair) in sizes.windows(2).enumerate() {
            let weights = reader.floats(&format!("{prefix}.{depth}.weights"), (pair[0], pair[1]))?;
            let bias = reader.floats(&format!("{prefix}.{depth}.bias"), pair[1])?;
            layers.push(Layer { weights, bias });
        }
        Ok(Self { layers })
    }
}

fn most_likely(scores: impl Iterator<Item = f32>) -> u8 {
    let mut best = (0, f32::NEG_INFINITY);
    for (class, score) in (0..=u8::MAX).zip(scores) {
        if score > best.1 {
            best = (class, score);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{arr1, arr2};

    /// Two inputs, two hidden, two classes; small enough to compute by hand.
    fn by_hand() -> Network {
        let hidden = Layer { weights: arr2(&[[1.0, -1.0], [2.0, 1.0]]), bias: arr1(&[0.0, -1.0]) };
        let output = Layer { weights: arr2(&[[1.0, 0.0], [0.0, 3.0]]), bias: arr1(&[0.5, 0.0]) };
        Network { layers: vec![hidden, output] }
    }

    #[test]
    fn a_network_answers_as_computed_by_hand() {
        let images = arr2(&[[1.0, 1.0], [0.0, 3.0]]);
        let outputs = by_hand().forward(images.view());
        assert_eq!(outputs[0], arr2(&[[3.0, 0.0], [6.0, 2.0]]));
        assert_eq!(outputs[1], arr2(&[[3.5, 0.0], [6.5, 6.0]]));
        assert_eq!(by_hand().classify(images.view()), [0, 0]);
    }

    #[test]
    fn the_last_layer_may_be_negative() {
        let mut network = by_hand();
        network.layers[1].bias = arr1(&[-10.0, -8.0]);
        assert_eq!(network.classify(arr2(&[[1.0, 1.0]]).view()), [0]);
        assert_eq!(network.classify(arr2(&[[0.0, 3.0]]).view()), [1]);
    }

    #[test]
    fn a_seed_gives_one_network_and_another_seed_another() {
        let random = |seed| Network::random(&[64, 16, 10], &mut Rng::with_seed(seed));
        assert_eq!(random(1), random(1));
        assert_ne!(random(1), random(2));
        assert_eq!(random(1).sizes(), [64, 16, 10]);
    }
}
