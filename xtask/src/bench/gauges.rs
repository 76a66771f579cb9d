//! Numbers that say the same on a busy machine, beside those that are committed: what a change can be held to.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::{Value, json};

use super::Measure;
use crate::{Error, Result};

/// Where the committed numbers stand, from the root of the workspace.
pub(super) const BASELINE: &str = "fixtures/speed/baseline.json";

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unit {
    /// CPU time of padded rows over that of packed ones, in one process; more is better.
    Ratio,
    /// Calls of the allocator.
    Allocations,
    /// Bytes that it was asked for.
    Bytes,
    /// Instructions.
    Instructions,
    /// Resident bytes by which a process grew.
    Growth,
}

/// Bytes by which a process may grow beyond what it did: pages that an allocator keeps come and go. A thousand gradients
/// of the smallest model of the bench would be a hundred times as many.
const PAGES_THAT_COME_AND_GO: f64 = (4 << 20) as f64;

impl Unit {
    const ALL: [Self; 5] = [Self::Ratio, Self::Allocations, Self::Bytes, Self::Instructions, Self::Growth];

    fn name(self) -> &'static str {
        match self {
            Self::Ratio => "ratio",
            Self::Allocations => "allocations",
            Self::Bytes => "bytes",
            Self::Instructions => "instructions",
            Self::Growth => "growth",
        }
    }

    /// What a number may become: times vary even as ratios, counts by the seeds of hash tables and by versions of
    /// the compiler and of libraries.
    fn limit(self, baseline: f64) -> f64 {
        match self {
            Self::Ratio => 0.8 * baseline,
            Self::Allocations => 1.02 * baseline,
            Self::Bytes | Self::Instructions => 1.05 * baseline,
            Self::Growth => baseline + PAGES_THAT_COME_AND_GO,
        }
    }
}

/// A number of this run.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Gauge {
    pub(super) unit: Unit,
    pub(super) id: String,
    pub(super) value: f64,
}

/// Computes how many times as long padded rows take as packed ones, for each group of benches that has both.
pub(super) fn ratios(measures: &[Measure]) -> Vec<Gauge> {
    let median = |group: &str, layout: &str| {
        let prefix = format!("{group}/{layout} ");
        measures.iter().find(|measure| measure.id.starts_with(&prefix)).map(|measure| measure.median)
    };
    let groups: BTreeSet<&str> =
        measures.iter().filter_map(|measure| Some(measure.id.rsplit_once('/')?.0)).collect();
    let ratio = |group: &str| {
        let value = median(group, "padded")? / median(group, "packed")?;
        Some(Gauge { unit: Unit::Ratio, id: format!("{group}/padded over packed"), value })
    };
    groups.into_iter().filter_map(ratio).collect()
}

/// The committed numbers.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Baseline(BTreeMap<(Unit, String), f64>);

impl Baseline {
    /// Reads them; there are none where the file is missing.
    ///
    /// # Errors
    /// A file that cannot be read or is no baseline.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let path = root.join(BASELINE);
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let file: BTreeMap<String, BTreeMap<String, f64>> = serde_json::from_str(&text)
            .map_err(|error| Error::environment(format!("{}: {error}", path.display()), []))?;
        let mut numbers = BTreeMap::new();
        for (name, values) in file {
            let unit = Unit::ALL.into_iter().find(|unit| unit.name() == name);
            let unit = unit
                .ok_or_else(|| Error::environment(format!("{}: {name:?} is no unit", path.display()), []))?;
            numbers.extend(values.into_iter().map(|(id, value)| ((unit, id), value)));
        }
        Ok(Self(numbers))
    }

    /// Writes the numbers of this run in place of these; those of `skipped` units, which this machine cannot count, stay.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(super) fn write(&self, root: &Path, gauges: &[Gauge], skipped: &[Unit]) -> Result<()> {
        let mut file: BTreeMap<&str, BTreeMap<&str, f64>> = BTreeMap::new();
        for ((unit, id), value) in self.0.iter().filter(|((unit, _), _)| skipped.contains(unit)) {
            file.entry(unit.name()).or_default().insert(id, *value);
        }
        for Gauge { unit, id, value } in gauges {
            // Two decimals of a ratio are more than it is worth.
            let value = if *unit == Unit::Ratio { (value * 100.0).round() / 100.0 } else { *value };
            file.entry(unit.name()).or_default().insert(id, value);
        }
        let path = root.join(BASELINE);
        fs::write(&path, format!("{:#}\n", json!(file))).map_err(Error::io("write", &path))
    }

    fn of(&self, gauge: &Gauge) -> Option<f64> {
        self.0.get(&(gauge.unit, gauge.id.clone())).copied()
    }

    /// Says of every number what it was and what it may become.
    pub(super) fn json(&self, gauges: &[Gauge]) -> Value {
        let one = |gauge: &Gauge| {
            let baseline = self.of(gauge);
            json!({
                "id": gauge.id,
                "unit": gauge.unit.name(),
                "value": gauge.value,
                "baseline": baseline,
                "limit": baseline.map(|value| gauge.unit.limit(value)),
                "within": baseline.map(|value| is_within(gauge, value)),
            })
        };
        gauges.iter().map(one).collect()
    }

    /// The same as lines of text.
    pub(super) fn lines(&self, gauges: &[Gauge]) -> Vec<String> {
        let width = gauges.iter().map(|gauge| gauge.id.len()).max().unwrap_or(0);
        let one = |gauge: &Gauge| {
            let Gauge { unit, id, value } = gauge;
            let verdict = match self.of(gauge) {
                None => "no baseline".to_owned(),
                Some(baseline) => {
                    let verdict = if is_within(gauge, baseline) { "within" } else { "BEYOND" };
                    format!("{verdict} {} (baseline {})", number(unit.limit(baseline)), number(baseline))
                }
            };
            format!("{id:width$} {:>12} {:12}   {verdict}", number(*value), unit.name())
        };
        gauges.iter().map(one).collect()
    }

    /// Says which numbers are worse than they may be or have no baseline, and which of the baseline's were not measured; `skipped` are units that
    /// this machine cannot count.
    pub(super) fn missed(&self, gauges: &[Gauge], skipped: &[Unit]) -> Vec<String> {
        let beyond = gauges.iter().filter_map(|gauge| {
            let what = format!("{} of {}", gauge.unit.name(), gauge.id);
            match self.of(gauge) {
                None => Some(format!("{what} (no baseline)")),
                Some(value) => (!is_within(gauge, value)).then_some(what),
            }
        });
        let measured = |(unit, id): &&(Unit, String)| {
            skipped.contains(unit) || gauges.iter().any(|gauge| gauge.unit == *unit && gauge.id == *id)
        };
        let gone = self.0.keys().filter(|key| !measured(key));
        beyond.chain(gone.map(|(unit, id)| format!("{} of {id} (not measured)", unit.name()))).collect()
    }
}

