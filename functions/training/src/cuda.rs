//! The arithmetic of learning, on an NVIDIA device.
//!
//! Everything stays there for the whole training: the pictures, the network, what a step needs between its parts. An
//! epoch sends only its plan and is waited for once, at its end; a step starts about twenty kernels and waits for none.
//! Products of matrices are cuBLAS's, in full single precision; the rest is `training.cu`. A device that fails ends the
//! attempt with an error: the next one goes on from the last checkpoint.

use std::ops::Range;

use ::cuda::cublas::sys::cublasOperation_t as Operation;
use ::cuda::cublas::sys::cublasOperation_t::{CUBLAS_OP_N as AS_IT_IS, CUBLAS_OP_T as TRANSPOSED};
use ::cuda::cublas::{CudaBlas, Gemm, GemmConfig, Gemv, GemvConfig};
use ::cuda::{CudaError, CudaSlice, Gpu, Kernel};
use platform::{Dataset, Layer, Network};

use crate::cpu::{MOMENTUM, WEIGHT_DECAY};
use crate::device::State;
use crate::plan::Plan;

/// The kernels of a training, as text.
pub const KERNELS: &str = include_str!("training.cu");

/// A network that learns on a device.
pub(crate) struct Cuda {
    gpu: Gpu,
    blas: CudaBlas,
    kernels: Kernels,
    /// The picture's width and height.
    shape: (i32, i32),
    sizes: Vec<usize>,
    pictures: CudaSlice<f32>,
    labels: CudaSlice<u8>,
    /// All weights layer by layer, then all biases.
    parameters: CudaSlice<f32>,
    /// In the order of the parameters.
    velocity: CudaSlice<f32>,
    batch: Batch,
}

struct Kernels {
    show: Kernel,
    bend: Kernel,
    judge: Kernel,
    hold_back: Kernel,
    descend: Kernel,
}

/// What a step works with, a row for each of its pictures.
struct Batch {
    images: CudaSlice<f32>,
    /// What each layer says.
    outputs: Vec<CudaSlice<f32>>,
    /// The slope of the loss along each of the outputs.
    slopes: Vec<CudaSlice<f32>>,
    /// The loss of each row, summed over the steps of an epoch.
    losses: CudaSlice<f32>,
    ones: CudaSlice<f32>,
}

/// A plan on the device.
struct Shown {
    order: CudaSlice<u32>,
    distortions: CudaSlice<f32>,
    distorted: i32,
}

impl Cuda {
    /// Begins with a network at rest.
    pub(crate) fn at_rest(network: &Network, dataset: &Dataset, batch_size: usize) -> Result<Self, CudaError> {
        let gpu = Gpu::open()?;
        let loaded = gpu.kernels(KERNELS)?;
        let kernels = Kernels {
            show: loaded.get("show")?,
            bend: loaded.get("bend")?,
            judge: loaded.get("judge")?,
            hold_back: loaded.get("hold_back")?,
            descend: loaded.get("descend")?,
        };
        let sizes = network.sizes();
        let rows = |columns: &usize| gpu.zeros(batch_size * columns);
        let batch = Batch {
            images: rows(&sizes[0])?,
            outputs: sizes[1..].iter().map(rows).collect::<Result<_, _>>()?,
            slopes: sizes[1..].iter().map(rows).collect::<Result<_, _>>()?,
            losses: rows(&1)?,
            ones: gpu.upload(&vec![1.0; batch_size])?,
        };
        let parameters = flat(network);
        Ok(Self {
            blas: gpu.blas()?,
            kernels,
            shape: (whole(dataset.width), whole(dataset.height)),
            sizes,
            pictures: gpu.upload(&dataset.train.images.iter().copied().collect::<Vec<_>>())?,
            labels: gpu.upload(&dataset.train.labels)?,
            velocity: gpu.zeros(parameters.len())?,
            parameters: gpu.upload(&parameters)?,
            batch,
            gpu,
        })
    }

    pub(crate) fn name(&self) -> &str {
        self.gpu.name()
    }

    /// Goes through a plan, and returns the mean loss over its steps.
    pub(crate) fn run(&mut self, plan: &Plan) -> Result<f32, CudaError> {
        // Each epoch may have a thread of its own.
        self.gpu.enter_thread()?;
        let distortions: Vec<f32> = plan.distortions.iter().flat_map(|distortion| distortion.numbers()).collect();
        let shown = Shown {
            order: self.gpu.upload(&plan.order)?,
            distorted: i32::from(!distortions.is_empty()),
            // CUDA allocates no nothing.
            distortions: self.gpu.upload(if distortions.is_empty() { &[0.0] } else { &distortions })?,
        };
        self.batch.losses = self.gpu.zeros(plan.batch_size)?;
        for (step, &rate) in plan.rates.iter().enumerate() {
            let first = step * plan.batch_size;
            let rows = plan.batch_size.min(plan.order.len() - first);
            self.show(&shown, first, rows)?;
            self.forward(rows)?;
            self.judge(&shown, first, rows, plan.rates.len())?;
            self.backward(rows)?;
            self.descend(rate)?;
        }
        let losses: Vec<f32> = self.gpu.download(&self.batch.losses)?;
        Ok(losses.iter().sum())
    }

