//! The file format of everything the platform's functions hand to each other.
//!
//! An artifact is a safetensors file, so Python reads it with one call. Its metadata has one key,
//! `artifact`: a JSON head that says the kind, the version, and what that kind has to say of itself. One
//! key only, because the format writes metadata in no fixed order, and equal content must give equal
//! bytes. A reader believes nothing it has not checked: a file that is cut short, of another kind or of
//! a newer version is refused with the reason. An artifact is written whole or not at all.

use ndarray::{Array, ArrayBase, Data, Dimension, IntoDimension};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The newest version that this code writes and reads.
pub const VERSION: u32 = 1;

const HEAD: &str = "artifact";

/// Why bytes are not the artifact that the caller asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// The bytes are no safetensors file, or one that is cut short.
    #[error("not a {kind} artifact, or a damaged one")]
    Unreadable {
        /// What was asked for.
        kind: &'static str,
        /// What the format says.
        source: SafeTensorError,
    },
    /// A safetensors file that none of our functions wrote.
    #[error("not a {kind} artifact: its metadata has no readable `{HEAD}` entry")]
    NoHead {
        /// What was asked for.
        kind: &'static str,
        /// What is wrong with the entry, where there is one.
        source: Option<serde_json::Error>,
    },
    /// An artifact of another kind.
    #[error("not a {kind} artifact: its kind is `{found}`")]
    OtherKind {
        /// What was asked for.
        kind: &'static str,
        /// What the file says it is.
        found: String,
    },
    /// An artifact from a newer release.
    #[error(
        "this {kind} artifact has version {found}, and this function reads up to version {VERSION}: deploy a newer one"
    )]
    Newer {
        /// What was asked for.
        kind: &'static str,
        /// The file's version.
        found: u32,
    },
    /// A part is missing, or has another type or shape than its kind promises.
    #[error("tensor `{name}` {reason}")]
    Tensor {
        /// Which part.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The parts are sound, and do not fit together.
    #[error("the {kind} artifact contradicts itself: {reason}")]
    Contradiction {
        /// What was asked for.
        kind: &'static str,
        /// What does not fit.
        reason: &'static str,
    },
}

/// Collects the parts of an artifact.
#[derive(Default)]
pub struct Writer {
    tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
}

impl Writer {
    /// Adds an array of any shape.
    pub fn floats<S, D>(&mut self, name: impl Into<String>, values: &ArrayBase<S, D>)
    where
        S: Data<Elem = f32>,
        D: Dimension,
    {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensors.push((name.into(), Dtype::F32, values.shape().to_vec(), bytes));
    }

    /// Adds a list of small whole numbers.
    pub fn bytes(&mut self, name: impl Into<String>, values: &[u8]) {
        self.tensors.push((name.into(), Dtype::U8, vec![values.len()], values.to_vec()));
    }

    /// Closes the artifact. Equal parts and equal `details` give equal bytes.
    pub fn finish(self, kind: &'static str, details: impl Serialize) -> Result<Vec<u8>, ArtifactError> {
        let head = serde_json::to_string(&Head { kind: kind.to_owned(), version: VERSION, details })
            .map_err(|source| ArtifactError::NoHead { kind, source: Some(source) })?;
        let metadata = std::iter::once((HEAD.to_owned(), head)).collect();
        let unwritable = |source| ArtifactError::Unreadable { kind, source };
        let mut views = Vec::with_capacity(self.tensors.len());
        for (name, dtype, shape, bytes) in &self.tensors {
            let view = TensorView::new(*dtype, shape.clone(), bytes).map_err(unwritable)?;
            views.push((name, view));
        }
        safetensors::serialize(views, Some(metadata)).map_err(unwritable)
    }
}

/// An artifact whose kind and version have been checked.
pub struct Reader<'bytes> {
    tensors: SafeTensors<'bytes>,
}

impl<'bytes> Reader<'bytes> {
    /// Opens an artifact of the kind that the caller expects, and reads what it says of itself.
    pub fn open<T: DeserializeOwned>(kind: &'static str, bytes: &'bytes [u8]) -> Result<(T, Self), ArtifactError> {
        let unreadable = |source| ArtifactError::Unreadable { kind, source };
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(unreadable)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(unreadable)?;
        let head = metadata.metadata().as_ref().and_then(|entries| entries.get(HEAD));
        let head = head.ok_or(ArtifactError::NoHead { kind, source: None })?;

        // The kind is read first: a file of another kind should say so, not complain of a missing field.
        let bad_head = |source| ArtifactError::NoHead { kind, source: Some(source) };
        let found: Head<serde_json::Value> = serde_json::from_str(head).map_err(bad_head)?;
        if found.kind != kind {
            return Err(ArtifactError::OtherKind { kind, found: found.kind });
        }
        if found.version > VERSION {
            return Err(ArtifactError::Newer { kind, found: found.version });
        }
        let details = serde_json::from_value(found.details).map_err(bad_head)?;
        Ok((details, Self { tensors }))
    }

