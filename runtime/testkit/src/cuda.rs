//! CUDA on the processor, so that programs for a device are tested where there is none.
//!
//! [`CudaStandIn`] compiles the kernels' very text together with a stand-in for the driver, NVRTC and cuBLAS into a shared
//! library, and starts programs that find it in place of NVIDIA's. It needs a C++ compiler. Checks of a device are tests
//! that are ignored elsewhere; [`check_on_the_processor`] runs those of a test's own executable.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

/// A folder with the libraries, removed when dropped.
#[derive(Debug)]
pub struct CudaStandIn {
    folder: PathBuf,
}

impl CudaStandIn {
    /// Compiles the kernels of a `.cu` file; `None` where there is no C++ compiler (`c++`, or what `CXX` names).
    ///
    /// # Panics
    ///
    /// The text does not compile; what the compiler printed is told.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test that cannot make its stand-in fails")]
    pub fn of(kernels: &Path) -> Option<Self> {
        let compiler = env::var_os("CXX").unwrap_or_else(|| "c++".into());
        Command::new(&compiler).arg("--version").output().ok()?;
        let name = format!("rhubarb-cuda-{}", std::process::id());
        let stand_in = Self { folder: env::temp_dir().join(name) };
        let folder = &stand_in.folder;
        fs::create_dir_all(folder).expect("a folder for the libraries");
        let text = fs::read_to_string(kernels).expect("the kernels' text");
        fs::write(folder.join("kernels.inc"), table(&text)).expect("the kernels' names are written");
        let output = Command::new(compiler)
            // As on the device: a product and a sum are not fused.
            .args(["-std=c++17", "-O3", "-ffp-contract=off", "-fPIC", "-shared", "-Wall", "-Werror", "-o"])
            .arg(folder.join("libcuda.so"))
            .arg(format!("-DKERNELS=\"{}\"", kernels.display()))
            .arg("-I")
            .arg(folder)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/cuda/stand_in.cpp"))
            .output()
            .expect("the compiler starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for other in ["libnvrtc.so", "libcublas.so"] {
            symlink("libcuda.so", folder.join(other)).expect("the library has its other names");
        }
        Some(stand_in)
    }

    /// Where a program finds the libraries: its `LD_LIBRARY_PATH`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Runs the ignored tests of this very executable over a stand-in with the kernels of a `.cu` file, but for
/// [`NVRTC_TEST`]; says so where there is no C++ compiler.
///
/// # Panics
///
/// One of them fails, or there is none; what they printed is told.
pub fn check_on_the_processor(kernels: &Path) {
    match CudaStandIn::of(kernels) {
        Some(stand_in) => run_ignored(&stand_in.folder, &["--skip", NVRTC_TEST]),
        None => println!("skipped: there is no C++ compiler (`c++`, or what CXX names) for the kernels"),
    }
}

/// The ignored test that needs NVRTC and no device.
pub const NVRTC_TEST: &str = "nvidias_compiler_takes_the_kernels";

/// Runs [`NVRTC_TEST`] of this very executable; says so where NVRTC is not installed.
///
/// # Panics
///
/// It fails, or there is none; what it printed is told.
pub fn check_with_nvrtc() {
    match nvrtc() {
        Some(folder) => run_ignored(&folder, &["--exact", NVRTC_TEST]),
        None => println!("skipped: there is no .venv with nvidia-cuda-nvrtc; tests/run makes it where it can be had"),
    }
}

impl Drop for CudaStandIn {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// With libraries from a folder.
#[expect(clippy::expect_used, reason = "a test that cannot start itself fails")]
fn run_ignored(libraries: &Path, filter: &[&str]) {
    let program = env::current_exe().expect("the test knows its executable");
    let output = Command::new(program)
        .args(["--ignored", "--nocapture"])
        .args(filter)
        .env("LD_LIBRARY_PATH", libraries)
        .output()
        .expect("the test starts itself");
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && !told.contains(" 0 passed;"), "{told}");
}

/// The folder of NVRTC, NVIDIA's compiler, where `tests/run` has put it. It needs no device.
fn nvrtc() -> Option<PathBuf> {
    let libraries = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/lib");
    let pythons = fs::read_dir(libraries).ok()?.filter_map(Result::ok);
    pythons.map(|python| python.path().join("site-packages/nvidia/cuda_nvrtc/lib")).find(|folder| folder.is_dir())
}

/// A line for each kernel of a text.
fn table(text: &str) -> String {
    let names = text.split("__global__ void ").skip(1).filter_map(|rest| rest.split('(').next());
    names.map(|name| format!("KERNEL({name})\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_of_a_text_is_named() {
        let text =
            "extern \"C\" __global__ void one(int a) {}\n// …\nextern \"C\" __global__ void two(\n    float b) {}";
        assert_eq!(table(text), "KERNEL(one)\nKERNEL(two)\n");
    }
}
