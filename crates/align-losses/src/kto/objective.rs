use align_core::{
    CausalLm, Coupling, LossOutput, Objective, PackedBatch, Parameter,
    align_types::{Completion, PromptGroup},
    tch::{Kind, Tensor},
};

use super::{BcoBatch, KtoInputs, RunningMean, bco_loss, kto_baseline, kto_loss};
use crate::reference::{Reference, check_rewards_are_zero, frozen};
use crate::{Error, KtoConfig, KtoLossType, Result};

/// Learning from labelled answers: every completion of every group is a row with its [`Completion::label`].
///
/// `kto` and `bco` couple the rows of the optimiser batch, so the objective has a survey ([`Coupling`]):
///
/// * `kto`: the mismatched pairs of the baseline. The answers of each group are put under the prompt of the next
///   one, those of the last under the first: with one answer per group (x_i, y_j), j = (i − 1) mod m in the order of
///   the data, as TRL 1.16. A batch of one group has no mismatched pair and its baseline is 0.
/// * `bco`: the answers themselves, for the running mean of their rewards. The mean is the objective's state.
#[derive(Debug)]
pub struct Kto {
    config: KtoConfig,
    reference: Reference,
    baseline_model: Option<Frozen>,
    max_length: Option<usize>,
    mean: RunningMean,
    starts_at_reference: bool,
}

struct Frozen(Box<dyn CausalLm>);

impl std::fmt::Debug for Frozen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Frozen")
    }
}

impl Kto {
    /// Makes the objective.
    ///
    /// # Errors
    /// A configuration outside its range; [`Reference::Free`], as h needs a reference.
    pub fn new(config: KtoConfig, reference: Reference) -> Result<Self> {
        config.validate()?;
        if matches!(reference, Reference::Free) {
            return Err(Error::input(
                "reference",
                "labels are compared with log π − log π_ref, which needs one",
            ));
        }
        Ok(Self {
            config,
            reference,
            baseline_model: None,
            max_length: None,
            mean: RunningMean::default(),
            starts_at_reference: false,
        })
    }

    /// Gives the frozen reference model for the baseline of `kto` where [`Reference::Precomputed`] serves the rows:
    /// mismatched pairs change with the order of the data, so no cache holds them.
    #[must_use]
    pub fn with_baseline_model(mut self, model: Box<dyn CausalLm>) -> Self {
        self.baseline_model = Some(Frozen(model));
        self
    }

    /// Cuts mismatched answers so that prompt and answer have at most `tokens` tokens, keeping the start: a long
    /// answer may meet a long prompt.
    #[must_use]
    pub fn with_max_length(mut self, tokens: usize) -> Self {
        self.max_length = Some(tokens);
        self
    }

    /// States that policy and reference are equal before the first update: the first rewards are then checked
    /// to be 0.
    #[must_use]
    pub fn starting_at_reference(mut self) -> Self {
        self.starts_at_reference = true;
        self
    }

    /// Puts the answers of each group under the prompt of the next one; an answer of which no trained token is left
    /// has no ratio to average.
    fn mismatched(&self, groups: &[PromptGroup]) -> Vec<PromptGroup> {
        if groups.len() < 2 {
            return Vec::new();
        }
        let before = groups.iter().cycle().skip(groups.len() - 1);
        let pair = |(group, before): (&PromptGroup, &PromptGroup)| {
            let room =
                self.max_length.map_or(usize::MAX, |most| most.saturating_sub(group.prompt.len()).max(1));
            let cut = |answer: &Completion| {
                let mut answer = Completion { ref_logprob: None, ..answer.clone() };
                answer.keep(0..room);
                answer
            };
            let completions = before.completions.iter().map(cut).filter(|answer| answer.trained_tokens() > 0);
            PromptGroup {
                source: group.source.clone(),
                ..PromptGroup::new(group.prompt.clone(), completions.collect())
            }
        };
        groups.iter().zip(before).map(pair).filter(|group| !group.completions.is_empty()).collect()
    }

