//! The device that is asked for, and compute threads that answer in order.

use align_cli::{Error, Result, args::DeviceName};
use align_core::{
    tch::{Cuda, Device},
    threads,
};

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

/// Does as many jobs at once as there are workers, and returns the results in the jobs' order.
///
/// # Errors
/// The first error in the jobs' order, or a thread that cannot be started.
pub fn in_parallel<W: Send, J: Send, R: Send>(
    workers: &mut [W],
    jobs: impl IntoIterator<Item = J>,
    work: impl Fn(&mut W, J) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let work = &work;
    std::thread::scope(|scope| {
        let running: Vec<_> = workers
            .iter_mut()
            .zip(jobs)
            .map(|(worker, job)| {
                scope.spawn(move || {
                    threads::prepare_compute_thread();
                    work(worker, job)
                })
            })
            .collect();
        running
            .into_iter()
            .map(|thread| {
                let died = |_| Error::environment("a compute thread ended in a panic, which is a bug", []);
                thread.join().map_err(died)?
            })
            .collect()
    })
}
