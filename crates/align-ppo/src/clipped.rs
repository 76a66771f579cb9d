use align_core::{
    LossComponent, LossOutput, MetricTerm, expect_shape, kl,
    tch::{Kind, Tensor},
};

use crate::{Averaging, Error, KlEstimator, PpoConfig, Result, shaping::LARGEST_K3};

/// Bound of a log-ratio before it is exponentiated.
const LARGEST_LOG_RATIO: f64 = 20.0;

/// What the policy's loss reads of N tokens of some answers; all tensors are `[N]`.
#[derive(Debug, Clone, Copy)]
pub struct PolicyInputs<'a> {
    /// log π of each token at the sampling temperature, with gradient.
    pub log_probs: &'a Tensor,
    /// log π before the first update of the iteration, a constant.
    pub old: &'a Tensor,
    /// The advantages, constants.
    pub advantages: &'a Tensor,
    /// log π_ref, a constant; needed where the KL is part of the loss.
    pub reference: Option<&'a Tensor>,
    /// The entropy of the policy at each token, with gradient; needed for an entropy bonus.
    pub entropy: Option<&'a Tensor>,
    /// The tokens of each answer, N together.
    pub lens: &'a [usize],
}

/// What the policy's loss is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PolicyLoss {
    /// ε below and above 1; `None` does not clip.
    pub clip: Option<(f64, f64)>,
    /// Estimator and weight of the KL divergence in the loss.
    pub kl: Option<(KlEstimator, f64)>,
    /// Weight of the entropy bonus; 0: none.
    pub entropy_coef: f64,
    /// Over what tokens are averaged.
    pub averaging: Averaging,
}

impl PolicyLoss {
    /// Takes the loss of a configuration; `token_limit` is the most tokens of an answer.
    pub fn of(config: &PpoConfig, token_limit: usize) -> Self {
        let high = config.cliprange_high.unwrap_or(config.cliprange);
        let kl_coef = config.loss_kl_coef();
        Self {
            clip: config.advantage.clips().then_some((config.cliprange, high)),
            kl: (kl_coef > 0.0).then_some((config.kl_estimator, kl_coef)),
            entropy_coef: config.entropy_coef,
            averaging: Averaging { mode: config.aggregation(), token_limit },
        }
    }

    /// Counts the components of the loss, which all have the same denominator.
    pub(crate) fn components(&self) -> usize {
        1 + usize::from(self.kl.is_some()) + usize::from(self.entropy_coef > 0.0)
    }
}

fn constant(what: &'static str, tensor: &Tensor, shape: &[i64]) -> Result<Tensor> {
    expect_shape(what, tensor, shape)?;
    Ok(tensor.f_detach()?.f_to_kind(Kind::Double)?)
}

/// Computes the loss of the policy from N tokens: with ρ = π / π_old, a token's term is
/// max(−A ρ, −A clip(ρ, 1 − ε, 1 + ε)) (1707.06347 eq. 7), or −A ρ without clipping.
///
/// Components, each averaged as [`PolicyLoss::averaging`] has it: `loss/policy_avg`; `loss/kl_avg` with the weight of the
/// KL divergence (2402.03300 eq. 3 for k3, at most 10 a token), without an importance weight, as published, so that after
/// the first update of an iteration it is that of the older policy's answers; `loss/entropy_avg` = −H with the weight of
/// the bonus.
///
/// Metrics per token: `policy/approxkl_avg` = mean of (log ρ)² / 2, `policy/clipfrac_avg` = share of tokens where the
/// clipped term is the larger one, `val/ratio` = mean ρ; and `loss/policy_avg` where it is the only component.
///
/// ```
/// use align_core::tch::Tensor;
/// use align_ppo::{PolicyInputs, PolicyLoss, PpoConfig, policy_loss};
///
/// let (new, old) = (Tensor::from_slice(&[-0.8, -2.0]), Tensor::from_slice(&[-1.0, -2.0]));
/// let advantages = Tensor::from_slice(&[1.0, -0.5]);
/// let inputs =
///     PolicyInputs { log_probs: &new, old: &old, advantages: &advantages, reference: None, entropy: None, lens: &[2] };
/// let loss = policy_loss(&inputs, &PolicyLoss::of(&PpoConfig::default(), 128))?;
/// // The first ratio, e^0.2, is clipped to 1.2; the second is 1.
/// assert!((loss.mean()?.f_double_value(&[])? - (-1.2 + 0.5) / 2.0).abs() < 1e-12);
/// # Ok::<(), align_ppo::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`](align_core::Error::Shape) for tensors of another shape; a reference or entropy that is missing.
pub fn policy_loss(inputs: &PolicyInputs<'_>, loss: &PolicyLoss) -> Result<LossOutput> {
    let tokens = inputs.lens.iter().sum::<usize>() as i64;
    expect_shape("log-probabilities", inputs.log_probs, &[tokens])?;
    let log_probs = inputs.log_probs.f_to_kind(Kind::Double)?;
    let old = constant("old log-probabilities", inputs.old, &[tokens])?;
    let advantages = constant("advantages", inputs.advantages, &[tokens])?;
    let log_ratio = log_probs.f_sub(&old)?;
    let ratio = log_ratio.f_clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)?.f_exp()?;
    let plain = ratio.f_mul(&advantages)?.f_neg()?;
    let (terms, clipped) = match loss.clip {
        None => (plain, None),
        Some((low, high)) => {
            let limited = ratio.f_clamp(1.0 - low, 1.0 + high)?.f_mul(&advantages)?.f_neg()?;
            let fired = limited.f_gt_tensor(&plain)?.f_to_kind(Kind::Double)?;
            (plain.f_max_other(&limited)?, Some(fired))
        }
    };
    let denominator = loss.averaging.denominator(inputs.lens.iter().copied());
    let component = |name, weight, terms: &Tensor| -> Result<LossComponent> {
        Ok(LossComponent { name, weight, terms: loss.averaging.weigh(terms, inputs.lens)?, denominator })
    };
    let mut components = vec![component("loss/policy_avg", 1.0, &terms)?];
    if let Some((estimator, weight)) = loss.kl {
        let reference = inputs.reference.ok_or_else(|| Error::input("reference", "the loss needs one"))?;
        let reference = constant("reference log-probabilities", reference, &[tokens])?;
        let terms = match estimator {
            KlEstimator::K1 => return Err(Error::input("kl-estimator", "k1 has no gradient as a loss")),
            KlEstimator::K2 => kl::k2(&log_probs, &reference)?,
            KlEstimator::K3 => kl::k3(&log_probs, &reference)?.f_clamp_max(LARGEST_K3)?,
        };
        components.push(component("loss/kl_avg", weight, &terms)?);
    }
    if loss.entropy_coef > 0.0 {
        let entropy = inputs.entropy.ok_or_else(|| Error::input("entropy", "the bonus needs it"))?;
        expect_shape("entropies", entropy, &[tokens])?;
        components.push(component(
            "loss/entropy_avg",
            loss.entropy_coef,
            &entropy.f_to_kind(Kind::Double)?.f_neg()?,
        )?);
    }
    let mut metrics = Vec::new();
    if tokens > 0 {
        metrics.push(MetricTerm::of(
            "policy/approxkl_avg",
            &log_ratio.f_detach()?.f_square()?.f_mul_scalar(0.5)?,
        )?);
        metrics.push(MetricTerm::of("val/ratio", &ratio)?);
        metrics.extend(clipped.map(|fired| MetricTerm::of("policy/clipfrac_avg", &fired)).transpose()?);
    }
    if let (true, [only]) = (tokens > 0, components.as_slice()) {
        // Of several components each is shown anyway.
        metrics.push(MetricTerm { count: denominator, ..MetricTerm::of(only.name, &only.terms)? });
    }
    Ok(LossOutput { components, metrics })
}