    /// The state between two epochs.
    pub(crate) fn state(&self) -> Result<State, CudaError> {
        self.gpu.enter_thread()?;
        let network = unflat(&self.sizes, &self.gpu.download(&self.parameters)?);
        let velocity = unflat(&self.sizes, &self.gpu.download(&self.velocity)?);
        Ok(State { network, velocity })
    }

    /// Goes on from a state of a network of the same sizes.
    pub(crate) fn restore(&mut self, state: &State) -> Result<(), CudaError> {
        self.gpu.enter_thread()?;
        self.parameters = self.gpu.upload(&flat(&state.network))?;
        self.velocity = self.gpu.upload(&flat(&state.velocity))?;
        Ok(())
    }

    /// Puts pictures of the plan in the rows of the batch.
    #[expect(unsafe_code, reason = "a kernel is started")]
    fn show(&mut self, shown: &Shown, first: usize, rows: usize) -> Result<(), CudaError> {
        let (first, count, (width, height)) = (first as u64, rows as u64, self.shape);
        let call = self.kernels.show.call().with(&self.pictures).with(&shown.order).with(&shown.distortions);
        let call = call.with(&first).with(&count).with(&width).with(&height).with(&shown.distorted);
        // SAFETY: `rows` pictures from `first` on are in the plan, the plan names pictures of the data set, has four
        // numbers for each or none, and the batch has room for so many rows.
        unsafe { call.with(&mut self.batch.images).start(rows * self.sizes[0]) }
    }

    /// What every layer says of the rows.
    #[expect(unsafe_code, reason = "a kernel and a product of matrices are started")]
    fn forward(&mut self, rows: usize) -> Result<(), CudaError> {
        let depths = self.sizes.len() - 1;
        for depth in 0..depths {
            let (inputs, columns) = (self.sizes[depth], self.sizes[depth + 1]);
            let weights = self.parameters.slice(weights_of(&self.sizes, depth));
            let bias = self.parameters.slice(bias_of(&self.sizes, depth));
            let (below, above) = self.batch.outputs.split_at_mut(depth);
            let input = below.last().unwrap_or(&self.batch.images);
            let product = product((AS_IT_IS, columns), (AS_IT_IS, inputs), (columns, rows, inputs), 0.0);
            // SAFETY: weights are inputs x columns, the input is rows x inputs, the output rows x columns.
            unsafe { self.blas.gemm(product, &weights, input, &mut above[0]) }?;
            let (count, width, bends) = ((rows * columns) as u64, whole(columns), i32::from(depth + 1 < depths));
            let call = self.kernels.bend.call().with(&mut above[0]).with(&bias);
            // SAFETY: the output has so many numbers, and a bias for each of its columns.
            unsafe { call.with(&count).with(&width).with(&bends).start(rows * columns) }?;
        }
        Ok(())
    }

    /// The slopes along the scores, and the rows' part of the epoch's loss.
    #[expect(unsafe_code, reason = "a kernel is started")]
    fn judge(&mut self, shown: &Shown, first: usize, rows: usize, steps: usize) -> Result<(), CudaError> {
        let Batch { outputs, slopes, losses, .. } = &mut self.batch;
        let (Some(scores), Some(slopes)) = (outputs.last(), slopes.last_mut()) else { return Ok(()) };
        let (first, count, share) = (first as u64, rows as u64, 1.0 / (rows as f32 * steps as f32));
        let classes = whole(self.sizes[self.sizes.len() - 1]);
        let call = self.kernels.judge.call().with(scores).with(&self.labels).with(&shown.order);
        let call = call.with(&first).with(&count).with(&classes).with(&share).with(slopes).with(losses);
        // SAFETY: scores and slopes have so many rows of a number for each class, labels are smaller than that, and
        // the plan has so many pictures from `first` on.
        unsafe { call.start(rows) }
    }

    /// From the slopes along the scores to those along every parameter, which are added to what is left of the velocity.
    #[expect(unsafe_code, reason = "kernels and products of matrices are started")]
    fn backward(&mut self, rows: usize) -> Result<(), CudaError> {
        for depth in (0..self.sizes.len() - 1).rev() {
            let (inputs, columns) = (self.sizes[depth], self.sizes[depth + 1]);
            let Batch { images, outputs, slopes, ones, .. } = &mut self.batch;
            let (below, above) = slopes.split_at_mut(depth);
            let slopes = &above[0];
            let input = if depth == 0 { &*images } else { &outputs[depth - 1] };
            let mut weights = self.velocity.slice_mut(weights_of(&self.sizes, depth));
            let to_weights = product((AS_IT_IS, columns), (TRANSPOSED, inputs), (columns, inputs, rows), MOMENTUM);
            // SAFETY: slopes are rows x columns, the input is rows x inputs, the weights are inputs x columns.
            unsafe { self.blas.gemm(to_weights, slopes, input, &mut weights) }?;
            let mut bias = self.velocity.slice_mut(bias_of(&self.sizes, depth));
            // SAFETY: slopes are rows x columns, there is a one for each row, and a bias for each column.
            unsafe { self.blas.gemv(sum_of_rows(rows, columns), slopes, ones, &mut bias) }?;
            if let Some(below) = below.last_mut() {
                let weights = self.parameters.slice(weights_of(&self.sizes, depth));
                let to_input = product((TRANSPOSED, columns), (AS_IT_IS, columns), (inputs, rows, columns), 0.0);
                // SAFETY: weights are inputs x columns, slopes rows x columns, the slopes below rows x inputs.
                unsafe { self.blas.gemm(to_input, &weights, slopes, below) }?;
                let count = (rows * inputs) as u64;
                let call = self.kernels.hold_back.call().with(below).with(input).with(&count);
                // SAFETY: both have so many numbers.
                unsafe { call.start(rows * inputs) }?;
            }
        }
        Ok(())
    }

