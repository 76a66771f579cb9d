use align_core::{
    CausalLm, Coupling, LossOutput, Objective, PackedBatch, Parameter,
    align_types::PromptGroup,
    gather_log_probs, linear_terms, linearise, log_collision_probs, no_grad,
    tch::{Kind, Tensor},
};

use super::inputs::{DpoInputs, PairLengths, Pairs};
use super::{assemble, coupled, dpo_loss, length_desensitised_sums, policy_weights, summands};
use crate::reference::{Reference, frozen};
use crate::{Aggregation, DpoConfig, DpoLossType, Error, Result};

/// Direct preference optimisation of pairs: groups of two completions, the chosen one first.
///
/// With a loss that couples rows ([`DpoConfig::couples_rows`]) the objective has a survey: see
/// [`align_core::Coupling`].
#[derive(Debug)]
pub struct Dpo {
    config: DpoConfig,
    reference: Reference,
    starts_at_reference: bool,
}

/// Largest distance of the first loss from its value at equal policy and reference, relative to a value above 1.
///
/// Rounding leaves some 1e-7; a wrong reference, dropout or another tokenisation leaves far more.
const FIRST_LOSS_TOLERANCE: f64 = 1e-4;

/// The policy's numbers of the pairs of a micro-batch.
struct Answers {
    sums: Pair,
    likelihood: Option<Tensor>,
    lengths: Pair,
    weights: Option<Tensor>,
}

/// A number of each side of some pairs, `[P]` each.
struct Pair {
    chosen: Tensor,
    rejected: Tensor,
}

impl Pair {
    /// Splits `[2 P]` numbers of completions, the chosen ones first in each pair.
    fn of(completions: &Tensor) -> Result<Self> {
        let pairs = completions.f_reshape([-1, 2])?;
        Ok(Self { chosen: pairs.f_select(1, 0)?, rejected: pairs.f_select(1, 1)? })
    }
}

impl Answers {
    fn inputs<'a>(&'a self, reference: Option<&'a Pair>) -> DpoInputs<'a> {
        DpoInputs {
            ref_chosen: reference.map(|r| &r.chosen),
            ref_rejected: reference.map(|r| &r.rejected),
            lengths: Some(PairLengths { chosen: &self.lengths.chosen, rejected: &self.lengths.rejected }),
            chosen_likelihood: self.likelihood.as_ref(),
            weights: self.weights.as_ref(),
            ..DpoInputs::new(&self.sums.chosen, &self.sums.rejected)
        }
    }
}

impl Dpo {
    /// Makes the objective.
    ///
    /// # Errors
    /// A configuration outside its range; a reference where no loss uses one (and the other way round);
    /// precomputed sums beside `ld_alpha`, which needs the reference's tokens.
    pub fn new(config: DpoConfig, reference: Reference) -> Result<Self> {
        config.validate()?;
        if config.uses_reference() == matches!(reference, Reference::Free) {
            let uses = if config.uses_reference() { "uses one" } else { "uses none" };
            let why = format!("{reference:?} does not go with {:?}, which {uses}", config.loss_type);
            return Err(Error::input("reference", why));
        }
        if config.ld_alpha.is_some() && matches!(reference, Reference::Precomputed) {
            let why = "ld_alpha weights single tokens, precomputed reference log-probabilities are sums; use the model";
            return Err(Error::input("reference", why));
        }
        Ok(Self { config, reference, starts_at_reference: false })
    }

    /// States that policy and reference are equal before the first update: the first loss is then checked
    /// to be what it must be there, ln 2 for DPO.
    #[must_use]
    pub fn starting_at_reference(mut self) -> Self {
        self.starts_at_reference = true;
        self
    }

    fn answers(&self, model: &dyn CausalLm, batch: &PackedBatch) -> Result<Answers> {
        let (logps, weights) = if self.config.use_weighting {
            let logits = model.logits(batch)?;
            let targets = PackedBatch::index_tensor(batch.targets(), model.device())?;
            let values = gather_log_probs(&logits, &targets, 1.0)?;
            let logps = align_core::TokenLogProbs::new(values, batch.completion_lens().to_vec())?;
            let _guard = no_grad();
            let weights = policy_weights(&logps, &log_collision_probs(&logits)?)?;
            (logps, Some(weights))
        } else {
            (model.token_log_probs(batch, 1.0)?, None)
        };
        let plain = logps.sums()?;
        let (sums, likelihood) = match self.config.ld_alpha {
            Some(alpha) => {
                (Pair::of(&length_desensitised_sums(&logps, alpha)?)?, Some(Pair::of(&plain)?.chosen))
            }
            None => (Pair::of(&plain)?, None),
        };
        let lengths: Vec<i64> = logps.lens().iter().map(|len| *len as i64).collect();
        let lengths = Pair::of(&PackedBatch::index_tensor(&lengths, model.device())?)?;
        Ok(Answers { sums, likelihood, lengths, weights })
    }

