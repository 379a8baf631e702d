//! A data set of labelled pictures, split for training and for judging.

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::artifact::{ArtifactError, Reader, Writer};
use crate::name::ArtifactName;

/// Pictures with their classes: what a model learns from, and what it is judged by and never sees.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// What users call it.
    pub name: ArtifactName,
    /// Pixels in a row of a picture.
    pub width: usize,
    /// Rows of a picture.
    pub height: usize,
    /// Labels are smaller than this.
    pub classes: usize,
    /// What a model learns from.
    pub train: Samples,
    /// What a model is judged by.
    pub held_out: Samples,
}

/// Pictures, one a row with pixels from 0 to 1, and the class of each.
#[derive(Clone, Debug, PartialEq)]
pub struct Samples {
    /// As many rows as pictures, `width * height` columns.
    pub images: Array2<f32>,
    /// One class for each picture.
    pub labels: Vec<u8>,
}

const KIND: &str = "dataset";
/// A label is a byte.
const CLASSES_MAX: usize = 256;

impl Dataset {
    /// The artifact. Equal data sets give equal bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ArtifactError> {
        let mut writer = Writer::default();
        for (part, samples) in [("train", &self.train), ("held_out", &self.held_out)] {
            writer.floats(format!("{part}.images"), &samples.images);
            writer.bytes(format!("{part}.labels"), &samples.labels);
        }
        let details =
            Details { name: self.name.clone(), width: self.width, height: self.height, classes: self.classes };
        writer.finish(KIND, details)
    }

    /// Reads an artifact: afterwards every picture has its label, and every label its class.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ArtifactError> {
        let (details, reader) = Reader::open::<Details>(KIND, bytes)?;
        let Details { name, width, height, classes } = details;
        let contradiction = |reason| ArtifactError::Contradiction { kind: KIND, reason };
        let pixels = width.checked_mul(height).filter(|&pixels| pixels > 0);
        let pixels = pixels.ok_or(contradiction("its pictures have no size that there can be"))?;
        if !(1..=CLASSES_MAX).contains(&classes) {
            return Err(contradiction("a label tells 1 to 256 classes apart"));
        }
        let samples = |part: &str| {
            let labels = reader.bytes(&format!("{part}.labels"))?;
            if labels.is_empty() {
                return Err(contradiction("a part is empty"));
            }
            if !labels.iter().all(|label| usize::from(*label) < classes) {
                return Err(contradiction("a label is not one of its classes"));
            }
            let images = reader.floats(&format!("{part}.images"), (labels.len(), pixels))?;
            Ok(Samples { images, labels })
        };
        Ok(Self { name, width, height, classes, train: samples("train")?, held_out: samples("held_out")? })
    }
}

impl Samples {
    /// How many pictures there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

#[derive(Serialize, Deserialize)]
struct Details {
    name: ArtifactName,
    width: usize,
    height: usize,
    classes: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::arr2;

    fn two_by_one() -> Dataset {
        let samples = |images, labels: &[u8]| Samples { images, labels: labels.to_vec() };
        Dataset {
            name: ArtifactName::try_from("tiny").unwrap(),
            width: 2,
            height: 1,
            classes: 3,
            train: samples(arr2(&[[0.0, 1.0], [0.5, 0.25]]), &[2, 0]),
            held_out: samples(arr2(&[[1.0, 1.0]]), &[1]),
        }
    }

    #[test]
    fn a_data_set_is_read_back_as_it_was() {
        let dataset = two_by_one();
        assert_eq!(Dataset::from_bytes(&dataset.to_bytes().unwrap()).unwrap(), dataset);
    }

    #[test]
    fn a_label_without_a_class_is_refused() {
        let mut dataset = two_by_one();
        dataset.train.labels[0] = 3;
        let refusal = Dataset::from_bytes(&dataset.to_bytes().unwrap()).unwrap_err().to_string();
        assert!(refusal.contains("a label is not one of its classes"), "{refusal}");
    }

    #[test]
    fn pictures_without_a_size_and_too_many_classes_are_refused() {
        let flat = Dataset { width: 0, ..two_by_one() };
        let crowded = Dataset { classes: 257, ..two_by_one() };
        for (dataset, reason) in [(flat, "no size"), (crowded, "1 to 256 classes")] {
            let refusal = Dataset::from_bytes(&dataset.to_bytes().unwrap()).unwrap_err().to_string();
            assert!(refusal.contains(reason), "{refusal}");
        }
    }

    #[test]
    fn a_picture_without_a_label_is_refused() {
        let mut dataset = two_by_one();
        dataset.train.labels.pop();
        let refusal = Dataset::from_bytes(&dataset.to_bytes().unwrap()).unwrap_err().to_string();
        assert_eq!(refusal, "tensor `train.images` has another shape than expected");
    }
}
