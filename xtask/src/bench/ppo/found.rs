//! What the race of PPO found, and whether it is good enough.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::super::runs::{Runs, Usage};
use super::{BATCH, LEARNING, LEAST_RATE, MODEL, MOST_MEMORY, NEW_TOKENS, PER_LOOK, SCORES};
use crate::{Error, Result};

/// Most difference of the two curves, in units of the peer's rise: scores of answers differ by 0.2, so that the means of
/// eight iterations of 64 differ by 0.01 by chance, a tenth of a rise of 0.1.
const MOST_GAP: f64 = 0.25;
/// Most growth of memory from the second look at it to the last: what an allocator may take for itself over time.
const MOST_GROWTH: f64 = 1.15;

/// Iterations on the same prompts; both sides, ours first.
pub(super) struct Case {
    pub(super) runs: Runs,
    /// Seconds of each phase of an iteration.
    pub(super) phases: [Vec<(String, f64)>; 2],
}

/// Both sides, ours first.
pub(super) struct Found {
    pub(super) cases: Vec<Case>,
    /// Mean score of each iteration.
    pub(super) curves: [Vec<f64>; 2],
    /// Resident bytes of a long run of ours.
    pub(super) memory: Vec<f64>,
}

impl Case {
    fn usage(&self, text: &mut String) {
        let runs = &self.runs;
        // Writing to a String cannot fail.
        let mut line = |name: &str, [ours, peer]: [f64; 2], ratio: f64, target: String| {
            let line = format!("{name:28} {ours:>9.2} {peer:>9.2} {ratio:>7.2}   {target}");
            let _ = writeln!(text, "{}", line.trim_end());
        };
        let seconds = |number: fn(&Usage) -> f64| runs.sides(number).map(|rate| 1.0 / rate);
        line(
            "wall seconds per iteration",
            seconds(|usage| usage.pairs_per_wall_second),
            runs.ratio(|usage| usage.pairs_per_wall_second),
            format!("at least {LEAST_RATE}{}", mark(runs.is_fast_enough())),
        );
        line(
            "CPU seconds per iteration",
            seconds(|usage| usage.pairs_per_cpu_second),
            runs.ratio(|usage| usage.pairs_per_cpu_second),
            String::new(),
        );
        line("whole command, s", runs.sides(|u| u.wall), runs.ratio(|u| 1.0 / u.wall), String::new());
        line(
            "peak memory, MB",
            runs.sides(|usage| usage.peak_bytes / 1e6),
            runs.ratio(|usage| usage.peak_bytes),
            format!("at most {MOST_MEMORY}{}", mark(runs.is_small_enough())),
        );
    }
}

impl Found {
    /// By how much the curves differ at their ends, in units of the peer's rise; infinite where the peer learned nothing
    /// or a score is no number.
    fn gap(&self) -> f64 {
        let [ours, peer] = &self.curves;
        let ([_, ours], [first, peer]) = (ends(ours), ends(peer));
        let rise = peer - first;
        let gap = (ours - peer).abs() / rise;
        if rise > 0.0 && gap.is_finite() { gap } else { f64::INFINITY }
    }

    /// How many times as much memory there is at the last look as at the second: the first iteration has not seen the
    /// longest answers yet. Infinite where there was no third look.
    fn growth(&self) -> f64 {
        match self.memory.as_slice() {
            [_, early, .., late] => late / early,
            _ => f64::INFINITY,
        }
    }

    /// Fails where a target is missed.
    pub(super) fn verdict(&self) -> Result<()> {
        let of_case = |Case { runs, .. }: &Case| {
            let named = |what: &str| format!("{what} ({})", runs.name);
            [
                (!runs.is_fast_enough(), named("seconds per iteration")),
                (!runs.is_small_enough(), named("peak memory")),
            ]
        };
        let of_all = [
            (self.gap() > MOST_GAP, "the curve that is learned".to_owned()),
            (self.growth() > MOST_GROWTH, "memory over iterations".to_owned()),
        ];
        let all = self.cases.iter().flat_map(of_case).chain(of_all);
        let missed: Vec<String> = all.filter_map(|(is_missed, what)| is_missed.then_some(what)).collect();
        if missed.is_empty() { Ok(()) } else { Err(Error::Missed { what: missed.join(", ") }) }
    }

