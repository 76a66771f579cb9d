use align_core::{CausalLm, PackedBatch, Parameter, TokenLogProbs, align_types::PromptGroup, tch::Tensor};
use align_losses::Reference;

use crate::{Error, MeasureLayout, PpoConfig, Result, entropies};

/// The reference policies of an on-policy method.
///
/// Log-probabilities of samples are computed once per iteration, before its first update: the losses read them from the
/// trajectories. One that moves does so between iterations.
#[derive(Default)]
pub struct References {
    /// The reference that training is held to; a model, frozen or moving.
    reference: Option<Reference>,
    /// The first reference beside one that moves, so that the KL divergence to it stays known.
    first: Option<Box<dyn CausalLm>>,
}

impl std::fmt::Debug for References {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("References")
            .field("reference", &self.reference)
            .field("first", &self.first.is_some())
            .finish()
    }
}

impl References {
    /// Takes no reference: nothing is held to one, and no KL divergence is known.
    pub fn none() -> Self {
        Self::default()
    }

    /// Takes a frozen model.
    pub fn frozen(model: Box<dyn CausalLm>) -> Self {
        Self { reference: Some(Reference::Model(model)), first: None }
    }

    /// Takes a reference that follows the policy, and beside it the one that it was at first.
    pub fn moving(reference: align_losses::MovingReference, first: Box<dyn CausalLm>) -> Self {
        Self { reference: Some(Reference::Moving(reference)), first: Some(first) }
    }

    /// Returns the reference as it is now.
    pub fn model(&self) -> Option<&dyn CausalLm> {
        self.reference.as_ref().and_then(Reference::model)
    }

    pub(super) fn layout(&self) -> MeasureLayout {
        MeasureLayout {
            policy: true,
            reference: self.reference.is_some(),
            first_reference: self.first.is_some(),
            values: false,
        }
    }

    pub(super) fn replicate(&self) -> Result<Self> {
        let reference = self.reference.as_ref().map(Reference::replicate).transpose()?;
        let first = self.first.as_ref().map(|model| model.replicate()).transpose()?;
        Ok(Self { reference, first })
    }

    /// Lets a moving reference follow: it does so at every call, once per iteration.
    pub(super) fn after_iteration(&self, policy: &[Parameter]) -> Result<()> {
        self.reference.as_ref().map_or(Ok(()), |reference| reference.after_update(1, policy))
    }

    /// Checks that a reference moves where the configuration says so, and only there.
    pub(super) fn check(&self, config: &PpoConfig) -> Result<()> {
        let moves = matches!(self.reference, Some(Reference::Moving(_)));
        if moves == config.ref_ema.is_some() {
            return Ok(());
        }
        let why =
            if moves { "it moves, but there is no ref-ema" } else { "it is frozen, but ref-ema moves it" };
        Err(Error::input("reference", why))
    }

    pub(super) fn weights(&self) -> Vec<Parameter> {
        self.reference.as_ref().map(Reference::weights).unwrap_or_default()
    }

    /// Measures sampled answers, as [`MeasureLayout`] has it without values: `log_probs` and `logits` are the policy's.
    pub(super) fn measure(
        &self,
        batch: &PackedBatch,
        log_probs: TokenLogProbs,
        logits: &Tensor,
        temperature: f64,
    ) -> Result<Vec<Vec<Vec<f32>>>> {
        let mut columns = vec![log_probs.to_vecs()?];
        let models = self.model().into_iter().chain(self.first.as_deref());
        let vocabulary = logits.size().last().copied().unwrap_or(0);
        for model in models {
            if model.vocab_size() as i64 != vocabulary {
                let why = format!("{} tokens, and the policy has {vocabulary}", model.vocab_size());
                return Err(Error::input("vocabulary of the reference", why));
            }
            columns.push(model.token_log_probs(batch, temperature)?.to_vecs()?);
        }
        let entropies =
            TokenLogProbs::new(entropies(logits, temperature)?, batch.completion_lens().to_vec())?;
        columns.push(entropies.to_vecs()?);
        Ok(columns)
    }
}

/// Puts columns of numbers by completion (`[column][completion][number]`) together, one list per group, of the sampled
/// completions alone.
pub(super) fn by_group(groups: &[PromptGroup], columns: &[Vec<Vec<f32>>]) -> Result<Vec<Vec<f64>>> {
    let mut place = 0;
    let mut lists = Vec::with_capacity(groups.len());
    for (index, group) in groups.iter().enumerate() {
        let mut list = Vec::new();
        for (answer, completion) in group.completions.iter().enumerate() {
            if completion.trajectory.is_some() {
                for column in columns {
                    let numbers = column.get(place).map(Vec::as_slice).unwrap_or_default();
                    if numbers.len() < completion.token_ids.len() {
                        let name = crate::answers::name_of(group, index, answer);
                        return Err(Error::input(
                            name,
                            "it was sampled, but not all of its tokens are trained on",
                        ));
                    }
                    list.extend(numbers.iter().map(|number| f64::from(*number)));
                }
            }
            place += 1;
        }
        lists.push(list);
    }
    Ok(lists)
}
