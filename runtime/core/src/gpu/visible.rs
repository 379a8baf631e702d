//! Which devices an agent may use: what `NVIDIA_VISIBLE_DEVICES` and `CUDA_VISIBLE_DEVICES` leave of them.
//!
//! ECS and container tools set the first, people and schedulers the second. Both name devices by UUID (or the beginning
//! of one) or by index, with commas between. In a container that sees only its own devices the names of the first may
//! match none of them: the tool has then made the choice already, and all that is seen may be used. Where MIG has
//! divided a device, its name or index stands for all its instances.

use super::device::GpuDevice;

/// What the variables say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Visible {
    /// `NVIDIA_VISIBLE_DEVICES`.
    pub nvidia: Option<String>,
    /// `CUDA_VISIBLE_DEVICES`.
    pub cuda: Option<String>,
}

/// The devices that may be used, in the order that CUDA would number them.
#[must_use]
pub fn visible(devices: &[GpuDevice], variables: &Visible) -> Vec<GpuDevice> {
    let seen = match variables.nvidia.as_deref().map(str::trim) {
        None | Some("all" | "") => devices.to_vec(),
        Some("none" | "void") => Vec::new(),
        Some(list) => {
            let named = named(devices, list, Unknown::Skipped);
            if named.is_empty() { devices.to_vec() } else { named }
        }
    };
    match variables.cuda.as_deref().map(str::trim) {
        None => seen,
        Some(list) => named(&seen, list, Unknown::EndsTheList),
    }
}

/// What an entry that names no device does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unknown {
    Skipped,
    /// As CUDA has it: what follows an invalid entry is invisible (CUDA C++ Programming Guide, "CUDA Environment
    /// Variables").
    EndsTheList,
}

fn named(devices: &[GpuDevice], list: &str, unknown: Unknown) -> Vec<GpuDevice> {
    let mut found: Vec<GpuDevice> = Vec::new();
    for entry in list.split(',').map(str::trim) {
        let matching = matching(devices, entry);
        if matching.is_empty() && unknown == Unknown::EndsTheList {
            break;
        }
        let new: Vec<GpuDevice> = matching.into_iter().filter(|device| !found.contains(device)).cloned().collect();
        found.extend(new);
    }
    found
}

/// The one device that an entry names, or the instances of it.
fn matching<'a>(devices: &'a [GpuDevice], entry: &str) -> Vec<&'a GpuDevice> {
    let is_named = |uuid: &str| !entry.is_empty() && uuid.starts_with(entry);
    let all = devices.iter();
    if let Ok(index) = entry.parse::<u32>() {
        return all.filter(|device| device.index == index).collect();
    }
    match all.clone().find(|device| is_named(&device.uuid)) {
        Some(device) => vec![device],
        None => all.filter(|device| device.parent.as_deref().is_some_and(is_named)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices() -> Vec<GpuDevice> {
        let device = |index: u32, uuid: &str| GpuDevice {
            uuid: uuid.into(),
            index,
            name: "NVIDIA L4".into(),
            memory: 1 << 34,
            compute: (8, 9),
            parent: None,
            driver: "580.0".into(),
        };
        vec![device(0, "GPU-aa11"), device(1, "GPU-bb22"), device(2, "GPU-cc33")]
    }

    fn seen(nvidia: Option<&str>, cuda: Option<&str>) -> Vec<String> {
        let variables = Visible { nvidia: nvidia.map(Into::into), cuda: cuda.map(Into::into) };
        visible(&devices(), &variables).into_iter().map(|device| device.uuid).collect()
    }

    #[test]
    fn without_variables_every_device_may_be_used() {
        assert_eq!(seen(None, None), ["GPU-aa11", "GPU-bb22", "GPU-cc33"]);
        assert_eq!(seen(Some("all"), None).len(), 3);
    }

    #[test]
    fn a_list_names_devices_by_uuid_its_beginning_or_index() {
        assert_eq!(seen(Some("GPU-bb22"), None), ["GPU-bb22"]);
        assert_eq!(seen(Some("GPU-c, 0"), None), ["GPU-cc33", "GPU-aa11"]);
        assert_eq!(seen(None, Some("2,1,2")), ["GPU-cc33", "GPU-bb22"]);
    }

    #[test]
    fn none_and_an_empty_list_of_cuda_hide_all() {
        assert_eq!(seen(Some("none"), None), Vec::<String>::new());
        assert_eq!(seen(Some("void"), None), Vec::<String>::new());
        assert_eq!(seen(None, Some("")), Vec::<String>::new());
        assert_eq!(seen(None, Some("-1")), Vec::<String>::new());
    }

    #[test]
    fn what_follows_an_invalid_entry_of_cudas_list_is_hidden() {
        assert_eq!(seen(None, Some("1,9,0")), ["GPU-bb22"]);
    }

    #[test]
    fn a_container_tools_names_for_devices_that_are_renamed_inside_hide_nothing() {
        assert_eq!(seen(Some("GPU-elsewhere"), None).len(), 3);
    }

    #[test]
    fn a_divided_devices_name_or_index_stands_for_its_instances() {
        let part = |uuid: &str| GpuDevice { uuid: uuid.into(), parent: Some("GPU-aa11".into()), ..devices().remove(0) };
        let devices = [part("MIG-1"), part("MIG-2"), devices().remove(1)];
        let seen = |list: &str| {
            let variables = Visible { nvidia: None, cuda: Some(list.into()) };
            visible(&devices, &variables).into_iter().map(|device| device.uuid).collect::<Vec<_>>()
        };
        assert_eq!(seen("GPU-aa11"), ["MIG-1", "MIG-2"]);
        assert_eq!(seen("0"), ["MIG-1", "MIG-2"]);
        assert_eq!(seen("MIG-2,1"), ["MIG-2", "GPU-bb22"]);
    }

    #[test]
    fn both_variables_restrict() {
        assert_eq!(seen(Some("0,1"), Some("1,2")), ["GPU-bb22"]);
    }
}
