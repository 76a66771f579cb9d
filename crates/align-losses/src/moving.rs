use align_core::{
    CausalLm, Parameter, align_types::config::ReferenceSync, check_mixable, mix_weights, tch::Kind,
};

use crate::{Error, Result};

/// A reference model that follows the policy: π_ref ← α π + (1 − α) π_ref (TR-DPO, 2404.09656, its soft
/// update; with α = 1 its hard one).
///
/// Its log-probabilities record no gradient. Replicas share its weights, so that one of them moves all. What is known of
/// the reference, a reward or a KL divergence, is relative to the weights it has then.
///
/// ```
/// use align_core::{CausalLm, Parameter, align_types::config::ReferenceSync};
/// use align_losses::{Dpo, DpoConfig, MovingReference, Reference};
///
/// fn objective(policy: &dyn CausalLm, start: Box<dyn CausalLm>) -> align_core::Result<Dpo> {
///     let sync = ReferenceSync { ref_model_mixup_alpha: 0.6, ref_model_sync_steps: 512 };
///     let reference = MovingReference::new(start, sync, &policy.parameters())?;
///     Dpo::new(DpoConfig::default(), Reference::Moving(reference))
/// }
/// ```
pub struct MovingReference {
    model: Box<dyn CausalLm>,
    sync: ReferenceSync,
}

impl std::fmt::Debug for MovingReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MovingReference").field("sync", &self.sync).finish_non_exhaustive()
    }
}

impl MovingReference {
    /// Makes a reference that begins as `model`, whose [`CausalLm::parameters`] are its weights in float32 and in storage
    /// of its own; `policy` are the parameters that it is to follow.
    ///
    /// # Errors
    /// A schedule outside its range; [`Error::Input`] where the two are not the same parameters by name and shape, or
    /// share memory.
    pub fn new(model: Box<dyn CausalLm>, sync: ReferenceSync, policy: &[Parameter]) -> Result<Self> {
        sync.validate()?;
        let weights = model.parameters();
        if weights.is_empty() {
            let why = "its weights cannot be changed; load it as a model that is trained";
            return Err(Error::input("moving reference", why));
        }
        check_mixable(&weights, policy)?;
        if let Some(weight) = weights.iter().find(|weight| weight.tensor.kind() != Kind::Float) {
            let why = format!("{} is {:?}; checkpoints hold float32", weight.name, weight.tensor.kind());
            return Err(Error::input("moving reference", why));
        }
        let shared = |(a, b): &(&Parameter, &Parameter)| {
            a.tensor.numel() > 0 && a.tensor.data_ptr() == b.tensor.data_ptr()
        };
        if let Some((weight, _)) = weights.iter().zip(policy).find(shared) {
            let why = format!("it shares {} with the policy and could not differ from it", weight.name);
            return Err(Error::input("moving reference", why));
        }
        Ok(Self { model, sync })
    }

    /// Returns the model as it is now.
    pub fn model(&self) -> &dyn CausalLm {
        self.model.as_ref()
    }

    /// Moves towards the policy if that is due after the update of this number.
    pub(crate) fn after_update(&self, updates: u64, policy: &[Parameter]) -> Result<()> {
        if !self.sync.is_due(updates) {
            return Ok(());
        }
        mix_weights(&self.model.parameters(), policy, self.sync.ref_model_mixup_alpha)
    }

    pub(crate) fn replicate(&self) -> Result<Self> {
        Ok(Self { model: self.model.replicate()?, sync: self.sync })
    }
}
