//! Judges a trained model by the pictures it has never seen.
//!
//! The task reads a model and a data set and changes nothing, so it may run any number of times.

mod confusion;

use bytes::Bytes;
use platform::{ArtifactError, ArtifactName, Dataset, Model, sha256};
use rhubarb::{Context, ContextError, Task, TaskError};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

pub use confusion::{ClassScore, Confusion};

/// Judges a model by the held-out part of the data set that it was trained on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunEvaluation {
    /// The model, as `train_model` named it.
    pub model: ArtifactName,
    /// The data set; without a name, the one that the model was trained on.
    #[serde(default)]
    pub dataset: Option<ArtifactName>,
}

impl Task for RunEvaluation {
    const NAME: &'static str = "run_evaluation";
    const QUEUE: &'static str = "evaluation";
    type Output = Evaluation;
}

/// How good a model is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The model that was judged.
    pub model: ArtifactName,
    /// The data set whose held-out part it was judged by.
    pub dataset: ArtifactName,
    /// How many pictures it was shown.
    pub pictures: u32,
    /// The share that it gets right.
    pub accuracy: f64,
    /// How it does on each class.
    pub classes: Vec<ClassScore>,
    /// How often a picture of one class (row) was taken for another (column).
    pub confusion: Vec<Vec<u32>>,
}

/// Why a model cannot be judged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluationError {
    /// A model or a data set that cannot be read.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The pictures are not of the model's kind.
    #[error(
        "model `{model}` knows pictures of {expected} pixels in {classes} classes: `{dataset}` is no such data set"
    )]
    Misfit {
        /// The model.
        model: ArtifactName,
        /// The data set that does not fit.
        dataset: ArtifactName,
        /// Pixels that the model looks at.
        expected: usize,
        /// Classes that it knows.
        classes: usize,
    },
    /// The model was trained on another split of the same data.
    #[error(
        "`{dataset}` was split anew since model `{model}` was trained on it: some held-out pictures may be known to the model; train it again, or preprocess with the former arguments"
    )]
    OtherSplit {
        /// The model.
        model: ArtifactName,
        /// The data set of which it has seen another version.
        dataset: ArtifactName,
    },
}

/// Runs the task. What is missing may be on its way: that is worth another attempt.
pub async fn run_evaluation(task: RunEvaluation, cx: Context) -> Result<Evaluation, TaskError> {
    let name = task.model;
    let missing = format!("there is no model `{name}` yet: run `train_model` for it");
    let model = artifact(&cx, &name.model_key(), missing).await?;
    let model = Model::from_bytes(&model).map_err(TaskError::fatal)?;

    let dataset = task.dataset.unwrap_or_else(|| model.trained_on.dataset.clone());
    let missing = format!("there is no data set `{dataset}` yet: run `preprocess_dataset` for it");
    let dataset = artifact(&cx, &dataset.dataset_key(), missing).await?;
    spawn_blocking(move || evaluate(&name, &model, &dataset)).await?.map_err(TaskError::fatal)
}

async fn artifact(cx: &Context, key: &str, missing: String) -> Result<Bytes, TaskError> {
    cx.blobs().get(key).await.map_err(|error| match error {
        ContextError::NotFound(_) => TaskError::retry(missing).kind("no_artifact"),
        error => error.into(),
    })
}