    fn reference(
        &self,
        model: &dyn CausalLm,
        batch: &PackedBatch,
        groups: &[PromptGroup],
    ) -> Result<Option<Pair>> {
        if !self.config.uses_reference() {
            return Ok(None);
        }
        let sums = match (self.config.ld_alpha, self.reference.model()) {
            (Some(alpha), Some(reference)) => length_desensitised_sums(&frozen(reference, batch)?, alpha)?,
            _ => self.reference.required_sums(batch, groups)?,
        };
        Ok(Some(Pair::of(&sums.f_to_device(model.device())?)?))
    }

    /// The losses that couple rows, in their order.
    fn coupled_losses(&self) -> impl Iterator<Item = DpoLossType> + '_ {
        self.config.losses().map(|(loss, _)| loss).filter(|loss| loss.couples_rows())
    }

    /// Returns the loss at equal policy and reference where that determines it.
    fn first_loss(&self) -> Result<Option<f64>> {
        let depends = |(loss, _): (DpoLossType, f64)| !loss.uses_reference();
        if self.config.reference_free || self.config.use_weighting || self.config.losses().any(depends) {
            return Ok(None);
        }
        let (zero, one) = (Tensor::f_from_slice(&[0f64])?, Tensor::f_from_slice(&[1f64])?);
        let inputs = DpoInputs {
            ref_chosen: Some(&zero),
            ref_rejected: Some(&zero),
            lengths: Some(PairLengths { chosen: &one, rejected: &one }),
            ..DpoInputs::new(&zero, &zero)
        };
        Ok(Some(dpo_loss(&inputs, &self.config)?.mean()?.f_double_value(&[])?))
    }
}

impl Objective for Dpo {
    fn denominators(&self, groups: &[PromptGroup]) -> Result<Vec<f64>> {
        let mut chosen_tokens = 0;
        for (index, group) in groups.iter().enumerate() {
            let [chosen, _] = group.completions.as_slice() else {
                let why = format!("DPO needs a pair, this group has {} completions", group.completions.len());
                return Err(Error::input(group.describe(index), why));
            };
            chosen_tokens += chosen.trained_tokens();
        }
        let averaged_over_tokens = self.config.sft_aggregation == Aggregation::TokenMean;
        let denominator = |likelihood: bool| {
            if likelihood && averaged_over_tokens { chosen_tokens as f64 } else { groups.len() as f64 }
        };
        Ok(summands(&self.config).iter().map(|summand| denominator(summand.loss.is_none())).collect())
    }

    fn loss(&self, model: &dyn CausalLm, batch: &PackedBatch, groups: &[PromptGroup]) -> Result<LossOutput> {
        if self.config.couples_rows() {
            let why =
                "aot couples the rows of the optimiser batch; the loop must survey the whole batch first";
            return Err(Error::input("loss_type", why));
        }
        let reference = self.reference(model, batch, groups)?;
        dpo_loss(&self.answers(model, batch)?.inputs(reference.as_ref()), &self.config)
    }

    fn survey(&self, groups: &[PromptGroup]) -> Result<Option<Vec<PromptGroup>>> {
        Ok(self.config.couples_rows().then(|| groups.to_vec()))
    }

    /// Measures log π and, with a reference, log π_ref: (chosen, rejected) each.
    fn measure(
        &self,
        model: &dyn CausalLm,
        batch: &PackedBatch,
        surveyed: &[PromptGroup],
    ) -> Result<Vec<Vec<f64>>> {
        let answers = self.answers(model, batch)?;
        let reference = self.reference(model, batch, surveyed)?;
        let mut measures = vec![Vec::new(); surveyed.len()];
        for pair in [Some(&answers.sums), reference.as_ref()].into_iter().flatten() {
            for side in [&pair.chosen, &pair.rejected] {
                let values = Vec::<f64>::try_from(side.f_detach()?.f_to_kind(Kind::Double)?.f_contiguous()?)?;
                measures.iter_mut().zip(values).for_each(|(measure, value)| measure.push(value));
            }
        }
        Ok(measures)
    }

