//! Tables and curves of reward models.

use super::{
    best_of_n::{CurvePoint, Fit},
    figure::{Metric, Runs, reading},
    study::{ArmResult, Checkpoint},
};
use crate::{
    interval::{half_width, mean},
    report::figure::{Figure, LineChart, Point, Series},
    study::{Findings, Table},
};

/// A number that is read off a point of a curve.
type Number<P> = fn(&P) -> f64;

/// Curves that can be told apart in one chart.
const CURVES: usize = 6;

fn cell(values: &[f64], digits: usize) -> String {
    match (values.is_empty(), half_width(values)) {
        (true, _) => "–".to_owned(),
        (false, Some(half)) => format!("{:.digits$} ± {half:.digits$}", mean(values)),
        (false, None) => format!("{:.digits$}", mean(values)),
    }
}

impl Runs<'_> {
    /// Adds tables and curves.
    pub fn show(&self, findings: &mut Findings) {
        findings.tables.push(self.accuracies());
        findings.tables.push(self.work());
        if self.arms.iter().any(|(_, runs)| runs.iter().any(|run| !run.curve.is_empty())) {
            findings.tables.push(self.best_of_n());
        }
        self.learning_curves(findings);
        self.reward_curves(findings);
    }

    fn row(runs: &[ArmResult], value: impl Fn(&ArmResult) -> Option<f64>, digits: usize) -> String {
        let values: Option<Vec<f64>> = runs.iter().map(value).collect();
        cell(&values.unwrap_or_default(), digits)
    }

    fn accuracies(&self) -> Table {
        let rows = self.arms.iter().filter(|(_, runs)| runs.iter().any(|run| !run.checkpoints.is_empty()));
        let row = |(name, runs): &(String, Vec<ArmResult>)| {
            let best = |run: &ArmResult| run.checkpoints.iter().map(|c| c.accuracy).reduce(f64::max);
            vec![
                name.clone(),
                Self::row(runs, |run| reading(run, Metric::Accuracy, Some(1)), 3),
                Self::row(runs, best, 3),
                Self::row(runs, |run| reading(run, Metric::Accuracy, None), 3),
                Self::row(runs, |run| reading(run, Metric::Hard, None), 3),
                Self::row(runs, |run| reading(run, Metric::Nll, None), 3),
                Self::row(runs, |run| run.validation, 3),
            ]
        };
        let head = [
            "arm",
            "accuracy, first reading",
            "best reading",
            "end",
            "hard pairs, end",
            "NLL, end",
            "noisy labels, end",
        ];
        Table {
            title: "Held-out pairs of held-out requests".into(),
            head: head.map(str::to_owned).to_vec(),
            rows: rows.map(row).collect(),
            note: "Mean over seeds with 95 % Student half-width. Accuracy counts pairs in gold's order; hard pairs have \
                   close gold; noisy labels are what a user would have to choose a model by."
                .into(),
        }
    }

    fn work(&self) -> Table {
        let row = |(name, runs): &(String, Vec<ArmResult>)| {
            let run = runs.first()?;
            let last = run.checkpoints.last();
            let number = |value: usize| if value == 0 { "–".to_owned() } else { value.to_string() };
            Some(vec![
                name.clone(),
                number(run.parameters),
                number(run.rows),
                number(run.comparisons),
                number(last.map_or(0, |c| c.updates as usize)),
                last.filter(|c| c.updates > 0).map_or("–".into(), |c| format!("{:.1}", c.epochs)),
                number(run.tokens),
                run.distance.map_or("–".into(), |d| format!("{d:.2}")),
                run.chosen.clone().unwrap_or_else(|| "–".into()),
            ])
        };
        let head = [
            "arm",
            "parameters",
            "rows",
            "comparisons",
            "updates",
            "epochs",
            "tokens",
            "|gold difference| of chosen pairs",
            "chosen arm",
        ];
        Table {
            title: "Data and compute".into(),
            head: head.map(str::to_owned).to_vec(),
            rows: self.arms.iter().filter_map(row).collect(),
            note: "Of the first seed. Tokens went forward and backward, repeats counted; a prompt is computed once for all \
                   answers of its row."
                .into(),
        }
    }

    fn best_of_n(&self) -> Table {
        let rows = self.arms.iter().filter(|(_, runs)| runs.iter().any(|run| !run.curve.is_empty()));
        let row = |(name, runs): &(String, Vec<ArmResult>)| {
            let fit = |of: fn(&Fit) -> f64| move |run: &ArmResult| run.fit.as_ref().map(of);
            let highest = |run: &ArmResult| {
                let best = run.curve.iter().max_by(|a, b| a.gold.total_cmp(&b.gold))?;
                Some((best.n as f64).log2())
            };
            vec![
                name.clone(),
                Self::row(runs, |run| run.curve.last().map(|p| p.proxy), 2),
                Self::row(runs, |run| run.curve.iter().map(|p| p.gold).reduce(f64::max), 2),
                Self::row(runs, highest, 1),
                Self::row(runs, |run| run.curve.last().map(|p| p.gold), 2),
                Self::row(runs, fit(|fit| fit.a), 3),
                Self::row(runs, fit(|fit| fit.b), 3),
                Self::row(runs, |run| run.fit.as_ref().and_then(Fit::peak), 2),
            ]
        };
        let head = [
            "reward",
            "proxy at the largest n",
            "highest gold",
            "at log2 n",
            "gold at the largest n",
            "a",
            "b",
            "peak d* = a / (2 b)",
        ];
        Table {
            title: "Best-of-n".into(),
            head: head.map(str::to_owned).to_vec(),
            rows: rows.map(row).collect(),
            note: "Rewards in standard deviations over the samples, mean 0. a and b are least squares of \
                   R(d) = d (a − b d) on gold, d the square root of the KL; no peak is given where a curve of any seed does \
                   not bend down. The highest point of a noisy curve is a little too high."
                .into(),
        }
    }

    fn learning_curves(&self, findings: &mut Findings) {
        let parts: [(&str, Number<Checkpoint>); 2] =
            [("accuracy on held-out pairs", |c| c.accuracy), ("negative log-likelihood", |c| c.nll)];
        for (label, value) in parts {
            let series: Vec<Series> = self
                .arms
                .iter()
                .filter(|(_, runs)| runs.iter().all(|run| run.checkpoints.len() > 1))
                .map(|(name, runs)| {
                    averaged(name, runs, |run| {
                        run.checkpoints.iter().map(|c| (c.updates as f64, value(c))).collect()
                    })
                })
                .collect();
            let chart = |series: &[Series]| {
                Figure::Lines(LineChart {
                    title: format!("Held-out pairs along the training: {label}"),
                    x_label: "updates of equal size in answers".into(),
                    y_label: label.into(),
                    series: series.to_vec(),
                    note: "Mean over seeds, band: 95 % interval.".into(),
                })
            };
            findings.figures.extend(series.chunks(CURVES).map(chart));
        }
    }

    fn reward_curves(&self, findings: &mut Findings) {
        let parts: [(&str, Number<CurvePoint>); 2] = [("gold", |p| p.gold), ("proxy", |p| p.proxy)];
        for (label, value) in parts {
            let series: Vec<Series> = self
                .arms
                .iter()
                .filter(|(_, runs)| runs.iter().all(|run| !run.curve.is_empty()))
                .map(|(name, runs)| {
                    averaged(name, runs, |run| run.curve.iter().map(|p| (p.distance(), value(p))).collect())
                })
                .collect();
            let chart = |series: &[Series]| {
                Figure::Lines(LineChart {
                    title: format!("Best-of-n: {label} reward"),
                    x_label: "square root of the KL, nats".into(),
                    y_label: format!("{label}, standard deviations"),
                    series: series.to_vec(),
                    note: "Mean over seeds, band: 95 % interval. KL is log n − (n − 1)/n.".into(),
                })
            };
            findings.figures.extend(series.chunks(CURVES).map(chart));
        }
    }
}

/// Averages curves with the same abscissas over seeds.
fn averaged(name: &str, runs: &[ArmResult], curve: impl Fn(&ArmResult) -> Vec<(f64, f64)>) -> Series {
    let curves: Vec<Vec<(f64, f64)>> = runs.iter().map(curve).collect();
    let length = curves.iter().map(Vec::len).min().unwrap_or(0);
    let point = |place: usize| {
        let at: Vec<(f64, f64)> = curves.iter().filter_map(|curve| curve.get(place).copied()).collect();
        let (x, y): (Vec<f64>, Vec<f64>) = at.into_iter().unzip();
        let (middle, half) = (mean(&y), half_width(&y).unwrap_or(0.0));
        Point { x: mean(&x), y: middle, low: middle - half, high: middle + half }
    };
    Series { name: name.to_owned(), points: (0..length).map(point).collect() }
}
