//! The probe: a process that uses a device for a moment, and tells whether it computes as it should.
//!
//! It allocates, runs a kernel and checks every number. CUDA is started in it alone: the agent never loads it. Whoever
//! starts the probe bounds its time and kills it, for a sick device may never answer. It holds no file and no lock: one
//! that is killed leaves nothing.

use std::sync::Arc;

use cudarc::{
    driver::{CudaContext, CudaSlice, CudaStream, DriverError, LaunchConfig, PushKernelArg as _, sys, sys::CUresult},
    nvrtc::Ptx,
};

/// The exit code where nothing could be found out.
pub(super) const UNKNOWN: u8 = 69;
/// How many numbers are computed: 16 MiB of them, so that every multiprocessor of a device has its part.
const NUMBERS: u32 = 4 << 20;
const MULTIPLIER: u32 = 2_654_435_761;

/// `numbers[i] = numbers[i] * 2654435761 + i`, for the driver to compile: it runs on every device from compute
/// capability 5.0 on, and nothing of CUDA's toolkit is needed.
const KERNEL: &str = r"
.version 6.0
.target sm_50
.address_size 64

.visible .entry scramble(.param .u64 numbers, .param .u32 count)
{
    .reg .pred %past;
    .reg .b32 %block, %size, %thread, %i, %n, %value;
    .reg .b64 %base, %offset, %address;

    ld.param.u64 %base, [numbers];
    ld.param.u32 %n, [count];
    mov.u32 %block, %ctaid.x;
    mov.u32 %size, %ntid.x;
    mov.u32 %thread, %tid.x;
    mad.lo.u32 %i, %block, %size, %thread;
    setp.ge.u32 %past, %i, %n;
    @%past bra DONE;
    cvta.to.global.u64 %base, %base;
    mul.wide.u32 %offset, %i, 4;
    add.u64 %address, %base, %offset;
    ld.global.u32 %value, [%address];
    mad.lo.u32 %value, %value, 2654435761, %i;
    st.global.u32 [%address], %value;
DONE:
    ret;
}
";

/// What a probe found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Probed {
    /// The device computes as it should.
    Well,
    /// It does not.
    Sick(String),
    /// That could not be found out: there is no CUDA here, or others fill the device.
    Unknown(String),
}

/// Probes the only device that CUDA shows to this process: `CUDA_VISIBLE_DEVICES` names it.
pub(super) fn probe() -> Probed {
    if !is_cuda_there() {
        return Probed::Unknown("libcuda.so.1, which comes with the NVIDIA driver, is not there".into());
    }
    match compute() {
        Ok(wrong) => wrong.map_or(Probed::Well, Probed::Sick),
        Err(error) => judge(error),
    }
}

/// Ends the process when whoever started it is gone: its standard input ends then.
pub(super) fn end_with_starter() {
    std::thread::spawn(|| {
        // Whatever is read or goes wrong, it is over.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        std::process::exit(i32::from(UNKNOWN));
    });
}

/// The first number that is wrong, in words.
fn compute() -> Result<Option<String>, DriverError> {
    let context = CudaContext::new(0)?;
    let stream = context.default_stream();
    let module = context.load_module(Ptx::from_src(KERNEL))?;
    let scramble = module.load_function("scramble")?;
    let given: Vec<u32> = (0..NUMBERS).map(start_of).collect();
    let mut numbers = stream.clone_htod(&given)?;
    let mut launch = stream.launch_builder(&scramble);
    launch.arg(&mut numbers).arg(&NUMBERS);
    #[expect(unsafe_code, reason = "the kernel above takes these arguments and stays within its numbers")]
    unsafe {
        launch.launch(LaunchConfig::for_num_elems(NUMBERS))?;
    }
    let computed = read_back(&stream, &numbers)?;
    let wrong = (0..NUMBERS).zip(&computed).find(|(i, number)| **number != expected(*i));
    Ok(wrong.map(|(i, number)| format!("it computed {number} where {} is right (number {i})", expected(i))))
}

fn read_back(stream: &Arc<CudaStream>, numbers: &CudaSlice<u32>) -> Result<Vec<u32>, DriverError> {
    let computed = stream.clone_dtoh(numbers)?;
    stream.synchronize()?;
    Ok(computed)
}

const fn start_of(i: u32) -> u32 {
    i ^ 0x5bd1_e995
}

const fn expected(i: u32) -> u32 {
    start_of(i).wrapping_mul(MULTIPLIER).wrapping_add(i)
}

/// Which of CUDA's errors tell of the device. The rest tell of those that share it or of the installation.
fn judge(error: DriverError) -> Probed {
    let told = error.to_string();
    match error.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY
        | CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE
        | CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE
        | CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
        | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
        | CUresult::CUDA_ERROR_STUB_LIBRARY
        | CUresult::CUDA_ERROR_OPERATING_SYSTEM
        | CUresult::CUDA_ERROR_MPS_CONNECTION_FAILED
        | CUresult::CUDA_ERROR_MPS_SERVER_NOT_READY
        | CUresult::CUDA_ERROR_MPS_MAX_CLIENTS_REACHED
        | CUresult::CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED => Probed::Unknown(told),
        _ => Probed::Sick(told),
    }
}

/// Cudarc panics where it cannot load the driver's library; this only tries to.
#[expect(unsafe_code, reason = "loads a library, and runs what that runs when it is loaded")]
fn is_cuda_there() -> bool {
    unsafe { sys::is_culib_present() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_and_the_check_agree_on_the_multiplier() {
        assert!(KERNEL.contains(&format!("mad.lo.u32 %value, %value, {MULTIPLIER}, %i;")));
        assert_eq!(expected(0), 0x5bd1_e995_u32.wrapping_mul(MULTIPLIER));
        assert_ne!(expected(1), expected(2));
    }
}
