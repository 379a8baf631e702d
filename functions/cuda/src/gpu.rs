//! The device of this process: opening it, memory on it, and the libraries that work there.

use std::sync::Arc;

use cudarc::cublas::CudaBlas;
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DeviceRepr, ValidAsZeroBits};
use cudarc::nvrtc;

use crate::error::CudaError;
use crate::kernel::Kernels;

const NO_DRIVER: &str = "install NVIDIA's driver, and in a container let its toolkit pass the driver in";
pub(crate) const NO_TOOLKIT: &str =
    "take an image with CUDA's runtime libraries, or name their folder in LD_LIBRARY_PATH";

/// The first device that CUDA shows to this process. All work goes through one stream, in order.
pub struct Gpu {
    stream: Arc<CudaStream>,
    name: String,
}

impl Gpu {
    /// Starts CUDA on the device.
    ///
    /// # Errors
    ///
    /// `NoLibrary` where there is no driver; `Driver` where it shows no device, or the device fails.
    pub fn open() -> Result<Self, CudaError> {
        // The crate behind it panics where a library is missing, so it is asked first.
        require(driver_is_there(), "libcuda.so", NO_DRIVER)?;
        let context = CudaContext::new(0).map_err(CudaError::at("start CUDA on the leased device"))?;
        let name = context.name().map_err(CudaError::at("read the device's name"))?;
        Ok(Self { stream: context.default_stream(), name })
    }

    /// What NVIDIA calls it, for example `NVIDIA H200`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The order in which work is done.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Makes the device current for this thread. Whoever calls cuBLAS on a new thread does this first.
    ///
    /// # Errors
    ///
    /// `Driver`: also what went wrong earlier in places that could not tell it.
    pub fn enter_thread(&self) -> Result<(), CudaError> {
        self.stream.context().bind_to_thread().map_err(CudaError::at("use the device"))
    }

    /// Compiles kernels for the device.
    ///
    /// # Errors
    ///
    /// `NoLibrary` where NVRTC is missing; `Compile` with its own words; `Driver` if the device does not take the result.
    pub fn kernels(&self, source: &str) -> Result<Kernels, CudaError> {
        Kernels::load(&self.stream, source)
    }

    /// NVIDIA's products of matrices.
    ///
    /// # Errors
    ///
    /// `NoLibrary` where cuBLAS is missing, `Blas` where it does not start.
    pub fn blas(&self) -> Result<CudaBlas, CudaError> {
        require(cublas_is_there(), "libcublas.so", NO_TOOLKIT)?;
        Ok(CudaBlas::new(Arc::clone(&self.stream))?)
    }

    /// Copies values to the device.
    ///
    /// # Errors
    ///
    /// `Driver`, for example because its memory is full.
    pub fn upload<T: DeviceRepr>(&self, values: &[T]) -> Result<CudaSlice<T>, CudaError> {
        self.stream.clone_htod(values).map_err(CudaError::at("copy to the device"))
    }

    /// So many zeros on the device.
    ///
    /// # Errors
    ///
    /// `Driver`, for example because its memory is full.
    pub fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, count: usize) -> Result<CudaSlice<T>, CudaError> {
        self.stream.alloc_zeros(count).map_err(CudaError::at("take memory on the device"))
    }

    /// Waits for all work so far, and copies values back.
    ///
    /// # Errors
    ///
    /// `Driver`, also for work that failed before.
    pub fn download<T: DeviceRepr>(&self, values: &impl DevicePtr<T>) -> Result<Vec<T>, CudaError> {
        let values = self.stream.clone_dtoh(values).map_err(CudaError::at("copy from the device"))?;
        self.wait()?;
        Ok(values)
    }

    /// Waits for all work so far.
    ///
    /// # Errors
    ///
    /// `Driver`, for the work that failed.
    pub fn wait(&self) -> Result<(), CudaError> {
        self.stream.synchronize().map_err(CudaError::at("finish work on the device"))
    }
}

pub(crate) fn require(there: bool, library: &'static str, fix: &'static str) -> Result<(), CudaError> {
    if there { Ok(()) } else { Err(CudaError::NoLibrary { library, fix }) }
}

#[expect(unsafe_code, reason = "loading a library runs its constructors; the driver's are those of every CUDA program")]
fn driver_is_there() -> bool {
    // SAFETY: nothing but constructors runs.
    unsafe { cudarc::driver::sys::is_culib_present() }
}

#[expect(unsafe_code, reason = "loading a library runs its constructors; NVRTC has none that matter")]
pub(crate) fn nvrtc_is_there() -> bool {
    // SAFETY: nothing but constructors runs.
    unsafe { nvrtc::sys::is_culib_present() }
}

#[expect(
    unsafe_code,
    reason = "loading a library runs its constructors; cuBLAS is loaded by every program that uses it"
)]
fn cublas_is_there() -> bool {
    // SAFETY: nothing but constructors runs.
    unsafe { cudarc::cublas::sys::is_culib_present() }
}