    /// The reference log-probabilities of surveyed rows, `[C]`.
    fn survey_reference(&self, batch: &PackedBatch, surveyed: &[PromptGroup]) -> Result<Tensor> {
        if self.config.loss_type != KtoLossType::Kto {
            return self.reference.required_sums(batch, surveyed);
        }
        let given = self.baseline_model.as_ref().map(|model| model.0.as_ref());
        match given.or(self.reference.model()) {
            Some(model) => frozen(model, batch)?.sums(),
            None => {
                let why = "the baseline of KTO needs the reference model, as no cache holds mismatched pairs";
                Err(Error::input("reference", why))
            }
        }
    }

    fn couple_bco(&self, groups: &[PromptGroup], measures: &[Vec<f64>]) -> Result<Coupling> {
        let rewards: Vec<f64> = ratios(measures).map(|ratio| self.config.beta * ratio).collect();
        let mean = self.mean.with(&rewards);
        let labels = labels(groups)?;
        let desirable = labels.iter().filter(|label| **label).count();
        let shared = [mean.value(), desirable as f64, (labels.len() - desirable) as f64];
        let references = |measure: &Vec<f64>| measure.iter().skip(1).step_by(2).copied().collect::<Vec<_>>();
        let note = |measure: &Vec<f64>| [shared.as_slice(), &references(measure)].concat();
        let notes = measures.iter().map(note).collect();
        Ok(Coupling { notes, state: vec![mean.mean, mean.count] })
    }
}

/// Computes log π − log π_ref of every answer from the measures, which hold the two by turns.
fn ratios(measures: &[Vec<f64>]) -> impl Iterator<Item = f64> + '_ {
    let ratio = |pair: &[f64]| match pair {
        [policy, reference] => Some(policy - reference),
        _ => None,
    };
    measures.iter().flat_map(move |measure| measure.chunks(2).filter_map(ratio))
}

/// The labels of all completions, in order.
fn labels(groups: &[PromptGroup]) -> Result<Vec<bool>> {
    let mut labels = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        for completion in &group.completions {
            let why = "an answer without a label; KTO needs prompt, completion and label";
            labels.push(completion.label.ok_or_else(|| Error::input(group.describe(index), why))?);
        }
    }
    Ok(labels)
}

impl Objective for Kto {
    fn denominators(&self, groups: &[PromptGroup]) -> Result<Vec<f64>> {
        Ok(vec![labels(groups)?.len() as f64])
    }

