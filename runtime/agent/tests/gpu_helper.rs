//! The agent's side of the GPU helper, against helpers and probes that answer, lie, hang and die: small shell scripts.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use rhubarb_agent::gpu::helper::{ANSWER_MAX, FIRST_ANSWER_MAX, GpuHelper, HelperOptions, PROBE_MAX};
use rhubarb_core::gpu::{
    GpuDevice, GpuError, GpuReading, GpuSource as _,
    wire::{GpuAnswer, LINE_BYTES_MAX},
};
use rhubarb_testkit::gpus::GpuScript;
use tempfile::TempDir;

fn shell(script: &str) -> Vec<OsString> {
    ["/bin/sh", "-c", script].map(OsString::from).to_vec()
}

/// A helper that is this shell script, of which `$DIR` is the folder.
fn asks(dir: &TempDir, script: &str) -> GpuHelper {
    let env = vec![("PATH".into(), "/usr/bin:/bin".into()), ("DIR".into(), dir.path().into())];
    GpuHelper::new(HelperOptions { helper: shell(script), probe: shell("exit 0"), env, ..HelperOptions::default() })
}

fn probes(script: &str) -> GpuHelper {
    let env = vec![("PATH".into(), "/usr/bin:/bin".into())];
    // The UUID comes after the script's own name.
    let probe = shell(script).into_iter().chain(["probe".into()]).collect();
    GpuHelper::new(HelperOptions { probe, env, ..HelperOptions::default() })
}

fn devices(script: &GpuScript) -> String {
    GpuAnswer::Devices(script.devices.clone()).line()
}

fn unavailable(error: GpuError) -> String {
    match error {
        GpuError::Unavailable(reason) => reason,
        other => format!("not unavailable: {other:?}"),
    }
}

/// How often the script was started, if it writes a line into `$DIR/starts` first.
fn starts(dir: &Path) -> usize {
    std::fs::read_to_string(dir.join("starts")).unwrap_or_default().lines().count()
}

#[tokio::test]
async fn one_helper_answers_question_after_question() {
    let dir = tempfile::tempdir().unwrap();
    let mut script = GpuScript::of(2);
    script.xid("GPU-1", 31);
    std::fs::write(dir.path().join("devices"), devices(&script)).unwrap();
    std::fs::write(dir.path().join("readings"), GpuAnswer::Readings(script.readings.clone()).line()).unwrap();
    let gpus = asks(
        &dir,
        r#"echo >>$DIR/starts; while read q; do case $q in '"devices"') cat $DIR/devices;; *) cat $DIR/readings;; esac; done"#,
    );
    for _ in 0..3 {
        assert_eq!(gpus.devices().await.unwrap(), script.devices);
        assert_eq!(gpus.read().await.unwrap(), script.readings);
    }
    assert_eq!(starts(dir.path()), 1);
}

#[tokio::test]
async fn without_a_driver_there_are_no_devices_and_nothing_is_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let gpus =
        asks(&dir, r#"echo >>$DIR/starts; read q; echo '{"no_driver":"libnvidia-ml.so.1 is not there"}'; read q"#);
    for _ in 0..3 {
        assert_eq!(gpus.devices().await.unwrap(), Vec::<GpuDevice>::new());
        assert_eq!(gpus.read().await.unwrap(), Vec::<GpuReading>::new());
    }
    assert_eq!(starts(dir.path()), 1);
}

#[tokio::test]
async fn a_driver_that_goes_is_no_machine_without_one() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("devices"), devices(&GpuScript::of(1))).unwrap();
    let gpus = asks(&dir, r#"read q; cat $DIR/devices; while read q; do echo '{"no_driver":"it was unloaded"}'; done"#);
    assert_eq!(gpus.devices().await.unwrap().len(), 1);
    assert_eq!(unavailable(gpus.devices().await.unwrap_err()), "it was unloaded");
    assert_eq!(unavailable(gpus.read().await.unwrap_err()), "it was unloaded");
}

