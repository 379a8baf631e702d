//! The ledger: which device of this host is leased for which invocation.

use std::collections::{BTreeMap, BTreeSet};

use super::{ask::GpuAsk, device::GpuDevice};

/// Names a lease; a number of the agent's own.
pub type GpuLeaseId = u64;

/// How a device stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GpuState {
    /// It may be leased.
    Free,
    /// These leases hold it.
    Held(BTreeSet<GpuLeaseId>),
    /// Its last lease has ended, and it is looked at before the next.
    Checking,
    /// It is out of use, for this reason.
    Quarantined(String),
}

#[derive(Clone, Debug)]
struct Entry {
    device: GpuDevice,
    state: GpuState,
    /// How many may share it, by what its present holders asked for.
    share: u32,
}

/// The devices of one host, by UUID.
#[derive(Clone, Debug, Default)]
pub struct GpuLedger {
    entries: BTreeMap<String, Entry>,
}

impl GpuLedger {
    /// A ledger of these devices, all free.
    #[must_use]
    pub fn new(devices: impl IntoIterator<Item = GpuDevice>) -> Self {
        let entry = |device: GpuDevice| (device.uuid.clone(), Entry { device, state: GpuState::Free, share: 1 });
        Self { entries: devices.into_iter().map(entry).collect() }
    }

    /// Every device and how it stands, in the order of their indices.
    #[must_use]
    pub fn devices(&self) -> Vec<(&GpuDevice, &GpuState)> {
        let mut all: Vec<_> = self.entries.values().map(|entry| (&entry.device, &entry.state)).collect();
        all.sort_by_key(|(device, _)| device.index);
        all
    }

    /// Adds a device that has come, free. One that is known stays as it stands.
    pub fn add(&mut self, device: GpuDevice) {
        let uuid = device.uuid.clone();
        self.entries.entry(uuid).or_insert(Entry { device, state: GpuState::Free, share: 1 });
    }

    /// Leases the devices that are asked for, all or none. Of those that fit, the smallest are taken, and of shared
    /// ones those that are shared already: what is left free serves the largest ask.
    pub fn lease(&mut self, id: GpuLeaseId, ask: &GpuAsk) -> Option<Vec<String>> {
        self.lease_of(id, ask, |_| true)
    }

    /// As [`Self::lease`], of those devices alone that `may` be used.
    pub fn lease_of(&mut self, id: GpuLeaseId, ask: &GpuAsk, may: impl Fn(&str) -> bool) -> Option<Vec<String>> {
        let is_open = |entry: &&Entry| entry.is_open_to(id, ask) && may(&entry.device.uuid);
        let mut open: Vec<&Entry> = self.entries.values().filter(is_open).collect();
        open.sort_by_key(|entry| (entry.state == GpuState::Free, entry.device.memory, entry.device.index));
        let count = usize::try_from(ask.count).ok()?;
        if open.len() < count {
            return None;
        }
        let uuids: Vec<String> = open[..count].iter().map(|entry| entry.device.uuid.clone()).collect();
        for uuid in &uuids {
            if let Some(entry) = self.entries.get_mut(uuid) {
                entry.share = ask.share;
                match &mut entry.state {
                    GpuState::Held(holders) => drop(holders.insert(id)),
                    state => *state = GpuState::Held(BTreeSet::from([id])),
                }
            }
        }
        Some(uuids)
    }

    /// Takes one device out of a lease; no process had it yet.
    pub fn put_one_back(&mut self, id: GpuLeaseId, uuid: &str) {
        if let Some(entry) = self.entries.get_mut(uuid)
            && let GpuState::Held(holders) = &mut entry.state
            && holders.remove(&id)
            && holders.is_empty()
        {
            entry.state = GpuState::Free;
        }
    }

    /// Ends a lease. Returns the devices that nobody holds any more; they are to be looked at, and then
    /// [`Self::release`]d or [`Self::quarantine`]d. `used` is false where no process ever had them: those are free at
    /// once.
    pub fn put_back(&mut self, id: GpuLeaseId, used: bool) -> Vec<String> {
        let mut left = Vec::new();
        for entry in self.entries.values_mut() {
            let GpuState::Held(holders) = &mut entry.state else { continue };
            if holders.remove(&id) && holders.is_empty() {
                entry.state = if used { GpuState::Checking } else { GpuState::Free };
                left.push(entry.device.uuid.clone());
            }
        }
        left
    }

