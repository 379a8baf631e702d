//! The whole state of a training between two epochs, as an artifact.
//!
//! It says which task and which data it belongs to, and is refused elsewhere: going on with others
//! would give a model that no undisturbed training makes.

use fastrand::Rng;
use platform::artifact::{Reader, Writer};
use platform::{Network, TrainedOn};
use serde::{Deserialize, Serialize};

use crate::device::State;
use crate::task::TrainModel;
use crate::trainer::{TrainError, Trainer};

const KIND: &str = "checkpoint";

#[derive(Serialize, Deserialize)]
struct Details {
    task: TrainModel,
    trained_on: TrainedOn,
    epochs_done: u32,
    /// The state of the random numbers: the next ones follow from it alone.
    rng: u64,
}

pub(crate) fn write(trainer: &Trainer) -> Result<Vec<u8>, TrainError> {
    let mut writer = Writer::default();
    let State { network, velocity } = trainer.device.state()?;
    network.write("network", &mut writer);
    velocity.write("velocity", &mut writer);
    let details = Details {
        task: trainer.task.clone(),
        trained_on: trainer.trained_on.clone(),
        epochs_done: trainer.epochs_done,
        rng: trainer.rng.get_seed(),
    };
    Ok(writer.finish(KIND, details)?)
}

/// Turns a training that has not begun into the one that was kept.
pub(crate) fn restore(trainer: &mut Trainer, bytes: &[u8]) -> Result<(), TrainError> {
    let (details, reader) = Reader::open::<Details>(KIND, bytes)?;
    if details.task != trainer.task {
        return Err(TrainError::OtherTraining("settings"));
    }
    if details.trained_on != trainer.trained_on {
        return Err(TrainError::OtherTraining("data"));
    }
    let sizes = trainer.sizes();
    let network = Network::read("network", &sizes, &reader)?;
    let velocity = Network::read("velocity", &sizes, &reader)?;
    trainer.device.restore(State { network, velocity })?;
    trainer.rng = Rng::with_seed(details.rng);
    trainer.epochs_done = details.epochs_done;
    Ok(())
}
