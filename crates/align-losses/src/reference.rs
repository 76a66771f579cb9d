use align_core::{
    CausalLm, PackedBatch, Parameter, TokenLogProbs,
    align_types::{Completion, PromptGroup},
    no_grad,
    tch::Tensor,
};

use crate::{Error, MovingReference, Result};

/// Where the reference log-probabilities of an objective come from.
pub enum Reference {
    /// A frozen model, run beside the policy.
    Model(Box<dyn CausalLm>),
    /// A model that follows the policy, run beside it.
    Moving(MovingReference),
    /// [`Completion::ref_logprob`] of every answer, computed before.
    Precomputed,
    /// None: the loss is reference-free.
    Free,
}

impl std::fmt::Debug for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Model(_) => "Model",
            Self::Moving(_) => "Moving",
            Self::Precomputed => "Precomputed",
            Self::Free => "Free",
        })
    }
}

impl Reference {
    /// Makes another reference over the same weights, for another thread.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn replicate(&self) -> Result<Self> {
        Ok(match self {
            Self::Model(model) => Self::Model(model.replicate()?),
            Self::Moving(moving) => Self::Moving(moving.replicate()?),
            Self::Precomputed => Self::Precomputed,
            Self::Free => Self::Free,
        })
    }

    /// Returns the summed log-probabilities of the answers, `[C]`, without gradient.
    pub(crate) fn sums(&self, batch: &PackedBatch, groups: &[PromptGroup]) -> Result<Option<Tensor>> {
        if let Some(model) = self.model() {
            return Ok(Some(frozen(model, batch)?.sums()?));
        }
        match self {
            Self::Free | Self::Model(_) | Self::Moving(_) => Ok(None),
            Self::Precomputed => {
                let mut sums = Vec::new();
                for (index, group) in groups.iter().enumerate() {
                    for completion in &group.completions {
                        sums.push(precomputed(completion, group, index)?);
                    }
                }
                Ok(Some(Tensor::f_from_slice(&sums)?))
            }
        }
    }

    /// As [`Self::sums`], refusing a reference that is not there.
    pub(crate) fn required_sums(&self, batch: &PackedBatch, groups: &[PromptGroup]) -> Result<Tensor> {
        self.sums(batch, groups)?.ok_or_else(|| Error::input("reference", "this loss needs one"))
    }

    /// Returns the model, where there is one.
    pub fn model(&self) -> Option<&dyn CausalLm> {
        match self {
            Self::Model(model) => Some(model.as_ref()),
            Self::Moving(moving) => Some(moving.model()),
            Self::Precomputed | Self::Free => None,
        }
    }

    /// Follows the policy where an update of this number makes it.
    ///
    /// # Errors
    /// Parameters that are not those this reference was made for; libtorch refuses.
    pub fn after_update(&self, updates: u64, policy: &[Parameter]) -> Result<()> {
        match self {
            Self::Moving(moving) => moving.after_update(updates, policy),
            Self::Model(_) | Self::Precomputed | Self::Free => Ok(()),
        }
    }

    /// Returns the weights that change while the policy is trained.
    pub fn weights(&self) -> Vec<Parameter> {
        match self {
            Self::Moving(moving) => moving.model().parameters(),
            Self::Model(_) | Self::Precomputed | Self::Free => Vec::new(),
        }
    }
}

/// Computes log-probabilities that nothing trains.
pub(crate) fn frozen(model: &dyn CausalLm, batch: &PackedBatch) -> Result<TokenLogProbs> {
    let _guard = no_grad();
    model.token_log_probs(batch, 1.0)
}

fn precomputed(completion: &Completion, group: &PromptGroup, index: usize) -> Result<f64> {
    match completion.ref_logprob {
        Some(sum) if sum.is_finite() => Ok(sum),
        Some(value) => {
            let what = format!("reference log-probability of {}", group.describe(index));
            Err(Error::NonFinite { what, value })
        }
        None => Err(Error::input(group.describe(index), "its reference log-probabilities were not computed")),
    }
}

/// Largest implicit reward at the first step when policy and reference are the same weights.
const FIRST_REWARD_TOLERANCE: f64 = 1e-4;

/// Checks that the implicit rewards of the first step are 0, as they are while policy and reference are equal.
pub(crate) fn check_rewards_are_zero(metrics: &[(String, f64)]) -> Result<()> {
    let rewards = ["rewards/chosen", "rewards/rejected", "rewards/scored"];
    for (name, value) in metrics.iter().filter(|(name, _)| rewards.contains(&name.as_str())) {
        if value.is_nan() || value.abs() > FIRST_REWARD_TOLERANCE {
            let why = format!(
                "{value} instead of 0 although the policy starts as the reference; the two do not see the same \
                 weights or tokens"
            );
            return Err(Error::input(format!("the first {name}"), why));
        }
    }
    Ok(())
}
