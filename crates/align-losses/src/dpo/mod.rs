//! The DPO family: losses of pairs as pure functions, and the objective that a training loop takes.

mod coupled;
mod divergence;
mod inputs;
mod objective;
mod paired;
mod reference_free;
mod tokens;

use align_core::{
    LossComponent, LossOutput, MetricTerm,
    tch::{Kind, Tensor},
};

use crate::{DpoConfig, DpoLossType, Result};
use inputs::Pairs;

pub use inputs::{DpoInputs, PairLengths};
pub use objective::Dpo;
pub use tokens::{length_desensitised_sums, policy_weights};

/// Computes the loss of B pairs: one loss of the DPO family, or several with weights.
///
/// With h = log π − log π_ref of each side, D = h_c − h_r, r = β h, n the numbers of tokens and ε the label
/// smoothing, the term of a pair is
///
/// | `loss_type` | term | source |
/// | --- | --- | --- |
/// | `sigmoid` | −(1 − ε) log σ(β D) − ε log σ(−β D) | 2305.18290 eq. 7 |
/// | `hinge` | max(0, 1 − β D) | 2309.06657 |
/// | `ipo` | (h_c / n_c − h_r / n_r − 1 / (2 β))² | 2310.12036 eq. 17 |
/// | `exo_pair` | KL((σ(β D), σ(−β D)) ‖ (1 − ε, ε)) | 2402.00856 eq. 16 |
/// | `nca_pair` | −log σ(r_c) − ½ log σ(−r_c) − ½ log σ(−r_r) | 2402.05369 |
/// | `robust` | [−(1 − ε) log σ(β D) + ε log σ(−β D)] / (1 − 2 ε) | 2403.00409 |
/// | `bco_pair` | −log σ(r_c) − log σ(−r_r) | 2404.04656 |
/// | `sppo_hard` | (h_c − 1 / (2 β))² + (h_r + 1 / (2 β))² | 2405.00675 |
/// | `aot`, `aot_unpaired` | as `sigmoid`, of differences of order statistics of the batch | 2406.05882 |
/// | `apo_zero` | (1 − σ(r_c)) + σ(r_r) | 2408.06266 eq. 7 |
/// | `apo_down` | σ(r_c) + (1 − σ(r_c − r_r)) | 2408.06266 eq. 8 |
/// | `discopop` | (1 − s) (−log σ(β D)) + s exp(−β D), s = σ(β D / τ) | 2406.08414 eq. 5 |
/// | `sigmoid_norm` | −log σ(β (h_c / n_c − h_r / n_r)) | 2411.15124 |
/// | `sft` | −log π(c), averaged over all chosen tokens | 2405.16436, 2404.19733 |
/// | `simpo` | −log σ(β (s_c − s_r) − γ), s = log π / n, or with `simpo_alpha` (1 − exp(−α log π / n)) / α | 2405.14734 eq. 6, 2501.03884 |
/// | `cpo` | −log σ(β (log π(c) − log π(r))), plus `cpo_alpha` times `sft` | 2401.08417 eq. 3 |
/// | `orpo` | β times −log σ(log odds(c) − log odds(r)), plus `sft` | 2403.07691 eq. 6 |
///
/// With another `f_divergence_type`, h in D is replaced by the score of that divergence (2309.16240); `weights`
/// multiply the terms. Each loss is a component with terms `[B]` in float64 and denominator B (the chosen tokens
/// for a likelihood over tokens). `aot` and `aot_unpaired` take the B pairs for the whole optimiser batch.
///
/// The metrics are those of TRL: `rewards/chosen` = β h_c, `rewards/rejected`, `rewards/margins`,
/// `rewards/accuracies` = share of β h_c > β h_r (strict), `logps/chosen`, `logps/rejected`. Without a reference
/// β log π is no implicit reward, so the first four are called `reference_free/…`; they are then averages per
/// token where a loss is one of averages.
///
/// ```
/// use align_core::tch::Tensor;
/// use align_losses::{DpoConfig, DpoInputs, dpo_loss};
///
/// let (chosen, rejected) = (Tensor::from_slice(&[-10.0]), Tensor::from_slice(&[-11.0]));
/// let (ref_chosen, ref_rejected) = (Tensor::from_slice(&[-10.5]), Tensor::from_slice(&[-10.5]));
/// let inputs = DpoInputs {
///     ref_chosen: Some(&ref_chosen),
///     ref_rejected: Some(&ref_rejected),
///     ..DpoInputs::new(&chosen, &rejected)
/// };
/// let loss = dpo_loss(&inputs, &DpoConfig::default())?.mean()?.f_double_value(&[])?;
/// assert!((loss - 0.64439666).abs() < 1e-8);
/// # Ok::<(), align_core::Error>(())
/// ```
///
/// # Errors
/// [`crate::Error::Shape`] when the tensors differ in shape or are not `[B]`; [`crate::Error::Input`] when
/// reference, lengths or weights are missing, or given where nothing uses them; a configuration outside its range.
pub fn dpo_loss(inputs: &DpoInputs<'_>, config: &DpoConfig) -> Result<LossOutput> {
    config.validate()?;
    let pairs = Pairs::new(inputs, config)?;
    assemble(&pairs, config, |loss| coupled::terms(loss, &pairs, config))
}

