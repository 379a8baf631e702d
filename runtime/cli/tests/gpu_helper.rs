//! The helper process over a library that answers as NVML does on a machine with whole, divided, lost and hanging
//! devices (`nvml.c`), through the very wrapper and loader that meet the real one.

#![expect(clippy::unwrap_used, reason = "a test cannot go on without its helper")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use rhubarb_core::gpu::{
    GpuProcess, GpuReading,
    wire::{GpuAnswer, GpuQuestion},
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with the library.
fn library() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
        .args(["-std=gnu11", "-Wall", "-Werror", "-fPIC", "-shared", "-o"])
        .arg(folder.path().join("libnvidia-ml.so.1"))
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nvml.c"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    folder
}

struct Helper {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Helper {
    fn start(libraries: &Path, init_fails: Option<u32>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rhubarb"));
        command.arg("gpu-helper").env("LD_LIBRARY_PATH", libraries).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.envs(init_fails.map(|code| ("NVML_INIT_FAILS", code.to_string())));
        let mut child = command.spawn().unwrap();
        let (questions, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, questions, answers }
    }

    fn ask(&mut self, question: GpuQuestion) -> GpuAnswer {
        self.questions.write_all(question.line().as_bytes()).unwrap();
        let mut line = Vec::new();
        self.answers.read_until(b'\n', &mut line).unwrap();
        GpuAnswer::parse(&line).unwrap()
    }

    fn read(&mut self) -> Vec<GpuReading> {
        let GpuAnswer::Readings(readings) = self.ask(GpuQuestion::Read) else { unreachable!("these are readings") };
        readings
    }

    /// Ends its questions; it ends too, whatever hangs in it.
    fn end(self) -> Option<i32> {
        let Self { mut child, questions, .. } = self;
        drop(questions);
        child.wait().unwrap().code()
    }
}

#[test]
fn a_machines_devices_and_readings_are_told_as_nvml_has_them() {
    let libraries = library();
    let mut helper = Helper::start(libraries.path(), None);
    let GpuAnswer::Devices(devices) = helper.ask(GpuQuestion::Devices) else { panic!("these are devices") };
    let told: Vec<_> =
        devices.iter().map(|it| (it.uuid.as_str(), it.index, it.memory >> 30, it.parent.as_deref())).collect();
    let instance = |uuid| (uuid, 1, 20, Some("GPU-b1"));
    assert_eq!(told, [("GPU-a0", 0, 40, None), instance("MIG-b10"), instance("MIG-b12"), ("GPU-d3", 3, 40, None)]);
    assert!(devices.iter().all(|it| it.compute == (8, 0) && it.driver == "580.95.05"), "{devices:?}");
    assert_eq!(devices[1].name, "NVIDIA A100 MIG 3g.20gb");

    // Xid errors come by a thread of their own.
    let began = Instant::now();
    let readings = loop {
        let readings = helper.read();
        if !readings[0].xids.is_empty() || began.elapsed() > PATIENCE {
            break readings;
        }
    };
    let uuids: Vec<&str> = readings.iter().map(|it| it.uuid.as_str()).collect();
    assert_eq!(uuids, ["GPU-a0", "MIG-b10", "MIG-b12"], "the lost and the hanging one are missing");
    let sees = std::fs::read_link("/proc/self/ns/pid").unwrap().as_os_str() == "pid:[4026531836]";
    let processes = |processes: &[GpuProcess]| sees.then(|| processes.to_vec());
    let whole = GpuReading {
        uuid: "GPU-a0".into(),
        memory_used: 1 << 20,
        utilisation: Some(97),
        power: Some(71_900),
        temperature: Some(64),
        ecc_uncorrected: Some(2),
        xids: [(79, 1)].into(),
        processes: processes(&[GpuProcess { pid: std::process::id(), memory: Some(5) }]),
    };
    assert_eq!(readings[0], whole);
    let instance = GpuReading {
        uuid: "MIG-b12".into(),
        memory_used: 13 << 20,
        power: Some(71_900),
        temperature: Some(64),
        processes: processes(&[]),
        ..GpuReading::default()
    };
    assert_eq!(readings[2], instance);
    assert_eq!(helper.end(), Some(0), "although a thread hangs");
}

#[test]
fn a_missing_driver_is_none_and_a_broken_one_is_a_failure() {
    let libraries = library();
    let answer = |init_fails| {
        let mut helper = Helper::start(libraries.path(), Some(init_fails));
        let answer = helper.ask(GpuQuestion::Devices);
        assert_eq!(helper.end(), Some(0));
        answer
    };
    assert_eq!(answer(9), GpuAnswer::NoDriver("the driver is not loaded".into()));
    // The library and the kernel's module are of different versions.
    assert!(matches!(answer(18), GpuAnswer::Failed(reason) if reason.contains("version")), "{:?}", answer(18));
}