fn is_within(gauge: &Gauge, baseline: f64) -> bool {
    let limit = gauge.unit.limit(baseline);
    if gauge.unit == Unit::Ratio { gauge.value >= limit } else { gauge.value <= limit }
}

fn number(value: f64) -> String {
    if value < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauge(unit: Unit, value: f64) -> Gauge {
        Gauge { unit, id: "a".into(), value }
    }

    fn baseline(numbers: &[(Unit, f64)]) -> Baseline {
        Baseline(numbers.iter().map(|(unit, value)| ((*unit, "a".to_owned()), *value)).collect())
    }

    #[test]
    fn ratios_may_not_fall_and_counts_may_not_rise() {
        let baseline = baseline(&[(Unit::Ratio, 3.0), (Unit::Allocations, 100.0)]);
        let missed = |ratio, count| {
            baseline.missed(&[gauge(Unit::Ratio, ratio), gauge(Unit::Allocations, count)], &[]).len()
        };
        assert_eq!(
            [missed(2.5, 101.0), missed(9.0, 1.0), missed(2.3, 101.0), missed(2.3, 103.0)],
            [0, 0, 1, 2]
        );
    }

    /// From nothing, too, of which any share is nothing.
    #[test]
    fn a_process_may_grow_by_some_pages() {
        let baseline = baseline(&[(Unit::Growth, 0.0)]);
        let missed = |bytes| baseline.missed(&[gauge(Unit::Growth, bytes)], &[]).len();
        assert_eq!([missed(0.0), missed(1e6), missed(5e6)], [0, 0, 1]);
    }

    #[test]
    fn a_number_that_is_gone_is_missed_unless_the_machine_cannot_count_it() {
        let baseline = baseline(&[(Unit::Instructions, 5.0)]);
        assert_eq!(baseline.missed(&[], &[]), ["instructions of a (not measured)"]);
        assert!(baseline.missed(&[], &[Unit::Instructions]).is_empty());
        let new = gauge(Unit::Bytes, 1.0);
        assert_eq!(baseline.missed(&[new], &[Unit::Instructions]), ["bytes of a (no baseline)"]);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join(BASELINE).parent().unwrap()).unwrap();
        assert_eq!(Baseline::read(root.path()).unwrap(), Baseline::default());
        let old = baseline(&[(Unit::Instructions, 5.0), (Unit::Bytes, 9.0)]);
        let new = [gauge(Unit::Ratio, 2.504), gauge(Unit::Bytes, 7.0)];
        old.write(root.path(), &new, &[Unit::Instructions]).unwrap();
        let read = Baseline::read(root.path()).unwrap();
        assert_eq!(read, baseline(&[(Unit::Ratio, 2.5), (Unit::Bytes, 7.0), (Unit::Instructions, 5.0)]));
        fs::write(root.path().join(BASELINE), r#"{"seconds": {"a": 1}}"#).unwrap();
        assert!(Baseline::read(root.path()).unwrap_err().to_string().contains("\"seconds\" is no unit"));
    }

    #[test]
    fn padded_is_set_against_packed_of_the_same_group() {
        let measure =
            |id: &str, median| Measure { id: id.into(), median, low: median, high: median, throughput: None };
        let all = [
            measure("1M/packed (10 tokens)", 2.0),
            measure("1M/padded (40 tokens)", 7.0),
            measure("5M/packed (10 tokens)", 5.0),
        ];
        let expected = Gauge { unit: Unit::Ratio, id: "1M/padded over packed".into(), value: 3.5 };
        assert_eq!(ratios(&all), [expected]);
    }
}
