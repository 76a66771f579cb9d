//! `align doctor`: what this machine has, shown by running it.

use align_cli::{Error, Result, THREAD_ENVIRONMENT, args::DoctorArgs, talk};
use align_core::tch::{self, Device, Kind, Tensor};
use serde_json::{Value, json};

use crate::computer;

/// One thing that was looked at.
struct Check {
    name: &'static str,
    value: String,
    /// What to do about it, where something needed is missing.
    missing: Option<&'static str>,
    /// What to do about it, where it works but could be better.
    hint: Option<&'static str>,
}

impl Check {
    fn good(name: &'static str, value: impl Into<String>) -> Self {
        Self { name, value: value.into(), missing: None, hint: None }
    }

    fn needed(name: &'static str, outcome: Result<String, String>, advice: &'static str) -> Self {
        match outcome {
            Ok(value) => Self::good(name, value),
            Err(value) => Self { missing: Some(advice), ..Self::good(name, value) },
        }
    }

    fn json(&self) -> Value {
        let hint = self.missing.or(self.hint);
        json!({"name": self.name, "ok": self.missing.is_none(), "value": self.value, "hint": hint})
    }
}

pub fn run(flags: &DoctorArgs) -> Result<()> {
    let checks = checks();
    let missing: Vec<&Check> = checks.iter().filter(|check| check.missing.is_some()).collect();
    if flags.json {
        let report = json!({
            "ok": missing.is_empty(),
            "version": env!("CARGO_PKG_VERSION"),
            "checks": checks.iter().map(Check::json).collect::<Vec<_>>(),
        });
        talk::data(&format!("{report:#}\n"))?;
    } else {
        for check in &checks {
            let mark = if check.missing.is_some() { "MISSING" } else { "ok" };
            talk::data(&format!("{mark:<8}{:<22}{}\n", check.name, check.value))?;
            if let Some(hint) = check.hint {
                talk::tagged("hint", hint);
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|check| check.name).collect();
    let hints: Vec<_> = missing.iter().filter_map(|check| check.missing.map(str::to_owned)).collect();
    Err(Error::environment(format!("this machine is not ready: {}", names.join(", ")), hints))
}

fn checks() -> Vec<Check> {
    const REINSTALL: &str = "set libtorch up again: cargo xtask setup --force";
    let gpus = match computer::gpus() {
        Ok(0) => "none".to_owned(),
        Ok(count) => count.to_string(),
        Err(why) => format!("none: {why}"),
    };
    vec![
        Check::good("align", env!("CARGO_PKG_VERSION")),
        Check::good("libtorch", libtorch()),
        Check::good("processor features", features()),
        Check::good("CUDA devices", gpus),
        Check::good("cores", std::thread::available_parallelism().map_or(1, usize::from).to_string()),
        Check::good("memory", memory()),
        threads(),
        Check::needed(
            "flush to zero",
            flush_to_zero(),
            "denormal numbers make training several times slower",
        ),
        Check::needed("matrix product", product(), REINSTALL),
        Check::needed("backward pass", backward(), REINSTALL),
    ]
}

/// Names the version of libtorch and the folder that it was loaded from.
pub fn libtorch() -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let library = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| {
        std::path::Path::new(path)
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("libtorch_cpu."))
    });
    let Some(folder) = library.and_then(|path| std::path::Path::new(path).parent()?.parent()) else {
        return "loaded, its folder is not known".to_owned();
    };
    format!("{} in {}", version_in(folder).unwrap_or_else(|| "unknown version".to_owned()), folder.display())
}

/// Reads the version that comes with the libraries: a wheel has `version.py`, an archive `build-version`.
fn version_in(folder: &std::path::Path) -> Option<String> {
    let wheel = std::fs::read_to_string(folder.join("version.py")).unwrap_or_default();
    let quoted = wheel.lines().find_map(|line| line.strip_prefix("__version__ = "));
    if let Some(version) = quoted {
        return Some(version.trim_matches(['\'', '"']).to_owned());
    }
    Some(std::fs::read_to_string(folder.join("build-version")).ok()?.trim().to_owned())
}

#[cfg(target_arch = "x86_64")]
fn features() -> String {
    let known = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ("avx512bf16", std::arch::is_x86_feature_detected!("avx512bf16")),
    ];
    let there: Vec<_> = known.iter().filter(|(_, there)| *there).map(|(name, _)| *name).collect();
    if there.is_empty() { "none beyond the base of x86-64".to_owned() } else { there.join(", ") }
}

#[cfg(not(target_arch = "x86_64"))]
fn features() -> String {
    std::env::consts::ARCH.to_owned()
}

fn memory() -> String {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let gigabytes = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? * 1024.0 / 1e9)
    };
    match (gigabytes("MemAvailable:"), gigabytes("MemTotal:")) {
        (Some(free), Some(all)) => format!("{free:.1} GB free of {all:.1} GB"),
        _ => "not known on this system".to_owned(),
    }
}

fn threads() -> Check {
    let value: Vec<String> = THREAD_ENVIRONMENT
        .iter()
        .map(|(name, _)| format!("{name}={}", std::env::var(name).unwrap_or_else(|_| "unset".to_owned())))
        .collect();
    let unset = THREAD_ENVIRONMENT.iter().any(|(name, _)| std::env::var_os(name).is_none());
    let hint = "start `align`, which sets these before libtorch is loaded";
    Check { hint: unset.then_some(hint), ..Check::good("thread environment", value.join(" ")) }
}

fn flush_to_zero() -> Result<String, String> {
    let tiny = std::hint::black_box(f32::MIN_POSITIVE) * std::hint::black_box(0.25);
    if tiny == 0.0 { Ok("works".to_owned()) } else { Err("denormal numbers are not flushed".to_owned()) }
}

/// [1 2; 3 4] · [5 6; 7 8] = [19 22; 43 50].
fn product() -> Result<String, String> {
    let run = || -> Result<Vec<f32>, tch::TchError> {
        let left = Tensor::f_from_slice(&[1f32, 2.0, 3.0, 4.0])?.f_reshape([2, 2])?;
        let right = Tensor::f_from_slice(&[5f32, 6.0, 7.0, 8.0])?.f_reshape([2, 2])?;
        Vec::try_from(left.f_matmul(&right)?.f_reshape([-1])?)
    };
    match run() {
        Ok(values) if values == [19.0, 22.0, 43.0, 50.0] => Ok("2 x 2 is right".to_owned()),
        Ok(values) => Err(format!("{values:?} instead of [19, 22, 43, 50]")),
        Err(error) => Err(error.to_string()),
    }
}

/// The derivative of x² at 3 is 6.
fn backward() -> Result<String, String> {
    let run = || -> Result<f64, tch::TchError> {
        let x = Tensor::f_full([1], 3.0, (Kind::Float, Device::Cpu))?.f_set_requires_grad(true)?;
        x.f_mul(&x)?.f_sum(Kind::Float)?.f_backward()?;
        x.f_grad()?.f_double_value(&[0])
    };
    match run() {
        Ok(6.0) => Ok("the derivative of x * x at 3 is 6".to_owned()),
        Ok(value) => Err(format!("{value} instead of 6")),
        Err(error) => Err(error.to_string()),
    }
}