    /// Sets a free device apart to be looked at. Returns whether it was free.
    pub fn set_apart(&mut self, uuid: &str) -> bool {
        let free = self.entries.get_mut(uuid).filter(|entry| entry.state == GpuState::Free);
        free.map(|entry| entry.state = GpuState::Checking).is_some()
    }

    /// How a device stands; none where it is not known.
    #[must_use]
    pub fn state(&self, uuid: &str) -> Option<&GpuState> {
        self.entries.get(uuid).map(|entry| &entry.state)
    }

    /// Brings a device back that was looked at or quarantined. One that is held stays held.
    pub fn release(&mut self, uuid: &str) {
        if let Some(entry) = self.entries.get_mut(uuid)
            && !matches!(entry.state, GpuState::Held(_))
        {
            entry.state = GpuState::Free;
        }
    }

    /// Takes a device out of use. Leases that hold it are not ended by this; their processes are the caller's to stop.
    pub fn quarantine(&mut self, uuid: &str, reason: impl Into<String>) {
        if let Some(entry) = self.entries.get_mut(uuid) {
            entry.state = GpuState::Quarantined(reason.into());
        }
    }

    /// The leases that hold a device.
    #[must_use]
    pub fn holders(&self, uuid: &str) -> Vec<GpuLeaseId> {
        match self.entries.get(uuid).map(|entry| &entry.state) {
            Some(GpuState::Held(holders)) => holders.iter().copied().collect(),
            _ => Vec::new(),
        }
    }
}

