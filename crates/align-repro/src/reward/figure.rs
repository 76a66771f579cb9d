//! Figures of claims and controls: what is read of arms, one number per seed.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{best_of_n::CurvePoint, study::ArmResult};
use crate::{Error, Result, claim::Evidence, interval::Estimate};

/// What is read of an arm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Share of held-out pairs in the right order.
    Accuracy,
    /// The same on hard pairs.
    Hard,
    /// Negative log-likelihood of held-out pairs.
    Nll,
    /// Gold of best-of-n, in standard deviations of the samples' gold.
    Gold,
    /// The proxy's own opinion of it, likewise.
    Proxy,
    /// Gold of best-of-n minus gold of best-of-N at the largest N of the curve.
    Fall,
    /// b of the curve fitted to gold.
    Bend,
    /// Where gold of best-of-n is highest: the square root of the KL there.
    Peak,
}

/// A place in an arm's results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaceOf {
    /// The arms; their mean where there are several.
    #[serde(default)]
    pub arms: Vec<String>,
    /// Instead of `arms`: rows of arms, in each of which an arm has twice as much as the one before it. What a doubling adds is
    /// read, by least squares, as the mean over the rows.
    #[serde(default)]
    pub doublings: Vec<Vec<String>>,
    /// Which checkpoint (from 1), or which n of the curve; the last unless told.
    #[serde(default)]
    pub at: Option<usize>,
}

/// A figure of a claim or control: a reading, minus another one of the same seed, minus a number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FigureOf {
    /// What is read.
    pub metric: Metric,
    /// Where.
    pub of: PlaceOf,
    /// What is subtracted.
    #[serde(default)]
    pub minus: Option<PlaceOf>,
    /// A number that is subtracted.
    #[serde(default)]
    pub less: f64,
}

impl PlaceOf {
    /// What each arm's reading counts.
    fn weights(&self) -> Vec<(&str, f64)> {
        let share = 1.0 / self.arms.len().max(1) as f64;
        let plain = self.arms.iter().map(|arm| (arm.as_str(), share));
        plain.chain(self.doublings.iter().flat_map(|row| slope(row, self.doublings.len()))).collect()
    }
}

/// The weights of readings at 0, 1, 2 and so on whose sum is the slope of the line of least squares, one of several rows.
fn slope(row: &[String], rows: usize) -> impl Iterator<Item = (&str, f64)> {
    let middle = (row.len() as f64 - 1.0) / 2.0;
    let squares: f64 = (0..row.len()).map(|place| (place as f64 - middle).powi(2)).sum();
    let scale = squares.max(f64::MIN_POSITIVE) * rows as f64;
    row.iter().enumerate().map(move |(place, arm)| (arm.as_str(), (place as f64 - middle) / scale))
}

impl FigureOf {
    /// Returns the arms it reads.
    pub(super) fn reads(&self) -> BTreeSet<&str> {
        std::iter::once(&self.of).chain(&self.minus).flat_map(|p| p.weights()).map(|(arm, _)| arm).collect()
    }
}

/// Results, one per seed.
pub(super) struct Runs<'a> {
    pub arms: &'a [(String, Vec<ArmResult>)],
}

/// Reads one run; `None` where it has no such place.
pub(super) fn reading(run: &ArmResult, metric: Metric, at: Option<usize>) -> Option<f64> {
    let checkpoint = || match at {
        Some(number) => run.checkpoints.get(number.checked_sub(1)?),
        None => run.checkpoints.last(),
    };
    let point = || match at {
        Some(n) => run.curve.iter().find(|point| point.n == n),
        None => run.curve.last(),
    };
    match metric {
        Metric::Accuracy => checkpoint().map(|c| c.accuracy),
        Metric::Hard => checkpoint().and_then(|c| c.hard),
        Metric::Nll => checkpoint().map(|c| c.nll),
        Metric::Gold => point().map(|p| p.gold),
        Metric::Proxy => point().map(|p| p.proxy),
        Metric::Fall => Some(point()?.gold - run.curve.last()?.gold),
        Metric::Bend => run.fit.map(|fit| fit.b),
        Metric::Peak => run.curve.iter().max_by(|a, b| a.gold.total_cmp(&b.gold)).map(CurvePoint::distance),
    }
}

