//! Training in epochs: which pictures, in which order, in how large steps.

use ::cuda::CudaError;
use fastrand::Rng;
use platform::{ArtifactError, Dataset, Model, Network, TrainedOn, sha256};

use crate::checkpoint;
use crate::device::{Device, Place};
use crate::plan::Plan;
use crate::task::{InvalidSetting, TrainModel};

/// A training between two epochs: all that decides how it goes on.
pub struct Trainer {
    pub(crate) task: TrainModel,
    pub(crate) trained_on: TrainedOn,
    pub(crate) device: Device,
    pub(crate) rng: Rng,
    pub(crate) epochs_done: u32,
    dataset: Dataset,
}

/// What an epoch came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Epoch {
    /// Counted from 1.
    pub number: u32,
    /// The mean loss over its steps.
    pub loss: f32,
}

/// Why a training cannot begin or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A setting outside its limits.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    /// A data set, a checkpoint or a model that cannot be read or written.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A checkpoint of a training with other settings or other data.
    #[error("the checkpoint belongs to another training: its {0} differ")]
    OtherTraining(&'static str),
    /// CUDA cannot start, or the device failed.
    #[error(transparent)]
    Gpu(#[from] CudaError),
    /// The network has lost its numbers.
    #[error("the training diverged in epoch {epoch}: use a `learning_rate` below {rate}")]
    Diverged {
        /// The epoch in which it was seen.
        epoch: u32,
        /// The rate that was too large.
        rate: f32,
    },
}

impl Trainer {
    /// Begins on the processor, with a network that has learnt nothing, on a data set's artifact.
    pub fn begin(task: TrainModel, dataset: &[u8]) -> Result<Self, TrainError> {
        Self::begin_at(Place::Cpu, task, dataset)
    }

    /// Begins at a place, with a network that has learnt nothing, on a data set's artifact.
    pub fn begin_at(place: Place, task: TrainModel, dataset: &[u8]) -> Result<Self, TrainError> {
        task.validate()?;
        let trained_on = TrainedOn { dataset: task.dataset.clone(), sha256: sha256(dataset) };
        let dataset = Dataset::from_bytes(dataset)?;

        let mut rng = Rng::with_seed(task.seed);
        let network = Network::random(&sizes(&task, &dataset), &mut rng);
        let device = Device::begin(place, network, &dataset, task.batch_size)?;
        Ok(Self { task, trained_on, device, rng, epochs_done: 0, dataset })
    }

    /// Goes on from a checkpoint on the processor, to the same model that an undisturbed training there would have made.
    pub fn resume(task: TrainModel, dataset: &[u8], checkpoint: &[u8]) -> Result<Self, TrainError> {
        Self::resume_at(Place::Cpu, task, dataset, checkpoint)
    }

    /// Goes on at a place from a checkpoint that was made there or at another.
    pub fn resume_at(place: Place, task: TrainModel, dataset: &[u8], checkpoint: &[u8]) -> Result<Self, TrainError> {
        let mut trainer = Self::begin_at(place, task, dataset)?;
        checkpoint::restore(&mut trainer, checkpoint)?;
        Ok(trainer)
    }

    /// The whole state, for [`Trainer::resume`].
    pub fn checkpoint(&self) -> Result<Vec<u8>, TrainError> {
        checkpoint::write(self)
    }

    /// How many epochs are done.
    pub fn epochs_done(&self) -> u32 {
        self.epochs_done
    }

    /// Whether all epochs are done.
    pub fn is_done(&self) -> bool {
        self.epochs_done >= self.task.epochs
    }

    /// What has been learnt so far.
    pub fn model(&self) -> Result<Model, TrainError> {
        Ok(Model { network: self.device.state()?.network, trained_on: self.trained_on.clone() })
    }

    /// The device that it runs on, as people call it; `cpu` for the processor.
    pub fn device(&self) -> &str {
        self.device.name()
    }

    /// The share of the training pictures that a network gets right.
    pub fn training_accuracy(&self, network: &Network) -> f64 {
        let train = &self.dataset.train;
        let found = network.classify(train.images.view());
        let right = found.iter().zip(&train.labels).filter(|(found, label)| found == label).count();
        right as f64 / train.len() as f64
    }

    /// Goes through the data once. This keeps a core, or the GPU, busy for as long as it takes.
    pub fn run_epoch(&mut self) -> Result<Epoch, TrainError> {
        let pictures = u32::try_from(self.dataset.train.len()).unwrap_or(u32::MAX);
        let plan = Plan::draw(&self.task, self.epochs_done, pictures, &mut self.rng);
        let loss = self.device.run(&plan, &self.dataset)?;
        self.epochs_done += 1;
        if !loss.is_finite() {
            let rate = self.task.learning_rate;
            return Err(TrainError::Diverged { epoch: self.epochs_done, rate });
        }
        Ok(Epoch { number: self.epochs_done, loss })
    }

    /// The sizes of the network's layers.
    pub(crate) fn sizes(&self) -> Vec<usize> {
        sizes(&self.task, &self.dataset)
    }
}

fn sizes(task: &TrainModel, dataset: &Dataset) -> Vec<usize> {
    let pixels = dataset.train.images.ncols();
    std::iter::once(pixels).chain(task.hidden.iter().copied()).chain([dataset.classes]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use platform::ArtifactName;
    use preprocessing::PreprocessDataset;

    fn digits() -> Dataset {
        let dataset = ArtifactName::try_from("digits").unwrap();
        PreprocessDataset { dataset, seed: 0, test_fraction: 0.2 }.prepare().unwrap()
    }

    fn a_task(epochs: u32, hidden: usize, distortions: usize) -> TrainModel {
        let digits = ArtifactName::try_from("digits").unwrap();
        TrainModel { hidden: vec![hidden], distortions, ..TrainModel::new(digits, epochs) }
    }

    fn run(mut trainer: Trainer, epochs: u32) -> Trainer {
        for _ in 0..epochs {
            trainer.run_epoch().unwrap();
        }
        trainer
    }

    #[test]
    fn a_short_training_knows_95_of_100_digits_that_it_has_never_seen() {
        let dataset = digits();
        let trainer = Trainer::begin(a_task(15, 128, 8), &dataset.to_bytes().unwrap()).unwrap();
        let found = run(trainer, 15).model().unwrap().network.classify(dataset.held_out.images.view());
        let labels = &dataset.held_out.labels;
        let right = found.iter().zip(labels).filter(|(found, label)| found == label).count();
        assert!(right * 100 >= labels.len() * 95, "{right} of {}", labels.len());
    }

    #[test]
    fn a_resumed_training_gives_the_same_model_to_the_last_bit() {
        let dataset = digits().to_bytes().unwrap();
        let task = a_task(4, 24, 1);
        let begin = || Trainer::begin(task.clone(), &dataset).unwrap();
        let undisturbed = run(begin(), 4);
        for cut_off_after in 0..=4 {
            let kept = run(begin(), cut_off_after).checkpoint().unwrap();
            let resumed = Trainer::resume(task.clone(), &dataset, &kept).unwrap();
            assert_eq!(resumed.epochs_done(), cut_off_after);
            let resumed = run(resumed, 4 - cut_off_after);
            assert!(resumed.is_done());
            assert_eq!(resumed.model().unwrap(), undisturbed.model().unwrap());
            assert_eq!(resumed.checkpoint().unwrap(), undisturbed.checkpoint().unwrap());
        }
    }

    #[test]
    fn a_seed_gives_one_model_and_another_seed_another() {
        let dataset = digits().to_bytes().unwrap();
        let trained = |seed| {
            let task = TrainModel { seed, ..a_task(1, 24, 1) };
            run(Trainer::begin(task, &dataset).unwrap(), 1).model().unwrap()
        };
        assert_eq!(trained(1), trained(1));
        assert_ne!(trained(1), trained(2));
    }

    #[test]
    fn a_training_that_diverges_says_so() {
        let mut dataset = digits();
        dataset.train.images.mapv_inplace(|pixel| pixel * 1e30);
        let mut trainer = Trainer::begin(a_task(1, 24, 0), &dataset.to_bytes().unwrap()).unwrap();
        let refusal = trainer.run_epoch().unwrap_err().to_string();
        assert_eq!(refusal, "the training diverged in epoch 1: use a `learning_rate` below 0.05");
    }

    #[test]
    fn a_checkpoint_of_another_training_is_refused() {
        let dataset = digits().to_bytes().unwrap();
        let task = a_task(4, 24, 1);
        let kept = Trainer::begin(task.clone(), &dataset).unwrap().checkpoint().unwrap();
        let refused = |task: &TrainModel, dataset: &[u8], kept: &[u8]| {
            Trainer::resume(task.clone(), dataset, kept).err().map(|error| error.to_string()).unwrap()
        };
        let other_task = TrainModel { seed: 1, ..task.clone() };
        assert!(refused(&other_task, &dataset, &kept).ends_with("its settings differ"));
        let mut other_data = digits();
        other_data.train.labels[0] = (other_data.train.labels[0] + 1) % 10;
        let other_data = other_data.to_bytes().unwrap();
        assert!(refused(&task, &other_data, &kept).ends_with("its data differ"));
        assert_eq!(refused(&task, &dataset, b"x"), "not a checkpoint artifact, or a damaged one");
    }
}
