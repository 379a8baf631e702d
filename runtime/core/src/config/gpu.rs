//! What a queue asks of a GPU.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    mistake::{Problem, quoted},
    value::{Reading, words},
};

words! {
    /// What happens to a task that asks for a GPU where no worker has one.
    WithoutGpu {
        /// It waits for a worker that has one.
        Wait = "wait",
        /// It runs on the CPU, and its result says so.
        Cpu = "cpu",
    }
}

/// The least CUDA compute capability that a queue asks for, written `>=8.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ComputeCapability {
    /// Before the point.
    pub major: u32,
    /// Behind it.
    pub minor: u32,
}

impl fmt::Display for ComputeCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ">={}.{}", self.major, self.minor)
    }
}

/// Reads `>=8.0`.
pub(super) fn compute_capability(text: &str) -> Reading<ComputeCapability> {
    let parse = |number: &str| {
        let is_short = number.len() <= 2 && number.bytes().all(|byte| byte.is_ascii_digit());
        if is_short { number.parse::<u32>().ok() } else { None }
    };
    text.strip_prefix(">=")
        .and_then(|version| version.trim_start().split_once('.'))
        .and_then(|(major, minor)| Some(ComputeCapability { major: parse(major)?, minor: parse(minor)? }))
        .ok_or_else(|| Problem::new(format!("{} is no such bound", quoted(text)), r#"write e.g. ">=8.0""#))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compute_capability_is_a_least_one() {
        assert_eq!(compute_capability(">=8.0"), Ok(ComputeCapability { major: 8, minor: 0 }));
        assert_eq!(compute_capability(">= 12.1").unwrap().to_string(), ">=12.1");
        for text in ["", "8.0", ">8.0", ">=8", ">=8.x", ">=+8.0", ">=8.0.1"] {
            assert!(compute_capability(text).is_err(), "{text:?}");
        }
    }
}
