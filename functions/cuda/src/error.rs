//! Why work on a device cannot begin or go on, in words that lead to the fix.

use cudarc::{cublas::result::CublasError, driver::DriverError};

/// Why work on a device cannot begin or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// A shared library is not there.
    #[error("CUDA cannot start: `{library}` cannot be loaded; {fix}")]
    NoLibrary {
        /// Its name, without a version.
        library: &'static str,
        /// Where it comes from.
        fix: &'static str,
    },
    /// The driver refused or failed. The text holds CUDA's own name of the error, such as `CUDA_ERROR_OUT_OF_MEMORY`.
    #[error("cannot {doing}: {}", told(.source))]
    Driver {
        /// What was being done.
        doing: &'static str,
        /// What the driver said.
        source: DriverError,
    },
    /// A product of matrices failed.
    #[error("cannot multiply matrices: {:?}", .0.0)]
    Blas(CublasError),
    /// CUDA's compiler does not take a kernel.
    #[error("cannot compile the kernels: {0}")]
    Compile(String),
    /// More threads than one kernel can have.
    #[error("cannot start a kernel with {0} threads")]
    TooLarge(usize),
}

impl CudaError {
    /// For `map_err`: the driver failed at this.
    pub fn at(doing: &'static str) -> impl FnOnce(DriverError) -> Self {
        move |source| Self::Driver { doing, source }
    }
}

impl From<CublasError> for CudaError {
    fn from(source: CublasError) -> Self {
        Self::Blas(source)
    }
}

/// The error's name and its meaning, as the driver tells them.
fn told(error: &DriverError) -> String {
    let text = |found: Result<&std::ffi::CStr, DriverError>| found.ok().map(|text| text.to_string_lossy().into_owned());
    match (text(error.error_name()), text(error.error_string())) {
        (Some(name), Some(meaning)) => format!("{name} ({meaning})"),
        _ => format!("{:?}", error.0),
    }
}
