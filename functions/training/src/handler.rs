//! Runs the task: fetches the data, trains epoch by epoch, keeps checkpoints, stores the model.
//!
//! An attempt that is cut off, by a crash or by a stop, is followed by one that goes on from the last
//! checkpoint. A store that is out of reach for a while costs a checkpoint, not the training.

use bytes::Bytes;
use rhubarb::{Context, ContextError, TaskError};
use tokio::task::spawn_blocking;

use crate::device::Place;
use crate::task::{TrainModel, TrainedModel};
use crate::trainer::{TrainError, Trainer};

/// Trains a model, and stores it under its name.
pub async fn train_model(task: TrainModel, cx: Context) -> Result<TrainedModel, TaskError> {
    task.validate().map_err(TaskError::fatal)?;
    let dataset = dataset(&task, &cx).await?;
    let place = if cx.gpus().is_empty() { Place::Cpu } else { Place::Gpu };
    let (settings, checkpoint) = (task.clone(), cx.last_checkpoint().await?);
    let begun = spawn_blocking(move || begin(place, &settings, &dataset, checkpoint)).await?;
    let mut trainer = begun.map_err(refused)?;
    println!("learning on {}", trainer.device());
    while !trainer.is_done() {
        if cx.is_cancelled() {
            keep(&trainer, &cx).await?;
            return Err(TaskError::cancelled());
        }
        // On a thread of its own: meanwhile this one hears of a cancellation.
        let (given_back, epoch) = spawn_blocking(move || {
            let epoch = trainer.run_epoch();
            (trainer, epoch)
        })
        .await?;
        trainer = given_back;
        let epoch = epoch.map_err(refused)?;
        println!("epoch {} of {}: loss {:.4}", epoch.number, task.epochs, epoch.loss);
        cx.progress_message(epoch.number, task.epochs, format!("loss {:.4}", epoch.loss)).await?;
        if epoch.number.is_multiple_of(task.checkpoint_every) {
            keep(&trainer, &cx).await?;
        }
    }
    let model = trainer.model().map_err(refused)?;
    let bytes = model.to_bytes().map_err(TaskError::fatal)?;
    let stored = cx.blobs().put(&task.model_name().model_key(), bytes).await?;
    Ok(TrainedModel {
        model: task.model_name().clone(),
        key: stored.key,
        sha256: stored.sha256,
        epochs: trainer.epochs_done(),
        training_accuracy: trainer.training_accuracy(&model.network),
        device: trainer.device().to_owned(),
    })
}

/// Fetches the data set. One that is missing may be on its way: that is worth another attempt.
async fn dataset(task: &TrainModel, cx: &Context) -> Result<Bytes, TaskError> {
    let name = &task.dataset;
    cx.blobs().get(&name.dataset_key()).await.map_err(|error| match error {
        ContextError::NotFound(_) => {
            let missing = format!("there is no data set `{name}` yet: run `preprocess_dataset` for it");
            TaskError::retry(missing).kind("no_dataset")
        }
        error => error.into(),
    })
}

/// Goes on from the checkpoint, or begins where there is none that fits.
fn begin(place: Place, task: &TrainModel, dataset: &[u8], checkpoint: Option<Bytes>) -> Result<Trainer, TrainError> {
    if let Some(checkpoint) = checkpoint {
        match Trainer::resume_at(place, task.clone(), dataset, &checkpoint) {
            Ok(trainer) => {
                println!("going on after epoch {}", trainer.epochs_done());
                return Ok(trainer);
            }
            Err(error @ TrainError::Gpu(_)) => return Err(error),
            Err(error) => println!("the last checkpoint does not fit ({error}): beginning anew"),
        }
    }
    Trainer::begin_at(place, task.clone(), dataset)
}

/// What is wrong with the task is as wrong in the next attempt. What is wrong with a device may be better on another:
/// a leased GPU is never exchanged for the processor behind the user's back.
fn refused(error: TrainError) -> TaskError {
    match error {
        TrainError::Gpu(error) => {
            TaskError::retry(format!("a GPU was leased for this task and cannot be used: {error}")).kind("gpu")
        }
        error => TaskError::fatal(error),
    }
}

