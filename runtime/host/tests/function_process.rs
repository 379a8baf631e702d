//! Function processes, from their start to their reaping, with a function that misbehaves on demand.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests end the test")]

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use rhubarb_host::process::{ExitStatus, FunctionProcess, ProcessSpec, StartError};
use rhubarb_host::runtime_api::{Answer, EVENT_BYTES_MAX, Invocation, InvocationEnd, RESPONSE_BYTES_MAX, Routes};

const GRACE: Duration = Duration::from_secs(20);

/// Echoes method, path and body size; accepts ten bytes on `/rhubarb/v1/small`.
struct EchoRoutes;

#[async_trait]
impl Routes for EchoRoutes {
    async fn call(&self, request: Request<Bytes>) -> Response<Bytes> {
        let (method, path) = (request.method(), request.uri().path());
        let text = format!("{method} {path} {}", request.body().len());
        let mut response = Response::new(text.into());
        *response.status_mut() = StatusCode::CREATED;
        response
    }

    fn body_limit(&self, path: &str) -> usize {
        if path == "/rhubarb/v1/small" { 10 } else { 10 * RESPONSE_BYTES_MAX }
    }
}

/// The examples are built beside the tests.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "build it first: cargo build -p rhubarb-host --examples");
    path
}

fn spec(arguments: &[&str]) -> ProcessSpec {
    let mut command = vec![example("scripted").into_os_string()];
    command.extend(arguments.iter().map(Into::into));
    let path = std::env::var_os("PATH").unwrap_or_default();
    ProcessSpec { env: vec![("PATH".into(), path)], ..ProcessSpec::new("scripted", command) }
}

async fn start(spec: ProcessSpec) -> Result<FunctionProcess, StartError> {
    FunctionProcess::start(Arc::new(spec), Arc::new(EchoRoutes)).await
}

async fn scripted() -> FunctionProcess {
    start(spec(&[])).await.unwrap()
}

fn invocation(id: &str, event: impl Into<Bytes>) -> Invocation {
    let deadline = SystemTime::now() + Duration::from_secs(60);
    Invocation::new(id, deadline, event.into(), "arn:aws:lambda:local:0:function:scripted")
}

/// The response to `event`, as text.
async fn ask(process: &FunctionProcess, id: &str, event: &str) -> String {
    match process.invoke(invocation(id, event.to_owned())).await {
        Ok(Answer::Response(body)) => String::from_utf8(body.to_vec()).unwrap(),
        other => panic!("{event} came to {other:?}"),
    }
}

/// Returns when the invocation has printed `text`: the function then holds it.
async fn printed(process: &FunctionProcess, id: &str, text: &str) {
    while process.peek_output(id).text != text {
        tokio::task::yield_now().await;
    }
}

/// Whether a process runs; a zombie does not.
#[cfg(target_os = "linux")]
fn is_running(id: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{id}/stat")) else {
        return false;
    };
    let state = stat.rsplit(") ").next().unwrap().chars().next();
    !matches!(state, Some('Z' | 'X'))
}

#[cfg(not(target_os = "linux"))]
fn is_running(id: u32) -> bool {
    let pid = rustix::process::Pid::from_raw(id.cast_signed()).unwrap();
    rustix::process::test_kill_process(pid).is_ok()
}

#[tokio::test]
async fn a_function_answers_one_invocation_after_the_other() {
    let process = scripted().await;
    for n in 0..3 {
        let text = format!("text {n}");
        assert_eq!(ask(&process, &n.to_string(), &format!("echo {text}")).await, text);
    }
    assert_eq!(process.served(), 3);
    assert!(!process.exited());
}

