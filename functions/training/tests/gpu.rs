//! Training on a GPU against training on the processor.
//!
//! The checks are ignored where there is no device; `tests/gpu` runs them on one. Everywhere else they run over the
//! same kernels on the processor: that proves the kernels' numbers and every call that is made, and nothing about speed.

#![expect(clippy::unwrap_used, reason = "a check that cannot begin fails")]

use std::path::Path;

use platform::{ArtifactName, Dataset, Model, Network};
use preprocessing::PreprocessDataset;
use rhubarb::testing::Host;
use rhubarb_testkit::cuda::{check_on_the_processor, check_with_nvrtc};
use training::{KERNELS, Place, TrainModel, Trainer, train_model};

fn digits() -> Dataset {
    let dataset = ArtifactName::try_from("digits").unwrap();
    PreprocessDataset { dataset, seed: 0, test_fraction: 0.2 }.prepare().unwrap()
}

fn a_task(epochs: u32, hidden: &[usize], distortions: usize) -> TrainModel {
    let digits = ArtifactName::try_from("digits").unwrap();
    // No whole number of batches: the last one has fewer pictures.
    TrainModel { hidden: hidden.to_vec(), distortions, batch_size: 50, ..TrainModel::new(digits, epochs) }
}

fn run(mut trainer: Trainer, epochs: u32) -> Trainer {
    for _ in 0..epochs {
        trainer.run_epoch().unwrap();
    }
    trainer
}

/// The largest difference between two networks' numbers.
fn apart(one: &Network, other: &Network) -> f32 {
    let numbers = |network: &Network| -> Vec<f32> {
        network
            .layers
            .iter()
            .flat_map(|layer| layer.weights.iter().chain(&layer.bias).copied().collect::<Vec<_>>())
            .collect()
    };
    let differences = numbers(one).into_iter().zip(numbers(other)).map(|(a, b)| (a - b).abs());
    // Not `max` alone: that would pass over what is no number.
    differences.fold(0.0, |most, next| if next > most || next.is_nan() { next } else { most })
}

fn accuracy(network: &Network, dataset: &Dataset) -> f64 {
    let found = network.classify(dataset.held_out.images.view());
    let right = found.iter().zip(&dataset.held_out.labels).filter(|(found, label)| found == label).count();
    right as f64 / found.len() as f64
}