    fn loss(
        &self,
        model: &(dyn CausalLm + 'static),
        batch: &PackedBatch,
        groups: &[PromptGroup],
    ) -> Result<LossOutput> {
        if self.config.loss_type.couples_rows() {
            let why =
                "its baseline belongs to the optimiser batch; the loop must survey the whole batch first";
            return Err(Error::input("loss_type", why));
        }
        self.coupled_loss(model, batch, groups, &vec![vec![0.0]; groups.len()])
    }

    fn survey(&self, groups: &[PromptGroup]) -> Result<Option<Vec<PromptGroup>>> {
        Ok(match self.config.loss_type {
            KtoLossType::Kto => Some(self.mismatched(groups)),
            KtoLossType::Bco => Some(groups.to_vec()),
            _ => None,
        })
    }

    /// Measures log π and log π_ref of each answer, by turns.
    fn measure(
        &self,
        model: &dyn CausalLm,
        batch: &PackedBatch,
        surveyed: &[PromptGroup],
    ) -> Result<Vec<Vec<f64>>> {
        let numbers = |sums: Tensor| -> Result<Vec<f64>> {
            Ok(Vec::try_from(sums.f_detach()?.f_to_kind(Kind::Double)?.f_contiguous()?)?)
        };
        let policy = numbers(model.token_log_probs(batch, 1.0)?.sums()?)?;
        let reference = numbers(self.survey_reference(batch, surveyed)?)?;
        let mut answers = policy.into_iter().zip(reference);
        let mut measures = Vec::with_capacity(surveyed.len());
        for (index, group) in surveyed.iter().enumerate() {
            let mut measure = Vec::with_capacity(2 * group.completions.len());
            for (policy, reference) in answers.by_ref().take(group.completions.len()) {
                if !(policy - reference).is_finite() {
                    let what = format!("log π − log π_ref of {}", group.describe(index));
                    return Err(Error::NonFinite { what, value: policy - reference });
                }
                measure.extend([policy, reference]);
            }
            measures.push(measure);
        }
        Ok(measures)
    }

    /// Notes the baseline for `kto`; shift, desirable and undesirable answers of the batch and the reference
    /// log-probabilities of the group for `bco`.
    fn couple(&self, groups: &[PromptGroup], measures: &[Vec<f64>]) -> Result<Coupling> {
        if self.config.loss_type == KtoLossType::Bco {
            return self.couple_bco(groups, measures);
        }
        let baseline = kto_baseline(&ratios(measures).collect::<Vec<_>>());
        Ok(Coupling { notes: vec![vec![baseline]; groups.len()], state: Vec::new() })
    }

    fn coupled_loss(
        &self,
        model: &dyn CausalLm,
        batch: &PackedBatch,
        groups: &[PromptGroup],
        notes: &[Vec<f64>],
    ) -> Result<LossOutput> {
        let labels = labels(groups)?;
        let first = notes.first().map(Vec::as_slice).unwrap_or_default();
        let policy = model.token_log_probs(batch, 1.0)?.sums()?;
        let inputs = |reference| KtoInputs { policy: &policy, reference, desirable: &labels };
        match (self.config.loss_type, first) {
            (KtoLossType::Bco, [shift, desirable, undesirable, ..]) => {
                let whole = BcoBatch {
                    shift: *shift,
                    desirable: *desirable as usize,
                    undesirable: *undesirable as usize,
                };
                let reference: Vec<f64> =
                    notes.iter().flat_map(|note| note.iter().skip(3).copied()).collect();
                let reference = Tensor::f_from_slice(&reference)?.f_to_device(model.device())?;
                bco_loss(&inputs(&reference), &whole, &self.config)
            }
            (KtoLossType::Kto | KtoLossType::ApoZeroUnpaired, [baseline]) => {
                let reference = self.reference.required_sums(batch, groups)?.f_to_device(model.device())?;
                kto_loss(&inputs(&reference), *baseline, &self.config)
            }
            _ => Err(Error::input("coupled loss", "a note that this objective did not write")),
        }
    }

    fn state(&self) -> Vec<f64> {
        match self.config.loss_type {
            KtoLossType::Bco => vec![self.mean.mean, self.mean.count],
            _ => Vec::new(),
        }
    }

    fn restore(&mut self, state: &[f64]) -> Result<()> {
        match (self.config.loss_type, state) {
            (KtoLossType::Bco, [mean, count]) if mean.is_finite() && *count >= 0.0 && count.is_finite() => {
                self.mean = RunningMean { mean: *mean, count: *count };
                Ok(())
            }
            (KtoLossType::Kto | KtoLossType::ApoZeroUnpaired, []) => Ok(()),
            _ => Err(Error::input("state of the objective", format!("{state:?} is not that of this loss"))),
        }
    }

    fn after_update(&mut self, updates: u64, policy: &[Parameter]) -> Result<()> {
        self.reference.after_update(updates, policy)
    }

    fn weights(&self) -> Vec<Parameter> {
        self.reference.weights()
    }

    fn check_first_step(&self, metrics: &[(String, f64)]) -> Result<()> {
        if self.starts_at_reference { check_rewards_are_zero(metrics) } else { Ok(()) }
    }

    fn replicate(&self) -> Result<Box<dyn Objective>> {
        let model = |frozen: &Frozen| -> Result<Frozen> { Ok(Frozen(frozen.0.replicate()?)) };
        Ok(Box::new(Self {
            config: self.config.clone(),
            reference: self.reference.replicate()?,
            baseline_model: self.baseline_model.as_ref().map(model).transpose()?,
            ..*self
        }))
    }
}
