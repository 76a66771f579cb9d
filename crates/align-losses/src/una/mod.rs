//! UNA: one implicit reward for pairs, labels and scores; and its relatives that know the partition function.

mod objective;
mod targets;

use align_core::{
    LossComponent, LossOutput, MetricTerm, expect_shape,
    tch::{Kind, Tensor},
};

use crate::labels::margin_metrics;
use crate::{DpoConfig, DpoInputs, Error, Result, UnaConfig, UnaLossType, dpo_loss};

pub use objective::{REFERENCE_REWARDS, Una};
pub use targets::{a_star_target, qrpo_target};

/// Summed log-probabilities of n answers and what their implicit reward is compared with, `[n]` each.
#[derive(Debug, Clone, Copy)]
pub struct FeedbackInputs<'a> {
    /// log π, with gradient.
    pub policy: &'a Tensor,
    /// log π_ref, a constant.
    pub reference: &'a Tensor,
    /// 1 or 0 for a label; a score in [0, 1] for `mse` and `bce`, any number for the other losses.
    pub targets: &'a Tensor,
}

/// Rows of the three kinds; a kind that is absent is `None`.
#[derive(Debug, Clone, Copy, Default)]
pub struct UnaInputs<'a> {
    /// Pairs, whose loss is that of DPO.
    pub pairs: Option<DpoInputs<'a>>,
    /// Answers with a label.
    pub binary: Option<FeedbackInputs<'a>>,
    /// Answers with a score.
    pub scored: Option<FeedbackInputs<'a>>,
}

/// Computes the UNA loss (2408.15339) of pairs, labelled and scored answers.
///
/// With h = log π − log π_ref (sums over tokens), the implicit reward is β h and s^ = σ(β h):
///
/// | rows | `loss_type` | term |
/// | --- | --- | --- |
/// | pairs | any | −log σ(β (h_c − h_r)), [`dpo_loss`] itself |
/// | labels, scores t | `mse` | (s^ − t)² |
/// | labels, scores t | `bce` | −t log σ(β h) − (1 − t) log σ(−β h) |
/// | scores r | `raw_mse`, `qrpo`, `a_star_po` | (β h − r)², r from [`qrpo_target`] or [`a_star_target`] for the last two |
///
/// Three components in this order: `loss/pairs`, `loss/binary`, `loss/scored`, each with the mean over its own rows
/// and the weight of the configuration; an absent kind has no terms and denominator 0. The paper prints equations
/// 10 to 13 with the opposite sign. Its UNA sets f(x) = β log Z(x) to 0, which is the RLHF optimum only where
/// Z(x) = 1; QRPO and A*-PO do not need that. The gradient of `mse` vanishes where s^ saturates, that of `bce`
/// does not.
///
/// Labelled answers have the metrics of [`kto_loss`](crate::kto_loss) at z0 = 0, but for `kl`; scored ones `rewards/scored`,
/// `una/prediction` and `una/target`.
///
/// ```
/// use align_core::tch::Tensor;
/// use align_losses::{FeedbackInputs, UnaConfig, UnaInputs, una_loss};
///
/// let logps = Tensor::from_slice(&[-8.0, -9.0]);
/// let labels = Tensor::from_slice(&[1.0, 0.0]);
/// let rows = FeedbackInputs { policy: &logps, reference: &logps, targets: &labels };
/// let inputs = UnaInputs { binary: Some(rows), ..Default::default() };
/// // At the reference s^ = 1/2.
/// assert_eq!(una_loss(&inputs, &UnaConfig::default())?.mean()?.f_double_value(&[])?, 0.25);
/// # Ok::<(), align_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] when lengths differ; [`Error::Input`] for labels under a loss of unbounded rewards, targets
/// outside [0, 1] under `mse` and `bce`; a configuration outside its range.
pub fn una_loss(inputs: &UnaInputs<'_>, config: &UnaConfig) -> Result<LossOutput> {
    config.validate()?;
    let mut metrics = Vec::new();
    let pairs = match &inputs.pairs {
        Some(pairs) => {
            let output = dpo_loss(pairs, &DpoConfig { beta: config.beta, ..DpoConfig::default() })?;
            metrics.extend(output.metrics);
            output.components.into_iter().next().map(|component| component.terms)
        }
        None => None,
    };
    let bounded = matches!(config.loss_type, UnaLossType::Mse | UnaLossType::Bce);
    let binary = match &inputs.binary {
        Some(_) if !bounded => {
            let why = format!("{:?} regresses on rewards, and a label has no scale", config.loss_type);
            return Err(Error::input("labels", why));
        }
        Some(rows) => {
            let rows = Feedback::new(rows, true)?;
            metrics.extend(rows.label_metrics(config.beta)?);
            Some(rows.terms(config)?)
        }
        None => None,
    };
    let scored = match &inputs.scored {
        Some(rows) => {
            let rows = Feedback::new(rows, bounded)?;
            metrics.extend(rows.score_metrics(config, bounded)?);
            Some(rows.terms(config)?)
        }
        None => None,
    };
    let components = vec![
        component("loss/pairs", config.pair_weight, pairs)?,
        component("loss/binary", config.binary_weight, binary)?,
        component("loss/scored", config.score_weight, scored)?,
    ];
    Ok(LossOutput { components, metrics })
}