    /// Notes log π_ref of both sides, where there is a reference, then for each coupled loss what
    /// [`linearise`] gives of it.
    fn couple(&self, groups: &[PromptGroup], measures: &[Vec<f64>]) -> Result<Coupling> {
        let column = |index: usize| -> Result<Tensor> {
            let read = |(row, measure): (usize, &Vec<f64>)| match (measure.get(index), groups.get(row)) {
                (Some(value), _) if value.is_finite() => Ok(*value),
                (Some(value), Some(group)) => {
                    let what = format!("log-probability of {}", group.describe(row));
                    Err(Error::NonFinite { what, value: *value })
                }
                _ => Err(Error::input("measures", format!("row {row} has too few numbers"))),
            };
            Ok(Tensor::f_from_slice(&measures.iter().enumerate().map(read).collect::<Result<Vec<_>>>()?)?)
        };
        let (chosen, rejected) =
            (column(0)?.f_set_requires_grad(true)?, column(1)?.f_set_requires_grad(true)?);
        let reference = match self.config.uses_reference() {
            true => Some(Pair { chosen: column(2)?, rejected: column(3)? }),
            false => None,
        };
        let inputs = DpoInputs {
            ref_chosen: reference.as_ref().map(|r| &r.chosen),
            ref_rejected: reference.as_ref().map(|r| &r.rejected),
            ..DpoInputs::new(&chosen, &rejected)
        };
        let pairs = Pairs::new(&inputs, &self.config)?;
        let mut notes: Vec<Vec<f64>> =
            measures.iter().map(|measure| measure.iter().skip(2).copied().collect()).collect();
        for loss in self.coupled_losses() {
            let terms = coupled::terms(loss, &pairs, &self.config)?;
            let linear = linearise(&terms, &[&chosen, &rejected])?;
            notes.iter_mut().zip(linear).for_each(|(note, row)| note.extend(row));
        }
        Ok(Coupling { notes, state: Vec::new() })
    }

    fn coupled_loss(
        &self,
        model: &dyn CausalLm,
        batch: &PackedBatch,
        _: &[PromptGroup],
        notes: &[Vec<f64>],
    ) -> Result<LossOutput> {
        let answers = self.answers(model, batch)?;
        let numbers = if self.config.uses_reference() { 2 } else { 0 };
        let reference = match self.config.uses_reference() {
            true => Some(Pair {
                chosen: note_column(notes, 0)?.f_to_device(model.device())?,
                rejected: note_column(notes, 1)?.f_to_device(model.device())?,
            }),
            false => None,
        };
        let pairs = Pairs::new(&answers.inputs(reference.as_ref()), &self.config)?;
        assemble(&pairs, &self.config, |loss| {
            let place = self.coupled_losses().position(|coupled| coupled == loss).unwrap_or(0);
            let start = numbers + 3 * place;
            let rows: Vec<&[f64]> =
                notes.iter().map(|note| note.get(start..start + 3).unwrap_or_default()).collect();
            linear_terms(&rows, &[&pairs.policy.chosen, &pairs.policy.rejected])
        })
    }

    fn after_update(&mut self, updates: u64, policy: &[Parameter]) -> Result<()> {
        self.reference.after_update(updates, policy)
    }

    fn weights(&self) -> Vec<Parameter> {
        self.reference.weights()
    }

    fn check_first_step(&self, metrics: &[(String, f64)]) -> Result<()> {
        let Some((_, loss)) = metrics.iter().find(|(name, _)| name == "loss") else { return Ok(()) };
        let expected = if self.starts_at_reference { self.first_loss()? } else { None };
        let Some(expected) = expected else { return Ok(()) };
        let off = (loss - expected).abs() / expected.abs().max(1.0);
        if off.is_nan() || off > FIRST_LOSS_TOLERANCE {
            let ln_2 = (expected - std::f64::consts::LN_2).abs() < 1e-12;
            let name = if ln_2 { "ln 2 = " } else { "" };
            let why = format!(
                "{loss} instead of {name}{expected:.6} although the policy starts as the reference; the two do not \
                 see the same weights or tokens"
            );
            return Err(Error::input("the first DPO loss", why));
        }
        Ok(())
    }

    fn replicate(&self) -> Result<Box<dyn Objective>> {
        Ok(Box::new(Self {
            config: self.config.clone(),
            reference: self.reference.replicate()?,
            starts_at_reference: self.starts_at_reference,
        }))
    }
}

/// Reads one number of every note.
fn note_column(notes: &[Vec<f64>], index: usize) -> Result<Tensor> {
    let read = |note: &Vec<f64>| {
        note.get(index).copied().ok_or_else(|| Error::input("coupled loss", "a note has too few numbers"))
    };
    Ok(Tensor::f_from_slice(&notes.iter().map(read).collect::<Result<Vec<_>>>()?)?)
}
