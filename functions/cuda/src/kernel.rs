//! Kernels: from source text to something that can be started on a device.
//!
//! They are compiled for the oldest architecture that the compiler still knows, to PTX, which the driver translates for
//! any newer device and caches; so a compiler that is older than the device serves it too.

use std::sync::Arc;

use cudarc::driver::{CudaFunction, CudaModule, CudaStream, LaunchArgs, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::{CompileError, CompileOptions, Ptx, compile_ptx_with_opts};

use crate::error::CudaError;
use crate::gpu::{NO_TOOLKIT, nvrtc_is_there, require};

/// Threads of a block. Kernels here do without blocks that work together, so that any number does.
const BLOCK: u32 = 256;

/// Compiles the text of kernels, without any device.
///
/// A product and a sum are not fused into one operation: the processor's code does not do so either, and the same
/// numbers are worth more here than the few that are lost to it.
///
/// # Errors
///
/// `NoLibrary` where NVRTC is missing, `Compile` with the compiler's own words.
pub fn compile(source: &str) -> Result<Ptx, CudaError> {
    require(nvrtc_is_there(), "libnvrtc.so", NO_TOOLKIT)?;
    let options = CompileOptions { fmad: Some(false), ..CompileOptions::default() };
    compile_ptx_with_opts(source, options).map_err(|error| match error {
        CompileError::CompileError { log, .. } => CudaError::Compile(log.to_string_lossy().trim().to_owned()),
        other => CudaError::Compile(other.to_string()),
    })
}

/// Compiled kernels on a device.
pub struct Kernels {
    module: Arc<CudaModule>,
    stream: Arc<CudaStream>,
}

impl Kernels {
    pub(crate) fn load(stream: &Arc<CudaStream>, source: &str) -> Result<Self, CudaError> {
        let compiled = compile(source)?;
        let loaded = stream.context().load_module(compiled);
        let module = loaded.map_err(CudaError::at("load the kernels; NVRTC must not be newer than the driver"))?;
        Ok(Self { module, stream: Arc::clone(stream) })
    }

    /// The kernel of this name.
    ///
    /// # Errors
    ///
    /// `Driver`: there is none.
    pub fn get(&self, name: &str) -> Result<Kernel, CudaError> {
        let function = self.module.load_function(name).map_err(CudaError::at("find a kernel"))?;
        Ok(Kernel { function, stream: Arc::clone(&self.stream) })
    }
}

/// One kernel.
pub struct Kernel {
    function: CudaFunction,
    stream: Arc<CudaStream>,
}

impl Kernel {
    /// Begins a call: its arguments follow.
    pub fn call(&self) -> Call<'_> {
        Call(self.stream.launch_builder(&self.function))
    }
}

/// A call of a kernel.
pub struct Call<'a>(LaunchArgs<'a>);

impl<'a> Call<'a> {
    /// Adds the next argument: a number, or a reference to memory of the device.
    #[must_use]
    pub fn with<T>(mut self, argument: T) -> Self
    where
        LaunchArgs<'a>: PushKernelArg<T>,
    {
        self.0.arg(argument);
        self
    }

    /// Starts the kernel with at least so many threads, in blocks of 256; it returns before they are done. None are
    /// started for zero.
    ///
    /// # Errors
    ///
    /// `Driver`: it did not start, or work before it failed.
    ///
    /// # Safety
    ///
    /// The arguments are those of the kernel, in its order and of its types, and with so many threads it stays within
    /// the memory that they name.
    #[expect(unsafe_code, reason = "no type tells what a kernel takes: each caller says so beside its call")]
    pub unsafe fn start(mut self, threads: usize) -> Result<(), CudaError> {
        if threads == 0 {
            return Ok(());
        }
        let blocks = i32::try_from(threads.div_ceil(BLOCK as usize)).map_err(|_| CudaError::TooLarge(threads))?;
        let shape =
            LaunchConfig { grid_dim: (blocks.unsigned_abs(), 1, 1), block_dim: (BLOCK, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: promised by the caller.
        unsafe { self.0.launch(shape) }.map_err(CudaError::at("start a kernel"))?;
        Ok(())
    }
}