    #[expect(unsafe_code, reason = "a kernel is started")]
    fn descend(&mut self, rate: f32) -> Result<(), CudaError> {
        let threads = self.parameters.len();
        let (count, decaying) = (threads as u64, weights_of(&self.sizes, self.sizes.len() - 1).start as u64);
        let call = self.kernels.descend.call().with(&mut self.parameters).with(&mut self.velocity);
        // SAFETY: there are so many parameters, each with its velocity.
        unsafe { call.with(&count).with(&decaying).with(&rate).with(&WEIGHT_DECAY).start(threads) }
    }
}

/// A product as cuBLAS takes it, which keeps matrices by columns: a matrix of ours, kept by rows, is its transpose there.
/// So `C = A · B` is asked for as `Cᵀ = Bᵀ · Aᵀ`. Each factor comes with its row's length; `times` scales what is there.
fn product(
    (transa, lda): (Operation, usize),
    (transb, ldb): (Operation, usize),
    (m, n, k): (usize, usize, usize),
    times: f32,
) -> GemmConfig<f32> {
    let (m, n, k, lda, ldb) = (whole(m), whole(n), whole(k), whole(lda), whole(ldb));
    GemmConfig { transa, transb, m, n, k, alpha: 1.0, lda, ldb, beta: times, ldc: m }
}

/// Sums the rows of a matrix, and adds what is left of the velocity.
fn sum_of_rows(rows: usize, columns: usize) -> GemvConfig<f32> {
    let (m, n) = (whole(columns), whole(rows));
    GemvConfig { trans: AS_IT_IS, m, n, alpha: 1.0, lda: m, incx: 1, beta: MOMENTUM, incy: 1 }
}

/// cuBLAS and kernels count sides of matrices in 32 bits. Each is within: the task limits layers and batches, a data
/// set's pictures are in memory.
fn whole(side: usize) -> i32 {
    i32::try_from(side).unwrap_or(i32::MAX)
}

/// Where the weights of a layer are among the parameters. One past the last layer: where the weights end.
fn weights_of(sizes: &[usize], depth: usize) -> Range<usize> {
    let count = |pair: &[usize]| pair[0] * pair[1];
    let start = sizes.windows(2).take(depth).map(count).sum();
    start..start + sizes.windows(2).nth(depth).map_or(0, count)
}

/// Where the biases of a layer are among the parameters.
fn bias_of(sizes: &[usize], depth: usize) -> Range<usize> {
    let start = weights_of(sizes, sizes.len() - 1).start + sizes[1..=depth].iter().sum::<usize>();
    start..start + sizes[depth + 1]
}

/// The parameters of a network, in the device's order.
fn flat(network: &Network) -> Vec<f32> {
    let weights = network.layers.iter().flat_map(|layer| layer.weights.iter());
    weights.chain(network.layers.iter().flat_map(|layer| layer.bias.iter())).copied().collect()
}

/// The network of these sizes and parameters.
fn unflat(sizes: &[usize], parameters: &[f32]) -> Network {
    let mut network = Network { layers: Vec::new() };
    for (depth, pair) in sizes.windows(2).enumerate() {
        let weights = &parameters[weights_of(sizes, depth)];
        let weights =
            ndarray::Array2::from_shape_fn((pair[0], pair[1]), |(row, column)| weights[row * pair[1] + column]);
        let bias = parameters[bias_of(sizes, depth)].to_vec().into();
        network.layers.push(Layer { weights, bias });
    }
    network
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;

    #[test]
    fn parameters_follow_each_other_without_a_gap() {
        let sizes = [3, 4, 2];
        assert_eq!([weights_of(&sizes, 0), weights_of(&sizes, 1), weights_of(&sizes, 2)], [0..12, 12..20, 20..20]);
        assert_eq!([bias_of(&sizes, 0), bias_of(&sizes, 1)], [20..24, 24..26]);
    }

    #[test]
    fn a_network_comes_back_from_its_parameters() {
        let mut rng = Rng::with_seed(5);
        let mut network = Network::random(&[3, 4, 2], &mut rng);
        for layer in &mut network.layers {
            layer.bias.mapv_inplace(|_| rng.f32());
        }
        assert_eq!(unflat(&[3, 4, 2], &flat(&network)), network);
    }
}
