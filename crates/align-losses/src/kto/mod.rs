//! Losses of labelled answers: KTO, the unpaired APO, and BCO.

mod objective;

use align_core::{
    LossComponent, LossOutput, MetricTerm, expect_shape,
    tch::{Kind, Tensor},
};

use crate::labels::margin_metrics;
use crate::{Error, KtoConfig, KtoLossType, Result};

pub use objective::Kto;

/// Summed log-probabilities of m answers, `[m]` each, and their labels.
#[derive(Debug, Clone, Copy)]
pub struct KtoInputs<'a> {
    /// log π, with gradient.
    pub policy: &'a Tensor,
    /// log π_ref, a constant.
    pub reference: &'a Tensor,
    /// `true` for a desirable answer, one per answer.
    pub desirable: &'a [bool],
}

impl KtoInputs<'_> {
    /// Computes h = log π − log π_ref in float64, and +1 or −1 per label.
    fn signed(&self) -> Result<(Tensor, Tensor)> {
        let shape = [self.desirable.len() as i64];
        expect_shape("log-probabilities", self.policy, &shape)?;
        expect_shape("reference log-probabilities", self.reference, &shape)?;
        let reference = self.reference.f_detach()?.f_to_kind(Kind::Double)?;
        let ratios = self.policy.f_to_kind(Kind::Double)?.f_sub(&reference)?;
        Ok((ratios, self.per_label(1.0, -1.0)?))
    }

    /// Makes a tensor with one of two numbers per answer.
    fn per_label(&self, desirable: f64, undesirable: f64) -> Result<Tensor> {
        let pick = |label: &bool| if *label { desirable } else { undesirable };
        let values: Vec<f64> = self.desirable.iter().map(pick).collect();
        Ok(Tensor::f_from_slice(&values)?.f_to_device(self.policy.device())?)
    }

    /// Sums `values` over the answers of one label.
    fn sum_of(&self, name: &'static str, label: bool, values: &Tensor) -> Result<MetricTerm> {
        let mask = self.per_label(f64::from(u8::from(label)), f64::from(u8::from(!label)))?;
        let kept = values.f_detach()?.f_where_scalarother(&mask.f_to_kind(Kind::Bool)?, 0.0)?;
        let count = self.desirable.iter().filter(|l| **l == label).count() as f64;
        Ok(MetricTerm { count, ..MetricTerm::of(name, &kept)? })
    }

    /// Makes the metrics; `margins` is how far each reward lies on the side of its label.
    fn metrics(&self, ratios: &Tensor, beta: f64, margins: &Tensor) -> Result<Vec<MetricTerm>> {
        let rewards = ratios.f_detach()?.f_mul_scalar(beta)?;
        let policy = self.policy.f_to_kind(Kind::Double)?;
        let mut metrics = vec![
            self.sum_of("rewards/chosen", true, &rewards)?,
            self.sum_of("rewards/rejected", false, &rewards)?,
            self.sum_of("logps/chosen", true, &policy)?,
            self.sum_of("logps/rejected", false, &policy)?,
        ];
        metrics.extend(margin_metrics(margins)?);
        Ok(metrics)
    }
}

/// Computes the baseline z0 of KTO from answers under prompts that are not theirs (2402.01306 section 4.2).
///
/// z0 = max(0, mean(log π − log π_ref)) over the mismatched pairs of the *whole optimiser batch*, a constant; the
/// mean is clamped, not its summands. Without a pair (a batch of one row has none) it is 0.
///
/// ```
/// assert_eq!(align_losses::kto_baseline(&[0.5, -0.25, 0.5]), 0.25);
/// assert_eq!(align_losses::kto_baseline(&[-3.0]), 0.0);
/// ```
pub fn kto_baseline(mismatched_ratios: &[f64]) -> f64 {
    let count = mismatched_ratios.len().max(1) as f64;
    (mismatched_ratios.iter().sum::<f64>() / count).max(0.0)
}

