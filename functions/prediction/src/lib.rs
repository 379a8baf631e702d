//! Measures how much of a tissue section an antibody has stained.
//!
//! A pathologist's picture shows two dyes at once: brown DAB where the antibody has bound, blue
//! hematoxylin on the nuclei. The task takes the dyes apart, decides for each piece of tissue whether it is
//! brown, and paints its decision over the picture, so that a human can check it. Each picture's overlay is
//! stored under a name that follows from the picture's: running again after a crash overwrites it with the same. A task to
//! which a GPU was leased measures there, every other one on the processor, with the same numbers.

mod cuda;
mod picture;
mod stains;
mod tissue;

use std::sync::Arc;

use ::cuda::CudaError;
use bytes::Bytes;
use rhubarb::{Context, ContextError, Task, TaskError};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

pub use cuda::{KERNELS, Measurer};
pub use picture::{Picture, PictureError, read_picture, write_picture};
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
    /// The blob keys of the pictures (PNG); `ihc.png` is the sample that the function carries, and without
    /// any key it is measured.
    pub images: Vec<String>,
}

impl Task for QuantifyTissue {
    const NAME: &'static str = "quantify_tissue";
    const QUEUE: &'static str = "prediction";
    type Output = QuantifiedTissue;
}

/// What was measured, in the order of the task's pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuantifiedTissue {
    /// One for each picture.
    pub images: Vec<TissueReport>,
    /// Where they were measured: the GPU's name, or `cpu`.
    #[serde(default = "cpu")]
    pub device: String,
}

/// Where everything was measured before results told it.
fn cpu() -> String {
    "cpu".to_owned()
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
    /// Where people find that picture: a path or a URL.
    pub location: String,
}

/// Runs the task: a picture after the other, so that one task holds one picture in memory.
pub async fn quantify_tissue(task: QuantifyTissue, cx: Context) -> Result<QuantifiedTissue, TaskError> {
    let mut pictures = task.images;
    if pictures.is_empty() {
        pictures.push(SAMPLE.to_owned());
    }
    if pictures.len() > IMAGES_MAX {
        let many = pictures.len();
        return Err(TaskError::fatal(format!("`images` names {many} pictures: use {IMAGES_MAX} at most")));
    }
    let measurer = measurer(&cx).await?;
    let total = pictures.len();
    let mut images = Vec::with_capacity(total);
    for name in pictures {
        if cx.is_cancelled() {
            return Err(TaskError::cancelled());
        }
        images.push(measure(name, measurer.as_ref(), &cx).await?);
        cx.progress(images.len(), total).await?;
    }
    let device = measurer.map_or_else(cpu, |measurer| measurer.name().to_owned());
    Ok(QuantifiedTissue { images, device })
}

/// The GPU that was leased to this task, if one was. One that cannot be used is not exchanged for the processor behind the
/// user's back; the next attempt may have another.
async fn measurer(cx: &Context) -> Result<Option<Arc<Measurer>>, TaskError> {
    if cx.gpus().is_empty() {
        return Ok(None);
    }
    // On a thread of its own: starting CUDA takes a while.
    Ok(Some(Arc::new(spawn_blocking(Measurer::open).await?.map_err(unusable)?)))
}

fn unusable(error: CudaError) -> TaskError {
    TaskError::retry(format!("a GPU was leased for this task and cannot be used: {error}")).kind("gpu")
}

/// Measures one picture, and stores its overlay.
async fn measure(image: String, measurer: Option<&Arc<Measurer>>, cx: &Context) -> Result<TissueReport, TaskError> {
    let bytes = picture(&image, cx).await?;
    let (name, measurer) = (image.clone(), measurer.cloned());
    let measured = spawn_blocking(move || {
        let unreadable = |source| TaskError::fatal(Unreadable { image: name.clone(), source });
        let picture = read_picture(&bytes).map_err(unreadable)?;
        let found = match measurer {
            Some(measurer) => measurer.quantify(&picture).map_err(unusable)?,
            None => quantify(&picture),
        };
        let overlay = write_picture(&found.overlay).map_err(unreadable)?;
        Ok::<_, TaskError>((found, overlay))
    });
    let (found, overlay) = measured.await??;
    let key = format!("overlays/{image}");
    cx.blobs().put(&key, overlay).await.map_err(final_if_invalid)?;
    Ok(TissueReport {
        image,
        tissue_percent: 100.0 * found.tissue,
        stained_percent: found.stained.map(|stained| 100.0 * stained),
        threshold: found.threshold,
        location: cx.blobs().locate(&key).await?,
        overlay: key,
    })
}