/// What the critic's loss reads of N tokens; all tensors are `[N]`, in the critic's units.
#[derive(Debug, Clone, Copy)]
pub struct ValueInputs<'a> {
    /// The values now, with gradient.
    pub values: &'a Tensor,
    /// The values at the time of the rollout, constants.
    pub old: &'a Tensor,
    /// What the critic is to predict, constants.
    pub returns: &'a Tensor,
}

/// Computes the loss of the critic from N tokens: ½ max((v − R)², (clip(v, v_old − ε, v_old + ε) − R)²), averaged over
/// tokens (lm-human-preferences; the larger of the two is the pessimistic one).
///
/// The component is `loss/value_avg` with weight 1; the metric `val/clipfrac_avg` is the share of tokens where the clipped
/// term is the larger one.
///
/// ```
/// use align_core::tch::Tensor;
/// use align_ppo::{ValueInputs, value_loss};
///
/// let (values, old, returns) = (Tensor::from_slice(&[1.0]), Tensor::from_slice(&[0.5]), Tensor::from_slice(&[2.0]));
/// let loss = value_loss(&ValueInputs { values: &values, old: &old, returns: &returns }, 0.2)?;
/// // The value may move to 0.7 only: ½ 1.3².
/// assert!((loss.mean()?.f_double_value(&[])? - 0.845).abs() < 1e-12);
/// # Ok::<(), align_ppo::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`](align_core::Error::Shape) for tensors of another shape.
pub fn value_loss(inputs: &ValueInputs<'_>, cliprange: f64) -> Result<LossOutput> {
    expect_shape("values", inputs.values, &[-1])?;
    let shape = inputs.values.size();
    let values = inputs.values.f_to_kind(Kind::Double)?;
    let old = constant("old values", inputs.old, &shape)?;
    let returns = constant("returns", inputs.returns, &shape)?;
    // Bounds, not a bounded difference added again: a value inside them keeps its last bit, and nothing seems clipped.
    let (low, high) = (old.f_sub_scalar(cliprange)?, old.f_add_scalar(cliprange)?);
    let plain = values.f_sub(&returns)?.f_square()?;
    let limited = values.f_clamp_tensor(Some(&low), Some(&high))?.f_sub(&returns)?.f_square()?;
    let terms = plain.f_max_other(&limited)?.f_mul_scalar(0.5)?;
    let tokens = values.numel();
    let mut metrics = Vec::new();
    if tokens > 0 {
        let fired = limited.f_gt_tensor(&plain)?.f_to_kind(Kind::Double)?;
        metrics.push(MetricTerm::of("val/clipfrac_avg", &fired)?);
    }
    let component = LossComponent { name: "loss/value_avg", weight: 1.0, terms, denominator: tokens as f64 };
    Ok(LossOutput { components: vec![component], metrics })
}
