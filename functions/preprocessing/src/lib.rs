//! Turns raw pictures of handwritten digits into a data set that models learn from.
//!
//! The pictures are part of the binary, so the task needs neither a network nor a disk. The same
//! arguments give the same artifact, bit for bit: running twice, or again after a crash, does no harm.

mod digits;
mod split;

use platform::{ArtifactName, Dataset};
use rhubarb::{Context, Task, TaskError};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

pub use digits::{RawPictures, read_digits};
pub use split::{SplitError, split};

/// Normalises the pictures of a data set, splits them for training and for judging, and stores both.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreprocessDataset {
    /// Which data set; this function carries `digits`.
    pub dataset: ArtifactName,
    /// Decides which pictures are held out; the same seed holds out the same pictures.
    #[serde(default)]
    pub seed: u64,
    /// The share of each class that is held out for judging, above 0 and below 1.
    #[serde(default = "test_fraction_default")]
    pub test_fraction: f64,
}

impl Task for PreprocessDataset {
    const NAME: &'static str = "preprocess_dataset";
    const QUEUE: &'static str = "preprocessing";
    type Output = PreprocessedDataset;
}

fn test_fraction_default() -> f64 {
    0.2
}

/// What the task wrote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PreprocessedDataset {
    /// The data set's name, for the tasks that follow.
    pub dataset: ArtifactName,
    /// The key of the artifact.
    pub key: String,
    /// The hash of the artifact.
    pub sha256: String,
    /// How many classes there are.
    pub classes: usize,
    /// How many pictures a model may learn from.
    pub train: usize,
    /// How many pictures are held out.
    pub held_out: usize,
}

/// Why no data set could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PreprocessError {
    /// A name that this function does not carry.
    #[error("`dataset`: there is no data set `{0}` here; use `digits`")]
    UnknownDataset(ArtifactName),
    /// The pictures cannot be split as asked.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// The embedded pictures cannot be read.
    #[error("cannot read the pictures of `digits`")]
    Pictures(#[from] csv::Error),
}

/// Runs the task. No argument that is refused today will be welcome tomorrow, so a refusal is final.
pub async fn preprocess_dataset(task: PreprocessDataset, cx: Context) -> Result<PreprocessedDataset, TaskError> {
    let dataset = spawn_blocking(move || task.prepare()).await?.map_err(TaskError::fatal)?;
    let artifact = dataset.to_bytes().map_err(TaskError::fatal)?;
    let stored = cx.blobs().put(&dataset.name.dataset_key(), artifact).await?;
    Ok(PreprocessedDataset {
        dataset: dataset.name,
        key: stored.key,
        sha256: stored.sha256,
        classes: dataset.classes,
        train: dataset.train.len(),
        held_out: dataset.held_out.len(),
    })
}

impl PreprocessDataset {
    /// Does the whole of the work, but for storing it.
    pub fn prepare(&self) -> Result<Dataset, PreprocessError> {
        if self.dataset.to_string() != "digits" {
            return Err(PreprocessError::UnknownDataset(self.dataset.clone()));
        }
        let (train, held_out) = split(&read_digits()?, self.test_fraction, self.seed)?;
        Ok(Dataset {
            name: self.dataset.clone(),
            width: digits::WIDTH,
            height: digits::HEIGHT,
            classes: digits::CLASSES,
            train,
            held_out,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use platform::sha256;
    use rhubarb::testing::Host;

    fn digits(seed: u64) -> PreprocessDataset {
        let dataset = ArtifactName::try_from("digits").unwrap();
        PreprocessDataset { dataset, seed, test_fraction: 0.2 }
    }

    #[test]
    fn a_fifth_of_the_1797_digits_is_held_out() {
        let dataset = digits(0).prepare().unwrap();
        assert_eq!(dataset.train.len() + dataset.held_out.len(), 1797);
        assert!((355..=365).contains(&dataset.held_out.len()), "{}", dataset.held_out.len());
    }

    #[test]
    fn pixels_are_normalised() {
        let dataset = digits(0).prepare().unwrap();
        let pixels = || dataset.train.images.iter().copied();
        assert_eq!(pixels().fold(f32::INFINITY, f32::min), 0.0);
        assert_eq!(pixels().fold(0.0, f32::max), 1.0);
    }

    #[test]
    fn the_same_arguments_give_the_same_artifact() {
        let artifact = |seed| digits(seed).prepare().unwrap().to_bytes().unwrap();
        assert_eq!(artifact(1), artifact(1));
        assert_ne!(artifact(1), artifact(2));
    }

    #[test]
    fn an_unknown_data_set_is_refused_with_what_there_is() {
        let dataset = ArtifactName::try_from("letters").unwrap();
        let refusal = PreprocessDataset { dataset, ..digits(0) }.prepare().unwrap_err().to_string();
        assert_eq!(refusal, "`dataset`: there is no data set `letters` here; use `digits`");
    }

    #[tokio::test]
    async fn the_task_stores_the_data_set_under_its_name() {
        let host = Host::new();
        let output = host.run(preprocess_dataset, digits(0)).await.unwrap();
        let stored = host.blob("datasets/digits").unwrap();
        assert_eq!((output.key.as_str(), output.sha256), ("datasets/digits", sha256(&stored)));
        let dataset = Dataset::from_bytes(&stored).unwrap();
        assert_eq!((output.train, output.held_out), (dataset.train.len(), dataset.held_out.len()));
    }

    #[tokio::test]
    async fn what_is_refused_is_refused_for_good() {
        let host = Host::new();
        let everything = PreprocessDataset { test_fraction: 1.0, ..digits(0) };
        let refusal = host.run(preprocess_dataset, everything).await.unwrap_err();
        assert!(matches!(refusal, TaskError::Fatal(_)), "{refusal}");
        assert_eq!(host.blob_keys(), Vec::<String>::new());
    }

    #[test]
    fn a_misspelt_argument_is_named() {
        let refusal = serde_json::from_str::<PreprocessDataset>(r#"{"dataset":"digits","sed":1}"#).unwrap_err();
        assert!(refusal.to_string().starts_with("unknown field `sed`"), "{refusal}");
    }
}
