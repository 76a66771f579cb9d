//! Watching over a run: the checks of a method, on every step.

use std::collections::BTreeMap;

use align_core::align_types::{Amount, HealthCheck, Move, Rule, exact};
use serde::{Deserialize, Serialize};

use crate::moments::Moments;

/// Standard errors beyond which the difference of two means is no noise. A run has hundreds of comparisons, and a
/// warning without cause is worse than none.
const NOISE: f64 = 6.0;

/// What a check said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// The step (from 1) at which it spoke.
    pub step: u64,
    /// The check.
    pub check: String,
    /// What was seen, what it usually means and what to do.
    pub message: String,
}

/// What the checks of a run know; a checkpoint holds it, so that a resumed run goes on with it.
///
/// ```
/// use align_core::align_types::{HealthCheck, Rule};
/// use align_train::{Health, Seen};
///
/// let rule = Rule::Stuck { metric: "grad_norm", value: 0.0, steps: 2 };
/// let checks = [HealthCheck { name: "no-gradient", rule, meaning: "nothing is learned" }];
/// let metrics = [("grad_norm".to_owned(), 0.0)];
/// let mut health = Health::default();
/// for (step, new) in [(1, 0), (2, 1), (3, 0)] {
///     let seen = Seen { step, total_steps: 3, rows: 8, metrics: &metrics, counts: &[] };
///     assert_eq!(health.watch(&checks, &seen).len(), new);
/// }
/// assert_eq!(health.warnings[0].step, 2);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// What was said so far.
    pub warnings: Vec<Warning>,
    /// What each check that has not spoken counts.
    numbers: BTreeMap<String, Numbers>,
}

/// Strings in the file, because they must come back to the last bit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Numbers(#[serde(with = "exact::list")] Vec<f64>);

/// What is known of a step.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// The step, from 1.
    pub step: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// Prompt groups of the step's batch.
    pub rows: usize,
    /// The metrics of the step, before its update.
    pub metrics: &'a [(String, f64)],
    /// Of how many rows a metric is the mean, where that is not all of them.
    pub counts: &'a [(String, f64)],
}

impl Seen<'_> {
    /// Finds a metric; one that is not finite is as good as absent.
    fn metric(&self, name: &str) -> Option<f64> {
        let found = self.metrics.iter().find(|(metric, _)| metric == name);
        found.map(|(_, value)| *value).filter(|value| value.is_finite())
    }

    /// Counts the rows that a metric is about: a batch may mix rows of several kinds.
    fn rows_of(&self, metric: &str) -> f64 {
        let found = self.counts.iter().find(|(counted, _)| counted == metric);
        found.map_or(self.rows as f64, |(_, rows)| *rows)
    }
}

impl Health {
    /// Shows a step to all checks that have not spoken yet and returns the new warnings.
    pub fn watch(&mut self, checks: &[HealthCheck], seen: &Seen<'_>) -> &[Warning] {
        let before = self.warnings.len();
        for check in checks {
            if self.warnings.iter().any(|warning| warning.check == check.name) {
                continue;
            }
            let numbers = &mut self.numbers.entry(check.name.to_owned()).or_default().0;
            if let Some(finding) = look(&check.rule, numbers, seen) {
                self.numbers.remove(check.name);
                let message = format!("{finding}: {}", check.meaning);
                self.warnings.push(Warning { step: seen.step, check: check.name.to_owned(), message });
            }
        }
        self.warnings.get(before..).unwrap_or_default()
    }
}

/// Says what a rule found in this step and those before, of which `numbers` is all that it remembers.
fn look(rule: &Rule, numbers: &mut Vec<f64>, seen: &Seen<'_>) -> Option<String> {
    match rule {
        Rule::FromTheStart { metric, bound, rows } => {
            let holds = seen.metric(metric).is_some_and(|value| value >= *bound);
            let rows_seen = count(numbers, holds, seen.rows_of(metric), seen)?;
            let first = seen.step == 1;
            let when = if first { "step 1".to_owned() } else { format!("each of steps 1 to {}", seen.step) };
            (rows_seen >= *rows as f64).then(|| format!("{metric} is {bound} or more on {when}"))
        }
        Rule::Stuck { metric, value, steps } => {
            let run =
                if seen.metric(metric) == Some(*value) { numbers.first().unwrap_or(&0.0) + 1.0 } else { 0.0 };
            *numbers = vec![run];
            (run >= *steps as f64).then(|| format!("{metric} is exactly {value} in {steps} steps running"))
        }
        Rule::Always { metric, value, steps } => {
            count(numbers, seen.metric(metric) == Some(*value), seen.rows as f64, seen)?;
            let over = seen.step == seen.total_steps && seen.step >= *steps as u64;
            over.then(|| format!("{metric} was exactly {value} on every one of {} steps", seen.step))
        }
        Rule::Outside { metric, low, high, steps } => {
            let mut block = Moments::read(numbers);
            block.add(seen.metric(metric)?);
            let mean = block.mean();
            let outside = (low - mean).max(mean - high) > NOISE * block.squared_error().sqrt();
            if block.count() < *steps as f64 {
                *numbers = block.write().into();
                return None;
            }
            numbers.clear();
            outside.then(|| format!("{metric} is {} on average over {steps} steps", short(mean)))
        }
        Rule::Moved { moves, steps } => moved(moves, *steps, numbers, seen),
        // A rule of a later version of the data is one that this loop cannot watch.
        _ => None,
    }
}

