//! `cargo xtask bench`: runs the criterion benches and shows what they measured, holds some numbers to those that are
//! committed, or runs whole commands against their peers.

mod commands;
mod counts;
mod gauges;
mod growth;
mod peers;
mod ppo;
mod race;
mod runs;
mod scoring;
mod training;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use gauges::Baseline;
use serde_json::{Value, json};

use crate::process;
use crate::{ALL_CRATES, ALL_PROGRAMS, Error, Metadata, Result, Workspace, setup};

/// The flags of `cargo xtask bench`.
#[derive(Debug, Default, clap::Args)]
pub struct Options {
    /// Write the results as JSON to stdout
    #[arg(long)]
    json: bool,
    /// Only what the committed baseline has; exit code 1 where a number is worse than it may be
    #[arg(long, conflicts_with_all = ["filter", "peers"])]
    gate: bool,
    /// Only what the baseline has, and commit to what is measured: writes fixtures/speed/baseline.json
    #[arg(long, conflicts_with_all = ["filter", "peers", "gate"])]
    bless: bool,
    /// Only benches whose name contains this
    #[arg(value_name = "FILTER", conflicts_with = "peers")]
    filter: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    peers: race::Options,
}

/// What criterion measured for one bench, in nanoseconds per iteration.
#[derive(Debug, Clone, PartialEq)]
struct Measure {
    id: String,
    median: f64,
    /// Bounds of the 95 % interval of the median.
    low: f64,
    high: f64,
    /// What one iteration works through, for example ("elements", 4096).
    throughput: Option<(String, f64)>,
}

/// Runs the benches and prints a table, or JSON.
///
/// # Errors
/// Those of the set-up and of the benches, [`Error::Usage`] when the filter matches nothing.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::ensure(workspace, &ALL_PROGRAMS)?;
    let metadata = workspace.metadata()?;
    if options.peers.are_given() {
        return race::run(workspace, &metadata, &options.peers, options.json);
    }
    // What is held to a baseline is counts, growth and the one bench that sets padded rows against packed ones.
    let only_gated = options.gate || options.bless;
    let bench =
        if only_gated { Some(command_of(workspace, &["packed"])) } else { command(workspace, &metadata) };
    let bench = bench.ok_or_else(|| Error::usage("the workspace has no benches", []))?;
    let measures = measures(bench, &metadata, options.filter.as_deref())?;
    // Who asks for some benches by name does not ask for the commands and counts.
    let whole = options.filter.is_none() && !only_gated;
    let answers = if whole { commands::run(workspace, &metadata)? } else { Vec::new() };
    let mut gauges = gauges::ratios(&measures);
    let mut skipped = Vec::new();
    if whole || only_gated {
        for (counted, uncounted) in [counts::run(workspace)?, growth::run(workspace)?] {
            gauges.extend(counted);
            skipped.extend(uncounted);
        }
    }
    if options.bless {
        Baseline::read(workspace.root())?.write(workspace.root(), &gauges, &skipped)?;
    }
    let baseline = Baseline::read(workspace.root())?;
    let machine = Machine::this();
    if options.json {
        let mut results = machine.json(&measures);
        if let Some(object) = results.as_object_mut() {
            object.insert("commands".into(), answers.iter().map(commands::Answer::json).collect());
            object.insert("gauges".into(), baseline.json(&gauges));
        }
        println!("{results:#}");
    } else {
        print!("{}", machine.table(&measures));
        for lines in [baseline.lines(&gauges), answers.iter().map(commands::Answer::line).collect()] {
            if !lines.is_empty() {
                println!();
            }
            lines.iter().for_each(|line| println!("{line}"));
        }
    }
    let missed = if options.gate { baseline.missed(&gauges, &skipped) } else { Vec::new() };
    if missed.is_empty() { Ok(()) } else { Err(Error::Missed { what: missed.join(", ") }) }
}

/// Runs criterion benches and reads what they measured.
fn measures(mut command: Command, metadata: &Metadata, filter: Option<&str>) -> Result<Vec<Measure>> {
    command.arg("--").args(filter);
    // One thread, because numbers of two that share a memory bus say more about the machine than about the code.
    if std::env::var_os("OMP_NUM_THREADS").is_none() {
        command.env("OMP_NUM_THREADS", "1");
    }
    let start = SystemTime::now();
    process::run_talking(&mut command)?;

    let folder = std::env::var_os("CRITERION_HOME").map(PathBuf::from);
    let mut measures = Vec::new();
    collect(&folder.unwrap_or_else(|| metadata.target_directory.join("criterion")), start, &mut measures)?;
    measures.sort_by(|a, b| a.id.cmp(&b.id));
    if measures.is_empty() {
        let filter = filter.unwrap_or_default();
        return Err(Error::usage(format!("no bench has {filter:?} in its name"), []));
    }
    Ok(measures)
}

