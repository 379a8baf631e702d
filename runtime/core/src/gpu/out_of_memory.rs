//! A device's memory that ran out, told from what libraries write, so that the failure names the way out.
//!
//! CUDA's own words are looked for, and those of the frameworks above it: they reach us as a function's error, as a
//! panic, or only in what it printed before it died.

use crate::{config::QueueConfig, outcome::Failure};

/// What is written when a device has no memory left. All in lower case.
const SAID: [&str; 9] = [
    // The driver API (CUresult 2) and the runtime API (cudaError_t 2).
    "cuda_error_out_of_memory",
    "cudaerrormemoryallocation",
    // PyTorch: "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate …", and from its C++ "CUDA error: out of
    // memory".
    "cuda out of memory",
    "cuda error: out of memory",
    // CuPy's class; its message is "Out of memory allocating …".
    "cupy.cuda.memory.outofmemoryerror",
    // cuBLAS, cuDNN, cuSOLVER and cuSPARSE; cuFFT.
    "_status_alloc_failed",
    "cufft_alloc_failed",
    // TensorFlow and JAX: "RESOURCE_EXHAUSTED: Out of memory while trying to allocate …".
    "resource_exhausted: out of memory",
    "resource exhausted: out of memory",
];

/// Kinds of failure that say nothing of their own, so that what was printed may tell.
const SAY_NOTHING: [&str; 3] = [Failure::CRASHED, Failure::REPORTED, Failure::BAD_ANSWER];

/// True if somebody says that a device's memory ran out.
#[must_use]
pub fn says_out_of_memory(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    SAID.iter().any(|said| text.contains(said))
}

/// The failure of an attempt that had GPUs of this queue, under its own kind and with the way out, if it was that a
/// device's memory ran out. `printed` decides only where the failure itself says nothing.
#[must_use]
pub fn out_of_memory(queue: &QueueConfig, failure: &Failure, printed: &str) -> Option<Failure> {
    let is_said = says_out_of_memory(&failure.message)
        || says_out_of_memory(&failure.kind)
        || (SAY_NOTHING.iter().any(|kind| failure.is_of(kind)) && says_out_of_memory(printed));
    // The words may hold the way out already, where a function fails with what another task told it.
    if !is_said || failure.is_of(Failure::GPU_OUT_OF_MEMORY) {
        return None;
    }
    let name = &queue.name;
    let asks = match queue.gpu_memory {
        Some(memory) => format!("raise gpu_memory = \"{memory}\" of [queues.{name}]"),
        None => format!("write gpu_memory, e.g. \"40GiB\", in [queues.{name}]"),
    };
    let shares = if queue.gpu_share > 1 { ", lower its gpu_share" } else { "" };
    let way_out = format!("the GPU's memory ran out: {asks}{shares}, or let the task need less");
    Some(Failure::new(Failure::GPU_OUT_OF_MEMORY, format!("{way_out}; it said: {failure}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Config, NoVars, Overrides},
        ids::QueueName,
    };

    fn queue(keys: &str) -> QueueConfig {
        let text = format!(
            "[app]\nname = \"a\"\n[queues.big]\ngpus = 1\n{keys}functions = [\"f\"]\n[functions.f]\npackage = \"f\"\n"
        );
        let config = Config::parse(&text, &NoVars, &Overrides::default()).unwrap();
        config.queue(&QueueName::new("big").unwrap()).unwrap().clone()
    }

    #[test]
    fn the_words_of_cuda_and_of_frameworks_are_known() {
        for text in [
            r#"DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")"#,
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of …",
            "RuntimeError: CUDA error: out of memory",
            "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "cupy.cuda.memory.OutOfMemoryError: Out of memory allocating 8,589,934,592 bytes",
            "XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.",
        ] {
            assert!(says_out_of_memory(text), "{text}");
        }
        for text in
            ["MemoryError", "Cannot allocate memory (os error 12)", "out of memory", "CUDA_ERROR_ILLEGAL_ADDRESS"]
        {
            assert!(!says_out_of_memory(text), "{text}");
        }
    }

    #[test]
    fn the_failure_names_the_way_out_and_keeps_what_was_said() {
        let failure = Failure::new("torch.OutOfMemoryError", "CUDA out of memory. Tried to allocate 20.00 MiB");
        let told = out_of_memory(&queue("gpu_memory = \"40GiB\"\ngpu_share = 2\n"), &failure, "").unwrap();
        assert_eq!(told.kind, Failure::GPU_OUT_OF_MEMORY);
        let expected = "the GPU's memory ran out: raise gpu_memory = \"40GiB\" of [queues.big], lower its gpu_share, or \
                        let the task need less; it said: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate \
                        20.00 MiB";
        assert_eq!(told.message, expected);
        assert!(out_of_memory(&queue(""), &told, "").is_none(), "told once");
    }

    #[test]
    fn what_was_printed_decides_only_where_the_failure_says_nothing() {
        let printed = "step 7\ncudaErrorMemoryAllocation\n";
        let died = Failure::new(Failure::CRASHED, "the process exited with code 134");
        assert!(out_of_memory(&queue(""), &died, printed).unwrap().message.contains("write gpu_memory"));
        let other = Failure::new("ValueError", "no such dataset");
        assert!(out_of_memory(&queue(""), &other, printed).is_none(), "it was got over, and something else failed");
        assert!(out_of_memory(&queue(""), &died, "step 7").is_none());
    }
}
