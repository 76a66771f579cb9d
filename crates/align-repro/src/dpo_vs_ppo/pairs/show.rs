use super::{PairPoint, PairsResult};
use crate::{
    Result,
    claim::Evidence,
    interval::{Estimate, half_width},
    report::figure::{Figure, LineChart, Point, Series},
    study::{Findings, Sample, Table},
};

/// Samples of the first seed that a report shows.
const SHOWN_SAMPLES: usize = 4;

/// Results of the three arms, one per seed; empty where an arm was not run.
pub(super) struct Runs<'a> {
    pub sft: &'a [PairsResult],
    pub dpo: &'a [PairsResult],
    pub shuffled: &'a [PairsResult],
}

pub(super) fn show(runs: &Runs<'_>, findings: &mut Findings) -> Result<()> {
    let mut put = |id: &str, evidence: Option<Evidence>| {
        findings.evidence.extend(evidence.map(|e| (id.to_owned(), e)));
    };
    put("pairs-accuracy", gain(runs.sft, runs.dpo)?);
    put("pairs-shuffled", gain(runs.sft, runs.shuffled)?);
    put("pairs-reward", reward(runs.dpo)?);
    put("pairs-rule", points(runs)?);
    let firsts = || runs.dpo.iter().map(|run| run.first_loss);
    // The loss that is farthest from ln 2 stands for all of them.
    let farthest = firsts()
        .max_by(|a, b| (a - std::f64::consts::LN_2).abs().total_cmp(&(b - std::f64::consts::LN_2).abs()));
    put("pairs-ln2", farthest.map(|value| Evidence { digits: 8, ..Evidence::exact(value) }));
    if runs.sft.is_empty() {
        return Ok(());
    }
    findings.tables.push(table(runs));
    findings.figures.extend(charts(runs).into_iter().filter(|c| !c.series.is_empty()).map(Figure::Lines));
    findings.samples.extend(samples(runs));
    let notes = runs.sft.first().map(|run| run.notes.clone()).unwrap_or_default();
    findings.deviations.extend(notes.into_iter().map(|note| format!("Data of the illustration: {note}.")));
    Ok(())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Averages one value per seed; with a single seed over its held-out pairs, which decides nothing about training.
fn average(what: &str, per_seed: &[Vec<f64>]) -> Result<Option<Evidence>> {
    let estimate = match per_seed {
        [] => return Ok(None),
        [only] => Estimate::over_items(what, only, 0)?,
        many => Estimate::over_seeds(what, &many.iter().map(|items| mean(items)).collect::<Vec<_>>())?,
    };
    Ok(Some(Evidence::average(estimate)))
}

/// Held-out ranking accuracy minus that of SFT.
fn gain(sft: &[PairsResult], after: &[PairsResult]) -> Result<Option<Evidence>> {
    let difference = |(before, after): (&PairsResult, &PairsResult)| {
        after.ranking.iter().zip(&before.ranking).map(|(a, b)| a - b).collect::<Vec<f64>>()
    };
    average("held-out accuracy", &sft.iter().zip(after).map(difference).collect::<Vec<_>>())
}

/// Share of held-out pairs that the implicit reward orders rightly, minus a half.
fn reward(dpo: &[PairsResult]) -> Result<Option<Evidence>> {
    let above = |run: &PairsResult| run.reward.iter().map(|r| r - 0.5).collect::<Vec<f64>>();
    average("implicit reward", &dpo.iter().map(above).collect::<Vec<_>>())
}

fn points(runs: &Runs<'_>) -> Result<Option<Evidence>> {
    let difference = |(before, after): (&PairsResult, &PairsResult)| Some(after.points? - before.points?);
    let values: Vec<f64> = runs.sft.iter().zip(runs.dpo).filter_map(difference).collect();
    if values.is_empty() {
        return Ok(None);
    }
    Ok(Some(Evidence::average(Estimate::over_seeds("points of samples", &values)?)))
}

fn table(runs: &Runs<'_>) -> Table {
    let arms = [("SFT", runs.sft), ("DPO", runs.dpo), ("DPO, shuffled labels", runs.shuffled)];
    let over = |results: &[PairsResult], of: &dyn Fn(&PairsResult) -> Option<f64>| {
        let values: Vec<f64> = results.iter().filter_map(of).collect();
        match (values.is_empty(), half_width(&values)) {
            (true, _) => "–".to_owned(),
            (false, Some(half)) => format!("{:.3} ± {half:.3}", mean(&values)),
            (false, None) => format!("{:.3}", mean(&values)),
        }
    };
    let row = |(name, results): (&str, &[PairsResult])| {
        let last = |of: fn(&PairPoint) -> f64| move |run: &PairsResult| run.curve.last().map(of);
        vec![
            name.to_owned(),
            results.len().to_string(),
            over(results, &|run| Some(mean(&run.ranking))),
            over(results, &|run| (!run.reward.is_empty()).then(|| mean(&run.reward))),
            over(results, &|run| (!run.reward.is_empty()).then(|| last(|p| p.margin)(run)).flatten()),
            over(results, &last(|p| p.held_out_loss)),
            over(results, &|run| run.points),
        ]
    };
    let head = [
        "model",
        "seeds",
        "held-out ranking accuracy",
        "implicit-reward accuracy",
        "held-out margin",
        "held-out loss",
        "rule points of samples",
    ];
    Table {
        title: "Illustration: a small Llama on preference pairs".into(),
        head: head.map(str::to_owned).to_vec(),
        rows: arms.into_iter().filter(|(_, results)| !results.is_empty()).map(row).collect(),
        note: "Mean over seeds with 95 % Student half-width. Ranking: log π(chosen) > log π(rejected). Implicit reward: \
               the same for log π − log π_ref. Losses of SFT and DPO are not comparable."
            .into(),
    }
}

/// Averages a curve over seeds, with its interval.
fn series(name: &str, results: &[PairsResult], of: fn(&PairPoint) -> f64) -> Option<Series> {
    let steps: Vec<u64> = results.first()?.curve.iter().map(|p| p.step).collect();
    let points = steps.iter().enumerate().map(|(index, step)| {
        let values: Vec<f64> = results.iter().filter_map(|r| r.curve.get(index)).map(of).collect();
        let (y, half) = (mean(&values), half_width(&values).unwrap_or(0.0));
        Point { x: *step as f64, y, low: y - half, high: y + half }
    });
    Some(Series { name: name.to_owned(), points: points.collect() })
}

fn charts(runs: &Runs<'_>) -> Vec<LineChart> {
    let chart = |title: &str, y_label: &str, series: Vec<Option<Series>>| LineChart {
        title: title.to_owned(),
        x_label: "step".into(),
        y_label: y_label.to_owned(),
        series: series.into_iter().flatten().collect(),
        note: "Mean over seeds, band: 95 % interval.".into(),
    };
    vec![
        chart(
            "Llama: held-out ranking accuracy",
            "share of pairs",
            vec![
                series("DPO (step 0: SFT)", runs.dpo, |p| p.ranking),
                series("DPO on shuffled labels", runs.shuffled, |p| p.ranking),
            ],
        ),
        chart(
            "Llama: held-out margin of the implicit reward",
            "chosen minus rejected",
            vec![
                series("DPO", runs.dpo, |p| p.margin),
                series("DPO on shuffled labels", runs.shuffled, |p| p.margin),
            ],
        ),
        chart(
            "Llama: DPO loss",
            "nats per pair",
            vec![
                series("training", runs.dpo, |p| p.train_loss),
                series("held out", runs.dpo, |p| p.held_out_loss),
            ],
        ),
        chart(
            "Llama: SFT loss",
            "nats per token",
            vec![
                series("training", runs.sft, |p| p.train_loss),
                series("held out", runs.sft, |p| p.held_out_loss),
            ],
        ),
    ]
}

fn samples(runs: &Runs<'_>) -> Vec<Sample> {
    let Some(sft) = runs.sft.first() else { return Vec::new() };
    let shown = sft.samples.iter().take(SHOWN_SAMPLES).enumerate();
    shown
        .map(|(index, (prompt, before))| {
            let mut answers = vec![("SFT".to_owned(), before.clone())];
            let after = runs.dpo.first().and_then(|run| run.samples.get(index));
            answers.extend(after.map(|(_, answer)| ("DPO".to_owned(), answer.clone())));
            Sample { prompt: prompt.clone(), answers }
        })
        .collect()
}
