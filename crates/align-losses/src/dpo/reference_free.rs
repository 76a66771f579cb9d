//! Losses of pairs that look at the policy alone, and the likelihood of the chosen answers.

use align_core::{LossComponent, tch::Tensor};

use super::inputs::{Pairs, Sides};
use super::paired;
use crate::{Aggregation, DpoConfig, Result};

/// Largest average log-probability that ORPO tells from 0: at 0 the odds are infinite. Float32 resolves no more.
const LARGEST_AVERAGE: f64 = -1e-7;

/// Computes −log σ(β (s(c) − s(r)) − γ), s = log π / n (SimPO, 2405.14734 eq. 6) or its [`shaped`] form, with label
/// smoothing as TRL.
///
/// TRL adds the likelihood term of CPO unless `cpo_alpha` is 0; here it is added by naming `sft` as well.
pub(super) fn simpo(pairs: &Pairs, config: &DpoConfig) -> Result<Tensor> {
    let averages = pairs.policy.per_token(pairs.lengths()?)?;
    let scores = averages.map(|average| shaped(average, config.simpo_alpha))?;
    let margin = scores.difference()?.f_mul_scalar(config.beta)?.f_sub_scalar(config.simpo_gamma)?;
    paired::sigmoid(&margin, config.label_smoothing)
}

/// Computes (1 − exp(−α a)) / α of averages a per token (AlphaPO, 2501.03884), which is a at α = 0.
fn shaped(average: &Tensor, alpha: f64) -> Result<Tensor> {
    if alpha == 0.0 {
        return Ok(average.shallow_clone());
    }
    Ok(average.f_mul_scalar(-alpha)?.f_expm1()?.f_div_scalar(-alpha)?)
}

/// Computes −log σ(β (log π(c) − log π(r))) (CPO, 2401.08417 eq. 3), with label smoothing as TRL.
pub(super) fn cpo(policy: &Sides, config: &DpoConfig) -> Result<Tensor> {
    paired::sigmoid(&policy.difference()?.f_mul_scalar(config.beta)?, config.label_smoothing)
}

/// Computes −log σ(log odds(c) − log odds(r)), odds = p / (1 − p) of the average a = log p per token (ORPO,
/// 2403.07691 eq. 4 and 7).
pub(super) fn orpo(pairs: &Pairs) -> Result<Tensor> {
    let log_odds = |average: &Tensor| -> Result<Tensor> {
        let average = average.f_clamp_max(LARGEST_AVERAGE)?;
        Ok(average.f_sub(&log1mexp(&average)?)?)
    };
    let odds = pairs.policy.per_token(pairs.lengths()?)?.map(log_odds)?;
    paired::sigmoid(&odds.difference()?, 0.0)
}

/// Computes log(1 − exp(a)) for a < 0 without cancellation: by expm1 near 0, by log1p far from it.
fn log1mexp(a: &Tensor) -> Result<Tensor> {
    let near = a.f_expm1()?.f_neg()?.f_log()?;
    let far = a.f_exp()?.f_neg()?.f_log1p()?;
    Ok(near.f_where_self(&a.f_gt(-std::f64::consts::LN_2)?, &far)?)
}

/// Makes the negative log-likelihood of the chosen answers.
///
/// * token_mean: terms −log π(c), denominator Σ n_c: the average over all chosen tokens, as TRL's `sft` and CPO;
/// * seq_mean_mean: terms −log π(c) / n_c, denominator B: as IRPO (2404.19733) and the ORPO paper.
///
/// TRL's ORPO averages over the tokens of prompt and answer; here prompts carry no loss.
pub(super) fn likelihood(
    name: &'static str,
    weight: f64,
    pairs: &Pairs,
    aggregation: Aggregation,
) -> Result<LossComponent> {
    let lengths = &pairs.lengths()?.chosen;
    let nll = pairs.likelihood.f_neg()?;
    let (terms, denominator) = match aggregation {
        Aggregation::TokenMean => (nll, lengths.f_sum(lengths.kind())?.f_double_value(&[])?),
        Aggregation::SeqMeanMean => (nll.f_div(lengths)?, pairs.count()),
    };
    Ok(LossComponent { name, weight, terms, denominator })
}