impl Runs<'_> {
    fn arm(&self, name: &str) -> &[ArmResult] {
        self.arms.iter().find(|(arm, _)| arm == name).map(|(_, runs)| runs.as_slice()).unwrap_or_default()
    }

    /// Reads a place, one value per seed; empty where an arm was not run.
    ///
    /// An arm that was run must have the reading: a claim without it would pass for one that was not run.
    fn values(&self, id: &str, metric: Metric, place: &PlaceOf) -> Result<Vec<f64>> {
        let mut sums: Vec<f64> = Vec::new();
        for (name, weight) in place.weights() {
            let readings = self.arm(name).iter().map(|run| reading(run, metric, place.at));
            let values: Option<Vec<f64>> = readings.collect();
            let values = values.ok_or_else(|| {
                Error::input(format!("figure {id}"), format!("the arm {name} has no such reading"))
            })?;
            if sums.is_empty() {
                sums = vec![0.0; values.len()];
            }
            if values.is_empty() || values.len() != sums.len() {
                return Ok(Vec::new());
            }
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * value);
        }
        Ok(sums)
    }

    /// Computes the figure of a claim or control.
    pub fn evidence(&self, id: &str, figure: &FigureOf) -> Result<Option<Evidence>> {
        let mut values = self.values(id, figure.metric, &figure.of)?;
        if let Some(minus) = &figure.minus {
            let others = self.values(id, figure.metric, minus)?;
            if others.len() != values.len() {
                return Ok(None);
            }
            values.iter_mut().zip(others).for_each(|(value, other)| *value -= other);
        }
        if values.is_empty() {
            return Ok(None);
        }
        values.iter_mut().for_each(|value| *value -= figure.less);
        Ok(Some(Evidence::average(Estimate::over_seeds(id, &values)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::study::Checkpoint, *};

    #[test]
    fn what_a_doubling_adds_is_a_slope() {
        let run = |accuracy: f64| ArmResult {
            checkpoints: vec![Checkpoint { updates: 1, epochs: 1.0, accuracy, hard: None, nll: 0.0 }],
            ..ArmResult::default()
        };
        // Rows that rise by .03 and .01 a doubling, the second one from elsewhere, with a bend that a line does not see: the
        // slope of 0, .03 + .01, .06 is .03 as well.
        let arms: Vec<(String, Vec<ArmResult>)> =
            [("a", 0.5), ("b", 0.54), ("c", 0.56), ("d", 0.7), ("e", 0.71), ("f", 0.72)]
                .map(|(name, accuracy)| (name.to_owned(), vec![run(accuracy), run(accuracy + 0.1)]))
                .into();
        let row = |names: [&str; 3]| names.map(str::to_owned).to_vec();
        let doublings = vec![row(["a", "b", "c"]), row(["d", "e", "f"])];
        let of = PlaceOf { arms: Vec::new(), doublings, at: None };
        let figure = FigureOf { metric: Metric::Accuracy, of, minus: None, less: 0.0 };
        assert_eq!(figure.reads().into_iter().collect::<String>(), "abcdef");
        let runs = Runs { arms: &arms };
        let found = runs.evidence("x", &figure).unwrap().unwrap().estimate;
        assert!((found.mean - 0.02).abs() < 1e-12, "{found:?}");
        // An arm without the reading is an error, one that was not run is none.
        assert!(runs.evidence("x", &FigureOf { metric: Metric::Hard, ..figure.clone() }).is_err());
        assert!(Runs { arms: &arms[1..] }.evidence("x", &figure).unwrap().is_none());
    }
}
