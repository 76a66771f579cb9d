use std::collections::BTreeMap;

use align_lm::Model;

use super::{
    gold::Request,
    policy::{Requests, Worth, sample},
    study::{ArmSettings, Figure as FigureOf, SFT, SftResult},
    sweep::{ArmResult, SweepSettings, frontier as reached},
};
use crate::{
    Result,
    claim::Evidence,
    interval::{Estimate, half_width, mean},
    report::figure::{Figure, LineChart, Point, Series},
    study::{Findings, Sample, Table},
};

/// KLs at which the frontier is drawn, in nats per answer.
const FRONTIER: [f64; 8] = [0.0, 0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0];

/// Curves that can be told apart in one chart.
const CURVES: usize = 6;

/// Results, one per seed.
pub(super) struct Runs<'a> {
    pub sft: &'a [SftResult],
    pub arms: &'a [(String, Vec<ArmResult>)],
    pub sweep: &'a SweepSettings,
}

/// Samples an answer to the first test request.
pub(super) fn first_sample(model: &Model, requests: &Requests) -> Result<(String, String)> {
    let first = requests.test.get(..1).unwrap_or_default();
    let groups = sample(model, first, 1, 0)?;
    let answer = groups.first().and_then(|g| g.completions.first());
    let prompt = first.first().map(|r| Request::text(&r.prompt())).unwrap_or_default();
    Ok((prompt, answer.map(|a| Request::text(&a.token_ids)).unwrap_or_default()))
}

fn cell(values: &[f64], digits: usize) -> String {
    match (values.is_empty(), half_width(values)) {
        (true, _) => "–".to_owned(),
        (false, Some(half)) => format!("{:.digits$} ± {half:.digits$}", mean(values)),
        (false, None) => format!("{:.digits$}", mean(values)),
    }
}

/// Counts how often each value occurs, in the order of the values.
fn counts(values: impl Iterator<Item = String>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    values.for_each(|value| *counts.entry(value).or_default() += 1);
    counts.iter().map(|(value, count)| format!("{value} × {count}")).collect::<Vec<_>>().join(", ")
}