#[tokio::test]
async fn a_function_on_lambda_runtime_answers() {
    let command = vec![example("noop").into_os_string()];
    let process = start(ProcessSpec::new("noop", command)).await.unwrap();
    let event = r#"{"Records":[{"messageId":"m1","body":"{}"}]}"#;
    let answer = ask(&process, "r1", event).await;
    assert_eq!(answer, r#"{"batchItemFailures":[],"records":1}"#);
}

#[tokio::test]
async fn the_headers_of_the_runtime_api_reach_the_function() {
    let process = scripted().await;
    let mut invocation = invocation("r1", "headers");
    invocation.deadline = SystemTime::UNIX_EPOCH + Duration::from_millis(1_542_409_706_888);
    invocation.trace_id = Some("Root=1-5bef4de7;Sampled=1".into());
    let Ok(Answer::Response(body)) = process.invoke(invocation).await else {
        panic!("no response");
    };
    let headers = String::from_utf8(body.to_vec()).unwrap();
    for header in [
        "content-type=application/json",
        "lambda-runtime-aws-request-id=r1",
        "lambda-runtime-deadline-ms=1542409706888",
        "lambda-runtime-invoked-function-arn=arn:aws:lambda:local:0:function:scripted",
        "lambda-runtime-trace-id=Root=1-5bef4de7;Sampled=1",
    ] {
        assert!(headers.contains(header), "{header} is not in {headers}");
    }
}

#[tokio::test]
async fn a_function_sees_its_own_and_lambdas_variables_and_no_other() {
    let process = scripted().await;
    let names = ask(&process, "r1", "environment").await;
    let known =
        |name: &&str| name.starts_with("AWS_LAMBDA_") || ["PATH", "_HANDLER", "LAMBDA_TASK_ROOT"].contains(name);
    let others: Vec<_> = names.split(' ').filter(|name| !known(name)).collect();
    assert!(others.is_empty(), "{others:?}");
    assert!(names.contains("AWS_LAMBDA_FUNCTION_MEMORY_SIZE"), "{names}");
}

#[tokio::test]
async fn a_missing_program_is_named_with_what_to_do() {
    let command = vec!["/no/such/function".into()];
    let error = start(ProcessSpec::new("training", command)).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("`training`") && text.contains("/no/such/function"), "{text}");
    assert!(text.contains("build the function"), "{text}");
}

#[tokio::test]
async fn a_file_that_is_not_executable_is_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("function");
    std::fs::write(&path, "text").unwrap();
    let command = vec![path.clone().into_os_string()];
    let text = start(ProcessSpec::new("training", command)).await.unwrap_err().to_string();
    assert!(text.contains(path.to_str().unwrap()) && text.contains("chmod +x"), "{text}");
}

#[tokio::test]
async fn a_missing_folder_is_told_from_a_missing_program() {
    let mut spec = spec(&[]);
    spec.working_dir = Some("/no/such/folder".into());
    let error = start(spec).await.unwrap_err();
    assert!(matches!(error, StartError::WorkingDir { .. }), "{error}");
}

#[tokio::test]
async fn a_function_without_a_command_is_refused() {
    let error = start(ProcessSpec::new("training", Vec::new())).await.unwrap_err();
    assert!(matches!(error, StartError::NoCommand { .. }), "{error}");
}

#[tokio::test]
async fn a_function_that_exits_at_start_leaves_its_status_and_its_words() {
    let error = start(spec(&["exit"])).await.unwrap_err();
    assert!(error.output_tail().contains("cannot find the model"));
    let text = error.to_string();
    assert!(text.contains("exited with code 3 before it asked for work"), "{text}");
    assert!(text.contains("cannot find the model") && !text.contains('\x1b'), "{text:?}");
}

#[tokio::test]
async fn an_init_error_is_reported_in_the_functions_words() {
    let error = start(spec(&["init-error"])).await.unwrap_err();
    assert_eq!(error.output_tail(), "starting\n");
    let text = error.to_string();
    assert!(text.contains("NoModel: cannot find the model"), "{text}");
}

#[tokio::test]
async fn an_init_error_after_the_first_next_is_refused() {
    let process = scripted().await;
    let reply = ask(&process, "r1", "call POST /2018-06-01/runtime/init/error").await;
    assert!(reply.starts_with("403 ") && reply.contains("InvalidStateTransition"), "{reply}");
}

