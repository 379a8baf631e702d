//! The two processes that meet the NVIDIA driver, so that no agent has to: the helper, which an agent asks for
//! devices and readings, and the probe, which uses a device for a moment.
//!
//! Both are this same program under commands that no help shows. They read no configuration, open no store and write
//! no log; what they have to say goes to whoever started them, and they end with it.

mod nvml;
mod probe;
mod readers;

use std::{io::Write as _, os::unix::process::CommandExt as _, process::ExitCode, sync::Arc};

use clap::Args;
use rhubarb_agent::gpu::helper::{GpuHelper as Asks, HelperOptions, SICK};
use rhubarb_core::gpu::GpuSource;

use self::probe::{Probed, UNKNOWN};
use crate::{
    exit::{CliError, Result},
    session::Session,
};

/// How this program's agents ask about GPUs. Nothing is started before the first question.
pub(crate) fn source(session: &Session) -> Result<Arc<dyn GpuSource>> {
    Ok(Arc::new(Asks::new(options(session)?)))
}

/// The commands of both processes, and what the environment says of devices.
pub(crate) fn options(session: &Session) -> Result<HelperOptions> {
    let exe = std::env::current_exe().map_err(|error| CliError::io("find this program", &error))?;
    Ok(HelperOptions::new(&exe, &session.vars.all()))
}

/// Answer an agent's questions about GPUs, a line of JSON each
#[derive(Args, Debug)]
#[command(hide = true, after_help = "Example: echo '\"devices\"' | rhubarb gpu-helper")]
pub(crate) struct GpuHelper {}

impl GpuHelper {
    /// Answers until its standard input ends.
    pub(crate) fn run(self) -> ExitCode {
        // An agent that is gone needs no answer and no reason.
        match nvml::serve(std::io::stdin().lock(), std::io::stdout()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(UNKNOWN),
        }
    }
}

/// Find out whether a GPU computes as it should
#[derive(Args, Debug)]
#[command(
    hide = true,
    after_help = "\
Example: rhubarb gpu-probe GPU-1b2c… </dev/tty

Exit codes: 0 it does, 1 it does not, 69 that could not be found out. It ends when its standard input does."
)]
pub(crate) struct GpuProbe {
    /// The device's UUID
    uuid: String,
}

impl GpuProbe {
    /// Probes the device and says what is wrong with it.
    pub(crate) fn run(self) -> ExitCode {
        if std::env::var("CUDA_VISIBLE_DEVICES").as_deref() != Ok(self.uuid.as_str()) {
            return self.start_over();
        }
        probe::end_with_starter();
        match probe::probe() {
            Probed::Well => ExitCode::SUCCESS,
            Probed::Sick(reason) => say(&reason, SICK),
            Probed::Unknown(reason) => say(&reason, UNKNOWN),
        }
    }

    /// CUDA takes its devices from the environment that a process starts with.
    fn start_over(&self) -> ExitCode {
        let error = match std::env::current_exe() {
            Ok(exe) => std::process::Command::new(exe)
                .args(["gpu-probe", &self.uuid])
                .env("CUDA_VISIBLE_DEVICES", &self.uuid)
                .env("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
                .exec(),
            Err(error) => error,
        };
        say(&format!("the probe cannot start over with this device: {error}"), UNKNOWN)
    }
}

fn say(reason: &str, code: u8) -> ExitCode {
    let line: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    // Nobody may listen any more; the code says enough.
    let _ = writeln!(std::io::stdout(), "{line}");
    ExitCode::from(code)
}
