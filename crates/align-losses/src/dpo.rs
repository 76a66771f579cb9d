use align_core::{
    CausalLm, LossComponent, LossOutput, MetricTerm, Objective, PackedBatch,
    align_types::{Completion, PromptGroup},
    expect_shape, no_grad,
    tch::{Kind, Tensor},
};

use crate::{DpoConfig, DpoLossType, Error, Result};

/// Summed log-probabilities of the answers of B pairs, each `[B]`.
///
/// The roles have names because four tensors of one shape in a row can be swapped without anybody noticing.
#[derive(Debug, Clone, Copy)]
pub struct DpoInputs<'a> {
    /// log π(chosen), with gradient.
    pub chosen: &'a Tensor,
    /// log π(rejected), with gradient.
    pub rejected: &'a Tensor,
    /// log π_ref(chosen); `None` exactly when the loss is reference-free.
    pub ref_chosen: Option<&'a Tensor>,
    /// log π_ref(rejected); `None` exactly when the loss is reference-free.
    pub ref_rejected: Option<&'a Tensor>,
}

impl DpoInputs<'_> {
    /// Computes h = log π − log π_ref of both sides.
    fn log_ratios(&self, config: &DpoConfig) -> Result<(Tensor, Tensor)> {
        let shape = self.chosen.size();
        expect_shape("chosen log-probabilities", self.chosen, &[-1])?;
        expect_shape("rejected log-probabilities", self.rejected, &shape)?;
        match (self.ref_chosen, self.ref_rejected, config.reference_free) {
            (None, None, true) => Ok((self.chosen.shallow_clone(), self.rejected.shallow_clone())),
            (Some(ref_chosen), Some(ref_rejected), false) => {
                expect_shape("reference log-probabilities of chosen", ref_chosen, &shape)?;
                expect_shape("reference log-probabilities of rejected", ref_rejected, &shape)?;
                // The reference is a constant; a graph behind it would train it.
                let chosen = self.chosen.f_sub(&ref_chosen.f_detach()?)?;
                Ok((chosen, self.rejected.f_sub(&ref_rejected.f_detach()?)?))
            }
            (_, _, true) => {
                Err(Error::input("reference log-probabilities", "given to a loss that is reference-free"))
            }
            (_, _, false) => {
                let why = "missing; give both sides, or set reference_free";
                Err(Error::input("reference log-probabilities", why))
            }
        }
    }
}

/// Computes the DPO loss of B pairs.
///
/// With h = log π − log π_ref of each side, D = h_chosen − h_rejected and label smoothing ε:
///
/// loss = −(1 − ε) log σ(β D) − ε log σ(−β D)
///
/// (2305.18290 eq. 7; ε > 0 is the conservative form of E. Mitchell, "A note on DPO with noisy preferences",
/// 2023.) Terms `[B]`, denominator B. The metrics are those of TRL: `rewards/chosen` = β h_chosen,
/// `rewards/rejected`, `rewards/margins` = β D, `rewards/accuracies` = share of β h_chosen > β h_rejected
/// (strict), `logps/chosen`, `logps/rejected`. Without a reference β h is no implicit reward, so the first four
/// are called `reference_free/…`.
///
/// ```
/// use align_core::tch::Tensor;
/// use align_losses::{DpoConfig, DpoInputs, dpo_loss};
///
/// let (chosen, rejected) = (Tensor::from_slice(&[-10.0]), Tensor::from_slice(&[-11.0]));
/// let (ref_chosen, ref_rejected) = (Tensor::from_slice(&[-10.5]), Tensor::from_slice(&[-10.5]));
/// let inputs = DpoInputs {
///     chosen: &chosen,
///     rejected: &rejected,
///     ref_chosen: Some(&ref_chosen),
///     ref_rejected: Some(&ref_rejected),
/// };
/// let loss = dpo_loss(&inputs, &DpoConfig::default())?.mean()?.f_double_value(&[])?;
/// assert!((loss - 0.64439666).abs() < 1e-8);
/// # Ok::<(), align_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] when the tensors differ in shape or are not `[B]`; [`Error::Input`] when the reference is
/// missing, or given to a reference-free loss; a configuration outside its range.
pub fn dpo_loss(inputs: &DpoInputs<'_>, config: &DpoConfig) -> Result<LossOutput> {
    config.validate()?;
    let (chosen, rejected) = inputs.log_ratios(config)?;
    let chosen_reward = chosen.f_mul_scalar(config.beta)?;
    let rejected_reward = rejected.f_mul_scalar(config.beta)?;
    let margin = chosen_reward.f_sub(&rejected_reward)?;
    let terms = match config.loss_type {
        DpoLossType::Sigmoid => sigmoid(&margin, config.label_smoothing)?,
        other => return Err(Error::input("loss_type", format!("{other:?} is not implemented"))),
    };
    let denominator = margin.numel() as f64;
    let metrics = metrics(inputs, config, &chosen_reward, &rejected_reward)?;
    Ok(LossOutput {
        components: vec![LossComponent { name: "dpo", weight: 1.0, terms, denominator }],
        metrics,
    })
}

/// −(1 − ε) log σ(z) − ε log σ(−z), by log-sigmoid: log(σ(z)) underflows beyond z ≈ −88 in float32.
fn sigmoid(margin: &Tensor, smoothing: f64) -> Result<Tensor> {
    let right = margin.f_log_sigmoid()?.f_mul_scalar(smoothing - 1.0)?;
    if smoothing == 0.0 {
        return Ok(right);
    }
    Ok(right.f_sub(&margin.f_neg()?.f_log_sigmoid()?.f_mul_scalar(smoothing)?)?)
}

