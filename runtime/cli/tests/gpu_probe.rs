//! The probe over a stand-in for CUDA: all of it but the kernel's own text, which only a device's driver can compile.

#![expect(clippy::unwrap_used, reason = "a test cannot go on without its probe")]

use std::{
    path::Path,
    process::{Command, Stdio},
};

use rhubarb_testkit::cuda::CudaStandIn;

/// Exit code, and what it said.
fn probe(libraries: &Path, variable: Option<(&str, &str)>) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rhubarb"));
    command.args(["gpu-probe", "GPU-1"]).env("LD_LIBRARY_PATH", libraries).env_remove("CUDA_VISIBLE_DEVICES");
    command.envs(variable).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Its end would end the probe.
    let starter = child.stdin.take();
    let ended = child.wait_with_output().unwrap();
    drop(starter);
    (ended.status.code(), String::from_utf8(ended.stdout).unwrap())
}

#[test]
fn a_device_that_computes_rightly_is_well_and_one_wrong_number_in_millions_is_found() {
    let Some(stand_in) = CudaStandIn::of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scramble.cu")) else {
        return println!("skipped: there is no C++ compiler for the stand-in");
    };
    let libraries = stand_in.folder();
    assert_eq!(probe(libraries, None), (Some(0), String::new()));
    let (code, told) = probe(libraries, Some(("WRONG", "1")));
    assert!(code == Some(1) && told.contains("is right (number 4711)"), "{code:?} {told}");
    let (code, told) = probe(libraries, Some(("STAND_IN_MEMORY", "1000")));
    assert!(code == Some(69) && told.contains("out of memory"), "others may fill a device: {code:?} {told}");
}
