use std::time::{SystemTime, UNIX_EPOCH};

use align_core::align_types::civil_date;
use serde::{Deserialize, Serialize};

/// What `program` says in `environment.json`; it tells a run folder of ours from any other folder.
pub(crate) const PROGRAM: &str = "align";

/// Where and how a run was started: the content of `environment.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// The program, always `align`.
    pub program: String,
    /// Its version.
    pub version: String,
    /// The version of libtorch.
    pub libtorch: String,
    /// The device, as the user names it (`cpu`, `cuda:0`).
    pub device: String,
    /// Compute threads.
    pub threads: usize,
    /// Operating system and processor architecture.
    pub platform: String,
    /// The processor, as the system names it.
    pub cpu: String,
    /// Cores that the process may use.
    pub cores: usize,
    /// When the process started, UTC.
    pub start_time: String,
    /// The words of the command line.
    pub command: Vec<String>,
}

impl Environment {
    /// Looks at this process and machine; version, libtorch, device and threads are known to the caller.
    pub fn collect(
        version: impl Into<String>,
        libtorch: impl Into<String>,
        device: impl Into<String>,
        threads: usize,
    ) -> Self {
        Self {
            program: PROGRAM.into(),
            version: version.into(),
            libtorch: libtorch.into(),
            device: device.into(),
            threads,
            platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
            cpu: cpu_model(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            start_time: utc_now(),
            command: std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect(),
        }
    }
}

fn cpu_model() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    line.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, model)| model.trim().to_owned())
}

fn utc_now() -> String {
    utc(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// Writes seconds since 1970 as a date in the Gregorian calendar, UTC.
fn utc(seconds: u64) -> String {
    let (year, month, day) = civil_date(seconds / 86_400);
    let of_day = seconds % 86_400;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Returns the largest resident memory of this process so far in megabytes (10⁶ bytes); 0 where the system
/// does not tell.
pub fn peak_rss_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    kib.map_or_else(peak_rss_by_getrusage, |kib| kib * 1024.0 / 1e6)
}

#[cfg(unix)]
fn peak_rss_by_getrusage() -> f64 {
    // SAFETY: a plain C struct of numbers, for which all zeros is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the struct outlives the call.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) } != 0 {
        return 0.0;
    }
    // macOS counts bytes, the others kibibytes.
    let unit = if cfg!(target_os = "macos") { 1.0 } else { 1024.0 };
    usage.ru_maxrss as f64 * unit / 1e6
}

#[cfg(not(unix))]
fn peak_rss_by_getrusage() -> f64 {
    0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The dates are those of `date -u -d @N`.
    #[test]
    fn dates_are_gregorian() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(4_107_542_399), "2100-02-28T23:59:59Z");
        assert_eq!(utc(4_107_542_400), "2100-03-01T00:00:00Z");
        assert_eq!(utc(1_735_689_599), "2024-12-31T23:59:59Z");
    }

    #[test]
    #[cfg(unix)]
    fn memory_is_that_of_this_process() {
        let before = peak_rss_mb();
        let block = vec![1u8; 200_000_000];
        let sum: u64 = std::hint::black_box(&block).iter().map(|b| u64::from(*b)).sum();
        assert_eq!(sum, 200_000_000);
        assert!(peak_rss_mb() >= before.max(200.0), "{before} then {}", peak_rss_mb());
        assert!(peak_rss_by_getrusage() >= 200.0);
    }
}
