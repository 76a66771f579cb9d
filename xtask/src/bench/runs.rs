//! What two sides took, in the same unit and in alternation.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::median;
use crate::{Error, Result};

/// What one command took; rates are those after the first line that it wrote.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usage {
    pub(super) pairs_per_wall_second: f64,
    pub(super) pairs_per_cpu_second: f64,
    pub(super) peak_bytes: f64,
    /// Start, loading, saving and exit included.
    pub(super) wall: f64,
}

impl Usage {
    /// Reads what `measure.py` printed of a command that writes a line for each so many pairs. Lines that appeared
    /// together with the first are no more counted than the first.
    pub(super) fn of(used: &Value, pairs_per_line: usize) -> Option<Self> {
        Self::since(used, used.get("lines")?.get(0)?, pairs_per_line)
    }

    /// As [`Self::of`] of a command that makes its file when its work begins, and then writes a line for each pair in any
    /// order, many at once: all are counted, from that moment on.
    pub(super) fn of_all(used: &Value) -> Option<Self> {
        Self::since(used, used.get("begun")?, 1)
    }

    fn since(used: &Value, first: &Value, pairs_per_line: usize) -> Option<Self> {
        let lines = used.get("lines")?.as_array()?;
        let at = |line: &Value, key: &str| line.get(key)?.as_f64();
        let last = lines.last()?;
        let between = |key: &str| Some(at(last, key)? - at(first, key)?).filter(|seconds| *seconds > 0.0);
        let begin = at(first, "wall_s")?;
        let after = lines.iter().filter(|line| at(line, "wall_s").is_some_and(|wall| wall > begin)).count();
        let pairs = (pairs_per_line * after) as f64;
        Some(Self {
            pairs_per_wall_second: pairs / between("wall_s")?,
            pairs_per_cpu_second: pairs / between("cpu_s")?,
            peak_bytes: used.get("peak_bytes")?.as_f64()?,
            wall: used.get("wall_s")?.as_f64()?,
        })
    }

    fn json(&self) -> Value {
        json!({
            "pairs_per_wall_second": self.pairs_per_wall_second,
            "pairs_per_cpu_second": self.pairs_per_cpu_second,
            "peak_bytes": self.peak_bytes,
            "wall_s": self.wall,
        })
    }
}

/// The runs of one arm, ours beside the peer's.
pub(super) struct Runs {
    pub(super) name: &'static str,
    /// What must be reached: our pairs per second over the peer's, and our peak memory over the peer's.
    pub(super) least_rate: f64,
    pub(super) most_memory: f64,
    pub(super) rounds: Vec<(Usage, Usage)>,
}

impl Runs {
    /// Takes what one round gave, ours first, and says it at once: a round takes minutes.
    pub(super) fn add(&mut self, round: (Usage, Usage)) {
        let rate = round.0.pairs_per_wall_second / round.1.pairs_per_wall_second;
        eprintln!("{}: {rate:.2} times the pairs per second", self.name);
        self.rounds.push(round);
    }

    pub(super) fn with(mut self, round: (Usage, Usage)) -> Self {
        self.add(round);
        self
    }

    pub(super) fn is_fast_enough(&self) -> bool {
        self.ratio(|usage| usage.pairs_per_wall_second) >= self.least_rate
    }

    pub(super) fn is_small_enough(&self) -> bool {
        self.ratio(|usage| usage.peak_bytes) <= self.most_memory
    }

    /// The median over rounds of ours over the peer's.
    pub(super) fn ratio(&self, number: impl Fn(&Usage) -> f64) -> f64 {
        median(self.rounds.iter().map(|(ours, peer)| number(ours) / number(peer)).collect())
    }

    /// The medians of both sides.
    pub(super) fn sides(&self, number: impl Fn(&Usage) -> f64) -> [f64; 2] {
        [
            median(self.rounds.iter().map(|(ours, _)| number(ours)).collect()),
            median(self.rounds.iter().map(|(_, peer)| number(peer)).collect()),
        ]
    }

    /// Writes every run.
    pub(super) fn json(&self) -> Value {
        let rounds =
            self.rounds.iter().map(|(ours, peer)| json!({ "align": ours.json(), "peer": peer.json() }));
        json!({
            "case": self.name,
            "pairs_per_wall_second_ratio": self.ratio(|u| u.pairs_per_wall_second),
            "pairs_per_cpu_second_ratio": self.ratio(|u| u.pairs_per_cpu_second),
            "whole_wall_ratio": self.ratio(|u| 1.0 / u.wall),
            "peak_memory_ratio": self.ratio(|u| u.peak_bytes),
            "rounds": rounds.collect::<Vec<_>>(),
        })
    }
}

