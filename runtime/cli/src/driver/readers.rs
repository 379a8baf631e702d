//! One reader a device, each on a thread of its own, so that a device whose driver call does not return is missing
//! from the readings, and the others are there.
//!
//! A thread that hangs in the driver is left where it is: it is asked again once it has come back. Nothing here
//! knows NVML, so that it is tested without a device.

use std::{
    collections::BTreeMap,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    time::{Duration, Instant},
};

use rhubarb_core::gpu::GpuReading;

/// How long all devices together may take to be read.
const READ_MAX: Duration = Duration::from_secs(2);

/// The readers of a machine, by device.
#[derive(Default)]
pub(super) struct Readers {
    by_device: BTreeMap<u32, Reader>,
}

struct Reader {
    asks: SyncSender<()>,
    readings: Receiver<Vec<GpuReading>>,
    is_busy: bool,
}

impl Readers {
    /// Reads the device that NVML lists by this index with `read` from now on; it may be read as several instances.
    pub(super) fn insert(&mut self, index: u32, mut read: impl FnMut() -> Vec<GpuReading> + Send + 'static) {
        let (asks, asked) = sync_channel(1);
        let (tell, readings) = sync_channel(1);
        std::thread::spawn(move || {
            while asked.recv().is_ok() {
                if tell.send(read()).is_err() {
                    return;
                }
            }
        });
        self.by_device.insert(index, Reader { asks, readings, is_busy: false });
    }

    pub(super) fn has(&self, index: u32) -> bool {
        self.by_device.contains_key(&index)
    }

    /// Reads all devices now. Those that do not answer in time are missing.
    pub(super) fn read(&mut self) -> Vec<GpuReading> {
        let until = Instant::now() + READ_MAX;
        let asked: Vec<&mut Reader> = self.by_device.values_mut().filter_map(Reader::ask).collect();
        asked.into_iter().filter_map(|reader| reader.wait(until)).flatten().collect()
    }
}

impl Reader {
    /// Asks, unless it is still busy with an earlier question: what that brings now is old, and thrown away.
    fn ask(&mut self) -> Option<&mut Self> {
        if self.is_busy && self.readings.try_recv().is_err() {
            return None;
        }
        self.asks.try_send(()).ok()?;
        self.is_busy = true;
        Some(self)
    }

    fn wait(&mut self, until: Instant) -> Option<Vec<GpuReading>> {
        match self.readings.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(readings) => {
                self.is_busy = false;
                Some(readings)
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(uuid: &str) -> GpuReading {
        GpuReading { uuid: uuid.into(), ..GpuReading::default() }
    }

    fn uuids(readings: &[GpuReading]) -> Vec<&str> {
        readings.iter().map(|reading| reading.uuid.as_str()).collect()
    }

    #[test]
    fn a_device_that_hangs_is_missing_until_it_comes_back_and_the_others_are_there() {
        let (release, held) = sync_channel::<()>(1);
        let mut times = 0;
        let mut readers = Readers::default();
        readers.insert(0, move || {
            times += 1;
            if times == 1 {
                // The test releases it; should it end first, this does too.
                let _ = held.recv();
            }
            vec![reading(if times == 1 { "GPU-old" } else { "GPU-0" })]
        });
        readers.insert(1, || vec![reading("MIG-1"), reading("MIG-2")]);
        assert_eq!(uuids(&readers.read()), ["MIG-1", "MIG-2"]);
        assert_eq!(uuids(&readers.read()), ["MIG-1", "MIG-2"], "not asked twice, and not waited for");
        release.send(()).unwrap();
        let old = readers.by_device[&0].readings.recv().unwrap();
        assert_eq!(uuids(&old), ["GPU-old"]);
        readers.by_device.get_mut(&0).unwrap().is_busy = false;
        assert_eq!(uuids(&readers.read()), ["GPU-0", "MIG-1", "MIG-2"]);
    }

    #[test]
    fn a_reader_that_dies_is_missing() {
        let mut readers = Readers::default();
        readers.insert(0, || std::panic::resume_unwind(Box::new("the driver's library broke")));
        readers.insert(1, || vec![reading("GPU-1")]);
        assert_eq!(uuids(&readers.read()), ["GPU-1"]);
        assert_eq!(uuids(&readers.read()), ["GPU-1"]);
    }
}
