use super::{PairPoint, PairsResult};
use crate::{
    Result,
    claim::Evidence,
    interval::{Estimate, half_width, mean},
    report::{
        figure::{Figure, LineChart, Series},
        point,
    },
    study::{Findings, Sample, Table},
};

/// Samples of the first seed that a report shows.
const SHOWN_SAMPLES: usize = 4;

/// Results of the arms, one per seed; empty where an arm was not run.
pub(super) struct Runs<'a> {
    pub sft: &'a [PairsResult],
    pub dpo: &'a [PairsResult],
    pub shuffled: &'a [PairsResult],
    /// The gold reward, with what the SFT model's answers are worth under it.
    pub gold: &'a [PairsResult],
    /// The reward model that PPO learns from.
    pub reward: &'a [PairsResult],
    pub ppo: &'a [PairsResult],
    /// Whether the user gave the pairs.
    pub is_real: bool,
}

pub(super) fn show(runs: &Runs<'_>, findings: &mut Findings) -> Result<()> {
    let mut put = |id: &str, evidence: Option<Evidence>| {
        findings.evidence.extend(evidence.map(|e| (id.to_owned(), e)));
    };
    put("pairs-accuracy", gain(runs.sft, runs.dpo)?);
    put("pairs-shuffled", gain(runs.sft, runs.shuffled)?);
    put("pairs-reward", reward(runs.dpo)?);
    put("pairs-dpo-gold", gold_gain(runs.gold, runs.dpo)?);
    put("pairs-ppo-gold", gold_gain(runs.gold, runs.ppo)?);
    put("pairs-ppo-over-dpo", gold_gain(runs.dpo, runs.ppo)?);
    put("pairs-rm-accuracy", accuracy(runs.reward)?);
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

/// Mean gold reward minus that of other arms, paired by seed.
fn gold_gain(before: &[PairsResult], after: &[PairsResult]) -> Result<Option<Evidence>> {
    let difference = |(before, after): (&PairsResult, &PairsResult)| Some(after.gold? - before.gold?);
    let values: Vec<f64> = before.iter().zip(after).filter_map(difference).collect();
    if values.is_empty() {
        return Ok(None);
    }
    Ok(Some(Evidence::average(Estimate::over_seeds("gold reward of samples", &values)?)))
}

/// Share of held-out pairs that a reward model orders rightly, minus a half.
fn accuracy(reward: &[PairsResult]) -> Result<Option<Evidence>> {
    let above = |run: &PairsResult| run.right.iter().map(|right| right - 0.5).collect::<Vec<f64>>();
    average("accuracy of the reward model", &reward.iter().map(above).collect::<Vec<_>>())
}

fn table(runs: &Runs<'_>) -> Table {
    let over = |results: &[PairsResult], of: &dyn Fn(&PairsResult) -> Option<f64>| {
        let values: Vec<f64> = results.iter().filter_map(of).collect();
        match (values.is_empty(), half_width(&values)) {
            (true, _) => "–".to_owned(),
            (false, Some(half)) => format!("{:.3} ± {half:.3}", mean(&values)),
            (false, None) => format!("{:.3}", mean(&values)),
        }
    };
    let share = |values: &[f64]| (!values.is_empty()).then(|| mean(values));
    let sft: Vec<PairsResult> = runs
        .sft
        .iter()
        .enumerate()
        .map(|(index, run)| {
            let measured = runs.gold.get(index);
            let (gold, kl) = (measured.and_then(|m| m.gold), measured.and_then(|m| m.kl));
            PairsResult { gold, kl, ..run.clone() }
        })
        .collect();
    let arms = [
        ("SFT", sft.as_slice()),
        ("DPO", runs.dpo),
        ("DPO, shuffled labels", runs.shuffled),
        ("PPO", runs.ppo),
        ("reward model of PPO", runs.reward),
        // Without pairs of the user the rule is the gold reward.
        ("gold reward model", if runs.is_real { runs.gold } else { &[] }),
    ];
    let row = |(name, results): (&str, &[PairsResult])| {
        let last = |of: fn(&PairPoint) -> f64| move |run: &PairsResult| run.curve.last().map(of);
        let is_reward = name.contains("reward");
        let policy = |value: String| if is_reward { "–".to_owned() } else { value };
        vec![
            name.to_owned(),
            results.len().to_string(),
            policy(over(results, &|run| run.gold)),
            policy(over(results, &|run| run.kl)),
            policy(over(results, &|run| share(&run.ranking))),
            match is_reward {
                true => over(results, &|run| share(&run.right)),
                false => over(results, &|run| share(&run.reward)),
            },
            over(results, &|run| (!run.reward.is_empty()).then(|| last(|p| p.margin)(run)).flatten()),
            over(results, &last(|p| p.held_out_loss)),
        ]
    };
    let head = [
        "model",
        "seeds",
        "gold reward of its answers",
        "KL to SFT, nats per answer",
        "held-out ranking accuracy",
        "held-out reward accuracy",
        "held-out margin",
        "held-out loss",
    ];
    Table {
        title: "Illustration: a small Llama on preference pairs".into(),
        head: head.map(str::to_owned).to_vec(),
        rows: arms.into_iter().filter(|(_, results)| !results.is_empty()).map(row).collect(),
        note: "Mean over seeds with 95 % Student half-width. Gold: points of the rule, or standard deviations of the gold \
               reward model over held-out answers. Ranking: log π(chosen) > log π(rejected). Reward accuracy: of the \
               implicit reward log π − log π_ref, or of the reward model. Losses of SFT and DPO are not comparable."
            .into(),
    }
}

/// Draws a curve of PPO against the completions it took.
fn path(ppo: &[PairsResult], of: fn(&(f64, f64, f64)) -> f64) -> Option<Series> {
    let length = ppo.iter().map(|run| run.path.len()).min().filter(|length| *length > 0)?;
    let points = (0..length).map(|index| {
        let at: Vec<&(f64, f64, f64)> = ppo.iter().filter_map(|run| run.path.get(index)).collect();
        let values: Vec<f64> = at.iter().map(|step| of(step)).collect();
        point(at.first().map_or(0.0, |first| first.0), &values)
    });
    Some(Series { name: "PPO".into(), points: points.collect() })
}

/// Draws where the policies end: gold reward against KL to the SFT model, one point per arm.
fn plane(runs: &Runs<'_>) -> LineChart {
    let arms =
        [("SFT", runs.gold), ("DPO", runs.dpo), ("DPO on shuffled labels", runs.shuffled), ("PPO", runs.ppo)];
    let dot = |(name, results): (&str, &[PairsResult])| {
        let pick = |of: fn(&PairsResult) -> Option<f64>| results.iter().filter_map(of).collect::<Vec<f64>>();
        let (x, y) = (pick(|run| run.kl), pick(|run| run.gold));
        if x.is_empty() || y.is_empty() {
            return None;
        }
        Some(Series { name: name.to_owned(), points: vec![point(mean(&x), &y)] })
    };
    LineChart {
        title: "Llama: gold reward against KL to SFT".into(),
        x_label: "nats per answer".into(),
        y_label: "gold reward".into(),
        series: arms.into_iter().filter_map(dot).collect(),
        note: "Mean over seeds; bar: 95 % interval of the gold reward.".into(),
    }
}

/// Averages a curve over seeds, with its interval.
fn series(name: &str, results: &[PairsResult], of: fn(&PairPoint) -> f64) -> Option<Series> {
    let steps: Vec<u64> = results.first()?.curve.iter().map(|p| p.step).collect();
    let points = steps.iter().enumerate().map(|(index, step)| {
        let values: Vec<f64> = results.iter().filter_map(|r| r.curve.get(index)).map(of).collect();
        point(*step as f64, &values)
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
        LineChart {
            x_label: "completions".into(),
            ..chart(
                "Llama: PPO, score by its reward model",
                "standard deviations",
                vec![path(runs.ppo, |p| p.1)],
            )
        },
        LineChart {
            x_label: "completions".into(),
            ..chart("Llama: PPO, KL to SFT", "nats per answer", vec![path(runs.ppo, |p| p.2)])
        },
        plane(runs),
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
    let Some(sft) = runs.gold.first() else { return Vec::new() };
    let shown = sft.samples.iter().take(SHOWN_SAMPLES).enumerate();
    shown
        .map(|(index, (prompt, before))| {
            let mut answers = vec![("SFT".to_owned(), before.clone())];
            for (name, results) in [("DPO", runs.dpo), ("PPO", runs.ppo)] {
                let after = results.first().and_then(|run| run.samples.get(index));
                answers.extend(after.map(|(_, answer)| (name.to_owned(), answer.clone())));
            }
            Sample { prompt: prompt.clone(), answers }
        })
        .collect()
}
