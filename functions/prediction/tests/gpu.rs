//! Measuring on a GPU against measuring on the processor: the same numbers and the same picture.
//!
//! The checks are ignored where there is no device; `tests/gpu` runs them on one. Everywhere else they run over the
//! same kernels on the processor.

use std::path::Path;

use prediction::{KERNELS, Measurer, Picture, QuantifyTissue, SAMPLE_BYTES, quantify, quantify_tissue, read_picture};
use rhubarb::testing::Host;
use rhubarb_testkit::cuda::{check_on_the_processor, check_with_nvrtc};

#[test]
fn the_checks_of_a_device_hold_over_its_kernels_on_the_processor() {
    check_on_the_processor(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tissue.cu")));
}

#[test]
fn nvidias_compiler_is_asked_where_it_is_installed() {
    check_with_nvrtc();
}

#[test]
#[ignore = "needs NVRTC"]
fn nvidias_compiler_takes_the_kernels() {
    let compiled = cuda::compile(KERNELS).unwrap().to_src();
    for kernel in ["measure", "tint"] {
        assert!(compiled.contains(&format!(".entry {kernel}(")), "{kernel} is missing:\n{compiled}");
    }
    assert!(!compiled.contains("fma."), "a product and a sum are fused: the numbers are not the processor's");
}

#[test]
#[ignore = "needs an NVIDIA device"]
fn the_sample_is_measured_on_a_device_as_on_the_processor() {
    let picture = read_picture(SAMPLE_BYTES).unwrap();
    assert_eq!(Measurer::open().unwrap().quantify(&picture).unwrap(), quantify(&picture));
}

/// Pictures of all colours, of sizes that fill no block of threads, and of nothing but glass.
#[test]
#[ignore = "needs an NVIDIA device"]
fn any_picture_is_measured_on_a_device_as_on_the_processor() {
    let measurer = Measurer::open().unwrap();
    let mut rng = fastrand::Rng::with_seed(11);
    let mut noise = |width, height| Picture::from_fn(width, height, |_, _| [rng.u8(..), rng.u8(..), rng.u8(..)]);
    let glass = Picture::from_fn(9, 9, |_, _| [250; 3]);
    for picture in [noise(1, 1), noise(17, 31), noise(640, 480), glass, Picture::from_fn(0, 0, |_, _| [0; 3])] {
        assert_eq!(measurer.quantify(&picture).unwrap(), quantify(&picture), "{:?}", picture.dimensions());
    }
}

#[test]
#[ignore = "needs an NVIDIA device"]
fn a_task_with_a_leased_gpu_measures_there_and_says_so() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let measured = |host: &Host| runtime.block_on(host.run(quantify_tissue, QuantifyTissue::default())).unwrap();
    let (on_cpu, on_gpu) = (measured(&Host::new()), measured(&Host::new().with_gpus(["GPU-leased"])));
    assert_eq!(on_gpu.images, on_cpu.images);
    assert_eq!(on_cpu.device, "cpu");
    assert_ne!(on_gpu.device, "cpu");
}
