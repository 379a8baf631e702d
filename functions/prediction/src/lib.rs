//! Measures how much of a tissue section an antibody has stained.
//!
//! A pathologist's picture shows two dyes at once: brown DAB where the antibody has bound, blue
//! hematoxylin on the nuclei. The task takes the dyes apart, decides for each piece of tissue whether it is
//! brown, and paints its decision over the picture, so that a human can check it. Each picture's overlay is
//! stored under a name that follows from the picture's: running again after a crash overwrites it with the same.

mod picture;
mod stains;
mod tissue;

use serde::{Deserialize, Serialize};

pub use picture::{PictureError, read_picture, write_picture};
pub use stains::{Stain, deconvolve, stained_with};
pub use tissue::{Quantified, quantify};

/// A picture that the function carries, for those who have none at hand.
pub const SAMPLE: &str = "ihc.png";
/// The bytes of [`SAMPLE`].
pub const SAMPLE_BYTES: &[u8] = include_bytes!("../data/ihc.png");

/// One task looks at no more pictures than this.
pub const IMAGES_MAX: usize = 1_000;

/// Measures the stained share of the tissue in each picture.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuantifyTissue {
    /// The blob keys of the pictures (PNG); without any, the sample that the function carries.
    pub images: Vec<String>,
}

/// What was measured, in the order of the task's pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuantifiedTissue {
    /// One for each picture.
    pub images: Vec<TissueReport>,
}

/// What was measured in one picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TissueReport {
    /// The picture.
    pub image: String,
    /// How much of the picture is tissue, in percent.
    pub tissue_percent: f64,
    /// How much of the tissue is stained, in percent; none where there is no tissue.
    pub stained_percent: Option<f64>,
    /// From this optical density of DAB on, tissue counts as stained.
    pub threshold: f64,
    /// The key of the picture with the stained tissue tinted.
    pub overlay: String,
}
