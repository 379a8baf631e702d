//! The same figures for Celery on Redis, where both are installed: `pip install celery redis packaging`, and a Redis
//! server on the PATH.

use std::process::Command;

/// Runs the peer's script with the Python on the PATH, and lets it print its figures.
pub(crate) fn celery_on_redis() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/celery_redis.py");
    match Command::new("python3").arg(script).status() {
        Ok(status) if status.success() => {}
        Ok(status) => eprintln!("bench: the peer ended with {status}"),
        Err(error) => eprintln!("bench: cannot start the peer: {error}"),
    }
}
