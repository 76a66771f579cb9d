//! Losses and metrics of rows that were not trained on.

mod figures;
mod rows;

use align_core::{
    align_types::PromptGroup,
    evaluation::{PairMargin, RowValues},
    tch::Tensor,
};

use crate::{
    BcoBatch, DpoConfig, DpoInputs, Error, FeedbackInputs, KtoConfig, KtoInputs, KtoLossType, PairLengths,
    Result, RunningMean, UnaConfig, UnaInputs, bco_loss, dpo_loss, kto_loss, una_loss,
};
use align_core::LossOutput;
use rows::{Feedback, Pair, Rows};

/// Summed log-probabilities of one answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnswerLogProbs {
    /// log π.
    pub policy: f64,
    /// log π_ref; every method but likelihood needs it.
    pub reference: Option<f64>,
    /// Tokens that the sums are over; at least 1.
    pub tokens: usize,
}

impl AnswerLogProbs {
    /// Computes h = log π − log π_ref; 0 without a reference.
    fn ratio(&self) -> f64 {
        self.reference.map_or(0.0, |reference| self.policy - reference)
    }
}

/// The loss that held-out rows are measured with.
#[derive(Debug, Clone, PartialEq)]
pub enum HeldOutMethod {
    /// Negative log-likelihood of every answer.
    Sft,
    /// A loss of the DPO family, of pairs.
    Dpo(DpoConfig),
    /// KTO or a relative, of labelled answers.
    Kto {
        /// The loss.
        config: KtoConfig,
        /// The baseline z0 of `kto` ([`crate::kto_baseline`] of mismatched pairs of the same rows); 0 for the others.
        baseline: f64,
    },
    /// UNA, of pairs, labelled and scored answers.
    Una(UnaConfig),
}

/// The loss of one pair, or of one answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeldOutItem {
    /// The row.
    pub row: usize,
    /// The answer of the row; `None` for a pair.
    pub answer: Option<usize>,
    /// The loss; of a likelihood that of the whole answer, −log π.
    pub loss: f64,
}

/// What held-out rows say of a model, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldOut {
    /// The loss of every item.
    pub items: Vec<HeldOutItem>,
    /// Values under the names that training has for their averages;
    /// [`Prompts::figures`](align_core::evaluation::Prompts::figures) averages them, with intervals.
    pub values: Vec<RowValues>,
    /// The margins of pairs; [`PairAgreement`](align_core::evaluation::PairAgreement) counts them, with and without
    /// length.
    pub margins: Vec<PairMargin>,
}

