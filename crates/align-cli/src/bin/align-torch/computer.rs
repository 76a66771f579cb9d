//! The device that is asked for.

use align_cli::{
    Error, Result,
    args::{DeviceName, ModelArgs},
};
use align_core::{
    tch::{Cuda, Device},
    threads,
};

/// Finds the device, and keeps tokenising to the threads that are asked for.
///
/// # Errors
/// As [`device`]; the threads cannot be started.
pub fn set_up(machine: &ModelArgs) -> Result<Device> {
    bound_pool(machine.threads())?;
    device(machine.device)
}

/// Without this the pool on which rows are tokenised has a thread for each core.
fn bound_pool(threads: usize) -> Result<()> {
    let built = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    built.map_err(|error| Error::environment(format!("--threads {threads}: {error}"), []))
}

/// Finds the device.
///
/// # Errors
/// [`Error::Environment`] for a GPU that is not there.
pub fn device(name: DeviceName) -> Result<Device> {
    match name {
        DeviceName::Cpu => Ok(Device::Cpu),
        DeviceName::Auto => {
            Ok(if gpus().is_ok_and(|count| count > 0) { Device::Cuda(0) } else { Device::Cpu })
        }
        DeviceName::Cuda(index) => {
            let hints = || ["--device cpu works everywhere; `align doctor` shows the devices".to_owned()];
            let count = gpus().map_err(|why| Error::environment(format!("--device cuda: {why}"), hints()))?;
            if index < count {
                return Ok(Device::Cuda(index));
            }
            Err(Error::environment(format!("--device cuda:{index}: there are {count} CUDA devices"), hints()))
        }
    }
}

/// Counts the GPUs, or says why there can be none.
pub fn gpus() -> Result<usize, String> {
    threads::load_cuda_backend().map_err(|_| "this libtorch is built for processors only".to_owned())?;
    if Cuda::is_available() { Ok(Cuda::device_count().max(0) as usize) } else { Ok(0) }
}

/// Names a device as the user does.
pub fn device_name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        other => format!("{other:?}").to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokenising_keeps_to_the_threads_that_are_asked_for() {
        bound_pool(3).unwrap();
        assert_eq!(rayon::current_num_threads(), 3);
        assert!(bound_pool(2).is_err(), "the pool can be bounded once");
    }
}
