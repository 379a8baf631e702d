//! What a device did while it was leased: peaks and means over regular readings. Pure.

use rhubarb_core::gpu::{GpuReading, GpuUsage};

/// Sums over the readings of one device.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    memory: Series,
    utilisation: Series,
    power: Series,
    temperature: Series,
}

#[derive(Clone, Copy, Debug, Default)]
struct Series {
    count: u64,
    sum: u128,
    peak: u64,
}

impl Series {
    fn add(&mut self, value: u64) {
        self.count += 1;
        self.sum += u128::from(value);
        self.peak = self.peak.max(value);
    }

    fn mean(&self) -> Option<u64> {
        let mean = self.sum.checked_div(u128::from(self.count))?;
        u64::try_from(mean).ok()
    }

    fn peak(&self) -> Option<u64> {
        (self.count > 0).then_some(self.peak)
    }
}

impl Tally {
    /// Takes a reading in. What the driver does not tell counts as not read.
    pub(crate) fn add(&mut self, reading: &GpuReading) {
        self.memory.add(reading.memory_used);
        let told = [
            (&mut self.utilisation, reading.utilisation),
            (&mut self.power, reading.power),
            (&mut self.temperature, reading.temperature),
        ];
        for (series, value) in told {
            if let Some(value) = value {
                series.add(u64::from(value));
            }
        }
    }

    /// What was read, for a task's record.
    pub(crate) fn usage(&self, uuid: &str) -> GpuUsage {
        let small = |value: Option<u64>| value.and_then(|value| u32::try_from(value).ok());
        GpuUsage {
            uuid: uuid.to_owned(),
            readings: self.memory.count,
            memory_peak: self.memory.peak,
            memory_mean: self.memory.mean().unwrap_or(0),
            utilisation_peak: small(self.utilisation.peak()),
            utilisation_mean: small(self.utilisation.mean()),
            power_peak: small(self.power.peak()),
            power_mean: small(self.power.mean()),
            temperature_peak: small(self.temperature.peak()),
            temperature_mean: small(self.temperature.mean()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_and_means_are_of_what_was_told() {
        let mut tally = Tally::default();
        for (memory_used, utilisation) in [(10, Some(50)), (30, None), (20, Some(100))] {
            tally.add(&GpuReading { memory_used, utilisation, ..GpuReading::default() });
        }
        let usage = tally.usage("GPU-1");
        assert_eq!((usage.uuid.as_str(), usage.readings), ("GPU-1", 3));
        assert_eq!((usage.memory_peak, usage.memory_mean), (30, 20));
        assert_eq!((usage.utilisation_peak, usage.utilisation_mean), (Some(100), Some(75)));
        assert_eq!((usage.power_peak, usage.temperature_mean), (None, None));
    }
}