#[tokio::test]
async fn a_function_that_never_asks_for_work_is_given_up() {
    let mut spec = spec(&["hang"]);
    spec.init_timeout = Duration::from_millis(300);
    let error = start(spec).await.unwrap_err();
    assert!(matches!(error, StartError::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn a_function_that_sends_garbage_is_hung_up_on() {
    let error = start(spec(&["garbage"])).await.unwrap_err();
    assert!(error.output_tail().contains("the host hung up"), "{error}");
    assert!(matches!(error, StartError::Exited { status: ExitStatus::Exited(4), .. }), "{error}");
}

#[tokio::test]
async fn the_first_of_two_answers_stands_and_the_second_is_refused() {
    let process = scripted().await;
    assert_eq!(ask(&process, "r1", "twice").await, "first");
    assert_eq!(ask(&process, "r2", "echo still there").await, "still there");
    assert_eq!(process.peek_output("r1").text, "");
    let report = process.kill().await;
    assert_eq!(report.output_tail, "answered with 202 and 400\n");
}

#[tokio::test]
async fn an_answer_for_another_processs_request_is_refused() {
    let (one, other) = (scripted().await, scripted().await);
    let mut hanging = pin!(one.invoke(invocation("r1", "print-and-hang here")));
    tokio::select! {
        end = &mut hanging => panic!("{end:?}"),
        () = printed(&one, "r1", "here\n") => {}
    }
    tokio::select! {
        end = &mut hanging => panic!("{end:?}"),
        status = ask(&other, "r2", "for r1") => assert_eq!(status, "400"),
    }
}

#[tokio::test]
async fn wrong_ids_paths_and_methods_get_lambdas_error_body() {
    let process = scripted().await;
    for (call, expected) in [
        ("POST /2018-06-01/runtime/invocation/none/response", "400 "),
        ("POST /2018-06-01/runtime/invocation/none/response", r#""errorMessage":"request none"#),
        ("POST /2018-06-01/runtime/invocation/none/error", "\"errorType\":\"InvalidRequestID\""),
        ("POST /2018-06-01/runtime/invocation/next", "\"errorType\":\"MethodNotAllowed\""),
        ("GET /2018-06-01/runtime/init/error", "405 "),
        ("GET /2015-03-31/functions", "404 "),
        ("DELETE /", "\"errorType\":\"NotFound\""),
    ] {
        let reply = ask(&process, "r1", &format!("call {call}")).await;
        assert!(reply.contains(expected), "{call} came to {reply}");
    }
}

#[tokio::test]
async fn a_functions_error_is_an_answer() {
    let process = scripted().await;
    let answer = process.invoke(invocation("r1", "fail out of luck")).await.unwrap();
    let Answer::Error(error) = answer else { panic!("{answer:?}") };
    assert_eq!(error.error_type, "Scripted");
    assert_eq!(error.message, "out of luck");
    assert_eq!(error.stack, ["here"]);
}

#[tokio::test]
async fn a_streamed_response_is_taken_whole() {
    let process = scripted().await;
    assert_eq!(ask(&process, "r1", "stream").await, "first second");
}

#[tokio::test]
async fn a_streamed_response_that_fails_in_the_middle_is_an_error() {
    let process = scripted().await;
    let answer = process.invoke(invocation("r1", "stream-and-fail")).await.unwrap();
    let Answer::Error(error) = answer else { panic!("{answer:?}") };
    assert_eq!((&*error.error_type, &*error.message), ("Streamed", "half way"));
}

#[tokio::test]
async fn events_and_responses_of_six_mebibytes_pass() {
    let process = scripted().await;
    let mut event = b"length ".to_vec();
    event.resize(EVENT_BYTES_MAX, b' ');
    let answer = process.invoke(invocation("r1", event)).await.unwrap();
    assert_eq!(answer, Answer::Response(EVENT_BYTES_MAX.to_string().into()));
    let body = ask(&process, "r2", &format!("return {RESPONSE_BYTES_MAX}")).await;
    assert_eq!(body.len(), RESPONSE_BYTES_MAX);
}

#[tokio::test]
async fn a_response_over_the_limit_ends_the_invocation_and_not_the_process() {
    let process = scripted().await;
    let size = RESPONSE_BYTES_MAX + 1;
    let end = process.invoke(invocation("r1", format!("return {size}"))).await.unwrap_err();
    let InvocationEnd::ResponseTooLarge { bytes, .. } = end else { panic!("{end:?}") };
    assert_eq!(bytes, size as u64);
    assert_eq!(ask(&process, "r2", "echo still there").await, "still there");
    assert_eq!(process.kill().await.output_tail, "answered with 413\n");
}

#[tokio::test]
async fn an_event_over_the_limit_never_reaches_the_function() {
    let process = scripted().await;
    let end = process.invoke(invocation("r1", vec![b' '; EVENT_BYTES_MAX + 1])).await;
    assert!(matches!(end, Err(InvocationEnd::EventTooLarge { .. })), "{end:?}");
    assert_eq!(ask(&process, "r2", "echo still there").await, "still there");
}

#[tokio::test]
async fn several_invocations_are_in_flight_where_the_spec_allows_it() {
    let mut spec = spec(&["parallel", "3"]);
    spec.concurrency = 3;
    let process = start(spec).await.unwrap();
    let answers = tokio::join!(
        ask(&process, "r1", "meet one"),
        ask(&process, "r2", "meet two"),
        ask(&process, "r3", "meet three"),
    );
    assert_eq!(answers, ("one".into(), "two".into(), "three".into()));
}

#[tokio::test]
async fn a_second_invocation_is_refused_where_one_is_allowed() {
    let process = scripted().await;
    let end = tokio::select! {
        biased;
        end = process.invoke(invocation("r1", "hang")) => panic!("{end:?}"),
        end = process.invoke(invocation("r2", "echo")) => end,
    };
    assert!(matches!(end, Err(InvocationEnd::NotOffered { .. })), "{end:?}");
}

#[tokio::test]
async fn a_function_that_dies_ends_its_invocation_with_status_and_output() {
    let process = scripted().await;
    let end = process.invoke(invocation("r1", "exit 7")).await.unwrap_err();
    let InvocationEnd::ProcessDied { status, output_tail } = end else { panic!("{end:?}") };
    assert_eq!(status, ExitStatus::Exited(7));
    assert_eq!(output_tail, "giving up\n");
    assert_eq!(process.take_output("r1").text, "giving up\n");
    assert!(process.exited());
    let after = process.invoke(invocation("r2", "echo")).await.unwrap_err();
    assert!(matches!(after, InvocationEnd::ProcessDied { .. }), "{after:?}");
}

#[tokio::test]
async fn a_signal_that_ends_a_function_is_named() {
    let process = scripted().await;
    let end = process.invoke(invocation("r1", "abort")).await.unwrap_err();
    assert!(end.to_string().contains("SIGABRT"), "{end}");
}

#[tokio::test]
async fn an_answer_sent_with_the_last_breath_counts() {
    for event in ["answer-and-exit", "reconnect-answer-and-exit"] {
        for _ in 0..20 {
            let process = scripted().await;
            assert_eq!(ask(&process, "r1", event).await, "last words");
        }
    }
}

#[tokio::test]
async fn a_function_that_never_answers_can_be_killed() {
    let process = scripted().await;
    let id = process.id();
    tokio::select! {
        end = process.invoke(invocation("r1", "print-and-hang here")) => panic!("{end:?}"),
        () = printed(&process, "r1", "here\n") => {}
    }
    let report = process.kill().await;
    assert_eq!(report.status, ExitStatus::Killed(9));
    assert!(report.forced);
    assert!(!is_running(id));
}

#[tokio::test]
async fn a_function_is_stopped_by_sigterm_within_the_grace() {
    let process = scripted().await;
    let id = process.id();
    let report = process.stop(GRACE).await;
    assert_eq!(report.status, ExitStatus::Killed(15));
    assert!(!report.forced);
    assert!(!is_running(id));
}

#[tokio::test]
async fn a_function_that_ignores_sigterm_is_killed_after_the_grace() {
    let scripted = example("scripted");
    let script = format!("trap '' TERM; exec {}", scripted.display());
    let command = vec!["/bin/sh".into(), "-c".into(), script.into()];
    let process = start(ProcessSpec::new("stubborn", command)).await.unwrap();
    let report = process.stop(Duration::from_millis(50)).await;
    assert_eq!(report.status, ExitStatus::Killed(9));
    assert!(report.forced);
}

#[tokio::test]
async fn the_children_of_a_function_are_killed_with_it() {
    let process = scripted().await;
    let child = ask(&process, "r1", "child").await.parse().unwrap();
    assert!(is_running(child));
    let report = process.kill().await;
    assert!(report.left_behind.is_empty());
    assert!(!is_running(child));
}

#[tokio::test]
async fn the_children_of_a_function_that_dies_are_killed() {
    let process = scripted().await;
    let end = process.invoke(invocation("r1", "child-and-exit")).await.unwrap_err();
    let InvocationEnd::ProcessDied { output_tail, .. } = end else { panic!("{end:?}") };
    assert!(!is_running(output_tail.trim().parse().unwrap()));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_child_that_left_the_group_is_reported() {
    let process = scripted().await;
    let child: u32 = ask(&process, "r1", "child-of-its-own-group").await.parse().unwrap();
    let report = process.kill().await;
    assert_eq!(report.left_behind, [child]);
    assert!(is_running(child));
    let pid = rustix::process::Pid::from_raw(child.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_dropped_process_is_killed() {
    let process = scripted().await;
    let child: u32 = ask(&process, "r1", "child").await.parse().unwrap();
    let pid = rustix::process::Pid::from_raw(process.id().cast_signed()).unwrap();
    drop(process);
    // The reaper thread frees the id, and only then does the group cease to exist.
    while rustix::process::test_kill_process_group(pid).is_ok() && is_running(child) {
        tokio::task::yield_now().await;
    }
    assert!(!is_running(child));
}

#[tokio::test]
async fn output_before_the_answer_belongs_to_the_invocation() {
    let process = scripted().await;
    for n in 0..50 {
        let id = format!("r{n}");
        ask(&process, &id, &format!("print {n}")).await;
        let captured = process.take_output(&id);
        assert_eq!(captured.text, format!("{n} on stdout and {n} on stderr"));
    }
}

#[tokio::test]
async fn output_can_be_read_while_the_invocation_runs() {
    let process = scripted().await;
    tokio::select! {
        end = process.invoke(invocation("r1", "print-and-hang half way")) => panic!("{end:?}"),
        () = printed(&process, "r1", "half way\n") => {}
    }
    assert_eq!(process.take_output("r1").text, "half way\n");
}

#[tokio::test]
async fn a_function_that_fills_its_output_neither_blocks_nor_fills_the_host() {
    let mut spec = spec(&[]);
    spec.output_bytes_max = 10_000;
    let process = start(spec).await.unwrap();
    ask(&process, "r1", "flood 104857600").await;
    let captured = process.take_output("r1");
    assert_eq!(captured.dropped_bytes, 104_857_600 + 4 - 10_000);
    assert!(captured.text.len() < 11_000);
    assert!(captured.text.ends_with("...end\n"));
}

#[tokio::test]
async fn control_sequences_are_kept_raw_and_sanitised_for_display() {
    let process = scripted().await;
    ask(&process, "r1", "print \x1b]0;owned\x07\x1b[2J").await;
    let text = process.take_output("r1").text;
    assert!(text.contains('\x1b'));
    assert_eq!(rhubarb_host::process::sanitize(&text), " on stdout and  on stderr");
}

#[tokio::test]
async fn routes_beside_the_runtime_api_are_passed_on_with_their_body() {
    let process = scripted().await;
    let reply = ask(&process, "r1", "call PUT /rhubarb/v1/progress").await;
    assert_eq!(reply, "201 PUT /rhubarb/v1/progress 4");
    let large = 2 * RESPONSE_BYTES_MAX;
    let reply = ask(&process, "r2", &format!("post /rhubarb/v1/large {large}")).await;
    assert_eq!(reply, format!("201 POST /rhubarb/v1/large {large}"));
}

#[tokio::test]
async fn a_route_says_how_large_a_body_may_be() {
    let process = scripted().await;
    let reply = ask(&process, "r1", "post /rhubarb/v1/small 11").await;
    assert!(reply.starts_with("413 ") && reply.contains("RequestEntityTooLarge"), "{reply}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_function_over_its_memory_limit_says_so_and_lives() {
    let mut spec = spec(&[]);
    spec.memory_limit = Some(100 << 20);
    let process = start(spec).await.unwrap();
    assert!(!process.over_memory());
    ask(&process, "r1", "grow 150000000").await;
    assert!(process.over_memory());
    assert!(process.memory().unwrap() > 100 << 20);
    assert_eq!(ask(&process, "r2", "echo alive").await, "alive");
}

#[cfg(target_os = "linux")]
#[test]
fn a_function_and_its_children_die_with_their_host() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    let mut host = Command::new(example("host"))
        .args(["/bin/sh", "-c", "/bin/sleep 1000 & exec \"$0\""])
        .arg(example("scripted"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(host.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let function: u32 = line.trim().parse().unwrap();
    let children = format!("/proc/{function}/task/{function}/children");
    let child: u32 = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();

    let ended = [function, child].map(|id| {
        assert!(is_running(id));
        pidfd_open(Pid::from_raw(id.cast_signed()).unwrap(), PidfdFlags::empty()).unwrap()
    });
    host.kill().unwrap();
    host.wait().unwrap();
    let limit = rustix::time::Timespec { tv_sec: 20, tv_nsec: 0 };
    for process in &ended {
        let ready = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit)).unwrap();
        assert_eq!(ready, 1, "a process outlived its host");
    }
}
