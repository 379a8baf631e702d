//! Where a training runs: on the processor, or on the GPU that was leased to its task.
//!
//! Both go through the same plan and make the same network within rounding. The state between two epochs is the same
//! in both places, so a checkpoint from one is gone on with on the other.

use ::cuda::CudaError;
use ndarray::{Array2, Axis};
use platform::{Dataset, Network, Samples};

use crate::cpu::Cpu;
use crate::cuda::Cuda;
use crate::plan::Plan;

/// Where a training is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the processor.
    Cpu,
    /// On the first GPU that CUDA shows to this process. Where CUDA cannot start, nothing else is taken in its place.
    Gpu,
}

/// A network that learns somewhere.
pub(crate) enum Device {
    Cpu(Cpu),
    Gpu(Box<Cuda>),
}

/// A network and the direction in which it was moving.
pub(crate) struct State {
    pub(crate) network: Network,
    pub(crate) velocity: Network,
}

impl Device {
    /// Brings a network to a place, with what it is to learn from.
    pub(crate) fn begin(
        place: Place,
        network: Network,
        dataset: &Dataset,
        batch_size: usize,
    ) -> Result<Self, CudaError> {
        Ok(match place {
            Place::Cpu => Self::Cpu(Cpu::at_rest(network)),
            Place::Gpu => Self::Gpu(Box::new(Cuda::at_rest(&network, dataset, batch_size)?)),
        })
    }

    /// Goes through a plan, and returns the mean loss over its steps.
    pub(crate) fn run(&mut self, plan: &Plan, dataset: &Dataset) -> Result<f32, CudaError> {
        match self {
            Self::Cpu(cpu) => Ok(run_on(cpu, plan, dataset)),
            Self::Gpu(gpu) => gpu.run(plan),
        }
    }

    pub(crate) fn state(&self) -> Result<State, CudaError> {
        match self {
            Self::Cpu(cpu) => Ok(State { network: cpu.network().clone(), velocity: cpu.velocity().clone() }),
            Self::Gpu(gpu) => gpu.state(),
        }
    }

    pub(crate) fn restore(&mut self, state: State) -> Result<(), CudaError> {
        match self {
            Self::Cpu(cpu) => *cpu = Cpu::new(state.network, state.velocity),
            Self::Gpu(gpu) => gpu.restore(&state)?,
        }
        Ok(())
    }

    /// What people call the device; `cpu` for the processor.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Cpu(_) => "cpu",
            Self::Gpu(gpu) => gpu.name(),
        }
    }
}

fn run_on(cpu: &mut Cpu, plan: &Plan, dataset: &Dataset) -> f32 {
    let mut distortions = plan.distortions.iter();
    let mut loss = 0.0;
    for (chosen, &rate) in plan.order.chunks(plan.batch_size).zip(&plan.rates) {
        let (mut images, labels) = batch(&dataset.train, chosen);
        for (mut image, distortion) in images.rows_mut().into_iter().zip(distortions.by_ref()) {
            let distorted = distortion.of(&image.to_vec(), dataset.width);
            image.iter_mut().zip(distorted).for_each(|(pixel, ink)| *pixel = ink);
        }
        loss += cpu.step(images.view(), &labels, rate) / plan.rates.len() as f32;
    }
    loss
}

fn batch(samples: &Samples, chosen: &[u32]) -> (Array2<f32>, Vec<u8>) {
    let chosen: Vec<usize> = chosen.iter().map(|&picture| picture as usize).collect();
    let images = samples.images.select(Axis(0), &chosen);
    (images, chosen.into_iter().map(|picture| samples.labels[picture]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_has_its_pictures_and_their_labels() {
        let images = Array2::from_shape_fn((4, 2), |(row, column)| (10 * row + column) as f32);
        let samples = Samples { images, labels: vec![3, 1, 2, 0] };
        let (images, labels) = batch(&samples, &[2, 0]);
        assert_eq!((images, labels), (ndarray::arr2(&[[20.0, 21.0], [0.0, 1.0]]), vec![2, 3]));
    }
}
