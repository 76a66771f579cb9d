use align_core::{
    LossComponent, LossOutput, MetricTerm, Objective, PackedBatch, ScoreModel,
    align_types::{Completion, PromptGroup, config::RewardConfig},
    expect_shape,
    tch::{Kind, Tensor},
};

use crate::{Comparison, Error, Result, comparison_loss, label_loss, regression_loss};

/// The column with the number that is subtracted from the difference of a pair's scores.
pub const MARGIN: &str = "margin";

/// The column with the probability that the chosen answer of a pair is the better one.
pub const PREFERENCE: &str = "preference";

/// The losses of a reward model over groups of any mixture of kinds.
///
/// | group | what it is | loss |
/// | --- | --- | --- |
/// | two completions without rank, label, reward | a pair, the chosen one first; columns [`MARGIN`] and [`PREFERENCE`] | [`comparison_loss`] |
/// | two or more completions, each with a rank | a ranking: all its comparisons are one item | [`comparison_loss`] |
/// | completions with labels | as many labelled answers | [`label_loss`] |
/// | completions with rewards | as many scored answers | [`regression_loss`] |
///
/// Each of the three losses is averaged by itself, over the prompts or answers of the whole optimiser batch, and
/// multiplied by its weight. `rewards/mean` is the average score of all completions. A first step has no value that could
/// be checked: the scores of a new head are not 0.
#[derive(Debug, Clone)]
pub struct RewardModelObjective {
    config: RewardConfig,
}

/// The rows of each kind, by the places of their completions in the batch.
#[derive(Debug, Default)]
struct Rows {
    prompts: Vec<Vec<Comparison>>,
    binary: Vec<i64>,
    labels: Vec<bool>,
    scored: Vec<i64>,
    targets: Vec<f64>,
}

impl RewardModelObjective {
    /// Makes the objective.
    ///
    /// # Errors
    /// A configuration outside its range.
    pub fn new(config: RewardConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self { config })
    }

    fn rows(&self, groups: &[PromptGroup]) -> Result<Rows> {
        let mut rows = Rows::default();
        let mut next = 0;
        for (index, group) in groups.iter().enumerate() {
            let first = next;
            next += group.completions.len();
            self.add(&mut rows, group, first).map_err(|why| Error::input(group.describe(index), why))?;
        }
        Ok(rows)
    }

    /// Adds one group whose completions begin at place `first`, or says why it is none of the kinds.
    fn add(&self, rows: &mut Rows, group: &PromptGroup, first: usize) -> Result<(), String> {
        let answers = &group.completions;
        let places = first as i64..(first + answers.len()) as i64;
        let ranks: Vec<u32> = answers.iter().filter_map(|answer| answer.rank).collect();
        let labels: Vec<bool> = answers.iter().filter_map(|answer| answer.label).collect();
        let scores: Vec<f64> = answers.iter().filter_map(|answer| answer.reward).collect();
        match (answers.len(), ranks.len(), labels.len(), scores.len()) {
            (2, 0, 0, 0) => {
                rows.prompts.push(vec![pair(group, first)?]);
                return Ok(());
            }
            (1, 1, 0, 0) => return Err("a ranking of one answer compares nothing: drop the row".into()),
            (n, k, 0, 0) if n == k && n > 1 => {
                rows.prompts.push(self.ranking(&ranks, first)?);
            }
            (n, 0, k, 0) if n == k && n > 0 => {
                rows.binary.extend(places);
                rows.labels.extend(labels);
            }
            (n, 0, 0, k) if n == k && n > 0 => {
                rows.scored.extend(places);
                for score in scores {
                    self.config.check_range(score, score).map_err(|error| error.to_string())?;
                    rows.targets.push(score);
                }
            }
            (n, ranks, labels, scores) => {
                return Err(format!(
                    "{n} completions with {ranks} ranks, {labels} labels and {scores} scores: a reward model learns \
                     from two without any of them (chosen first), or from one of the three on every completion"
                ));
            }
        }
        // Not ignored in silence: whoever wrote them meant them to act.
        match [MARGIN, PREFERENCE]
            .into_iter()
            .find(|name| group.columns.get(*name).is_some_and(|v| !v.is_null()))
        {
            Some(name) => Err(format!(
                "column {name} belongs to pairs (two answers without ranks): make pairs of the row, or rename the column"
            )),
            None => Ok(()),
        }
    }

    fn ranking(&self, ranks: &[u32], first: usize) -> Result<Vec<Comparison>, String> {
        let list = Comparison::of_ranks(ranks, first, self.config.ties);
        if list.is_empty() {
            return Err(format!(
                "its {} answers are all tied, and ties are skipped: drop the row, or choose another rule for ties \
                 (half, rao_kupper)",
                ranks.len()
            ));
        }
        Ok(list)
    }
}

