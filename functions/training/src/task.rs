//! The task: what a user may choose, the defaults, the limits, and what comes back.

use platform::ArtifactName;
use rhubarb::Task;
use serde::{Deserialize, Serialize};

const EPOCHS_MAX: u32 = 100_000;
const HIDDEN_LAYERS_MAX: usize = 8;
const HIDDEN_SIZE_MAX: usize = 4_096;
const BATCH_SIZE_MAX: usize = 4_096;
const DISTORTIONS_MAX: usize = 1_000;

/// Trains a classifier on a data set. The same task on the same data gives the same model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainModel {
    /// The data set, as `preprocess_dataset` named it.
    pub dataset: ArtifactName,
    /// How often to go through the data.
    pub epochs: u32,
    /// What to call the model; without a name it has the data set's.
    #[serde(default)]
    pub model: Option<ArtifactName>,
    /// Where all randomness begins.
    #[serde(default)]
    pub seed: u64,
    /// The sizes of the layers between pixels and classes.
    #[serde(default = "default::hidden")]
    pub hidden: Vec<usize>,
    /// The size of the first steps; it falls to zero along half a cosine.
    #[serde(default = "default::learning_rate")]
    pub learning_rate: f32,
    /// How many pictures make one step.
    #[serde(default = "default::batch_size")]
    pub batch_size: usize,
    /// In how many distorted versions an epoch shows each picture; 0 shows each once, as it is.
    #[serde(default = "default::distortions")]
    pub distortions: usize,
    /// A checkpoint is kept each time that so many epochs are done.
    #[serde(default = "default::checkpoint_every")]
    pub checkpoint_every: u32,
}

impl Task for TrainModel {
    const NAME: &'static str = "train_model";
    const QUEUE: &'static str = "training";
    type Output = TrainedModel;
}

mod default {
    pub(super) fn hidden() -> Vec<usize> {
        vec![512, 256]
    }
    pub(super) fn learning_rate() -> f32 {
        0.05
    }
    pub(super) fn batch_size() -> usize {
        64
    }
    pub(super) fn distortions() -> usize {
        32
    }
    pub(super) fn checkpoint_every() -> u32 {
        5
    }
    /// What was trained before results told it.
    pub(super) fn device() -> String {
        "cpu".to_owned()
    }
}

/// What a training came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainedModel {
    /// The model's name, for the tasks that follow.
    pub model: ArtifactName,
    /// The key of its artifact.
    pub key: String,
    /// The hash of its artifact.
    pub sha256: String,
    /// How many epochs it learnt for.
    pub epochs: u32,
    /// The share of the training pictures that it gets right. How it does on pictures that it has never
    /// seen is for `run_evaluation` to say.
    pub training_accuracy: f64,
    /// Where it learnt: the GPU's name, or `cpu`.
    #[serde(default = "default::device")]
    pub device: String,
}

/// A setting outside its limits.
#[derive(Debug, thiserror::Error)]
#[error("`{field}` is {value}: use {fix}")]
pub struct InvalidSetting {
    field: &'static str,
    value: String,
    fix: String,
}

impl TrainModel {
    /// A training of so many epochs, with the defaults for all else.
    pub fn new(dataset: ArtifactName, epochs: u32) -> Self {
        Self {
            dataset,
            epochs,
            model: None,
            seed: 0,
            hidden: default::hidden(),
            learning_rate: default::learning_rate(),
            batch_size: default::batch_size(),
            distortions: default::distortions(),
            checkpoint_every: default::checkpoint_every(),
        }
    }

    /// The name of the model that it will make.
    pub fn model_name(&self) -> &ArtifactName {
        self.model.as_ref().unwrap_or(&self.dataset)
    }

    /// Checks every limit, and names the first setting that is outside of its own.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        within("epochs", self.epochs, 1, EPOCHS_MAX)?;
        within("checkpoint_every", self.checkpoint_every, 1, EPOCHS_MAX)?;
        within("batch_size", self.batch_size, 1, BATCH_SIZE_MAX)?;
        within("distortions", self.distortions, 0, DISTORTIONS_MAX)?;
        within("learning_rate", self.learning_rate, f32::EPSILON, 1.0)?;
        within("hidden (number of layers)", self.hidden.len(), 0, HIDDEN_LAYERS_MAX)?;
        self.hidden.iter().try_for_each(|&size| within("hidden", size, 1, HIDDEN_SIZE_MAX))
    }

    /// The size of the steps when this share of the work is done, from 0 to 1.
    pub(crate) fn rate_at(&self, done: f32) -> f32 {
        self.learning_rate * 0.5 * (1.0 + (std::f32::consts::PI * done).cos())
    }
}

fn within<T>(field: &'static str, value: T, least: T, most: T) -> Result<(), InvalidSetting>
where
    T: PartialOrd + std::fmt::Display,
{
    // Asked this way around, a number that is none is outside.
    if value >= least && value <= most {
        return Ok(());
    }
    let fix = format!("{least} to {most}");
    Err(InvalidSetting { field, value: value.to_string(), fix })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_task() -> TrainModel {
        TrainModel::new(ArtifactName::try_from("digits").unwrap(), 30)
    }

    #[test]
    fn the_defaults_are_within_the_limits() {
        a_task().validate().unwrap();
    }

    #[test]
    fn a_data_set_and_epochs_are_enough() {
        let task = serde_json::from_str::<TrainModel>(r#"{"dataset":"digits","epochs":30}"#).unwrap();
        assert_eq!(task, a_task());
        assert_eq!(task.model_name(), &task.dataset);
    }

    #[test]
    fn a_misspelt_setting_is_refused() {
        let refusal = serde_json::from_str::<TrainModel>(r#"{"dataset":"digits","epoch":30}"#).unwrap_err();
        assert!(refusal.to_string().starts_with("unknown field `epoch`"), "{refusal}");
    }

    #[test]
    fn a_setting_outside_its_limits_is_named_with_the_fix() {
        let refused = |task: TrainModel| task.validate().unwrap_err().to_string();
        assert_eq!(refused(TrainModel { epochs: 0, ..a_task() }), "`epochs` is 0: use 1 to 100000");
        assert_eq!(refused(TrainModel { hidden: vec![64, 0], ..a_task() }), "`hidden` is 0: use 1 to 4096");
        for learning_rate in [0.0, -1.0, 1.5, f32::NAN, f32::INFINITY] {
            let refusal = refused(TrainModel { learning_rate, ..a_task() });
            assert!(refusal.starts_with("`learning_rate` is "), "{refusal}");
        }
    }

    #[test]
    fn the_rate_falls_from_all_to_nothing() {
        let task = TrainModel { learning_rate: 0.1, ..a_task() };
        assert_eq!(task.rate_at(0.0), 0.1);
        assert!((task.rate_at(0.5) - 0.05).abs() < 1e-6);
        assert!(task.rate_at(1.0).abs() < 1e-6);
    }
}