/// Measures held-out rows from the log-probabilities of their answers, `logps[row][answer]`.
///
/// All rows together are what an optimiser batch is in training, for the losses that couple rows. The values are those
/// whose averages training logs:
///
/// | method | values |
/// | --- | --- |
/// | `Sft` | `loss` (per token), `perplexity` (its exponential), `logps/completion`; with a reference `reference/loss` and `reference/difference`, paired |
/// | `Dpo`, `Una` on pairs | `loss`, `rewards/chosen`, `rewards/rejected`, `rewards/margins`, `rewards/accuracies` (strict), `logps/chosen`, `logps/rejected` |
/// | `Kto`, `Una` on labels | `loss`, `rewards/chosen` and `rewards/rejected` of desirable and undesirable answers, `labels/accuracies`: share of answers whose reward is above the baseline (0 but for `kto`) exactly when they are desirable; `kl` = the baseline |
/// | `Una` on scores | `loss`, `rewards/scored`, `una/target` |
///
/// Rows of several kinds have a `loss/pairs`, `loss/binary` and `loss/scored` each.
///
/// ```
/// use align_core::align_types::{Completion, PromptGroup};
/// use align_losses::{AnswerLogProbs, DpoConfig, HeldOutMethod, held_out};
///
/// let answer = |policy, reference| AnswerLogProbs { policy, reference: Some(reference), tokens: 3 };
/// let pair = PromptGroup::new(vec![1, 2], vec![Completion::new(vec![3; 3]), Completion::new(vec![4; 3])]);
/// let logps = [vec![answer(-10.0, -10.5), answer(-11.0, -10.5)]];
/// let found = held_out(&[pair], &logps, &HeldOutMethod::Dpo(DpoConfig::default()))?;
/// assert!((found.items[0].loss - 0.64439666).abs() < 1e-8);
/// # Ok::<(), align_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Input`] names the row that the method cannot take, or a loss that is no average over pairs.
pub fn held_out(
    rows: &[PromptGroup],
    logps: &[Vec<AnswerLogProbs>],
    method: &HeldOutMethod,
) -> Result<HeldOut> {
    let kinds = Rows::new(rows, logps, method)?;
    let losses = losses(&kinds, method)?;
    let values = figures::values(&kinds, &losses, method);
    let margins = kinds.pairs.iter().map(|pair| figures::margin(pair, method)).collect();
    let mut items: Vec<HeldOutItem> = Vec::with_capacity(rows.len());
    let item = |row, answer, loss: &f64| HeldOutItem { row, answer, loss: *loss };
    items.extend(kinds.pairs.iter().zip(&losses.pairs).map(|(pair, loss)| item(pair.row, None, loss)));
    for (rows, losses) in losses.of_answers(&kinds) {
        items.extend(rows.iter().zip(losses).map(|(one, loss)| item(one.row, Some(one.answer), loss)));
    }
    items.sort_by_key(|item| (item.row, item.answer));
    Ok(HeldOut { items, values, margins })
}

/// The loss of every item, by kind.
#[derive(Debug, Default)]
struct Losses {
    pairs: Vec<f64>,
    labelled: Vec<f64>,
    scored: Vec<f64>,
    plain: Vec<f64>,
}

impl Losses {
    fn of_answers<'a>(&'a self, kinds: &'a Rows) -> [(&'a [Feedback], &'a [f64]); 3] {
        [(&kinds.labelled, &self.labelled), (&kinds.scored, &self.scored), (&kinds.plain, &self.plain)]
    }
}

fn losses(kinds: &Rows, method: &HeldOutMethod) -> Result<Losses> {
    match method {
        HeldOutMethod::Sft => {
            let plain = kinds.plain.iter().map(|answer| -answer.logps.policy).collect();
            Ok(Losses { plain, ..Losses::default() })
        }
        HeldOutMethod::Dpo(config) => {
            let sides = PairTensors::new(&kinds.pairs, config)?;
            Ok(Losses {
                pairs: terms(&dpo_loss(&sides.inputs(config), config)?, kinds.pairs.len())?,
                ..Losses::default()
            })
        }
        HeldOutMethod::Kto { config, baseline } => {
            let labelled = of_labels(&kinds.labelled, config, *baseline)?;
            Ok(Losses { labelled, ..Losses::default() })
        }
        HeldOutMethod::Una(config) => of_una(kinds, config),
    }
}

fn of_labels(rows: &[Feedback], config: &KtoConfig, baseline: f64) -> Result<Vec<f64>> {
    let sides = FeedbackTensors::new(rows)?;
    let desirable: Vec<bool> = rows.iter().map(|one| one.target == 1.0).collect();
    let inputs = KtoInputs { policy: &sides.policy, reference: &sides.reference, desirable: &desirable };
    let output = if config.loss_type == KtoLossType::Bco {
        let rewards: Vec<f64> = rows.iter().map(|one| config.beta * one.logps.ratio()).collect();
        let up = desirable.iter().filter(|label| **label).count();
        let shift = RunningMean::default().with(&rewards).value();
        bco_loss(&inputs, &BcoBatch { shift, desirable: up, undesirable: rows.len() - up }, config)?
    } else {
        kto_loss(&inputs, baseline, config)?
    };
    terms(&output, rows.len())
}