fn metrics(
    inputs: &DpoInputs<'_>,
    config: &DpoConfig,
    chosen: &Tensor,
    rejected: &Tensor,
) -> Result<Vec<MetricTerm>> {
    let names = if config.reference_free {
        [
            "reference_free/chosen",
            "reference_free/rejected",
            "reference_free/margins",
            "reference_free/accuracies",
        ]
    } else {
        ["rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"]
    };
    let (chosen, rejected) = (chosen.f_detach()?, rejected.f_detach()?);
    let [chosen_name, rejected_name, margin_name, accuracy_name] = names;
    Ok(vec![
        MetricTerm::of(chosen_name, &chosen)?,
        MetricTerm::of(rejected_name, &rejected)?,
        MetricTerm::of(margin_name, &chosen.f_sub(&rejected)?)?,
        MetricTerm::of(accuracy_name, &chosen.f_gt_tensor(&rejected)?.f_to_kind(Kind::Double)?)?,
        MetricTerm::of("logps/chosen", inputs.chosen)?,
        MetricTerm::of("logps/rejected", inputs.rejected)?,
    ])
}

/// Where the reference log-probabilities of [`Dpo`] come from.
pub enum Reference {
    /// A frozen model, run beside the policy.
    Model(Box<dyn CausalLm>),
    /// [`Completion::ref_logprob`] of every answer, computed before.
    Precomputed,
    /// None: the loss is reference-free.
    Free,
}

impl std::fmt::Debug for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Model(_) => "Model",
            Self::Precomputed => "Precomputed",
            Self::Free => "Free",
        })
    }
}

impl Reference {
    fn replicate(&self) -> Result<Self> {
        Ok(match self {
            Self::Model(model) => Self::Model(model.replicate()?),
            Self::Precomputed => Self::Precomputed,
            Self::Free => Self::Free,
        })
    }

    /// Returns the summed log-probabilities of the answers, `[C]`, without gradient.
    fn sums(&self, batch: &PackedBatch, groups: &[PromptGroup]) -> Result<Option<Tensor>> {
        match self {
            Self::Free => Ok(None),
            Self::Model(model) => {
                let _guard = no_grad();
                Ok(Some(model.token_log_probs(batch, 1.0)?.sums()?))
            }
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

/// Direct preference optimisation of pairs: groups of two completions, the chosen one first.
#[derive(Debug)]
pub struct Dpo {
    config: DpoConfig,
    reference: Reference,
    starts_at_reference: bool,
}

/// Largest distance of the first loss from ln 2 when policy and reference are the same weights.
///
/// Rounding leaves some 1e-7; a wrong reference, dropout or another tokenisation leaves far more.
const FIRST_LOSS_TOLERANCE: f64 = 1e-4;

impl Dpo {
    /// Makes the objective.
    ///
    /// # Errors
    /// A configuration outside its range, or a reference where the configuration says reference-free (and the
    /// other way round).
    pub fn new(config: DpoConfig, reference: Reference) -> Result<Self> {
        config.validate()?;
        if config.reference_free != matches!(reference, Reference::Free) {
            let why = format!("{reference:?} does not go with reference_free = {}", config.reference_free);
            return Err(Error::input("reference", why));
        }
        Ok(Self { config, reference, starts_at_reference: false })
    }

    /// States that policy and reference are equal before the first update: the first loss is then checked
    /// to be ln 2.
    #[must_use]
    pub fn starting_at_reference(mut self) -> Self {
        self.starts_at_reference = true;
        self
    }
}

impl Objective for Dpo {
    fn denominators(&self, groups: &[PromptGroup]) -> Result<Vec<f64>> {
        for (index, group) in groups.iter().enumerate() {
            if group.completions.len() != 2 {
                let why = format!("DPO needs a pair, this group has {} completions", group.completions.len());
                return Err(Error::input(group.describe(index), why));
            }
        }
        Ok(vec![groups.len() as f64])
    }

    fn loss(&self, model: &dyn CausalLm, batch: &PackedBatch, groups: &[PromptGroup]) -> Result<LossOutput> {
        let split = |sums: &Tensor| -> Result<(Tensor, Tensor)> {
            let pairs = sums.f_reshape([-1, 2])?;
            Ok((pairs.f_select(1, 0)?, pairs.f_select(1, 1)?))
        };
        let (chosen, rejected) = split(&model.token_log_probs(batch, 1.0)?.sums()?)?;
        let reference = match self.reference.sums(batch, groups)? {
            Some(sums) => Some(split(&sums.f_to_device(model.device())?)?),
            None => None,
        };
        let inputs = DpoInputs {
            chosen: &chosen,
            rejected: &rejected,
            ref_chosen: reference.as_ref().map(|r| &r.0),
            ref_rejected: reference.as_ref().map(|r| &r.1),
        };
        dpo_loss(&inputs, &self.config)
    }

    fn check_first_step(&self, metrics: &[(String, f64)]) -> Result<()> {
        let Some((_, loss)) = metrics.iter().find(|(name, _)| name == "loss") else { return Ok(()) };
        let off = (loss - std::f64::consts::LN_2).abs();
        if self.starts_at_reference && (off.is_nan() || off > FIRST_LOSS_TOLERANCE) {
            let why = format!(
                "{loss} instead of ln 2 = 0.693147 although the policy starts as the reference; the two do not see \
                 the same weights or tokens"
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