    /// Reads an array of the given shape. Values that are no finite numbers are refused.
    pub fn floats<I: IntoDimension>(&self, name: &str, shape: I) -> Result<Array<f32, I::Dim>, ArtifactError> {
        let wrong = |reason| ArtifactError::Tensor { name: name.to_owned(), reason };
        let shape = shape.into_dimension();
        let view = self.view(name, Dtype::F32)?;
        if view.shape() != ndarray::Dimension::slice(&shape) {
            return Err(wrong("has another shape than expected"));
        }
        let (quads, _) = view.data().as_chunks::<4>();
        let values: Vec<f32> = quads.iter().map(|quad| f32::from_le_bytes(*quad)).collect();
        if !values.iter().all(|value| value.is_finite()) {
            return Err(wrong("holds a value that is not a finite number"));
        }
        Array::from_shape_vec(shape, values).map_err(|_| wrong("has another length than its shape"))
    }

    /// Reads a list of small whole numbers.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>, ArtifactError> {
        Ok(self.view(name, Dtype::U8)?.data().to_vec())
    }

    fn view(&self, name: &str, dtype: Dtype) -> Result<TensorView<'bytes>, ArtifactError> {
        let wrong = |reason| ArtifactError::Tensor { name: name.to_owned(), reason };
        let view = self.tensors.tensor(name).map_err(|_| wrong("is missing"))?;
        if view.dtype() != dtype {
            return Err(wrong("has another type than expected"));
        }
        Ok(view)
    }
}

/// The SHA-256 of an artifact's bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Serialize, Deserialize)]
struct Head<T> {
    kind: String,
    version: u32,
    details: T,
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array2, arr2};

    fn an_artifact() -> Vec<u8> {
        let mut writer = Writer::default();
        writer.floats("weights", &arr2(&[[1.5_f32, -2.0, 0.25], [0.0, 1e-20, 3.0]]));
        writer.bytes("labels", &[3, 1, 2]);
        writer.finish("example", "told").unwrap()
    }

    fn refusal(kind: &'static str, bytes: &[u8]) -> String {
        let opened = Reader::open::<String>(kind, bytes);
        opened.err().map(|error| error.to_string()).unwrap()
    }

    #[test]
    fn what_was_written_is_read_back() {
        let bytes = an_artifact();
        let (details, reader) = Reader::open::<String>("example", &bytes).unwrap();
        assert_eq!(details, "told");
        let weights: Array2<f32> = reader.floats("weights", (2, 3)).unwrap();
        assert_eq!(weights, arr2(&[[1.5, -2.0, 0.25], [0.0, 1e-20, 3.0]]));
        assert_eq!(reader.bytes("labels").unwrap(), [3, 1, 2]);
    }

    #[test]
    fn equal_content_gives_equal_bytes() {
        assert_eq!(an_artifact(), an_artifact());
    }

    #[test]
    fn garbage_is_refused() {
        let bytes = an_artifact();
        for garbage in [&b""[..], b"{}", b"not an artifact at all", &bytes[..bytes.len() - 1], &[0xff; 64]] {
            assert_eq!(refusal("example", garbage), "not a example artifact, or a damaged one");
        }
    }

    #[test]
    fn another_kind_is_named() {
        assert_eq!(refusal("model", &an_artifact()), "not a model artifact: its kind is `example`");
    }

    #[test]
    fn a_newer_version_asks_for_a_newer_function() {
        let text = an_artifact();
        let at = text.windows(11).position(|w| w == br#"version\":1"#).unwrap();
        let mut newer = text.clone();
        newer[at + 10] = b'9';
        let refusal = refusal("example", &newer);
        assert!(refusal.contains("has version 9") && refusal.contains("deploy a newer one"), "{refusal}");
    }

    #[test]
    fn a_missing_or_misshapen_part_is_named() {
        let bytes = an_artifact();
        let (_, reader) = Reader::open::<String>("example", &bytes).unwrap();
        let said = |result: Result<Array2<f32>, ArtifactError>| result.unwrap_err().to_string();
        assert_eq!(said(reader.floats("bias", (2, 3))), "tensor `bias` is missing");
        assert_eq!(said(reader.floats("weights", (3, 2))), "tensor `weights` has another shape than expected");
        assert_eq!(said(reader.floats("labels", (1, 3))), "tensor `labels` has another type than expected");
    }

    #[test]
    fn a_value_that_is_not_a_number_is_refused() {
        let mut writer = Writer::default();
        writer.floats("weights", &arr2(&[[f32::NAN]]));
        let bytes = writer.finish("example", "told").unwrap();
        let (_, reader) = Reader::open::<String>("example", &bytes).unwrap();
        let refusal = reader.floats("weights", (1, 1)).unwrap_err().to_string();
        assert_eq!(refusal, "tensor `weights` holds a value that is not a finite number");
    }

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