/// The command that builds and runs every bench, or `None` if there is none.
///
/// The benches are named one by one: without that, `cargo bench` would also run the unit tests of every crate.
/// The bench profile inherits the release profile, so nothing is compiled a second time.
pub(crate) fn command(workspace: &Workspace, metadata: &Metadata) -> Option<Command> {
    let mut names: Vec<_> = metadata.targets("bench").map(|(_, name)| name).collect();
    names.sort_unstable();
    names.dedup();
    (!names.is_empty()).then(|| command_of(workspace, &names))
}

fn command_of(workspace: &Workspace, names: &[&str]) -> Command {
    let mut command = workspace.cargo("bench");
    command.args(ALL_CRATES).args(names.iter().flat_map(|name| ["--bench", name]));
    command
}

/// Reads criterion's files that are newer than `start`.
fn collect(dir: &Path, start: SystemTime, measures: &mut Vec<Measure>) -> Result<()> {
    let estimates = dir.join("new/estimates.json");
    let fresh = fs::metadata(&estimates).and_then(|m| m.modified()).is_ok_and(|written| written >= start);
    if fresh {
        let read = |path: &Path| -> Result<Value> {
            let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
            serde_json::from_str(&text)
                .map_err(|error| Error::environment(format!("{}: {error}", path.display()), []))
        };
        let benchmark = read(&dir.join("new/benchmark.json"))?;
        measures.extend(measure(&benchmark, &read(&estimates)?));
    }
    for child in fs::read_dir(dir).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&child.path(), start, measures)?;
        }
    }
    Ok(())
}

fn measure(benchmark: &Value, estimates: &Value) -> Option<Measure> {
    let median = estimates.get("median")?;
    let interval = median.get("confidence_interval")?;
    let throughput = benchmark.get("throughput").and_then(Value::as_object).and_then(|object| {
        let (unit, amount) = object.iter().next()?;
        Some((unit.to_lowercase(), amount.as_f64()?))
    });
    Some(Measure {
        id: benchmark.get("full_id")?.as_str()?.to_owned(),
        median: median.get("point_estimate")?.as_f64()?,
        low: interval.get("lower_bound")?.as_f64()?,
        high: interval.get("upper_bound")?.as_f64()?,
        throughput,
    })
}

/// What a number needs beside it to mean something.
struct Machine {
    processor: String,
    threads: String,
}

/// Names the processor.
fn processor() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or(std::env::consts::ARCH, |(_, name)| name).to_owned()
}

/// The middle of some numbers, the mean of the middle two where their count is even; 0 of none.
fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_unstable_by(f64::total_cmp);
    let at = |index: usize| numbers.get(index).copied().unwrap_or(0.0);
    let middle = numbers.len() / 2;
    if numbers.len() % 2 == 1 { at(middle) } else { (at(middle.saturating_sub(1)) + at(middle)) / 2.0 }
}

/// The slowest bench of the same group: what a bench is compared with.
fn slowest_of_group(measures: &[Measure], measure: &Measure) -> Option<f64> {
    let group = |id: &str| id.rsplit_once('/').map(|(group, _)| group.to_owned());
    let own = group(&measure.id)?;
    let others: Vec<f64> =
        measures.iter().filter(|m| group(&m.id).as_ref() == Some(&own)).map(|m| m.median).collect();
    (others.len() > 1).then(|| others.into_iter().fold(0.0, f64::max))
}

impl Machine {
    fn this() -> Self {
        Self {
            processor: processor(),
            threads: std::env::var("OMP_NUM_THREADS").unwrap_or_else(|_| "1".to_owned()),
        }
    }

    fn json(&self, measures: &[Measure]) -> Value {
        let results: Vec<Value> = measures
            .iter()
            .map(|m| {
                let mut value =
                    json!({ "id": m.id, "median_ns": m.median, "low_ns": m.low, "high_ns": m.high });
                if let (Some((unit, amount)), Some(object)) = (&m.throughput, value.as_object_mut()) {
                    object.insert(format!("{unit}_per_second"), (amount * 1e9 / m.median).into());
                }
                value
            })
            .collect();
        json!({
            "schema": 1,
            "processor": self.processor,
            "threads": self.threads,
            "libtorch": setup::VERSION,
            "results": results,
        })
    }

