//! How long a step of a training takes, on a network of a size that fills the device.
//!
//! ```sh
//! cargo run --release -p training --example step_speed -- gpu              # 7 layers of 4,096 x 4,096, batches of 4,096
//! cargo run --release -p training --example step_speed -- cpu 512,256 64   # the defaults of `train_model`
//! cargo run --release -p training --example step_speed -- gpu 512,256 64 200
//! ```
//!
//! The arguments: where, the hidden layers, the pictures of a step, the steps that are timed. The pictures are noise of
//! 32 x 32 pixels in ten classes. Prints one line of JSON. An epoch of as many steps runs before the timed one, so that
//! what happens once (loading libraries, choosing algorithms) is not counted.

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use fastrand::Rng;
use ndarray::Array2;
use platform::{ArtifactName, Dataset, Samples};
use training::{Place, TrainModel, Trainer};

const SIDE: usize = 32;
const CLASSES: u8 = 10;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let place = match arguments.next().as_deref() {
        Some("gpu") => Place::Gpu,
        Some("cpu") => Place::Cpu,
        _ => return Err("use: speed gpu|cpu [HIDDEN,HIDDEN,…] [BATCH] [STEPS]".into()),
    };
    let hidden = arguments.next().unwrap_or_else(|| ["4096"; 8].join(","));
    let hidden = hidden.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>()?;
    let batch_size: usize = arguments.next().map_or(Ok(4_096), |text| text.parse())?;
    let steps: usize = arguments.next().map_or(Ok(20), |text| text.parse())?;

    let dataset = noise(batch_size * steps)?;
    let task = TrainModel {
        hidden: hidden.clone(),
        batch_size,
        distortions: 0,
        // So small that noise makes nothing diverge.
        learning_rate: 1e-4,
        ..TrainModel::new(dataset.name.clone(), 3)
    };
    let begun = Instant::now();
    let mut trainer = Trainer::begin_at(place, task, &dataset.to_bytes()?)?;
    let start_ms = begun.elapsed().as_secs_f64() * 1e3;
    trainer.run_epoch()?;
    let begun = Instant::now();
    trainer.run_epoch()?;
    let step_ms = begun.elapsed().as_secs_f64() * 1e3 / steps as f64;

    let mut sizes = vec![SIDE * SIDE];
    sizes.extend(&hidden);
    sizes.push(usize::from(CLASSES));
    // A product forward and two backward, a multiplication and an addition each; none to the pictures.
    let products: usize = sizes.windows(2).map(|pair| pair[0] * pair[1]).sum::<usize>() * 3 - sizes[0] * sizes[1];
    let tflops = 2.0 * (products * batch_size) as f64 / (step_ms / 1e3) / 1e12;
    println!(
        r#"{{"device": "{}", "hidden": {hidden:?}, "batch": {batch_size}, "steps": {steps}, "start_ms": {start_ms:.1}, "step_ms": {step_ms:.4}, "tflops": {tflops:.3}}}"#,
        trainer.device()
    );
    Ok(())
}

fn noise(pictures: usize) -> Result<Dataset, Box<dyn Error>> {
    let mut rng = Rng::with_seed(0);
    let mut samples = |count| Samples {
        images: Array2::from_shape_simple_fn((count, SIDE * SIDE), || rng.f32()),
        labels: (0..count).map(|_| rng.u8(0..CLASSES)).collect(),
    };
    Ok(Dataset {
        name: ArtifactName::try_from("noise")?,
        width: SIDE,
        height: SIDE,
        classes: usize::from(CLASSES),
        train: samples(pictures),
        held_out: samples(1),
    })
}