/// Judges a model by the held-out part of the data set in an artifact.
pub fn evaluate(name: &ArtifactName, model: &Model, dataset: &[u8]) -> Result<Evaluation, EvaluationError> {
    let Model { network, trained_on } = model;
    let hash = sha256(dataset);
    let dataset = Dataset::from_bytes(dataset)?;

    let (expected, classes) = network.shape();
    if (dataset.width * dataset.height, dataset.classes) != (expected, classes) {
        return Err(EvaluationError::Misfit { model: name.clone(), dataset: dataset.name, expected, classes });
    }
    if trained_on.dataset == dataset.name && trained_on.sha256 != hash {
        return Err(EvaluationError::OtherSplit { model: name.clone(), dataset: dataset.name });
    }
    let answers = network.classify(dataset.held_out.images.view());
    let confusion = Confusion::count(dataset.classes, &dataset.held_out.labels, &answers);
    Ok(Evaluation {
        model: name.clone(),
        dataset: dataset.name,
        pictures: confusion.total(),
        accuracy: confusion.accuracy(),
        classes: confusion.class_scores(),
        confusion: confusion.rows(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{arr1, arr2};
    use platform::{Layer, Network, Samples, TrainedOn};
    use rhubarb::testing::Host;

    fn named(name: &str) -> ArtifactName {
        ArtifactName::try_from(name).unwrap()
    }

    /// Pictures of two pixels; their class is the brighter one.
    fn the_brighter() -> Dataset {
        let samples = |images, labels: &[u8]| Samples { images, labels: labels.to_vec() };
        Dataset {
            name: named("brighter"),
            width: 2,
            height: 1,
            classes: 2,
            train: samples(arr2(&[[0.0, 1.0]]), &[1]),
            held_out: samples(arr2(&[[0.9, 0.1], [0.3, 0.6], [0.2, 0.1], [0.4, 0.5]]), &[0, 1, 0, 0]),
        }
    }

    /// Takes the brighter pixel for the class; so it is wrong on the last picture above.
    fn a_model(dataset: &[u8]) -> Model {
        let layer = Layer { weights: arr2(&[[1.0, 0.0], [0.0, 1.0]]), bias: arr1(&[0.0, 0.0]) };
        let trained_on = TrainedOn { dataset: named("brighter"), sha256: sha256(dataset) };
        Model { network: Network { layers: vec![layer] }, trained_on }
    }

    #[test]
    fn a_model_is_judged_by_the_held_out_part() {
        let dataset = the_brighter().to_bytes().unwrap();
        let model = a_model(&dataset);
        let evaluation = evaluate(&named("m"), &model, &dataset).unwrap();
        assert_eq!((evaluation.pictures, evaluation.accuracy), (4, 0.75));
        assert_eq!(evaluation.confusion, [[2, 1], [0, 1]]);
    }

    #[test]
    fn another_split_of_the_same_data_is_refused() {
        let dataset = the_brighter();
        let model = a_model(&dataset.to_bytes().unwrap());
        let mut split_anew = dataset;
        split_anew.held_out.labels[0] = 1;
        let refusal = evaluate(&named("m"), &model, &split_anew.to_bytes().unwrap()).unwrap_err();
        assert!(matches!(refusal, EvaluationError::OtherSplit { .. }), "{refusal}");
    }

    #[test]
    fn another_data_set_of_the_same_shape_is_welcome() {
        let dataset = the_brighter();
        let model = a_model(&dataset.to_bytes().unwrap());
        let other = Dataset { name: named("other"), ..dataset };
        evaluate(&named("m"), &model, &other.to_bytes().unwrap()).unwrap();
    }

    #[test]
    fn pictures_that_do_not_fit_are_refused() {
        let dataset = the_brighter();
        let model = a_model(&dataset.to_bytes().unwrap());
        let wider = Dataset { classes: 3, ..dataset };
        let refusal = evaluate(&named("m"), &model, &wider.to_bytes().unwrap()).unwrap_err().to_string();
        let expected = "model `m` knows pictures of 2 pixels in 2 classes: `brighter` is no such data set";
        assert_eq!(refusal, expected);
    }

    #[tokio::test]
    async fn the_task_judges_a_model_by_the_data_that_it_was_trained_on() {
        let dataset = the_brighter().to_bytes().unwrap();
        let model = a_model(&dataset).to_bytes().unwrap();
        let host = Host::new().with_blob("models/m", model).with_blob("datasets/brighter", dataset);
        let evaluation = host.run(run_evaluation, RunEvaluation { model: named("m"), dataset: None }).await.unwrap();
        assert_eq!((evaluation.dataset, evaluation.accuracy), (named("brighter"), 0.75));
    }

    #[tokio::test]
    async fn what_is_missing_is_worth_another_attempt() {
        let task = RunEvaluation { model: named("m"), dataset: None };
        let no_model = Host::new().run(run_evaluation, task.clone()).await.unwrap_err();
        let model = a_model(&the_brighter().to_bytes().unwrap()).to_bytes().unwrap();
        let no_data = Host::new().with_blob("models/m", model).run(run_evaluation, task).await.unwrap_err();
        assert!(matches!((&no_model, &no_data), (TaskError::Retry { .. }, TaskError::Retry { .. })));
        assert_eq!(no_model.to_string(), "there is no model `m` yet: run `train_model` for it");
        assert_eq!(no_data.to_string(), "there is no data set `brighter` yet: run `preprocess_dataset` for it");
    }

    #[tokio::test]
    async fn a_model_that_cannot_be_read_is_refused_for_good() {
        let host = Host::new().with_blob("models/m", "garbage");
        let refusal = host.run(run_evaluation, RunEvaluation { model: named("m"), dataset: None }).await.unwrap_err();
        assert!(matches!(refusal, TaskError::Fatal(_)), "{refusal}");
    }
}
