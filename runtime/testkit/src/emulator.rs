//! An AWS emulator of a test's own: started on a free port of 127.0.0.1, stopped when its handle is dropped.
//!
//! `tests/run` installs MiniStack into `.venv`. Where `RHUBARB_TEST_ENDPOINT` names a running emulator (for
//! example LocalStack), that one is used and left running: names in it must then be a test's own.

use std::{
    env,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
};

/// Names a running emulator, to be used in place of one of the test's own.
pub const ENDPOINT_VARIABLE: &str = "RHUBARB_TEST_ENDPOINT";
/// The account of every resource of an emulator.
pub const ACCOUNT: &str = "000000000000";
/// What its clients sign with, and where they believe it to be.
pub const REGION: &str = "eu-central-1";

/// A running emulator.
#[derive(Debug)]
pub struct Emulator {
    endpoint: String,
    running: Option<(Child, PathBuf)>,
}

impl Emulator {
    /// Starts MiniStack, or takes the emulator that `RHUBARB_TEST_ENDPOINT` names. Returns when it listens.
    ///
    /// # Panics
    ///
    /// It is not installed (`tests/run` does so), or does not start; what it printed is told.
    #[must_use]
    pub fn start() -> Self {
        if let Some(endpoint) = env::var(ENDPOINT_VARIABLE).ok().filter(|url| !url.is_empty()) {
            return Self { endpoint, running: None };
        }
        Self::start_on(free_port())
    }

    /// Starts MiniStack on a port, so that a test can bring one back where it was.
    ///
    /// # Panics
    ///
    /// As [`Self::start`].
    #[must_use]
    #[expect(clippy::panic, clippy::expect_used, reason = "a test that cannot start its emulator fails")]
    pub fn start_on(port: u16) -> Self {
        let program = repository().join(".venv/bin/ministack");
        assert!(program.is_file(), "MiniStack is not installed: tests/run does so (.venv/bin/ministack)");
        let folder = env::temp_dir().join(format!("rhubarb-emulator-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the emulator");
        let mut child = Command::new(program)
            .env("TMPDIR", &folder)
            .env("MINISTACK_HOST", "127.0.0.1")
            .env("BIND_HOST", "127.0.0.1")
            .env("GATEWAY_PORT", port.to_string())
            .env("MINISTACK_REGION", REGION)
            // It hands this to the functions that it runs.
            .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}"))
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the emulator starts");
        let output = child.stderr.take().expect("its output is piped");
        if let Err(told) = listens(output) {
            let _ = child.kill();
            panic!("the emulator does not listen on port {port}:\n{told}");
        }
        Self { endpoint: format!("http://127.0.0.1:{port}"), running: Some((child, folder)) }
    }

    /// Where it listens.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The variables that lead a program to it and nowhere else.
    #[must_use]
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.endpoint.clone()),
            ("AWS_REGION", REGION.into()),
            ("AWS_ACCESS_KEY_ID", "test".into()),
            ("AWS_SECRET_ACCESS_KEY", "test".into()),
            ("AWS_EC2_METADATA_DISABLED", "true".into()),
        ]
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        if let Some((child, folder)) = &mut self.running {
            // Nothing of it is kept, so it need not be asked.
            let _ = child.kill();
            let _ = child.wait();
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

/// Reads what the emulator prints until it says that it listens, then on in the background: a full pipe would
/// stop it. Its last words are the error.
fn listens(output: ChildStderr) -> Result<(), String> {
    let mut lines = BufReader::new(output).lines().map_while(Result::ok);
    let mut told = String::new();
    let ready = lines.by_ref().any(|line| {
        told.push_str(&line);
        told.push('\n');
        line.contains("Running on http")
    });
    if !ready {
        return Err(told);
    }
    std::thread::spawn(move || lines.for_each(drop));
    Ok(())
}

/// The folder of the workspace.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A port that nothing listens on.
///
/// # Panics
///
/// None is left.
#[must_use]
#[expect(clippy::expect_used, reason = "a test without a port cannot go on")]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("a bound listener has an address").port()
}
