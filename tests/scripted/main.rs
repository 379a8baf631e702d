//! The function that the whole-system tests run: each task does one thing that a test needs.
//!
//! With an argument it is no function of ours but a child that breaks the Runtime API's rules in that
//! way (see [`rogue`]), stands in for the GPU helper and the probe (see [`gpus`]), or uses a real GPU (see [`device`]).

mod device;
mod gpus;
mod rogue;
mod tasks;

use rhubarb::Function;

fn main() -> Result<(), rhubarb::Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(manner) = arguments.first() {
        if !gpus::run(&arguments) && !device::run(&arguments) {
            rogue::run(manner);
        }
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    #[expect(clippy::expect_used, reason = "a test's function may die when it cannot even start a runtime")]
    let runtime = runtime.expect("a runtime");
    let parallel = std::env::var("PARALLEL").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    runtime.block_on(
        Function::new()
            .parallel(parallel)
            .on(tasks::noop)
            .on(tasks::echo)
            .on(tasks::nap)
            .on(tasks::fail)
            .on(tasks::crash)
            .on(tasks::panics)
            .on(tasks::snooze)
            .on(tasks::steps)
            .on(tasks::say)
            .on(tasks::big)
            .on(tasks::family)
            .on(tasks::litter)
            .on(tasks::grow)
            .on(tasks::complain)
            .on(tasks::once)
            .on(device::use_gpu)
            .on(tasks::on_gpus)
            .run(),
    )
}
