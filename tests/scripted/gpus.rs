//! Stands in for the two processes that know a machine's GPUs: the helper (`gpu-source FILE`) and the probe
//! (`gpu-probe FILE UUID`). Both do what the script in the file says (`rhubarb_testkit::gpus::GpuScript`) when they are
//! asked.

use std::{
    io::{BufRead as _, Write as _},
    process::exit,
};

use rhubarb::core::gpu::wire::GpuQuestion;
use rhubarb_testkit::gpus::GpuFile;

/// Runs the mode that the arguments name, to its end; false where they name none.
pub(crate) fn run(arguments: &[String]) -> bool {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["gpu-source", file] => source(&GpuFile::at(file.into())),
        ["gpu-probe", file, uuid] => probe(&GpuFile::at(file.into()), uuid),
        _ => return false,
    }
    true
}

/// Answers every question until the agent is gone.
fn source(file: &GpuFile) {
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let Some(question) = GpuQuestion::parse(&line) else { exit(2) };
        let Ok(script) = file.read() else { exit(3) };
        if let Some(answer) = script.answer(question) {
            let mut out = std::io::stdout().lock();
            if write!(out, "{}", answer.line()).and_then(|()| out.flush()).is_err() {
                return;
            }
        }
    }
}

/// Ends as a probe of the device ends.
fn probe(file: &GpuFile, uuid: &str) {
    let Ok(script) = file.read() else { exit(69) };
    if script.hanging.contains(uuid) {
        // Until whoever started it closes its end, or kills it.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        exit(69);
    }
    if let Err(reason) = script.probe(uuid) {
        println!("{reason}");
        exit(1);
    }
}
