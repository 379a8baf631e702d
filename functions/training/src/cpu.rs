//! The arithmetic of learning, on the processor.
//!
//! This is the measure for other devices: what a GPU does in its place has the same numbers within rounding.

use ndarray::{Array2, ArrayView2, Axis, Zip};
use platform::{Layer, Network};

/// The share of the last step that the next one keeps.
pub(crate) const MOMENTUM: f32 = 0.9;
/// Pulls weights towards zero, so that a network does not learn pictures by heart.
pub(crate) const WEIGHT_DECAY: f32 = 1e-4;

/// A network that learns by stochastic gradient descent with momentum.
pub struct Cpu {
    network: Network,
    /// The direction in which each weight is moving; it has the network's own shape.
    velocity: Network,
}

impl Cpu {
    /// Goes on from a network and the direction in which it was moving.
    pub fn new(network: Network, velocity: Network) -> Self {
        Self { network, velocity }
    }

    /// Begins with a network at rest.
    pub fn at_rest(network: Network) -> Self {
        let mut velocity = network.clone();
        for layer in &mut velocity.layers {
            layer.weights.fill(0.0);
            layer.bias.fill(0.0);
        }
        Self::new(network, velocity)
    }

    /// The network as it is now.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The direction in which it is moving.
    pub fn velocity(&self) -> &Network {
        &self.velocity
    }

    /// Learns from one batch (a picture in each row), and returns the mean loss before the step.
    pub fn step(&mut self, images: ArrayView2<'_, f32>, labels: &[u8], rate: f32) -> f32 {
        let (loss, gradients) = gradients(&self.network, images, labels);
        let moving = self.network.layers.iter_mut().zip(&mut self.velocity.layers);
        for ((layer, velocity), gradient) in moving.zip(&gradients) {
            Zip::from(&mut layer.weights).and(&mut velocity.weights).and(&gradient.weights).for_each(
                |weight, speed, slope| {
                    *speed = MOMENTUM * *speed + slope + WEIGHT_DECAY * *weight;
                    *weight -= rate * *speed;
                },
            );
            Zip::from(&mut layer.bias).and(&mut velocity.bias).and(&gradient.bias).for_each(|bias, speed, slope| {
                *speed = MOMENTUM * *speed + slope;
                *bias -= rate * *speed;
            });
        }
        loss
    }
}

/// The mean cross-entropy of a batch, and its slope along every weight, by backpropagation.
fn gradients(network: &Network, images: ArrayView2<'_, f32>, labels: &[u8]) -> (f32, Vec<Layer>) {
    let outputs = network.forward(images);
    let Some(scores) = outputs.last() else {
        return (0.0, Vec::new());
    };
    let (loss, mut delta) = cross_entropy(scores, labels);

    let mut gradients = Vec::with_capacity(network.layers.len());
    for depth in (0..network.layers.len()).rev() {
        let inputs = if depth == 0 { images } else { outputs[depth - 1].view() };
        gradients.push(Layer { weights: inputs.t().dot(&delta), bias: delta.sum_axis(Axis(0)) });
        if depth > 0 {
            delta = delta.dot(&network.layers[depth].weights.t());
            // Where the layer below was cut off at zero, nothing flows back.
            Zip::from(&mut delta).and(inputs).for_each(|slope, &input| {
                if input <= 0.0 {
                    *slope = 0.0;
                }
            });
        }
    }
    gradients.reverse();
    (loss, gradients)
}