impl Entry {
    fn is_open_to(&self, id: GpuLeaseId, ask: &GpuAsk) -> bool {
        let has_room = match &self.state {
            GpuState::Free => true,
            // Shared only with those that asked for the same sharing.
            GpuState::Held(holders) => {
                let held = u32::try_from(holders.len()).unwrap_or(u32::MAX);
                ask.share > 1 && self.share == ask.share && held < ask.share && !holders.contains(&id)
            }
            GpuState::Checking | GpuState::Quarantined(_) => false,
        };
        has_room && ask.fits(&self.device)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::ByteSize;

    fn device(index: u32, gib: u32) -> GpuDevice {
        let memory = ByteSize::gib(gib).as_bytes();
        let uuid = format!("GPU-{index}");
        GpuDevice { uuid, index, name: "L4".into(), memory, compute: (8, 9), parent: None, driver: "580.0".into() }
    }

    fn ask(count: u32) -> GpuAsk {
        GpuAsk { count, memory: None, name: None, compute: None, share: 1 }
    }

    fn shared(share: u32) -> GpuAsk {
        GpuAsk { share, ..ask(1) }
    }

    proptest! {
        #[test]
        fn no_device_is_held_by_more_than_may_share_it(
            steps in proptest::collection::vec((0_u64..6, 1_u32..4, 1_u32..3, any::<bool>()), 0..80)
        ) {
            let mut ledger = GpuLedger::new((0..4).map(|index| device(index, 24)));
            let mut held: BTreeMap<u64, (u32, Vec<String>)> = BTreeMap::new();
            for (id, count, share, take) in steps {
                if take && !held.contains_key(&id) {
                    if let Some(uuids) = ledger.lease(id, &GpuAsk { share, ..ask(count) }) {
                        prop_assert_eq!(uuids.len(), count as usize);
                        held.insert(id, (share, uuids));
                    }
                } else if held.remove(&id).is_some() {
                    for uuid in ledger.put_back(id, true) {
                        ledger.release(&uuid);
                    }
                }
                for index in 0..4 {
                    let uuid = format!("GPU-{index}");
                    let holders: Vec<u32> =
                        held.values().filter(|(_, uuids)| uuids.contains(&uuid)).map(|(share, _)| *share).collect();
                    prop_assert!(holders.iter().all(|share| *share == holders[0]));
                    prop_assert!(holders.first().is_none_or(|share| holders.len() <= *share as usize));
                    prop_assert_eq!(ledger.holders(&uuid).len(), holders.len());
                }
            }
        }
    }

    #[test]
    fn all_or_none_are_leased_and_the_smallest_that_fit() {
        let mut ledger = GpuLedger::new([device(0, 80), device(1, 24), device(2, 24)]);
        assert_eq!(ledger.lease(1, &ask(1)), Some(vec!["GPU-1".into()]));
        assert_eq!(ledger.lease(2, &ask(3)), None);
        let large = GpuAsk { memory: Some(ByteSize::gib(40)), ..ask(1) };
        assert_eq!(ledger.lease(2, &large), Some(vec!["GPU-0".into()]));
        assert_eq!(ledger.lease(3, &large), None);
    }

    #[test]
    fn a_used_device_is_looked_at_before_the_next_lease_and_an_unused_one_is_free() {
        let mut ledger = GpuLedger::new([device(0, 24)]);
        ledger.lease(1, &ask(1)).unwrap();
        assert_eq!(ledger.put_back(1, true), ["GPU-0"]);
        assert_eq!(ledger.lease(2, &ask(1)), None);
        ledger.release("GPU-0");
        assert!(ledger.lease(2, &ask(1)).is_some());
        ledger.put_back(2, false);
        assert!(ledger.lease(3, &ask(1)).is_some());
    }

    #[test]
    fn a_lease_may_put_some_of_its_devices_back_and_only_those_that_may_be_used_are_leased() {
        let mut ledger = GpuLedger::new([device(0, 24), device(1, 24)]);
        assert_eq!(ledger.lease_of(1, &ask(1), |uuid| uuid != "GPU-0"), Some(vec!["GPU-1".into()]));
        ledger.put_back(1, false);
        ledger.lease(2, &ask(2)).unwrap();
        ledger.put_one_back(2, "GPU-0");
        ledger.put_one_back(9, "GPU-1");
        assert_eq!((ledger.state("GPU-0"), ledger.holders("GPU-1")), (Some(&GpuState::Free), vec![2]));
        assert!(ledger.set_apart("GPU-0") && !ledger.set_apart("GPU-1"));
        assert_eq!(ledger.lease(3, &ask(1)), None, "what is looked at is not leased");
        ledger.add(device(2, 24));
        ledger.add(device(1, 24));
        assert_eq!(ledger.lease(3, &ask(1)), Some(vec!["GPU-2".into()]));
    }

    #[test]
    fn sharing_is_between_those_that_ask_for_it() {
        let mut ledger = GpuLedger::new([device(0, 24), device(1, 24)]);
        assert_eq!(ledger.lease(1, &shared(2)), Some(vec!["GPU-0".into()]));
        assert_eq!(ledger.lease(2, &shared(2)), Some(vec!["GPU-0".into()]), "one that is shared already comes first");
        assert_eq!(ledger.lease(3, &ask(1)), Some(vec!["GPU-1".into()]));
        assert_eq!(ledger.lease(4, &shared(2)), None);
        assert_eq!(ledger.put_back(1, true), Vec::<String>::new(), "the other one works on");
        assert_eq!(ledger.lease(4, &shared(2)), Some(vec!["GPU-0".into()]));
    }

    #[test]
    fn a_quarantined_device_is_not_leased_until_it_is_released_and_strangers_give_nothing_back() {
        let mut ledger = GpuLedger::new([device(0, 24)]);
        ledger.lease(1, &ask(1)).unwrap();
        assert_eq!(ledger.put_back(9, true), Vec::<String>::new());
        ledger.release("GPU-0");
        assert_eq!(ledger.holders("GPU-0"), [1], "a held device is not released by others");
        ledger.put_back(1, true);
        ledger.quarantine("GPU-0", "memory was not given back");
        assert_eq!(ledger.lease(2, &ask(1)), None);
        assert_eq!(ledger.devices()[0].1, &GpuState::Quarantined("memory was not given back".into()));
        ledger.release("GPU-0");
        assert!(ledger.lease(2, &ask(1)).is_some());
    }
}
