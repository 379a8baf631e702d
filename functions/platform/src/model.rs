//! A trained network, with what one must know to judge it.

use serde::{Deserialize, Serialize};

use crate::artifact::{ArtifactError, Reader, Writer};
use crate::name::ArtifactName;
use crate::network::Network;

/// A trained network and where its knowledge comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// What it has learnt.
    pub network: Network,
    /// What it has learnt it from.
    pub trained_on: TrainedOn,
}

/// The very data that a model has learnt from.
///
/// The hash matters: the same data split another way holds pictures out that this model has seen, and
/// judging it by them would flatter it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainedOn {
    /// The data set's name.
    pub dataset: ArtifactName,
    /// The hash of the data set's artifact.
    pub sha256: String,
}

const KIND: &str = "model";

impl Model {
    /// The artifact. Equal models give equal bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ArtifactError> {
        let mut writer = Writer::default();
        self.network.write("network", &mut writer);
        writer.finish(KIND, Details { sizes: self.network.sizes(), trained_on: self.trained_on.clone() })
    }

    /// Reads an artifact: afterwards its layers fit together.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ArtifactError> {
        let (Details { sizes, trained_on }, reader) = Reader::open::<Details>(KIND, bytes)?;
        if sizes.len() < 2 || sizes.contains(&0) {
            return Err(ArtifactError::Contradiction { kind: KIND, reason: "it has no layers" });
        }
        let network = Network::read("network", &sizes, &reader)?;
        Ok(Self { network, trained_on })
    }
}

#[derive(Serialize, Deserialize)]
struct Details {
    sizes: Vec<usize>,
    trained_on: TrainedOn,
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;

    fn a_model() -> Model {
        let dataset = ArtifactName::try_from("tiny").unwrap();
        Model {
            network: Network::random(&[4, 3, 2], &mut Rng::with_seed(7)),
            trained_on: TrainedOn { dataset, sha256: "0".repeat(64) },
        }
    }

    #[test]
    fn a_model_is_read_back_to_the_last_bit() {
        let model = a_model();
        assert_eq!(Model::from_bytes(&model.to_bytes().unwrap()).unwrap(), model);
    }

    #[test]
    fn a_model_without_layers_is_refused() {
        let mut model = a_model();
        model.network.layers.clear();
        let refusal = Model::from_bytes(&model.to_bytes().unwrap()).unwrap_err().to_string();
        assert_eq!(refusal, "the model artifact contradicts itself: it has no layers");
    }
}