/// The mean cross-entropy of the softmax of the scores, and its slope along every score.
fn cross_entropy(scores: &Array2<f32>, labels: &[u8]) -> (f32, Array2<f32>) {
    let mut slopes = scores.clone();
    let mut loss = 0.0;
    for (mut row, &label) in slopes.rows_mut().into_iter().zip(labels) {
        let label = usize::from(label);
        // The largest score is taken away first: the softmax is the same, and nothing overflows.
        let largest = row.fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        row -= largest;
        let score = row[label];
        row.mapv_inplace(f32::exp);
        let sum = row.sum();
        row /= sum;
        row[label] -= 1.0;
        loss += sum.ln() - score;
    }
    let count = labels.len() as f32;
    slopes /= count;
    (loss / count, slopes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;

    const SIZES: [usize; 4] = [6, 5, 4, 3];

    fn a_batch(rng: &mut Rng) -> (Array2<f32>, Vec<u8>) {
        let images = Array2::from_shape_simple_fn((7, SIZES[0]), || rng.f32());
        (images, (0..7).map(|_| rng.u8(0..3)).collect())
    }

    /// The loss once more, by loops and in double precision, to differentiate by hand.
    fn loss_of(network: &Network, images: &Array2<f32>, labels: &[u8], nudged: [usize; 4], nudge: f64) -> f64 {
        let [at_layer, kind, at_row, at_column] = nudged;
        let mut loss = 0.0;
        for (image, &label) in images.rows().into_iter().zip(labels) {
            let mut values: Vec<f64> = image.iter().map(|&v| f64::from(v)).collect();
            for (depth, layer) in network.layers.iter().enumerate() {
                let by = |k, row, column| {
                    if [depth, k, row, column] == [at_layer, kind, at_row, at_column] { nudge } else { 0.0 }
                };
                let last = depth + 1 == network.layers.len();
                values = (0..layer.bias.len())
                    .map(|column| {
                        let weight = |row| f64::from(layer.weights[[row, column]]) + by(0, row, column);
                        let bias = f64::from(layer.bias[column]) + by(1, 0, column);
                        let sum: f64 = (0..values.len()).map(|row| values[row] * weight(row)).sum();
                        if last { sum + bias } else { (sum + bias).max(0.0) }
                    })
                    .collect();
            }
            let sum: f64 = values.iter().map(|score| score.exp()).sum();
            loss += sum.ln() - values[usize::from(label)];
        }
        loss / labels.len() as f64
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let mut rng = Rng::with_seed(3);
        let mut network = Network::random(&SIZES, &mut rng);
        for layer in &mut network.layers {
            layer.bias.mapv_inplace(|_| rng.f32() - 0.5);
        }
        let (images, labels) = a_batch(&mut rng);
        let (loss, gradients) = gradients(&network, images.view(), &labels);
        assert!((f64::from(loss) - loss_of(&network, &images, &labels, [9; 4], 0.0)).abs() < 1e-6);

        const NUDGE: f64 = 1e-6;
        let slope = |at| {
            let up = loss_of(&network, &images, &labels, at, NUDGE);
            let down = loss_of(&network, &images, &labels, at, -NUDGE);
            (up - down) / (2.0 * NUDGE)
        };
        let mut steepest: f64 = 0.0;
        for (depth, gradient) in gradients.iter().enumerate() {
            for ((row, column), &found) in gradient.weights.indexed_iter() {
                let expected = slope([depth, 0, row, column]);
                assert!((f64::from(found) - expected).abs() < 1e-5, "weight {depth} {row} {column}");
                steepest = steepest.max(expected.abs());
            }
            for (column, &found) in gradient.bias.indexed_iter() {
                let expected = slope([depth, 1, 0, column]);
                assert!((f64::from(found) - expected).abs() < 1e-5, "bias {depth} {column}");
            }
        }
        assert!(steepest > 0.05, "the test says nothing about a flat loss");
    }

    #[test]
    fn steps_on_one_batch_lower_its_loss() {
        let mut rng = Rng::with_seed(4);
        let mut cpu = Cpu::at_rest(Network::random(&SIZES, &mut rng));
        let (images, labels) = a_batch(&mut rng);
        let before = cpu.step(images.view(), &labels, 0.1);
        for _ in 0..20 {
            cpu.step(images.view(), &labels, 0.1);
        }
        assert!(cpu.step(images.view(), &labels, 0.1) < before);
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let scores = ndarray::arr2(&[[1e4_f32, -1e4, 0.0]]);
        let (loss, slopes) = cross_entropy(&scores, &[1]);
        assert_eq!(loss, 2e4);
        assert_eq!(slopes, ndarray::arr2(&[[1.0, -1.0, 0.0]]));
    }
}
