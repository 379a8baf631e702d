//! The same figures for Celery, where it is installed: on Redis (`pip install celery redis packaging`, and a Redis server
//! on the PATH), or on SQS (`pip install 'celery[sqs]'`, and an emulator that `AWS_ENDPOINT_URL` names).

use std::{path::Path, process::Command};

/// What Rhubarb is measured beside.
#[derive(Clone, Copy)]
pub(crate) enum Peer {
    CeleryOnRedis,
    CeleryOnSqs,
}

impl Peer {
    /// The peer of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "celery-redis" => Some(Self::CeleryOnRedis),
            "celery-sqs" => Some(Self::CeleryOnSqs),
            _ => None,
        }
    }

    const fn script(self) -> &'static str {
        match self {
            Self::CeleryOnRedis => "celery_redis.py",
            Self::CeleryOnSqs => "celery_sqs.py",
        }
    }

    /// Runs the peer's script with the Python on the PATH, and lets it print its figures.
    pub(crate) fn measure(self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench").join(self.script());
        match Command::new("python3").arg(script).status() {
            Ok(status) if status.success() => {}
            Ok(status) => eprintln!("bench: the peer ended with {status}"),
            Err(error) => eprintln!("bench: cannot start the peer: {error}"),
        }
    }
}