/// Medians of both sides and of the ratios of each round, each beside what it must be.
pub(super) fn table(title: &str, arms: &[Runs]) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{title:20} {:>17} {:>17} {:>15} {:>6} {:>6} {:>6}   {:>7}",
        "pairs/wall s", "pairs/cpu s", "peak MB", "wall", "cpu", "whole", "memory"
    );
    for runs in arms {
        let both = |number: fn(&Usage) -> f64, digits: usize| {
            let [ours, peer] = runs.sides(number);
            format!("{ours:.digits$} / {peer:.digits$}")
        };
        let (rate, peak) = (runs.ratio(|u| u.pairs_per_wall_second), runs.ratio(|u| u.peak_bytes));
        let mark = |good: bool| if good { "" } else { " MISSED" };
        let _ = writeln!(
            text,
            "{:20} {:>17} {:>17} {:>15} {rate:>6.2} {:>6.2} {:>6.2}   {peak:>7.2}   at least {}{}, at most {}{}",
            runs.name,
            both(|u| u.pairs_per_wall_second, 2),
            both(|u| u.pairs_per_cpu_second, 2),
            both(|u| u.peak_bytes / 1e6, 0),
            runs.ratio(|u| u.pairs_per_cpu_second),
            runs.ratio(|u| 1.0 / u.wall),
            runs.least_rate,
            mark(runs.is_fast_enough()),
            runs.most_memory,
            mark(runs.is_small_enough()),
        );
    }
    text
}

/// Fails where a target is missed.
///
/// # Errors
/// [`Error::Missed`] names the arms.
pub(super) fn verdict(arms: &[Runs]) -> Result<()> {
    let missed = |runs: &&Runs| !(runs.is_fast_enough() && runs.is_small_enough());
    let missed: Vec<&str> = arms.iter().filter(missed).map(|runs| runs.name).collect();
    if missed.is_empty() { Ok(()) } else { Err(Error::Missed { what: missed.join(", ") }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2 steps of 8 pairs in the 4 seconds after the first line, of which 2 had the processor: 4 and 8 pairs a second.
    #[test]
    fn the_first_line_is_not_counted() {
        let line = |wall: f64, cpu: f64| json!({ "wall_s": wall, "cpu_s": cpu });
        let lines = [line(10.0, 5.0), line(12.0, 6.0), line(14.0, 7.0)];
        let mut used = json!({ "wall_s": 20.0, "cpu_s": 9.0, "peak_bytes": 1000, "lines": lines });
        let expected =
            Usage { pairs_per_wall_second: 4.0, pairs_per_cpu_second: 8.0, peak_bytes: 1000.0, wall: 20.0 };
        assert_eq!(Usage::of(&used, 8), Some(expected));
        // Two lines at once: the second is no more of the time after the first than the first is.
        used["lines"] = json!([lines[0], lines[0], lines[1], lines[2]]);
        assert_eq!(Usage::of(&used, 8), Some(expected));
        used["lines"] = json!([lines[0]]);
        assert_eq!(Usage::of(&used, 8), None, "one line has no rate");
        // All three pairs count where the moment is known at which the first was begun.
        used["begun"] = line(8.0, 4.0);
        used["lines"] = json!([lines[1], lines[2], lines[2]]);
        let all = Usage { pairs_per_wall_second: 0.5, pairs_per_cpu_second: 1.0, ..expected };
        assert_eq!(Usage::of_all(&used), Some(all));
    }

    #[test]
    fn a_target_that_is_missed_is_marked() {
        let side = |rate: f64, peak_bytes: f64| Usage {
            pairs_per_wall_second: rate,
            pairs_per_cpu_second: rate,
            peak_bytes,
            wall: 1.0,
        };
        let runs = |rate| Runs {
            name: "arm",
            least_rate: 3.5,
            most_memory: 0.4,
            rounds: vec![(side(rate, 1e9), side(1.0, 4e9))],
        };
        let text = table("ours / peer", &[runs(3.0)]);
        assert!(text.contains("3.5 MISSED") && !text.contains("0.4 MISSED"), "{text}");
        assert!(!table("ours / peer", &[runs(4.0)]).contains("MISSED"));
        assert_eq!(verdict(&[runs(4.0), runs(3.0)]).unwrap_err().exit_code(), 1);
        verdict(&[runs(4.0)]).unwrap();
    }
}
