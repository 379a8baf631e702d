//! How large a worker's container is: what its queues ask for, in the sizes that there are.

/// CPU units of a vCPU, as ECS counts them.
const UNITS: f64 = 1024.0;
/// Fargate's sizes: CPU units, then least, most and step of the memory in MiB (AWS: "Task CPU and memory",
/// Fargate task definitions).
const FARGATE: [(u32, u64, u64, u64); 6] = [
    (512, 1024, 4096, 1024),
    (1024, 2048, 8192, 1024),
    (2048, 4096, 16_384, 1024),
    (4096, 8192, 30_720, 1024),
    (8192, 16_384, 61_440, 4096),
    (16_384, 32_768, 122_880, 8192),
];

/// CPU units and memory in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::template) struct Size {
    pub(in crate::template) cpu: u32,
    pub(in crate::template) memory_mib: u64,
}

impl Size {
    /// What was asked for, to the unit.
    pub(super) fn exact(cpus: f64, memory_mib: u64) -> Self {
        // The configuration's bounds keep it far below what the type holds.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded by the configuration")]
        let cpu = (cpus * UNITS).ceil().max(1.0) as u32;
        Self { cpu, memory_mib }
    }

    /// The smallest size of Fargate that holds it; none where it has none so large.
    pub(super) fn on_fargate(self) -> Option<Self> {
        let fits = |&&(cpu, _, most, _): &&(u32, u64, u64, u64)| cpu >= self.cpu && most >= self.memory_mib;
        FARGATE.iter().find(fits).map(|&(cpu, least, _, step)| {
            let memory_mib = self.memory_mib.max(least).div_ceil(step) * step;
            Self { cpu, memory_mib }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fargate_gets_the_smallest_of_its_sizes_that_holds_what_is_asked_for() {
        let on = |cpus, memory_mib| Size::exact(cpus, memory_mib).on_fargate().map(|size| (size.cpu, size.memory_mib));
        assert_eq!(on(0.25, 128), Some((512, 1024)));
        assert_eq!(on(4.0, 8192), Some((4096, 8192)));
        assert_eq!(on(4.0, 8193), Some((4096, 9216)));
        assert_eq!(on(1.0, 32 * 1024), Some((8192, 32_768)));
        assert_eq!(on(8.0, 17_000), Some((8192, 20_480)));
        assert_eq!(on(16.0, 122_880), Some((16_384, 122_880)));
        assert_eq!(on(17.0, 1024), None);
        assert_eq!(on(1.0, 122_881), None);
    }
}
