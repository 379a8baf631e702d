//! Drives the fuzz targets: their corpus as it is, and seeded mutations of it.
//!
//! The seed is fixed, so that a run says the same everywhere; `FUZZ_SEED` and `FUZZ_ROUNDS` try others. A failing input
//! is written beside the corpus' folder, as `failed`, and named by the panic.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod mutate;

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use rhubarb_tests::fuzz::{TARGETS, Target};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Address space of the whole test process: whatever would take memory without bound fails.
const BYTES_MAX: u64 = 4 << 30;
const SEED: u64 = 4;

/// Panics anywhere, also in tasks whose end nobody looks at.
static PANICKED: AtomicBool = AtomicBool::new(false);

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 3, "the corpus of {target} has {} files", files.len());
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// Runs a target over its corpus and over `rounds` mutations of it.
fn fuzz(name: &str, rounds: u64) {
    let (_, target) = TARGETS.into_iter().find(|(known, _)| *known == name).unwrap();
    bound_memory();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICKED.store(true, Ordering::SeqCst);
        hook(info);
    }));
    let corpus = corpus(name);
    for input in &corpus {
        try_one(name, target, input);
    }
    let mut chance = fastrand::Rng::with_seed(number("FUZZ_SEED", SEED));
    for _ in 0..number("FUZZ_ROUNDS", rounds) {
        try_one(name, target, &mutate::mutated(&corpus, &mut chance));
    }
}

fn try_one(name: &str, target: Target, input: &[u8]) {
    let ended = std::panic::catch_unwind(|| target(input));
    if ended.is_err() || PANICKED.load(Ordering::SeqCst) {
        let file = std::env::temp_dir().join(format!("rhubarb-fuzz-{name}-failed"));
        std::fs::write(&file, input).unwrap();
        panic!("target {name} panicked; its input is in {}: {}", file.display(), String::from_utf8_lossy(input));
    }
}

fn bound_memory() {
    let limit = getrlimit(Resource::As);
    if limit.maximum.is_none_or(|maximum| maximum >= BYTES_MAX) {
        setrlimit(Resource::As, Rlimit { current: Some(BYTES_MAX), ..limit }).unwrap();
    }
}

#[test]
fn no_message_body_panics_or_takes_memory_without_bound() {
    fuzz("envelope", 20_000);
}

#[test]
fn no_answer_of_a_function_panics_or_takes_memory_without_bound() {
    fuzz("answer", 20_000);
}

#[test]
fn no_configuration_panics_or_takes_memory_without_bound() {
    fuzz("configuration", 3_000);
}

#[test]
fn no_row_that_is_read_back_panics_or_takes_memory_without_bound() {
    fuzz("rows", 20_000);
}

#[test]
fn no_request_of_a_function_process_panics_or_takes_memory_without_bound() {
    fuzz("runtime_api", 500);
}