    fn table(&self, measures: &[Measure]) -> String {
        let width = measures.iter().map(|m| m.id.len()).max().unwrap_or(0).max("bench".len());
        let mut text =
            format!("{}, {} thread(s), libtorch {}\n\n", self.processor, self.threads, setup::VERSION);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:width$} {:>11} {:>8}   95 % interval", "bench", "median", "ratio");
        for m in measures {
            let rate = m
                .throughput
                .as_ref()
                .map(|(unit, amount)| format!("   {:.3e} {unit}/s", amount * 1e9 / m.median));
            let interval = format!("{} .. {}", duration(m.low), duration(m.high));
            // How many times as fast as the slowest bench of its group.
            let ratio = slowest_of_group(measures, m).map(|slowest| format!("{:.2}", slowest / m.median));
            let line = format!(
                "{:width$} {:>11} {:>8}   {interval:24}{}",
                m.id,
                duration(m.median),
                ratio.unwrap_or_default(),
                rate.unwrap_or_default()
            );
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }
}

/// Nanoseconds with a unit that leaves one to three digits before the point.
fn duration(nanoseconds: f64) -> String {
    match nanoseconds {
        ns if ns < 1e3 => format!("{ns:.1} ns"),
        ns if ns < 1e6 => format!("{:.2} us", ns / 1e3),
        ns if ns < 1e9 => format!("{:.2} ms", ns / 1e6),
        ns => format!("{:.2} s", ns / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, id: &str, median: f64) {
        let new = dir.join(id).join("new");
        fs::create_dir_all(&new).unwrap();
        let benchmark = json!({ "full_id": id, "throughput": { "Elements": 1000 } });
        let interval =
            json!({ "confidence_level": 0.95, "lower_bound": median - 1.0, "upper_bound": median + 1.0 });
        let estimates = json!({ "median": { "confidence_interval": interval, "point_estimate": median } });
        fs::write(new.join("benchmark.json"), benchmark.to_string()).unwrap();
        fs::write(new.join("estimates.json"), estimates.to_string()).unwrap();
    }

    #[test]
    fn results_of_this_run_are_collected() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "gae", 500.0);
        let mut measures = Vec::new();
        collect(dir.path(), SystemTime::UNIX_EPOCH, &mut measures).unwrap();
        assert_eq!(measures.len(), 1);
        assert_eq!((measures[0].median, measures[0].low, measures[0].high), (500.0, 499.0, 501.0));

        let later = SystemTime::now() + std::time::Duration::from_secs(60);
        let mut old = Vec::new();
        collect(dir.path(), later, &mut old).unwrap();
        assert_eq!(old, [], "files of an earlier run are not results of this one");
    }

    #[test]
    fn rates_are_items_over_seconds() {
        let measure = Measure {
            id: "x".into(),
            median: 500.0,
            low: 499.0,
            high: 501.0,
            throughput: Some(("elements".into(), 1000.0)),
        };
        let machine = Machine { processor: "P".into(), threads: "1".into() };
        // 1000 elements in 500 ns are two in a nanosecond, 2e9 in a second.
        assert_eq!(machine.json(std::slice::from_ref(&measure))["results"][0]["elements_per_second"], 2e9);
        let table = machine.table(&[measure]);
        assert!(table.contains("500.0 ns") && table.contains("2.000e9 elements/s"), "{table}");
    }

    #[test]
    fn ratios_are_against_the_slowest_of_the_group() {
        let measure =
            |id: &str, median| Measure { id: id.into(), median, low: median, high: median, throughput: None };
        let all = [measure("a/x", 100.0), measure("a/y", 400.0), measure("b/x", 900.0), measure("c", 5.0)];
        let slowest: Vec<_> = all.iter().map(|m| slowest_of_group(&all, m)).collect();
        assert_eq!(slowest, [Some(400.0), Some(400.0), None, None]);
        let machine = Machine { processor: "P".into(), threads: "1".into() };
        assert!(machine.table(&all).contains(" 4.00 "), "{}", machine.table(&all));
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(vec![]), 0.0);
    }

    #[test]
    fn durations_have_fitting_units() {
        let shown = [999.0, 1e3, 2.5e6, 3e9].map(duration);
        assert_eq!(shown, ["999.0 ns", "1.00 us", "2.50 ms", "3.00 s"]);
    }
}
