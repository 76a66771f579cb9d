//! The device that is asked for, and compute threads that answer in order.

use align_cli::{
    Error, Result,
    args::{DeviceName, ModelArgs},
};
use align_core::{
    tch::{Cuda, Device},
    threads,
};
use align_train::parallel;

use crate::failure;

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

/// Does as many jobs at once as there are workers, and returns the results in the jobs' order.
///
/// # Errors
/// The first error in the jobs' order, or a thread that cannot be started.
pub fn in_parallel<W: Send, J: Send, R: Send>(
    workers: &mut [W],
    jobs: impl IntoIterator<Item = J>,
    work: impl Fn(&mut W, J) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let pairs: Vec<_> = workers.iter_mut().zip(jobs).collect();
    let results = parallel::map(pairs, |(worker, job)| work(worker, job)).map_err(failure::of)?;
    results.into_iter().collect()
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

    #[test]
    fn a_panic_on_any_thread_is_an_error_and_the_first_error_wins() {
        let run = |bad: usize| {
            in_parallel(&mut [(), (), ()], 0..3, |(), job| match job {
                job if job == bad => panic!("job {job}"),
                job => Err::<(), _>(Error::usage(format!("error {job}"), [])),
            })
        };
        for bad in 0..3 {
            let text = run(bad).unwrap_err().to_string();
            assert!(text.contains(&format!("job {bad}")), "{text}");
        }
        assert_eq!(run(9).unwrap_err().to_string(), "error 0");
    }
}