/// Adds a step's rows while a condition holds on every step from the first; `None` once it did not.
fn count(numbers: &mut Vec<f64>, holds: bool, rows: f64, seen: &Seen<'_>) -> Option<f64> {
    let before = match numbers.as_slice() {
        [rows] => *rows,
        _ if seen.step == 1 => 0.0,
        // What the first steps were, nobody knows any more.
        _ => f64::NAN,
    };
    let all = if holds { before + rows } else { f64::NAN };
    *numbers = vec![all];
    (!all.is_nan()).then_some(all)
}

/// What is kept of each move: its first and its present steps, and the first ones of what it is a share of.
#[derive(Debug, Clone, Copy, Default)]
struct Moving {
    first: Moments,
    present: Moments,
    share_of: Moments,
}

impl Moving {
    fn read(numbers: &[f64]) -> Self {
        let mut parts = numbers.chunks(Moments::NUMBERS).map(Moments::read);
        let mut next = || parts.next().unwrap_or_default();
        Self { first: next(), present: next(), share_of: next() }
    }

    fn write(&self) -> impl Iterator<Item = f64> {
        [self.first, self.present, self.share_of].map(|moments| moments.write()).into_iter().flatten()
    }

    /// Says whether the metric moved as stated.
    fn is_as(&self, stated: &Move) -> bool {
        let change = self.present.mean() - self.first.mean();
        let change = if stated.rises { change } else { -change };
        let least = match stated.by {
            Amount::Any => 0.0,
            Amount::Share { share, unit, .. } => {
                share * unit.map_or(1.0, |(_, unit)| unit) * self.share_of.mean().abs()
            }
        };
        let noise = NOISE * (self.first.squared_error() + self.present.squared_error()).sqrt();
        change > noise && change >= least
    }
}

fn moved(moves: &[Move], steps: usize, numbers: &mut Vec<f64>, seen: &Seen<'_>) -> Option<String> {
    let values = moves.iter().map(|stated| {
        let of = match stated.by {
            Amount::Any => stated.metric,
            Amount::Share { of, .. } => of,
        };
        Some((seen.metric(stated.metric)?, seen.metric(of)?))
    });
    let values = values.collect::<Option<Vec<_>>>()?;
    let mut kept = numbers.chunks(3 * Moments::NUMBERS).map(Moving::read);
    let mut all: Vec<Moving> = moves.iter().map(|_| kept.next().unwrap_or_default()).collect();
    for (moving, (value, of)) in all.iter_mut().zip(values) {
        if moving.first.count() < steps as f64 {
            moving.first.add(value);
            moving.share_of.add(of);
        } else {
            moving.present.add(value);
        }
    }
    let full = all.iter().all(|moving| moving.present.count() >= steps as f64);
    let found = full && all.iter().zip(moves).all(|(moving, stated)| moving.is_as(stated));
    let finding = found.then(|| {
        let said = all.iter().zip(moves).map(|(moving, stated)| {
            let verb = if stated.rises { "rose" } else { "fell" };
            let (from, to) = (short(moving.first.mean()), short(moving.present.mean()));
            format!("{} {verb} from {from} to {to}", stated.metric)
        });
        format!("{} (means of {steps} steps)", said.collect::<Vec<_>>().join(", "))
    });
    if full {
        all.iter_mut().for_each(|moving| moving.present = Moments::default());
    }
    *numbers = all.iter().flat_map(Moving::write).collect();
    finding
}

/// A number with about three digits.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if (1e3..1e6).contains(&size) => format!("{value:.0}"),
        size if (1e-2..1e3).contains(&size) => format!("{value:.*}", if size < 10.0 { 3 } else { 1 }),
        _ => format!("{value:.2e}"),
    }
}

#[cfg(test)]
mod tests;