#[tokio::test]
async fn what_is_no_answer_ends_the_helper_and_the_next_one_comes_after_a_pause() {
    let long = format!("head -c {} /dev/zero; read q", LINE_BYTES_MAX + 10);
    let cases = [
        ("echo hello", "what is no answer"),
        (r#"echo '{"devices":[{"uuid":"../../etc"}]}'"#, "what is no answer"),
        (r#"echo '{"readings":[]}'; read q"#, "another question"),
        ("exit 3", "gone"),
        ("printf '{\"devices\":[]}'", "gone: it ended"),
        ("kill -9 $$", "gone"),
        (long.as_str(), "too long"),
    ];
    for (script, told) in cases {
        let dir = tempfile::tempdir().unwrap();
        let gpus = asks(&dir, &format!("echo >>$DIR/starts; read q; {script}"));
        let reason = unavailable(gpus.devices().await.unwrap_err());
        assert!(reason.contains(told), "{script}: {reason}");
    }
    let dir = tempfile::tempdir().unwrap();
    let gpus = asks(&dir, "echo >>$DIR/starts; exit 3");
    gpus.devices().await.unwrap_err();
    let reason = unavailable(gpus.devices().await.unwrap_err());
    assert!(reason.contains("started again in"), "{reason}");
    assert_eq!(starts(dir.path()), 1, "not at every question");
}

#[tokio::test]
async fn a_helper_that_cannot_be_started_is_said_to_be() {
    let options = HelperOptions { helper: vec![PathBuf::from("/no/such/program").into()], ..HelperOptions::default() };
    let reason = unavailable(GpuHelper::new(options).devices().await.unwrap_err());
    assert!(reason.contains("cannot be started"), "{reason}");
    assert!(GpuHelper::new(HelperOptions::default()).devices().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_helper_that_hangs_is_given_up_after_its_time_and_started_again_after_growing_pauses() {
    let dir = tempfile::tempdir().unwrap();
    let gpus = asks(&dir, "while read q; do :; done");
    let began = tokio::time::Instant::now();
    let reason = unavailable(gpus.devices().await.unwrap_err());
    assert!(reason.contains("did not answer within 60s"), "{reason}");
    assert_eq!(began.elapsed().as_secs(), FIRST_ANSWER_MAX.as_secs());
    for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
        tokio::time::advance(Duration::from_millis(pause * 1000 - 100)).await;
        let reason = unavailable(gpus.read().await.unwrap_err());
        assert!(reason.contains("started again in 1 s"), "{reason}");
        tokio::time::advance(Duration::from_millis(200)).await;
        let reason = unavailable(gpus.read().await.unwrap_err());
        assert!(reason.contains("did not answer"), "{reason}");
    }
}

#[tokio::test]
async fn a_helper_that_has_answered_has_less_time_for_the_next_answer() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("devices"), devices(&GpuScript::of(1))).unwrap();
    let gpus = asks(&dir, "read q; cat $DIR/devices; while read q; do :; done");
    assert_eq!(gpus.devices().await.unwrap().len(), 1);
    tokio::time::pause();
    let reason = unavailable(gpus.read().await.unwrap_err());
    assert!(reason.contains(&format!("within {ANSWER_MAX:?}")), "{reason}");
}

#[tokio::test]
async fn xids_are_counted_on_over_helpers() {
    let dir = tempfile::tempdir().unwrap();
    let mut script = GpuScript::of(1);
    script.xid("GPU-0", 31);
    std::fs::write(dir.path().join("readings"), GpuAnswer::Readings(script.readings.clone()).line()).unwrap();
    // Each helper answers once, and the next question finds it gone.
    let gpus = asks(&dir, "read q; cat $DIR/readings");
    let xids = async || gpus.read().await.map(|readings| readings[0].xids.clone());
    assert_eq!(xids().await.unwrap(), [(31, 1)].into());
    xids().await.unwrap_err();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(2)).await;
    tokio::time::resume();
    assert_eq!(xids().await.unwrap(), [(31, 2)].into(), "one of each helper");
}

