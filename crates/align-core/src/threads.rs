//! Rules for threads that compute.
//!
//! Compute threads are ours: OS threads with one intra-op thread each, denormals flushed to zero, results
//! summed in a fixed order by whoever joins them. libtorch's own pool spins, which costs several times the
//! time as soon as anything else runs on the machine.

use std::sync::OnceLock;

use crate::{Error, Result};

/// Prepares this thread for tensor work: flush-to-zero, one intra-op thread.
///
/// Call it first in `main` and first in every spawned compute thread; libtorch keeps its thread count per
/// thread.
pub fn prepare_compute_thread() {
    flush_denormals();
    tch::set_num_threads(1);
}

/// Makes this thread treat denormal numbers as zero.
///
/// Saturated preference pairs have gradients of 1e-38 and below; arithmetic on denormals is several times
/// slower, and nothing else changes.
pub fn flush_denormals() {
    #[cfg(target_arch = "x86_64")]
    {
        // Bit 15 flushes results to zero, bit 6 reads denormal inputs as zero.
        const FLUSH: u32 = 1 << 15 | 1 << 6;
        let mut control: u32 = 0;
        // SAFETY: stores and loads this thread's own control register; only the two flush bits change.
        unsafe {
            std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut control, options(nostack));
            control |= FLUSH;
            std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const control, options(nostack));
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        let mut control: u64;
        // SAFETY: reads and writes this thread's own FPCR; only the flush-to-zero bit (24) changes.
        unsafe {
            std::arch::asm!("mrs {}, fpcr", out(reg) control, options(nomem, nostack));
            control |= 1 << 24;
            std::arch::asm!("msr fpcr, {}", in(reg) control, options(nomem, nostack));
        }
    }
}

/// Loads libtorch's CUDA library, without which `Cuda::is_available()` is false even on a GPU machine: the
/// linker drops it because no symbol of it is named.
///
/// Call it before the first question about CUDA, because libtorch remembers the answer. Later calls return the
/// first result.
///
/// # Errors
/// [`Error::Input`] with the loader's own words where there is no CUDA library to load.
pub fn load_cuda_backend() -> Result<()> {
    static LOADED: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    LOADED.get_or_init(open_cuda_library).clone().map_err(|why| Error::input("libtorch_cuda", why))
}

#[cfg(target_os = "linux")]
fn open_cuda_library() -> std::result::Result<(), String> {
    // SAFETY: a constant C string; the library stays loaded for the life of the process.
    let handle = unsafe { libc::dlopen(c"libtorch_cuda.so".as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(());
    }
    // SAFETY: dlerror returns null or a C string that lives until the next dl call of this thread.
    let message = unsafe { libc::dlerror() };
    if message.is_null() {
        return Err("the loader gave no reason".to_owned());
    }
    // SAFETY: not null, see above.
    Err(unsafe { std::ffi::CStr::from_ptr(message) }.to_string_lossy().into_owned())
}

#[cfg(not(target_os = "linux"))]
fn open_cuda_library() -> std::result::Result<(), String> {
    Err("loading CUDA at run time is only written for Linux".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denormals_become_zero_on_this_thread_and_its_children() {
        let tiny = || std::hint::black_box(1e-38f32) * std::hint::black_box(1e-3f32);
        std::thread::spawn(move || {
            assert!(tiny() > 0.0, "without the flag the product is a denormal");
            flush_denormals();
            assert_eq!(tiny(), 0.0);
            assert_eq!(std::thread::spawn(tiny).join().unwrap(), 0.0);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_missing_cuda_library_is_an_error_with_its_name() {
        if let Err(error) = load_cuda_backend() {
            assert!(error.to_string().contains("libtorch_cuda"), "{error}");
        }
    }
}