/// A picture of the store, or the sample.
async fn picture(image: &str, cx: &Context) -> Result<Bytes, TaskError> {
    if image == SAMPLE {
        return Ok(Bytes::from_static(SAMPLE_BYTES));
    }
    cx.blobs().get(image).await.map_err(final_if_invalid)
}

/// A key that is none, or of no picture, is as wrong in the next attempt.
fn final_if_invalid(error: ContextError) -> TaskError {
    match error {
        ContextError::Invalid(_) | ContextError::NotFound(_) => TaskError::fatal(error),
        error => error.into(),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot measure picture `{image}`")]
struct Unreadable {
    image: String,
    source: PictureError,
}

#[cfg(test)]
mod tests {
    use super::*;
    use rhubarb::testing::Host;

    fn pictures(keys: &[&str]) -> QuantifyTissue {
        QuantifyTissue { images: keys.iter().map(ToString::to_string).collect() }
    }

    #[tokio::test]
    async fn the_sample_is_measured_where_no_picture_is_named() {
        let host = Host::new();
        let output = host.run(quantify_tissue, pictures(&[])).await.unwrap();
        let [report] = output.images.as_slice() else { panic!("{output:?}") };
        assert_eq!((report.image.as_str(), report.overlay.as_str()), ("ihc.png", "overlays/ihc.png"));
        assert_eq!(report.location, "memory:overlays/ihc.png");
        assert!((report.stained_percent.unwrap() - 48.35).abs() < 0.5, "{report:?}");
        let overlay = read_picture(&host.blob("overlays/ihc.png").unwrap()).unwrap();
        assert_eq!(overlay.dimensions(), (512, 512));
        assert_eq!(output.device, "cpu");
    }

    #[tokio::test]
    async fn a_leased_gpu_that_cannot_be_used_is_an_error_and_not_the_processor() {
        if let Ok(measurer) = Measurer::open() {
            println!("skipped: CUDA starts here, on {}", measurer.name());
            return;
        }
        let refusal = Host::new().with_gpus(["GPU-1"]).run(quantify_tissue, pictures(&[])).await.unwrap_err();
        assert!(matches!(refusal, TaskError::Retry { .. }));
        let told = refusal.to_string();
        assert!(told.starts_with("a GPU was leased for this task and cannot be used: CUDA cannot start"), "{told}");
    }

    #[tokio::test]
    async fn each_picture_has_its_report_in_order() {
        let glass = write_picture(&Picture::from_fn(8, 8, |_, _| [250; 3])).unwrap();
        let host = Host::new().with_blob("slides/a.png", SAMPLE_BYTES).with_blob("slides/b.png", glass);
        let output = host.run(quantify_tissue, pictures(&["slides/b.png", "slides/a.png"])).await.unwrap();
        let stained: Vec<_> = output.images.iter().map(|report| report.stained_percent.is_some()).collect();
        assert_eq!(stained, [false, true]);
        let last = host.progress().pop().unwrap();
        assert_eq!((last.done, last.total), (2, 2));
        assert!(host.blob("overlays/slides/a.png").is_some());
    }

    #[tokio::test]
    async fn a_picture_that_cannot_be_measured_is_named_and_refused_for_good() {
        let host = Host::new().with_blob("x.png", "garbage");
        for key in ["x.png", "missing.png", "../secret.png"] {
            let refusal = host.run(quantify_tissue, pictures(&[key])).await.unwrap_err();
            assert!(matches!(refusal, TaskError::Fatal(_)), "{refusal}");
            assert!(refusal.to_string().contains(&format!("`{key}`")), "{refusal}");
        }
    }

    #[tokio::test]
    async fn more_pictures_than_one_task_can_bear_are_refused() {
        let images = vec![SAMPLE.to_owned(); IMAGES_MAX + 1];
        let refusal = Host::new().run(quantify_tissue, QuantifyTissue { images }).await.unwrap_err();
        assert_eq!(refusal.to_string(), "`images` names 1001 pictures: use 1000 at most");
    }
}