#[test]
fn the_checks_of_a_device_hold_over_its_kernels_on_the_processor() {
    check_on_the_processor(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src/training.cu")));
}

#[test]
fn nvidias_compiler_is_asked_where_it_is_installed() {
    check_with_nvrtc();
}

#[test]
#[ignore = "needs NVRTC"]
fn nvidias_compiler_takes_the_kernels() {
    let compiled = cuda::compile(KERNELS).unwrap().to_src();
    for kernel in ["show", "bend", "judge", "hold_back", "descend"] {
        assert!(compiled.contains(&format!(".entry {kernel}(")), "{kernel} is missing:\n{compiled}");
    }
    let refusal = cuda::compile("__global__ void wrong() { nothing(); }").unwrap_err().to_string();
    assert!(refusal.contains("nothing"), "{refusal}");
}

#[test]
#[ignore = "needs an NVIDIA device"]
fn an_epoch_on_a_device_is_the_processors_within_rounding() {
    let dataset = digits().to_bytes().unwrap();
    for (hidden, distortions) in [(&[24, 16][..], 0), (&[24, 16], 2), (&[], 1)] {
        let task = a_task(1, hidden, distortions);
        let mut on_cpu = Trainer::begin(task.clone(), &dataset).unwrap();
        let mut on_gpu = Trainer::begin_at(Place::Gpu, task, &dataset).unwrap();
        assert_eq!(apart(&on_gpu.model().unwrap().network, &on_cpu.model().unwrap().network), 0.0);
        let losses = (on_gpu.run_epoch().unwrap().loss, on_cpu.run_epoch().unwrap().loss);
        assert!((losses.0 - losses.1).abs() < 1e-4, "{losses:?}");
        let off = apart(&on_gpu.model().unwrap().network, &on_cpu.model().unwrap().network);
        assert!(off < 1e-3, "{off} with {hidden:?} and {distortions} distortions");
    }
}

#[test]
#[ignore = "needs an NVIDIA device"]
fn a_training_on_a_device_knows_as_much_as_one_on_the_processor() {
    let dataset = digits();
    let bytes = dataset.to_bytes().unwrap();
    let known = |place| {
        let trainer = run(Trainer::begin_at(place, a_task(15, &[128], 8), &bytes).unwrap(), 15);
        let accuracy = accuracy(&trainer.model().unwrap().network, &dataset);
        println!("{}: {:.2} % of the held-out pictures", trainer.device(), 100.0 * accuracy);
        accuracy
    };
    let (on_cpu, on_gpu) = (known(Place::Cpu), known(Place::Gpu));
    assert!(on_gpu >= 0.95 && (on_gpu - on_cpu).abs() <= 0.02, "{on_gpu} against {on_cpu}");
}

#[test]
#[ignore = "needs an NVIDIA device"]
fn a_training_goes_on_elsewhere_from_its_checkpoint() {
    let dataset = digits().to_bytes().unwrap();
    let task = a_task(4, &[24], 1);
    let undisturbed = run(Trainer::begin(task.clone(), &dataset).unwrap(), 4).model().unwrap();
    for (from, to) in [(Place::Cpu, Place::Gpu), (Place::Gpu, Place::Cpu)] {
        let kept = run(Trainer::begin_at(from, task.clone(), &dataset).unwrap(), 2).checkpoint().unwrap();
        let resumed = Trainer::resume_at(to, task.clone(), &dataset, &kept).unwrap();
        assert_eq!(resumed.epochs_done(), 2);
        assert_eq!(resumed.checkpoint().unwrap(), kept);
        let off = apart(&run(resumed, 2).model().unwrap().network, &undisturbed.network);
        assert!(off < 5e-3, "{off} from {from:?} to {to:?}");
    }
}

/// cuBLAS promises the same bits for the same calls on one device and one stream.
#[test]
#[ignore = "needs an NVIDIA device"]
fn a_training_resumed_on_a_device_gives_the_same_model_to_the_last_bit() {
    let dataset = digits().to_bytes().unwrap();
    let task = a_task(3, &[24], 1);
    let begin = || Trainer::begin_at(Place::Gpu, task.clone(), &dataset).unwrap();
    let undisturbed = run(begin(), 3).model().unwrap();
    let kept = run(begin(), 1).checkpoint().unwrap();
    let resumed = Trainer::resume_at(Place::Gpu, task.clone(), &dataset, &kept).unwrap();
    assert_eq!(run(resumed, 2).model().unwrap(), undisturbed);
}

#[test]
#[ignore = "needs an NVIDIA device"]
fn a_training_that_diverges_on_a_device_says_so() {
    let mut dataset = digits();
    dataset.train.images.mapv_inplace(|pixel| pixel * 1e30);
    let bytes = dataset.to_bytes().unwrap();
    let mut trainer = Trainer::begin_at(Place::Gpu, a_task(1, &[24], 0), &bytes).unwrap();
    let refusal = trainer.run_epoch().unwrap_err().to_string();
    assert_eq!(refusal, "the training diverged in epoch 1: use a `learning_rate` below 0.05");
}

/// The words by which the host knows that a device's memory ran out.
#[test]
#[ignore = "needs an NVIDIA device"]
fn memory_that_a_device_does_not_have_is_refused_by_name() {
    let refusal = cuda::Gpu::open().unwrap().zeros::<u8>(1 << 45).err().map(|error| error.to_string());
    assert_eq!(refusal.as_deref(), Some("cannot take memory on the device: CUDA_ERROR_OUT_OF_MEMORY (out of memory)"));
}

#[test]
#[ignore = "needs an NVIDIA device"]
fn a_task_with_a_leased_gpu_learns_there_and_says_so() {
    let host = Host::new().with_blob("datasets/digits", digits().to_bytes().unwrap()).with_gpus(["GPU-leased"]);
    // Each epoch may run on another thread of this runtime.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let output = runtime.block_on(host.run(train_model, a_task(3, &[24], 1))).unwrap();
    assert_ne!(output.device, "cpu");
    let model = Model::from_bytes(&host.blob("models/digits").unwrap()).unwrap();
    assert_eq!(model.network.sizes(), [64, 24, 10]);
}