fn component(name: &'static str, weight: f64, terms: Option<Tensor>) -> Result<LossComponent> {
    let terms = match terms {
        Some(terms) => terms,
        None => Tensor::f_from_slice::<f64>(&[])?,
    };
    let denominator = terms.numel() as f64;
    Ok(LossComponent { name, weight, terms, denominator })
}

/// Rows of feedback after the checks at the door, in float64.
struct Feedback {
    /// log π.
    policy: Tensor,
    /// h = log π − log π_ref.
    ratios: Tensor,
    targets: Tensor,
}

impl Feedback {
    fn new(rows: &FeedbackInputs<'_>, bounded: bool) -> Result<Self> {
        let shape = rows.policy.size();
        expect_shape("log-probabilities", rows.policy, &[-1])?;
        expect_shape("reference log-probabilities", rows.reference, &shape)?;
        expect_shape("targets", rows.targets, &shape)?;
        let targets = rows.targets.f_detach()?.f_to_kind(Kind::Double)?;
        let values = Vec::<f64>::try_from(targets.f_contiguous()?)?;
        let fits = |value: &f64| if bounded { (0.0..=1.0).contains(value) } else { value.is_finite() };
        if let Some(value) = values.iter().find(|value| !fits(value)) {
            let range = if bounded { "outside [0, 1]" } else { "no finite number" };
            return Err(Error::input("targets", format!("{value} is {range}")));
        }
        let reference = rows.reference.f_detach()?.f_to_kind(Kind::Double)?;
        let policy = rows.policy.f_to_kind(Kind::Double)?;
        Ok(Self { ratios: policy.f_sub(&reference)?, policy, targets })
    }

    fn terms(&self, config: &UnaConfig) -> Result<Tensor> {
        let reward = self.ratios.f_mul_scalar(config.beta)?;
        Ok(match config.loss_type {
            UnaLossType::Mse => reward.f_sigmoid()?.f_sub(&self.targets)?.f_square()?,
            UnaLossType::Bce => {
                // log σ and not the logarithm of σ, which the authors' code has and which underflows.
                let desired = reward.f_log_sigmoid()?.f_mul(&self.targets)?;
                let undesired = self.targets.f_neg()?.f_add_scalar(1.0)?;
                desired.f_add(&reward.f_neg()?.f_log_sigmoid()?.f_mul(&undesired)?)?.f_neg()?
            }
            _ => reward.f_sub(&self.targets)?.f_square()?,
        })
    }

    /// β h and log π of desired and undesired answers, under the names that pairs have, and their margins.
    fn label_metrics(&self, beta: f64) -> Result<Vec<MetricTerm>> {
        let rewards = self.ratios.f_detach()?.f_mul_scalar(beta)?;
        let policy = self.policy.f_detach()?;
        let desired = self.targets.f_gt(0.5)?;
        let undesired = desired.f_logical_not()?;
        let of = |name, values: &Tensor, mask: &Tensor| -> Result<MetricTerm> {
            let count = mask.f_sum(Kind::Int64)?.f_int64_value(&[])? as f64;
            Ok(MetricTerm { count, ..MetricTerm::of(name, &values.f_where_scalarother(mask, 0.0)?)? })
        };
        let mut metrics = vec![
            of("rewards/chosen", &rewards, &desired)?,
            of("rewards/rejected", &rewards, &undesired)?,
            of("logps/chosen", &policy, &desired)?,
            of("logps/rejected", &policy, &undesired)?,
        ];
        let signs = self.targets.f_mul_scalar(2.0)?.f_sub_scalar(1.0)?;
        metrics.extend(margin_metrics(&rewards.f_mul(&signs)?)?);
        Ok(metrics)
    }

    fn score_metrics(&self, config: &UnaConfig, bounded: bool) -> Result<Vec<MetricTerm>> {
        let rewards = self.ratios.f_detach()?.f_mul_scalar(config.beta)?;
        let prediction = if bounded { rewards.f_sigmoid()? } else { rewards.shallow_clone() };
        Ok(vec![
            MetricTerm::of("rewards/scored", &rewards)?,
            MetricTerm::of("una/prediction", &prediction)?,
            MetricTerm::of("una/target", &self.targets)?,
        ])
    }
}
