//! Fuzz targets: each takes any bytes where the system takes bytes from outside, and must neither panic nor take memory
//! that is not in proportion to them.
//!
//! `tests/fuzz` drives them with a corpus and seeded mutations, on a stable compiler. With cargo-fuzz a target is one
//! line: `fuzz_target!(|data: &[u8]| rhubarb_tests::fuzz::envelope(data));`.

use std::{
    future::Future,
    sync::{Arc, LazyLock},
    time::Duration,
};

use rhubarb::core::{
    backend::{AttemptRecord, Backend as _, Heard, ScheduleRecord, TaskDetail, TaskRecord, WorkerRecord},
    config::{Config, NoVars, Overrides},
    contract,
    envelope::Envelope,
    ids::{MessageId, TaskName, WorkerId},
    limits::Limits,
};
use rhubarb_host::{
    routes::{ProcessRoutes, Shared},
    runtime_api::{Exchange, Server, Watcher},
};
use rhubarb_testkit::{MemoryBackend, MemoryOptions};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A target.
pub type Target = fn(&[u8]);

/// All targets, by the name of their folder of the corpus.
pub const TARGETS: [(&str, Target); 5] = [
    ("envelope", envelope),
    ("answer", answer),
    ("configuration", configuration),
    ("rows", rows),
    ("runtime_api", runtime_api),
];

/// A message's body. What is read is written and read again as the same.
pub fn envelope(bytes: &[u8]) {
    let body = String::from_utf8_lossy(bytes);
    let message = MessageId::new("0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b");
    let raw = TaskName::new("raw").ok();
    for raw in [None, raw.as_ref()] {
        let Ok(envelope) = Envelope::decode(&body, &message, raw) else { continue };
        let text = envelope.encode();
        assert!(text.len() <= body.len() * 8 + 1024, "{} bytes became {}", body.len(), text.len());
        let again = Envelope::decode_full(&text).map(|envelope| envelope.encode());
        assert_eq!(again.as_deref(), Ok(text.as_str()), "what is written is read");
    }
}

/// What a function answers.
pub fn answer(bytes: &[u8]) {
    let ids = ["m-1", "m-2"].map(MessageId::new);
    let ids: Vec<&MessageId> = ids.iter().collect();
    for ids in [&ids[..1], &ids[..]] {
        match contract::read_answer(bytes, ids, Limits::AWS.inline_bytes_max) {
            Ok(said) => assert_eq!(said.len(), ids.len(), "one word for each record"),
            Err(bad) => assert!(bad.failure().message.len() <= 64 * 1024, "an error has its bounds"),
        }
    }
}

/// A `rhubarb.toml`.
pub fn configuration(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match Config::parse(&text, &NoVars, &Overrides::default()) {
        Ok(config) => assert!(config.queues.contains_key("default"), "the default queue always exists"),
        Err(mistakes) => assert!(!mistakes.to_string().is_empty(), "a mistake is told"),
    }
}

/// What rows, histories and workers are read back from.
pub fn rows(bytes: &[u8]) {
    fn read<T: serde::de::DeserializeOwned + serde::Serialize>(bytes: &[u8]) {
        let Ok(value) = serde_json::from_slice::<T>(bytes) else { return };
        let written = serde_json::to_vec(&value);
        assert!(written.is_ok(), "what is read is shown: {written:?}");
    }
    read::<TaskDetail>(bytes);
    read::<TaskRecord>(bytes);
    read::<AttemptRecord>(bytes);
    read::<WorkerRecord>(bytes);
    read::<Heard>(bytes);
    read::<ScheduleRecord>(bytes);
}

/// What a function process sends to its host: any bytes on its connection, to the Runtime API and to the routes.
/// Afterwards the host still answers.
pub fn runtime_api(bytes: &[u8]) {
    on_a_runtime(async {
        let Some(server) = serve().await else { return };
        let said = converse(&server, bytes).await;
        assert!(said.len() <= 1024 * 1024, "{} bytes were answered", said.len());
        let well = converse(&server, b"GET /rhubarb/v1/counts HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await;
        assert!(well.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&well));
    });
}

fn on_a_runtime(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    #[expect(clippy::expect_used, reason = "without a runtime there is nothing to try")]
    runtime.expect("a runtime").block_on(work);
}

static CONFIG: LazyLock<Option<Arc<Config>>> = LazyLock::new(|| {
    let text = "[app]\nname = \"fuzz\"\n[functions.f]\npackage = \"f\"\n";
    Config::parse(text, &NoVars, &Overrides::default()).ok().map(Arc::new)
});

async fn serve() -> Option<Server> {
    struct Nobody;
    impl Watcher for Nobody {
        fn handed_over(&self, _: &str) {}
        fn answered(&self, _: &str) {}
    }
    let backend = Arc::new(MemoryBackend::new(MemoryOptions::default()));
    let queue = CONFIG.as_ref()?.queues.get("default")?;
    let spec = rhubarb::core::backend::QueueSpec { queue: queue.name.clone(), max_receives: None, dead_letters: None };
    backend.broker().declare(&[spec]).await.ok()?;
    let shared = Shared::new(backend, Arc::clone(CONFIG.as_ref()?), WorkerId::new("fuzz").ok()?);
    let routes = Arc::new(ProcessRoutes::new(Arc::new(shared)));
    Server::start(Arc::new(Exchange::new(1, Arc::new(Nobody))), routes).await.ok()
}

/// Sends the bytes, ends the sending side, and reads what comes. A `next` is never answered: then the connection is
/// given up.
async fn converse(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut said = Vec::new();
    let Ok(mut stream) = TcpStream::connect(server.address()).await else { return said };
    // The host may have answered, and closed, before all was sent.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let _ = tokio::time::timeout(Duration::from_millis(100), stream.read_to_end(&mut said)).await;
    said
}
