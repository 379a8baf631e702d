//! The GPU ledger: which device of this host is leased for which attempt.
//!
//! Pure bookkeeping. The lease itself is a guard that the function process owns and that gives the
//! devices back after its process group is reaped; an agent that crashes takes its ledger with it.

use std::collections::BTreeMap;

use crate::ids::TaskId;

/// One device's entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    holder: Option<TaskId>,
    quarantined: Option<String>,
}

/// The devices of one host, by UUID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuLedger {
    devices: BTreeMap<String, Entry>,
}

impl GpuLedger {
    /// A ledger of these devices, all free.
    #[must_use]
    pub fn new(uuids: impl IntoIterator<Item = String>) -> Self {
        Self { devices: uuids.into_iter().map(|uuid| (uuid, Entry::default())).collect() }
    }

    /// Devices that are neither leased nor quarantined.
    #[must_use]
    pub fn free(&self) -> usize {
        self.devices.values().filter(|entry| entry.holder.is_none() && entry.quarantined.is_none()).count()
    }

    /// All devices, also those that are not free.
    #[must_use]
    pub fn total(&self) -> usize {
        self.devices.len()
    }

    /// Leases `count` devices for an attempt, all or none.
    pub fn lease(&mut self, holder: TaskId, count: usize) -> Option<Vec<String>> {
        if self.free() < count {
            return None;
        }
        let free = self.devices.iter_mut().filter(|(_, entry)| entry.holder.is_none() && entry.quarantined.is_none());
        let leased = free.take(count).map(|(uuid, entry)| {
            entry.holder = Some(holder);
            uuid.clone()
        });
        Some(leased.collect())
    }

    /// Gives devices back. One that somebody else holds, or that is unknown, is left alone.
    pub fn put_back(&mut self, holder: TaskId, uuids: &[String]) {
        for uuid in uuids {
            if let Some(entry) = self.devices.get_mut(uuid).filter(|entry| entry.holder == Some(holder)) {
                entry.holder = None;
            }
        }
    }

    /// Takes a device out of use, with the reason.
    pub fn quarantine(&mut self, uuid: &str, reason: impl Into<String>) {
        if let Some(entry) = self.devices.get_mut(uuid) {
            entry.quarantined = Some(reason.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn two_leases_never_overlap(steps in proptest::collection::vec((0_u8..6, 1_usize..4, any::<bool>()), 0..60)) {
            let mut ledger = GpuLedger::new((0..4).map(|n| format!("GPU-{n}")));
            let mut held: BTreeMap<u8, Vec<String>> = BTreeMap::new();
            for (who, count, take) in steps {
                let id = TaskId::from_bytes([who; 16]);
                if take && !held.contains_key(&who) {
                    if let Some(devices) = ledger.lease(id, count) {
                        prop_assert_eq!(devices.len(), count);
                        held.insert(who, devices);
                    }
                } else if let Some(devices) = held.remove(&who) {
                    ledger.put_back(id, &devices);
                }
                let mut all: Vec<&String> = held.values().flatten().collect();
                let count = all.len();
                all.sort();
                all.dedup();
                prop_assert_eq!(all.len(), count);
                prop_assert_eq!(ledger.free() + count, 4);
            }
        }
    }

    #[test]
    fn a_quarantined_device_is_not_leased_and_a_stranger_gives_nothing_back() {
        let mut ledger = GpuLedger::new(["GPU-a".to_owned(), "GPU-b".to_owned()]);
        ledger.quarantine("GPU-a", "memory not given back");
        let mine = TaskId::from_bytes([1; 16]);
        assert_eq!(ledger.lease(mine, 1), Some(vec!["GPU-b".to_owned()]));
        assert_eq!(ledger.lease(mine, 1), None);
        ledger.put_back(TaskId::from_bytes([2; 16]), &["GPU-b".to_owned()]);
        assert_eq!(ledger.free(), 0);
    }
}