#[tokio::test]
async fn a_question_that_is_given_up_does_not_bring_its_answer_to_the_next() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("devices"), devices(&GpuScript::of(1))).unwrap();
    // The first helper answers when it is told to, which is never; the second at once.
    let gpus = asks(
        &dir,
        "echo >>$DIR/starts; n=$(wc -l <$DIR/starts); while read q; do [ $n = 1 ] || cat $DIR/devices; done",
    );
    tokio::select! {
        biased;
        _ = gpus.devices() => panic!("nobody answers"),
        () = until_started(dir.path()) => {}
    }
    assert_eq!(gpus.devices().await.unwrap().len(), 1);
    assert_eq!(starts(dir.path()), 2);
}

async fn until_started(dir: &Path) {
    while starts(dir) == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_variables_of_cuda_and_mps_say_which_devices_there_are_and_what_memory_they_have() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("devices"), devices(&GpuScript::of(3))).unwrap();
    let vars = [
        ("RHUBARB_GPU_SOURCE", format!("cat_on_question {}", dir.path().display())),
        ("CUDA_VISIBLE_DEVICES", "2,0".into()),
        ("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "0=8G".into()),
        ("SECRET", "stays here".into()),
    ];
    let vars: Vec<(OsString, OsString)> = vars.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    let mut options = HelperOptions::new(Path::new("/usr/bin/rhubarb"), &vars);
    assert_eq!(options.helper, ["cat_on_question".into(), dir.path().as_os_str().to_owned()]);
    assert_eq!(options.probe, ["/usr/bin/rhubarb", "gpu-probe"]);
    assert!(options.env.is_empty(), "neither is handed on what it does not need");
    options.helper = shell(&format!("while read q; do /bin/cat {}/devices; done", dir.path().display()));
    let gpus = GpuHelper::new(options);
    let seen = gpus.devices().await.unwrap();
    let seen: Vec<(&str, u64)> = seen.iter().map(|device| (device.uuid.as_str(), device.memory >> 30)).collect();
    assert_eq!(seen, [("GPU-2", 8), ("GPU-0", 24)]);
    assert!(gpus.limits_memory());
}

#[tokio::test]
async fn a_probe_sees_its_device_alone_and_its_exit_code_tells() {
    let well = probes(r#"[ "$1,$CUDA_VISIBLE_DEVICES,$CUDA_DEVICE_ORDER" = GPU-1,GPU-1,PCI_BUS_ID ] || exit 1"#);
    assert_eq!(well.probe("GPU-1").await, Ok(()));
    let sick = probes("printf 'wrong numbers\\007\\nand more'; exit 1");
    assert_eq!(sick.probe("GPU-1").await, Err(GpuError::Sick("wrong numbers".into())));
    let killed = probes("kill -9 $$");
    assert_eq!(killed.probe("GPU-1").await, Err(GpuError::Sick("the probe was ended by a signal".into())));
    let unknown = probes("echo libcuda.so.1 is not there; exit 69");
    let reason = unavailable(unknown.probe("GPU-1").await.unwrap_err());
    assert_eq!(reason, "the probe ended with code 69: libcuda.so.1 is not there");
    let chatty = probes("yes x | tr -d '\\n' | head -c 100000; exit 1");
    let GpuError::Sick(reason) = chatty.probe("GPU-1").await.unwrap_err() else { panic!("it is sick") };
    assert_eq!(reason.len(), 512);
    assert!(matches!(GpuHelper::new(HelperOptions::default()).probe("GPU-1").await, Err(GpuError::Unavailable(_))));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_hangs_is_ended_and_its_device_is_sick() {
    let gpus = probes("read line");
    let told = format!("the probe did not end within {PROBE_MAX:?}");
    assert_eq!(gpus.probe("GPU-1").await, Err(GpuError::Sick(told)));
}