/// Keeps a checkpoint, if the store can be reached.
async fn keep(trainer: &Trainer, cx: &Context) -> Result<(), TaskError> {
    let checkpoint = trainer.checkpoint().map_err(refused)?;
    match cx.checkpoint(checkpoint).await {
        Err(error @ ContextError::LeaseLost) => Err(error.into()),
        Err(error) => {
            println!("going on without a checkpoint of epoch {}: {error}", trainer.epochs_done());
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use platform::{ArtifactName, Model};
    use preprocessing::PreprocessDataset;
    use rhubarb::CancelReason;
    use rhubarb::testing::Host;

    fn digits() -> Vec<u8> {
        let dataset = ArtifactName::try_from("digits").unwrap();
        PreprocessDataset { dataset, seed: 0, test_fraction: 0.2 }.prepare().unwrap().to_bytes().unwrap()
    }

    fn host() -> Host {
        Host::new().with_blob("datasets/digits", digits())
    }

    /// Of four epochs, with a checkpoint after each second one.
    fn a_task() -> TrainModel {
        let digits = ArtifactName::try_from("digits").unwrap();
        TrainModel { hidden: vec![24], distortions: 0, checkpoint_every: 2, ..TrainModel::new(digits, 4) }
    }

    fn undisturbed() -> Trainer {
        let mut trainer = Trainer::begin(a_task(), &digits()).unwrap();
        while !trainer.is_done() {
            trainer.run_epoch().unwrap();
        }
        trainer
    }

    #[tokio::test]
    async fn the_task_stores_a_model_and_tells_how_far_it_is() {
        let host = host();
        let output = host.run(train_model, a_task()).await.unwrap();
        let stored = host.blob("models/digits").unwrap();
        assert_eq!((output.key.as_str(), output.sha256), ("models/digits", platform::sha256(&stored)));
        assert_eq!(Model::from_bytes(&stored).unwrap(), undisturbed().model().unwrap());
        assert_eq!(output.device, "cpu");
        let last = host.progress().pop().unwrap();
        assert_eq!((last.done, last.total), (4, 4));
        assert!(last.message.unwrap().starts_with("loss "));
        assert_eq!(host.checkpoint().unwrap(), undisturbed().checkpoint().unwrap());
    }

    #[tokio::test]
    async fn a_training_that_is_told_to_stop_is_finished_by_the_next_attempt() {
        let first = host();
        first.cancel(CancelReason::Shutdown);
        let task = TrainModel { checkpoint_every: 1_000, ..a_task() };
        assert_eq!(first.run(train_model, task.clone()).await.unwrap_err(), TaskError::cancelled());
        let kept = first.checkpoint().unwrap();
        assert!(Trainer::resume(task.clone(), &digits(), &kept).unwrap().epochs_done() < 4);

        let second = host().with_checkpoint(kept);
        second.run(train_model, task).await.unwrap();
        let model = Model::from_bytes(&second.blob("models/digits").unwrap()).unwrap();
        assert_eq!(model, undisturbed().model().unwrap());
    }

    #[tokio::test]
    async fn a_leased_gpu_that_cannot_be_used_is_an_error_and_not_the_processor() {
        if let Ok(gpu) = ::cuda::Gpu::open() {
            println!("skipped: CUDA starts here, on {}", gpu.name());
            return;
        }
        let refusal = host().with_gpus(["GPU-1"]).run(train_model, a_task()).await.unwrap_err();
        assert!(matches!(refusal, TaskError::Retry { .. }));
        let told = refusal.to_string();
        assert!(told.starts_with("a GPU was leased for this task and cannot be used: CUDA cannot start"), "{told}");
    }

    #[tokio::test]
    async fn a_checkpoint_that_does_not_fit_is_left_aside() {
        let host = host().with_checkpoint("of something else");
        host.run(train_model, a_task()).await.unwrap();
        let model = Model::from_bytes(&host.blob("models/digits").unwrap()).unwrap();
        assert_eq!(model, undisturbed().model().unwrap());
    }

    #[tokio::test]
    async fn a_missing_data_set_is_worth_another_attempt() {
        let refusal = Host::new().run(train_model, a_task()).await.unwrap_err();
        assert!(matches!(refusal, TaskError::Retry { .. }));
        assert_eq!(refusal.to_string(), "there is no data set `digits` yet: run `preprocess_dataset` for it");
    }

    #[tokio::test]
    async fn a_setting_outside_its_limits_is_refused_for_good() {
        let refusal = host().run(train_model, TrainModel { epochs: 0, ..a_task() }).await.unwrap_err();
        assert!(matches!(refusal, TaskError::Fatal(_)));
        assert_eq!(refusal.to_string(), "`epochs` is 0: use 1 to 100000");
    }

    #[tokio::test]
    async fn data_that_cannot_be_read_is_refused_for_good() {
        let host = Host::new().with_blob("datasets/digits", "garbage");
        let refusal = host.run(train_model, a_task()).await.unwrap_err();
        assert!(matches!(refusal, TaskError::Fatal(_)));
        assert!(refusal.to_string().starts_with("not a dataset artifact"), "{refusal}");
    }

    #[tokio::test]
    async fn a_holder_whose_lease_is_lost_stores_nothing() {
        let host = host();
        host.lose_lease();
        assert_eq!(host.run(train_model, a_task()).await.unwrap_err(), TaskError::LeaseLost);
        assert_eq!(host.blob("models/digits"), None);
    }
}
