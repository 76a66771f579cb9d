use std::collections::BTreeMap;

use super::{ToyResult, ToySettings};
use crate::{
    Result,
    claim::Evidence,
    interval::Estimate,
    report::{
        figure::{Figure, Grid, GridFigure, LineChart, Point, Series},
        signed,
    },
    study::{Findings, Table},
};

/// The arm whose cells and KL path are drawn.
const SHOWN: &str = "toy-h3-p1";

/// Turns the rows of the study into figures, a table and curves.
///
/// # Errors
/// A figure that is not finite.
pub fn show(rows: &[(String, ToyResult)], settings: &ToySettings, findings: &mut Findings) -> Result<()> {
    for (arm, result) in rows {
        findings.evidence.extend(evidence(arm, result)?);
    }
    if rows.is_empty() {
        return Ok(());
    }
    findings.tables.push(table(rows)?);
    if let Some((_, shown)) = rows.iter().find(|(arm, _)| arm == SHOWN) {
        findings.figures.push(Figure::Grids(cells(shown)));
        findings.figures.push(Figure::Lines(plane(shown)));
    }
    findings.figures.extend(rows.iter().map(|(arm, result)| Figure::Lines(curves(arm, result, settings))));
    Ok(())
}

fn paired(first: &[f64], second: &[f64]) -> Vec<f64> {
    first.iter().zip(second).map(|(a, b)| a - b).collect()
}

/// The figures of an arm, by the ids that claims and controls of the plan have.
fn evidence(arm: &str, result: &ToyResult) -> Result<BTreeMap<String, Evidence>> {
    let row = arm.strip_prefix("toy-").unwrap_or(arm);
    let figures = [
        ("end", paired(&result.dpo.ood, &result.ppo.ood)),
        ("kl", result.matched.clone()),
        ("gold", paired(&result.ppo.gold, &result.dpo.gold)),
        ("order", result.ordered.iter().map(|share| share - 0.5).collect()),
    ];
    let estimate = |(what, values): (&str, Vec<f64>)| {
        let id = format!("{row}-{what}");
        Ok((id.clone(), Evidence::average(Estimate::over_seeds(&id, &values)?)))
    };
    figures.into_iter().map(estimate).collect()
}

fn table(rows: &[(String, ToyResult)]) -> Result<Table> {
    let mean = |values: &[f64]| format!("{:.3}", values.iter().sum::<f64>() / values.len().max(1) as f64);
    let line = |(arm, result): &(String, ToyResult)| {
        let difference = paired(&result.dpo.ood, &result.ppo.ood);
        let above = difference.iter().filter(|d| **d > 1e-6).count();
        let below = difference.iter().filter(|d| **d < -1e-6).count();
        let interval = |values: &[f64]| {
            let estimate = Estimate::over_seeds(arm, values)?;
            let (mean, half) = (signed(estimate.mean, 3), estimate.half_width());
            Ok::<String, crate::Error>(format!("{mean} ± {half:.3}"))
        };
        Ok(vec![
            arm.clone(),
            mean(&result.reference_ood),
            mean(&result.dpo.ood),
            mean(&result.ppo.ood),
            interval(&difference)?,
            format!("{above} : {below}"),
            interval(&result.matched)?,
            format!("{} / {}", mean(&result.dpo.kl), mean(&result.ppo.kl)),
            interval(&paired(&result.ppo.gold, &result.dpo.gold))?,
        ])
    };
    let head = [
        "row",
        "mass outside: reference",
        "DPO",
        "PPO",
        "DPO − PPO",
        "seeds > : <",
        "at equal KL",
        "KL DPO / PPO",
        "utility PPO − DPO",
    ];
    Ok(Table {
        title: "8 × 8 study: probability outside the data".into(),
        head: head.map(str::to_owned).to_vec(),
        rows: rows.iter().map(line).collect::<Result<_>>()?,
        note: "Mass on responses that no pair of their prompt shows, mean over prompts and seeds, with 95 % Student \
               intervals of the paired differences over seeds. Expectations are exact: nothing is sampled."
            .into(),
    })
}

/// Describes an arm in words: `width 3, 1 pair per prompt, fine-tuned reference`.
fn in_words(arm: &str, settings: &ToySettings) -> String {
    let Some(row) = settings.arms.get(arm) else { return arm.to_owned() };
    let reference = match row.reference {
        super::ReferenceKind::Sft => "fine-tuned reference",
        super::ReferenceKind::Random => "near-uniform reference",
    };
    let plural = if row.pairs == 1 { "" } else { "s" };
    format!("width {}, {} pair{plural} per prompt, {reference}", row.hidden, row.pairs)
}

fn curves(arm: &str, result: &ToyResult, settings: &ToySettings) -> LineChart {
    let series = |name: &str, path: &super::PathResult| Series {
        name: name.to_owned(),
        points: path
            .path
            .iter()
            .map(|p| Point { x: p.step as f64, y: p.ood, low: p.ood - p.ood_half, high: p.ood + p.ood_half })
            .collect(),
    };
    LineChart {
        title: format!("8 × 8: {}", in_words(arm, settings)),
        x_label: "step".into(),
        y_label: "mass outside the data".into(),
        series: vec![series("DPO", &result.dpo), series("PPO", &result.ppo)],
        note: format!("{arm}. Mean over seeds, band: 95 % interval."),
    }
}

/// Mass over KL: how much of the difference is only that DPO walks further.
fn plane(result: &ToyResult) -> LineChart {
    let series = |name: &str, path: &super::PathResult| Series {
        name: name.to_owned(),
        points: path.path.iter().map(|p| Point { x: p.kl, y: p.ood, low: p.ood, high: p.ood }).collect(),
    };
    LineChart {
        title: "8 × 8, width 3, 1 pair: mass outside the data against KL".into(),
        x_label: "KL to the reference, nats (mean over seeds)".into(),
        y_label: "mass outside the data".into(),
        series: vec![series("DPO", &result.dpo), series("PPO", &result.ppo)],
        note: "Where the curves lie apart at one abscissa, the difference is not only the distance walked."
            .into(),
    }
}

fn cells(result: &ToyResult) -> GridFigure {
    let example = &result.example;
    let covered = &example.covered;
    let empty = || Vec::new();
    let grid = |title: &str, values: &[Vec<f64>], marked: Vec<Vec<bool>>| Grid {
        title: title.to_owned(),
        values: values.to_vec(),
        marked,
    };
    let shows: Vec<Vec<f64>> =
        covered.iter().map(|row| row.iter().map(|c| f64::from(u8::from(*c))).collect()).collect();
    GridFigure {
        title: "8 × 8, width 3, 1 pair: the cells of seed 0".into(),
        grids: vec![
            grid("cells in a pair", &shows, empty()),
            grid("reference", &example.reference, covered.clone()),
            grid("DPO", &example.dpo, covered.clone()),
            grid("PPO", &example.ppo, covered.clone()),
            grid("learned reward", &example.reward, covered.clone()),
        ],
        note: "Rows are prompts, columns responses; the best response is on the diagonal. Framed cells occur in a \
               preference pair. Seed 0 is shown whatever it shows; the claims rest on the mean over all seeds."
            .into(),
    }
}