impl Runs<'_> {
    fn arm(&self, name: &str) -> &[ArmResult] {
        self.arms.iter().find(|(arm, _)| arm == name).map(|(_, runs)| runs.as_slice()).unwrap_or_default()
    }

    /// Gold of an arm, one value per seed; empty when it was not run or is not at that KL at some seed.
    fn gold(&self, arm: &str, at_kl: bool) -> Vec<f64> {
        if arm == SFT {
            return self.sft.iter().map(|run| run.worth.gold).collect();
        }
        let runs = self.arm(arm);
        let read = |run: &ArmResult| {
            let reading = if at_kl { run.matched.as_ref() } else { Some(&run.best) };
            reading.map(|reading| reading.worth.gold)
        };
        let values: Option<Vec<f64>> = runs.iter().map(read).collect();
        values.unwrap_or_default()
    }

    /// Computes the figure of a claim or control.
    pub fn evidence(&self, id: &str, figure: &FigureOf) -> Result<Option<Evidence>> {
        let values = match figure {
            FigureOf::Best { of, minus } => self.differences(of, minus, false),
            FigureOf::Matched { of, minus } => self.differences(of, minus, true),
            FigureOf::Baseline { of } => self.arm(of).iter().map(|run| run.work.baseline).collect(),
            FigureOf::Bits { of, minus } => return Ok(self.differing(of, minus)),
        };
        if values.is_empty() {
            return Ok(None);
        }
        Ok(Some(Evidence::average(Estimate::over_seeds(id, &values)?)))
    }

    /// Subtracts the gold of two arms seed by seed; empty when one of them has none.
    fn differences(&self, of: &str, minus: &str, at_kl: bool) -> Vec<f64> {
        let (first, second) = (self.gold(of, at_kl), self.gold(minus, at_kl));
        if first.len() != second.len() {
            return Vec::new();
        }
        first.iter().zip(&second).map(|(a, b)| a - b).collect()
    }

    /// Counts the seeds at which two arms do not end with the same bits.
    fn differing(&self, of: &str, minus: &str) -> Option<Evidence> {
        let (first, second) = (self.arm(of), self.arm(minus));
        if first.is_empty() || first.len() != second.len() {
            return None;
        }
        let count = first.iter().zip(second).filter(|(a, b)| a.digest != b.digest).count();
        Some(Evidence { digits: 0, ..Evidence::exact(count as f64) })
    }

    /// Adds tables, curves and samples.
    pub fn show(&self, settings: &BTreeMap<String, ArmSettings>, findings: &mut Findings) -> Result<()> {
        if self.sft.is_empty() {
            return Ok(());
        }
        findings.tables.push(self.table());
        findings.tables.push(self.work());
        findings.tables.push(self.data());
        let swept = |name: &str| settings.get(name).is_some_and(|arm| arm.like.is_none());
        let curves: Vec<Series> = self
            .arms
            .iter()
            .filter(|(name, _)| swept(name))
            .filter_map(|(name, runs)| frontier(name, runs))
            .collect();
        findings.figures.extend(curves.chunks(CURVES).map(|part| {
            Figure::Lines(LineChart {
                title: "Gold reward at equal KL".into(),
                x_label: "KL to the fine-tuned policy, nats per answer".into(),
                y_label: "gold".into(),
                series: part.to_vec(),
                note: "On validation requests, the most gold that an arm's grid reaches with at most this KL; mean over \
                       seeds, band: 95 % interval. Choosing on the same requests makes all curves a little too high."
                    .into(),
            })
        }));
        if let Some(run) = self.sft.first() {
            let (prompt, answer) = run.sample.clone();
            findings.samples.push(Sample { prompt, answers: vec![("SFT".into(), answer)] });
        }
        Ok(())
    }

    fn table(&self) -> Table {
        let sft: Vec<f64> = self.sft.iter().map(|run| run.worth.gold).collect();
        let distinct: Vec<f64> = self.sft.iter().map(|run| run.worth.distinct).collect();
        let dash = || "–".to_owned();
        let mut rows = vec![vec![
            SFT.to_owned(),
            cell(&sft, 3),
            "0".to_owned(),
            cell(&distinct, 2),
            dash(),
            dash(),
            dash(),
            dash(),
        ]];
        for (name, runs) in self.arms {
            let best =
                |of: fn(&Worth) -> f64| runs.iter().map(|run| of(&run.best.worth)).collect::<Vec<f64>>();
            let matched = |of: fn(&Worth) -> f64| {
                runs.iter().filter_map(|run| run.matched.as_ref().map(|m| of(&m.worth))).collect::<Vec<f64>>()
            };
            rows.push(vec![
                name.clone(),
                cell(&best(|w| w.gold), 3),
                cell(&best(|w| w.kl), 1),
                cell(&best(|w| w.distinct), 2),
                cell(&matched(|w| w.gold), 3),
                cell(&matched(|w| w.kl), 2),
                counts(runs.iter().map(|run| format!("{:e}", run.best.rate))),
                counts(runs.iter().map(|run| run.best.beta.to_string())),
            ]);
        }
        let at = self.sweep.matched_kl;
        Table {
            title: "Gold reward on held-out test requests".into(),
            head: [
                "arm".to_owned(),
                "gold, chosen setting".to_owned(),
                "KL".to_owned(),
                "distinct tokens".to_owned(),
                format!("gold at KL {at}"),
                "KL there".to_owned(),
                "rates chosen".to_owned(),
                "betas chosen".to_owned(),
            ]
            .to_vec(),
            rows,
            note: format!(
                "Mean over {} seeds with 95 % Student half-width. The setting (learning rate, beta, checkpoint) is the \
                 one with the most gold on validation requests. At KL {at}: the most gold with at most that KL, where a checkpoint with \
                 more KL is mixed with the fine-tuned policy. Arms without a reading there take the setting of another \
                 arm. KL is on-policy, in nats per answer of 20 tokens.",
                self.sft.len()
            ),
        }
    }

    fn work(&self) -> Table {
        let row = |(name, runs): &(String, Vec<ArmResult>)| {
            let run = runs.first()?;
            let (up, down) = run.labels;
            let labels = if up + down == 0 { "–".to_owned() } else { format!("{up} / {down}") };
            let numbers = [run.paths.len(), run.work.updates as usize, run.work.responses, run.work.tokens];
            let baselines: Vec<f64> = runs.iter().map(|run| run.work.baseline).collect();
            let baseline = if up + down == 0 { "–".to_owned() } else { cell(&baselines, 3) };
            let numbers = numbers.map(|n| n.to_string());
            Some([name.clone()].into_iter().chain(numbers).chain([labels, baseline]).collect())
        };
        let head = [
            "arm",
            "settings tried",
            "updates each",
            "answers trained on",
            "tokens",
            "desirable / undesirable rows",
            "z0, all seeds",
        ];
        Table {
            title: "Samples and compute".into(),
            head: head.map(str::to_owned).to_vec(),
            rows: self.arms.iter().filter_map(row).collect(),
            note: "Of the first seed, for the chosen setting; z0 is its mean over updates, in nats, with the 95 % half-width over seeds. KTO adds two forward passes without gradient over \
                   mismatched rows, of policy and reference, for its z0; no other arm does. Repeated answers count each time."
                .into(),
        }
    }

    fn data(&self) -> Table {
        let of = |value: fn(&SftResult) -> f64, digits| {
            cell(&self.sft.iter().map(value).collect::<Vec<f64>>(), digits)
        };
        Table {
            title: "Feedback".into(),
            head: ["answers with feedback", "their gold", "its standard deviation", "pairs turned by noise"]
                .map(str::to_owned)
                .to_vec(),
            rows: vec![vec![
                of(|run| run.answers as f64, 0),
                of(|run| run.gold.0, 3),
                of(|run| run.gold.1, 3),
                of(|run| run.turned, 3),
            ]],
            note: "All arms see the same answers, sampled from the fine-tuned policy, and the same noise; only the form \
                   of the feedback differs."
                .into(),
        }
    }
}

/// Averages the most validation gold at each KL over seeds.
fn frontier(name: &str, runs: &[ArmResult]) -> Option<Series> {
    let point = |kl: &f64| {
        let values: Option<Vec<f64>> =
            runs.iter().map(|run| reached(&run.paths, *kl).map(|place| place.gold)).collect();
        let values = values.filter(|values| !values.is_empty())?;
        let (y, half) = (mean(&values), half_width(&values).unwrap_or(0.0));
        Some(Point { x: *kl, y, low: y - half, high: y + half })
    };
    let points: Vec<Point> = FRONTIER.iter().filter_map(point).collect();
    (!points.is_empty()).then(|| Series { name: name.to_owned(), points })
}