/// Computes the KTO loss of m labelled answers.
///
/// With h = log π − log π_ref (sums over tokens):
///
/// * `kto`: term λ_D (1 − σ(β (h − z0))) of a desirable, λ_U (1 − σ(β (z0 − h))) of an undesirable answer
///   (2402.01306 eq. 8);
/// * `apo_zero_unpaired`: the same at z0 = 0 (2408.06266 eq. 7).
///
/// Terms `[m]` in float64, denominator m: the mean over all answers, whatever their labels. The metrics are TRL's:
/// `rewards/chosen` and `rewards/rejected` = β h averaged over desirable and undesirable answers, `logps/chosen`,
/// `logps/rejected`, `kl` = z0; and of the margins β (h − z0), with the opposite sign for undesirable answers, the mean
/// `labels/margins` and the share above 0, `labels/accuracies`.
///
/// ```
/// use align_core::tch::Tensor;
/// use align_losses::{KtoConfig, KtoInputs, kto_loss};
///
/// // Policy and reference agree, z0 = 0: each term is λ / 2.
/// let logps = Tensor::from_slice(&[-8.0, -9.0]);
/// let inputs = KtoInputs { policy: &logps, reference: &logps, desirable: &[true, false] };
/// let config = KtoConfig { desirable_weight: 3.0, ..Default::default() };
/// assert_eq!(kto_loss(&inputs, 0.0, &config)?.mean()?.f_double_value(&[])?, (1.5 + 0.5) / 2.0);
/// # Ok::<(), align_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] when lengths differ; [`Error::Input`] for a baseline that is not finite, below 0, or given to
/// a loss without one, and for `bco`, which is [`bco_loss`]; a configuration outside its range.
pub fn kto_loss(inputs: &KtoInputs<'_>, baseline: f64, config: &KtoConfig) -> Result<LossOutput> {
    config.validate()?;
    let name = match config.loss_type {
        KtoLossType::Kto => "loss/kto",
        KtoLossType::ApoZeroUnpaired if baseline == 0.0 => "loss/apo_zero_unpaired",
        KtoLossType::ApoZeroUnpaired => return Err(Error::input("baseline", "apo_zero_unpaired has none")),
        other => return Err(Error::input("loss_type", format!("{other:?} is not a form of KTO"))),
    };
    if !(baseline >= 0.0 && baseline.is_finite()) {
        return Err(Error::input("baseline", format!("{baseline} is no finite number of at least 0")));
    }
    let (ratios, signs) = inputs.signed()?;
    let weights = inputs.per_label(config.desirable_weight, config.undesirable_weight)?;
    let margins = ratios.f_sub_scalar(baseline)?.f_mul(&signs)?.f_mul_scalar(config.beta)?;
    // 1 − σ(z) as σ(−z): the difference would lose all digits where z is large.
    let terms = margins.f_neg()?.f_sigmoid()?.f_mul(&weights)?;
    let denominator = terms.numel() as f64;
    let mut metrics = inputs.metrics(&ratios, config.beta, &margins)?;
    metrics.push(MetricTerm { name: "kl", sum: baseline * denominator, count: denominator });
    Ok(LossOutput { components: vec![LossComponent { name, weight: 1.0, terms, denominator }], metrics })
}

/// What the terms of BCO need of the whole optimiser batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BcoBatch {
    /// The reward shift δ: the running mean of β h with this batch in it.
    pub shift: f64,
    /// Desirable answers of the batch.
    pub desirable: usize,
    /// Undesirable answers of the batch.
    pub undesirable: usize,
}

/// Computes the BCO loss of m labelled answers (2404.04656 eq. 10).
///
/// With R = β h, δ the running mean of all rewards so far (a constant):
///
/// loss = λ_D mean_D(−log σ(R − δ)) + λ_U mean_U(−log σ(δ − R))
///
/// Each class is averaged over its own answers of the whole optimiser batch; a class that is absent adds nothing.
/// Terms `[m]` in float64, denominator m: a term carries (answers of the batch) / (answers of its class). λ is 1 in
/// the paper. The density ratio for undesirable answers (the paper's section 4.2, an optional weight from a
/// classifier of prompt embeddings) is not there: it needs an embedding model.
///
/// # Errors
/// [`Error::Shape`] when lengths differ; [`Error::Input`] for a shift that is not finite, or fewer answers in the
/// batch than are given; a configuration outside its range.
pub fn bco_loss(inputs: &KtoInputs<'_>, batch: &BcoBatch, config: &KtoConfig) -> Result<LossOutput> {
    config.validate()?;
    let here = inputs.desirable.iter().filter(|label| **label).count();
    if here > batch.desirable || inputs.desirable.len() - here > batch.undesirable {
        return Err(Error::input("labels", "more answers of a class than the whole batch is said to have"));
    }
    if !batch.shift.is_finite() {
        return Err(Error::NonFinite { what: "reward shift of BCO".into(), value: batch.shift });
    }
    let (ratios, signs) = inputs.signed()?;
    let all = (batch.desirable + batch.undesirable) as f64;
    let share = |weight: f64, class: usize| weight * all / (class.max(1) as f64);
    let weights = inputs.per_label(
        share(config.desirable_weight, batch.desirable),
        share(config.undesirable_weight, batch.undesirable),
    )?;
    let margins = ratios.f_mul_scalar(config.beta)?.f_sub_scalar(batch.shift)?.f_mul(&signs)?;
    let terms = margins.f_log_sigmoid()?.f_neg()?.f_mul(&weights)?;
    let denominator = terms.numel() as f64;
    let mut metrics = inputs.metrics(&ratios, config.beta, &margins)?;
    metrics.push(MetricTerm { name: "bco/shift", sum: batch.shift * denominator, count: denominator });
    Ok(LossOutput {
        components: vec![LossComponent { name: "loss/bco", weight: 1.0, terms, denominator }],
        metrics,
    })
}

/// The mean of all rewards that BCO has seen, batch by batch.
///
/// ```
/// use align_losses::RunningMean;
///
/// let mean = RunningMean::default().with(&[1.0, 3.0]).with(&[5.0]);
/// assert_eq!(mean.value(), 3.0);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RunningMean {
    mean: f64,
    count: f64,
}

impl RunningMean {
    /// Returns the mean with more values in it.
    #[must_use]
    pub fn with(self, values: &[f64]) -> Self {
        let count = self.count + values.len() as f64;
        if values.is_empty() {
            return self;
        }
        let distance: f64 = values.iter().map(|value| value - self.mean).sum();
        Self { mean: self.mean + distance / count, count }
    }

    /// Returns the mean; 0 before the first value.
    pub fn value(&self) -> f64 {
        self.mean
    }
}