    pub(super) fn json(&self) -> Value {
        let object = |phases: &[(String, f64)]| -> Map<String, Value> {
            phases.iter().map(|(name, seconds)| (name.clone(), json!(seconds))).collect()
        };
        let case = |Case { runs, phases: [ours, peer] }: &Case| {
            let mut case = runs.json();
            case["seconds_by_phase"] = json!({ "align": object(ours), "peer": object(peer) });
            case
        };
        let [our_curve, peer_curve] = &self.curves;
        json!({
            "schema": 2,
            "processor": super::super::processor(),
            "cases": self.cases.iter().map(case).collect::<Vec<_>>(),
            "scores": { "align": our_curve, "peer": peer_curve, "gap": self.gap() },
            "resident_bytes_every_100_iterations": self.memory,
        })
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "{}; {MODEL} parameters, {BATCH} prompts, {NEW_TOKENS} new tokens; iterations after the first\n\n",
            super::super::processor()
        );
        for case in &self.cases {
            let _ = writeln!(text, "{:28} {:>9} {:>9} {:>7}", case.runs.name, "align", "peer", "ratio");
            case.usage(&mut text);
            for (side, phases) in ["align", "peer"].iter().zip(&case.phases) {
                let list: Vec<String> =
                    phases.iter().map(|(name, seconds)| format!("{name} {seconds:.2}")).collect();
                let _ = writeln!(text, "{side}, seconds of an iteration by phase: {}", list.join(", "));
            }
            text.push('\n');
        }
        self.learning(&mut text);
        let megabytes: Vec<String> = self.memory.iter().map(|bytes| format!("{:.0}", bytes / 1e6)).collect();
        let growth = self.growth();
        let _ = writeln!(
            text,
            "\nresident MB at iteration 1 and every {PER_LOOK} of 0.8M parameters: {}; growth {growth:.2}   at most \
             {MOST_GROWTH}{}",
            megabytes.join(" "),
            mark(growth <= MOST_GROWTH)
        );
        text
    }

    fn learning(&self, text: &mut String) {
        let rates = [LEARNING.learning_rate, LEARNING.critic_learning_rate];
        let model = LEARNING.model;
        let _ = writeln!(text, "{SCORES} of {model} parameters at rates {} and {}", rates[0], rates[1]);
        let _ = writeln!(text, "{:>9} {:>9} {:>9}", "iteration", "align", "peer");
        let [ours, peer] = &self.curves;
        for (index, (ours, peer)) in ours.iter().zip(peer).enumerate() {
            let _ = writeln!(text, "{:>9} {ours:>9.3} {peer:>9.3}", index + 1);
        }
        let gap = self.gap();
        let _ = writeln!(
            text,
            "difference at the end in units of the peer's rise: {gap:.2}   at most {MOST_GAP}{}",
            mark(gap <= MOST_GAP)
        );
    }
}

fn mark(good: bool) -> &'static str {
    if good { "" } else { " MISSED" }
}

/// The mean of the first and of the last third of a curve.
fn ends(curve: &[f64]) -> [f64; 2] {
    let third = (curve.len() / 3).max(1);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len().max(1) as f64;
    [
        mean(curve.get(..third).unwrap_or(curve)),
        mean(curve.get(curve.len().saturating_sub(third)..).unwrap_or(curve)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Good in everything: three times as fast, half the memory, the same curve, no growth.
    fn good() -> Found {
        let usage = |rate: f64, peak_bytes: f64| Usage {
            pairs_per_wall_second: rate,
            pairs_per_cpu_second: rate,
            peak_bytes,
            wall: 1.0,
        };
        let rounds = vec![(usage(0.375, 1e9), usage(0.125, 2e9))];
        Found {
            cases: vec![Case {
                runs: Runs { name: "prompts", least_rate: LEAST_RATE, most_memory: MOST_MEMORY, rounds },
                phases: [vec![("sample".into(), 1.0)], vec![]],
            }],
            curves: [vec![0.0, 0.5, 1.0], vec![0.0, 0.5, 1.0]],
            memory: vec![1e8, 2e8, 2.2e8],
        }
    }

    #[test]
    fn what_is_missed_is_named() {
        good().verdict().unwrap();
        assert!(!good().text().contains("MISSED"), "{}", good().text());
        type Spoil = fn(&mut Found);
        let cases: [(Spoil, &str, &str); 4] = [
            (
                |found| found.cases[0].runs.rounds[0].0.pairs_per_wall_second = 0.25,
                "seconds per iteration (prompts)",
                "2.00   at least 3 MISSED",
            ),
            (
                |found| found.cases[0].runs.rounds[0].0.peak_bytes = 1.5e9,
                "peak memory (prompts)",
                "0.75   at most 0.5 MISSED",
            ),
            (
                |found| found.curves[0] = vec![0.0; 3],
                "the curve that is learned",
                "1.00   at most 0.25 MISSED",
            ),
            (
                |found| found.memory[2] = 3e8,
                "memory over iterations",
                "100 200 300; growth 1.50   at most 1.15 MISSED",
            ),
        ];
        for (change, what, line) in cases {
            let mut found = good();
            change(&mut found);
            let error = found.verdict().unwrap_err();
            assert_eq!((error.exit_code(), error.to_string()), (1, format!("missed: {what}")));
            assert!(found.text().contains(line), "{line} is not in {}", found.text());
        }
        let text = good().text();
        assert!(
            text.contains("     2.67      8.00    3.00   at least 3") && text.contains("sample 1.00"),
            "{text}"
        );
    }

    #[test]
    fn curves_are_compared_at_their_ends() {
        // Thirds of 6 are means of 2: the peer rises from 1 to 5, ours ends at 4.
        let curves = [vec![1.0, 1.0, 2.0, 3.0, 4.0, 4.0], vec![0.0, 2.0, 3.0, 4.0, 4.0, 6.0]];
        assert_eq!(Found { curves, ..good() }.gap(), 0.25);
        for curves in [[vec![1.0; 3], vec![1.0; 3]], [vec![f64::NAN; 3], vec![0.0, 0.0, 1.0]]] {
            assert_eq!(Found { curves, ..good() }.gap(), f64::INFINITY, "a curve that shows nothing");
        }
        assert_eq!(Found { memory: vec![1e8, 2e8], ..good() }.growth(), f64::INFINITY);
    }
}