/// Puts the components and metrics together; `coupled` computes the terms of losses that couple rows.
fn assemble(
    pairs: &Pairs,
    config: &DpoConfig,
    coupled: impl Fn(DpoLossType) -> Result<Tensor>,
) -> Result<LossOutput> {
    let components = summands(config)
        .into_iter()
        .map(|summand| match summand.loss {
            None => reference_free::likelihood(summand.name, summand.weight, pairs, config.sft_aggregation),
            Some(loss) => {
                let terms = if loss.couples_rows() { coupled(loss)? } else { terms(loss, pairs, config)? };
                let terms = match &pairs.weights {
                    Some(weights) => terms.f_mul(weights)?,
                    None => terms,
                };
                let (name, weight, denominator) = (summand.name, summand.weight, pairs.count());
                Ok(LossComponent { name, weight, terms, denominator })
            }
        })
        .collect::<Result<_>>()?;
    Ok(LossOutput { components, metrics: metrics(pairs, config)? })
}

/// One component of the configured loss.
struct Summand {
    name: &'static str,
    weight: f64,
    /// The loss of pairs; `None` for the likelihood of the chosen answers.
    loss: Option<DpoLossType>,
}

/// Lists the components in their order: that of the losses, a loss of pairs before its likelihood.
fn summands(config: &DpoConfig) -> Vec<Summand> {
    let mut list = Vec::new();
    for (loss, weight) in config.losses() {
        let (pairwise, likelihood) = match loss {
            DpoLossType::Sft => (None, Some((loss.metric(), weight))),
            DpoLossType::Cpo if config.cpo_alpha == 0.0 => (Some(weight), None),
            DpoLossType::Cpo => (Some(weight), Some(("loss/cpo_nll", weight * config.cpo_alpha))),
            DpoLossType::Orpo => (Some(weight * config.beta), Some(("loss/orpo_nll", weight))),
            _ => (Some(weight), None),
        };
        list.extend(pairwise.map(|weight| Summand { name: loss.metric(), weight, loss: Some(loss) }));
        list.extend(likelihood.map(|(name, weight)| Summand { name, weight, loss: None }));
    }
    list
}

/// Computes the terms `[B]` of a loss of single pairs.
fn terms(loss: DpoLossType, pairs: &Pairs, config: &DpoConfig) -> Result<Tensor> {
    let (beta, smoothing) = (config.beta, config.label_smoothing);
    let margin = || -> Result<Tensor> { Ok(pairs.scores.difference()?.f_mul_scalar(beta)?) };
    let averages = || pairs.scores.per_token(pairs.lengths()?)?.difference();
    let rewards = || pairs.ratios.scale(beta);
    match loss {
        DpoLossType::Sigmoid => paired::sigmoid(&margin()?, smoothing),
        DpoLossType::Hinge => paired::hinge(&margin()?),
        DpoLossType::Ipo => paired::ipo(&averages()?, beta),
        DpoLossType::ExoPair => paired::exo_pair(&margin()?, smoothing),
        DpoLossType::NcaPair => paired::nca_pair(&rewards()?),
        DpoLossType::Robust => paired::robust(&margin()?, smoothing),
        DpoLossType::BcoPair => paired::bco_pair(&rewards()?),
        DpoLossType::SppoHard => paired::sppo_hard(&pairs.ratios, beta),
        DpoLossType::ApoZero => paired::apo_zero(&rewards()?),
        DpoLossType::ApoDown => paired::apo_down(&rewards()?),
        DpoLossType::Discopop => paired::discopop(&margin()?, config.discopop_tau),
        // Without the smoothing, which TRL does not apply here.
        DpoLossType::SigmoidNorm => paired::sigmoid(&averages()?.f_mul_scalar(beta)?, 0.0),
        DpoLossType::Simpo => reference_free::simpo(pairs, config),
        DpoLossType::Cpo => reference_free::cpo(&pairs.policy, config),
        DpoLossType::Orpo => reference_free::orpo(pairs),
        other => Err(crate::Error::input("loss_type", format!("{other:?} is no loss of single pairs"))),
    }
}

fn metrics(pairs: &Pairs, config: &DpoConfig) -> Result<Vec<MetricTerm>> {
    let [chosen_name, rejected_name, margin_name, accuracy_name] = if config.uses_reference() {
        ["rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"]
    } else {
        [
            "reference_free/chosen",
            "reference_free/rejected",
            "reference_free/margins",
            "reference_free/accuracies",
        ]
    };
    let averages = |loss: &DpoLossType| {
        use DpoLossType::{Ipo, Orpo, SigmoidNorm, Simpo};
        matches!(loss, Ipo | SigmoidNorm | Simpo | Orpo)
    };
    let per_token = !config.uses_reference() && config.loss_type.iter().any(averages);
    let measured =
        if per_token { pairs.ratios.per_token(pairs.lengths()?)? } else { pairs.ratios.scale(1.0)? };
    let rewards = measured.map(|side| Ok(side.f_detach()?.f_mul_scalar(config.beta)?))?;
    let right = rewards.chosen.f_gt_tensor(&rewards.rejected)?.f_to_kind(Kind::Double)?;
    Ok(vec![
        MetricTerm::of(chosen_name, &rewards.chosen)?,
        MetricTerm::of(rejected_name, &rewards.rejected)?,
        MetricTerm::of(margin_name, &rewards.difference()?)?,
        MetricTerm::of(accuracy_name, &right)?,
        MetricTerm::of("logps/chosen", &pairs.policy.chosen)?,
        MetricTerm::of("logps/rejected", &pairs.policy.rejected)?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a run shows is what its configuration announces.
    #[test]
    fn summands_have_the_names_that_the_configuration_lists() {
        for first in DpoLossType::ALL {
            for second in DpoLossType::ALL {
                let loss_type = if first == second { vec![first] } else { vec![first, second] };
                let config = DpoConfig { loss_type, ..DpoConfig::default() };
                let names: Vec<_> = summands(&config).iter().map(|summand| summand.name).collect();
                let shown = if names.len() > 1 { names } else { Vec::new() };
                assert_eq!(config.summands(), shown);
            }
        }
    }
}
