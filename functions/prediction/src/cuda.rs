//! The pixels' part of the measurement, on an NVIDIA device: the same numbers as on the processor, to the last bit.
//!
//! The picture goes there once and comes back once, tinted; between the two only a histogram travels. The kernels are
//! compiled when the first picture of a task is measured and kept for the others.

use ::cuda::{CudaError, Gpu, Kernel};

use crate::picture::Picture;
use crate::stains::{Stain, amounts_of, optical_density};
use crate::tissue::{DAB_MAX, Histogram, LEVELS, Quantified, TINT, TISSUE_DENSITY_MIN};

/// The kernels, as text.
pub const KERNELS: &str = include_str!("tissue.cu");

/// Copies of the histogram on the device: blocks that add to the same one wait for each other.
const COPIES: usize = 64;

/// A device that measures pictures.
pub struct Measurer {
    gpu: Gpu,
    measure: Kernel,
    tint: Kernel,
}

impl Measurer {
    /// Starts CUDA on the first device that it shows to this process, and compiles the kernels.
    ///
    /// # Errors
    ///
    /// CUDA cannot start, or the device fails.
    pub fn open() -> Result<Self, CudaError> {
        let gpu = Gpu::open()?;
        let kernels = gpu.kernels(KERNELS)?;
        Ok(Self { measure: kernels.get("measure")?, tint: kernels.get("tint")?, gpu })
    }

    /// What people call the device.
    pub fn name(&self) -> &str {
        self.gpu.name()
    }

    /// What [`crate::quantify`] does, on the device.
    ///
    /// # Errors
    ///
    /// The device fails, or its memory is full.
    #[expect(unsafe_code, reason = "kernels are started")]
    pub fn quantify(&self, picture: &Picture) -> Result<Quantified, CudaError> {
        self.gpu.enter_thread()?;
        let count = picture.pixels().len();
        if count == 0 {
            return Ok(crate::quantify(picture));
        }
        let densities: Vec<f64> = (0..=u8::MAX).map(|light| optical_density([light; 3])[0]).collect();
        let densities = self.gpu.upload(&densities)?;
        let [red, green, blue] = amounts_of(Stain::Dab);
        let mut pixels = self.gpu.upload(picture.pixels().as_flattened())?;
        let mut levels = self.gpu.zeros::<i16>(count)?;
        let mut histograms = self.gpu.zeros::<u32>(COPIES * LEVELS)?;
        let (pixel_count, copies) = (count as u64, COPIES as i32);
        let call = self.measure.call().with(&pixels).with(&pixel_count).with(&densities);
        let call = call.with(&red).with(&green).with(&blue).with(&TISSUE_DENSITY_MIN).with(&DAB_MAX);
        // SAFETY: three bytes and a level for each pixel, 256 densities, and 256 counts in each copy.
        unsafe { call.with(&mut levels).with(&mut histograms).with(&copies).start(count) }?;

        let mut histogram = Histogram::default();
        for copy in self.gpu.download(&histograms)?.chunks(LEVELS) {
            histogram.add(copy);
        }
        let threshold = i32::from(histogram.threshold());
        let [red, green, blue] = TINT.map(i32::from);
        let call = self.tint.call().with(&mut pixels).with(&pixel_count).with(&levels).with(&threshold);
        // SAFETY: three bytes and a level for each pixel.
        unsafe { call.with(&red).with(&green).with(&blue).start(count) }?;
        let tinted = self.gpu.download(&pixels)?;
        let mut overlay = picture.clone();
        overlay.pixels_mut().as_flattened_mut().copy_from_slice(&tinted);
        Ok(histogram.conclude(overlay))
    }
}