fn of_una(kinds: &Rows, config: &UnaConfig) -> Result<Losses> {
    let pair_config = DpoConfig { beta: config.beta, ..DpoConfig::default() };
    let pairs = PairTensors::new(&kinds.pairs, &pair_config)?;
    let (labels, scores) = (FeedbackTensors::new(&kinds.labelled)?, FeedbackTensors::new(&kinds.scored)?);
    let inputs = UnaInputs {
        pairs: (!kinds.pairs.is_empty()).then(|| pairs.inputs(&pair_config)),
        binary: labels.inputs(),
        scored: scores.inputs(),
    };
    let output = una_loss(&inputs, config)?;
    let mut lists = output.components.iter().map(|component| values(&component.terms));
    let mut next = || lists.next().unwrap_or_else(|| Ok(Vec::new()));
    Ok(Losses { pairs: next()?, labelled: next()?, scored: next()?, plain: Vec::new() })
}

/// Adds up the components of a loss, term by term.
fn terms(output: &LossOutput, count: usize) -> Result<Vec<f64>> {
    let mut sums = vec![0.0; count];
    for component in &output.components {
        let terms = values(&component.terms)?;
        // A likelihood is averaged over tokens.
        if terms.len() != count || component.denominator != count as f64 {
            let why = format!("{} is no average over pairs; measure it as a likelihood", component.name);
            return Err(Error::input("loss of held-out rows", why));
        }
        sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += component.weight * term);
    }
    Ok(sums)
}

fn values(terms: &Tensor) -> Result<Vec<f64>> {
    Ok(Vec::<f64>::try_from(terms.f_to_kind(align_core::tch::Kind::Double)?.f_contiguous()?)?)
}

fn tensor<T>(items: &[T], of: impl Fn(&T) -> f64) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(&items.iter().map(of).collect::<Vec<f64>>())?)
}

struct PairTensors {
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    chosen_tokens: Tensor,
    rejected_tokens: Tensor,
}

impl PairTensors {
    fn new(pairs: &[Pair], config: &DpoConfig) -> Result<Self> {
        if config.use_weighting || config.ld_alpha.is_some() {
            let why = "weights of tokens and pairs are for training; leave them out";
            return Err(Error::input("loss of held-out rows", why));
        }
        let reference = |answer: &AnswerLogProbs| answer.reference.unwrap_or(0.0);
        Ok(Self {
            chosen: tensor(pairs, |pair| pair.chosen.policy)?,
            rejected: tensor(pairs, |pair| pair.rejected.policy)?,
            ref_chosen: tensor(pairs, |pair| reference(&pair.chosen))?,
            ref_rejected: tensor(pairs, |pair| reference(&pair.rejected))?,
            chosen_tokens: tensor(pairs, |pair| pair.chosen.tokens.max(1) as f64)?,
            rejected_tokens: tensor(pairs, |pair| pair.rejected.tokens.max(1) as f64)?,
        })
    }

    fn inputs(&self, config: &DpoConfig) -> DpoInputs<'_> {
        let lengths = PairLengths { chosen: &self.chosen_tokens, rejected: &self.rejected_tokens };
        DpoInputs {
            ref_chosen: config.uses_reference().then_some(&self.ref_chosen),
            ref_rejected: config.uses_reference().then_some(&self.ref_rejected),
            lengths: config.uses_lengths().then_some(lengths),
            ..DpoInputs::new(&self.chosen, &self.rejected)
        }
    }
}

struct FeedbackTensors {
    policy: Tensor,
    reference: Tensor,
    targets: Tensor,
}

impl FeedbackTensors {
    fn new(rows: &[Feedback]) -> Result<Self> {
        Ok(Self {
            policy: tensor(rows, |one| one.logps.policy)?,
            reference: tensor(rows, |one| one.logps.reference.unwrap_or(0.0))?,
            targets: tensor(rows, |one| one.target)?,
        })
    }

    fn inputs(&self) -> Option<FeedbackInputs<'_>> {
        let inputs =
            FeedbackInputs { policy: &self.policy, reference: &self.reference, targets: &self.targets };
        (self.policy.numel() > 0).then_some(inputs)
    }
}