/// Reads what is known of a pair.
fn pair(group: &PromptGroup, first: usize) -> Result<Comparison, String> {
    let number = |name: &str, fits: &dyn Fn(f64) -> bool, expected: &str| match group.columns.get(name) {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(value) => match value.as_f64().filter(|number| fits(*number)) {
            Some(number) => Ok(Some(number)),
            None => Err(format!("column {name} is {value}, expected {expected}")),
        },
    };
    let margin = number(
        MARGIN,
        &f64::is_finite,
        "a finite number that is subtracted from the difference of the scores",
    )?;
    let preference = number(
        PREFERENCE,
        &|number| (0.0..=1.0).contains(&number),
        "a probability from 0 to 1 that the chosen answer is the better one",
    )?;
    Ok(Comparison {
        margin: margin.unwrap_or(0.0),
        preference: preference.unwrap_or(1.0),
        ..Comparison::new(first, first + 1)
    })
}

/// Puts the outputs of the kinds together; an absent kind has components without terms, so that their order is fixed.
fn assemble(config: &RewardConfig, outputs: [Option<LossOutput>; 3]) -> Result<LossOutput> {
    let mut all = LossOutput::default();
    let centering = config.center_rewards_coefficient;
    let names: [&[(&'static str, f64)]; 3] = [
        &[("loss/pairs", config.pair_weight), ("loss/centering", config.pair_weight * centering)],
        &[("loss/binary", config.binary_weight)],
        &[("loss/scored", config.score_weight)],
    ];
    for (output, names) in outputs.into_iter().zip(names) {
        match output {
            Some(output) => {
                all.components.extend(output.components);
                all.metrics.extend(output.metrics);
            }
            None => {
                for (name, weight) in
                    names.iter().filter(|(name, _)| *name != "loss/centering" || centering > 0.0)
                {
                    let terms = Tensor::f_from_slice::<f64>(&[])?;
                    all.components.push(LossComponent { name, weight: *weight, terms, denominator: 0.0 });
                }
            }
        }
    }
    Ok(all)
}

impl Objective<dyn ScoreModel> for RewardModelObjective {
    fn denominators(&self, groups: &[PromptGroup]) -> Result<Vec<f64>> {
        let rows = self.rows(groups)?;
        let prompts = rows.prompts.len() as f64;
        let centered = (self.config.center_rewards_coefficient > 0.0).then_some(prompts);
        let answers = [rows.binary.len() as f64, rows.scored.len() as f64];
        Ok([prompts].into_iter().chain(centered).chain(answers).collect())
    }

    fn loss(
        &self,
        model: &dyn ScoreModel,
        batch: &PackedBatch,
        groups: &[PromptGroup],
    ) -> Result<LossOutput> {
        let rows = self.rows(groups)?;
        let scores = model.scores(batch)?;
        expect_shape("scores", &scores, &[batch.completion_lens().len() as i64])?;
        let values = Vec::<f64>::try_from(scores.f_detach()?.f_to_kind(Kind::Double)?.f_contiguous()?)?;
        check_scores(&values, groups)?;
        let pick = |places: &[i64]| -> Result<Tensor> {
            Ok(scores.f_index_select(0, &PackedBatch::index_tensor(places, scores.device())?)?)
        };
        let compared =
            (!rows.prompts.is_empty()).then(|| comparison_loss(&scores, &rows.prompts, &self.config));
        let labelled =
            (!rows.binary.is_empty()).then(|| label_loss(&pick(&rows.binary)?, &rows.labels, &self.config));
        let scored = (!rows.scored.is_empty())
            .then(|| regression_loss(&pick(&rows.scored)?, &rows.targets, &self.config));
        let mut output =
            assemble(&self.config, [compared.transpose()?, labelled.transpose()?, scored.transpose()?])?;
        let (sum, count) = (values.iter().sum(), values.len() as f64);
        output.metrics.push(MetricTerm { name: "rewards/mean", sum, count });
        Ok(output)
    }

    fn replicate(&self) -> Result<Box<dyn Objective<dyn ScoreModel>>> {
        Ok(Box::new(self.clone()))
    }
}

/// Checks that the scores are finite, and names the row of one that is not.
fn check_scores(scores: &[f64], groups: &[PromptGroup]) -> Result<()> {
    let rows = groups
        .iter()
        .enumerate()
        .flat_map(|(index, group)| group.completions.iter().map(move |a| (index, group, a)));
    match scores.iter().zip(rows).find(|(score, _)| !score.is_finite()) {
        Some((score, (index, group, Completion { name, .. }))) => {
            let what = format!("{}: the score of its answer {name}", group.describe(index));
            Err(Error::NonFinite { what: what.trim_end().to_owned(), value: *score })
        }
        None => Ok(()),
    }
}
