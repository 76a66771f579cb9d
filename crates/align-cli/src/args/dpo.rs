use align_types::config::{DpoConfig, DpoLossType, FDivergence};
use clap::{ArgAction, Args};

use super::{AggregationName, ReferenceArgs, TrainArgs, values};

/// `align dpo`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  align dpo --model models/sft --data pairs.jsonl --output-dir runs/dpo
  align dpo --model models/sft --data pairs.jsonl --eval-data held-out.jsonl --eval-every 50 --output-dir runs/dpo
  align dpo --model models/sft --data pairs.jsonl --loss-type sigmoid --loss-type sft --loss-weights 1,0.2 --output-dir runs/rpo
  align dpo --config runs/dpo/config.toml --output-dir runs/dpo-again")]
pub struct DpoArgs {
    /// What every training command has.
    #[command(flatten)]
    pub train: TrainArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub method: DpoMethodArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub reference: ReferenceArgs,
}

/// The losses and their settings.
#[derive(Debug, Args)]
#[command(next_help_heading = "Method")]
pub struct DpoMethodArgs {
    /// Strength of the pull to the reference
    #[arg(long, value_name = "X", default_value = "0.1", value_parser = values::number, allow_hyphen_values = true)]
    pub beta: f64,
    /// Loss of the family (repeatable)
    #[arg(long, value_name = "CHOICE", default_value = "sigmoid", value_parser = values::choice::<DpoLossType>(LOSSES))]
    pub loss_type: Vec<DpoLossType>,
    /// Weight of each --loss-type, in their order [default: 1 each]
    #[arg(long, value_name = "W", value_delimiter = ',', value_parser = values::number, allow_hyphen_values = true)]
    pub loss_weights: Vec<f64>,
    /// Probability that a label is wrong
    #[arg(long, value_name = "X", default_value = "0", value_parser = values::number, allow_hyphen_values = true)]
    pub label_smoothing: f64,
    /// Leave the reference out: its log-probabilities count as 0
    #[arg(long, action = ArgAction::SetTrue, conflicts_with_all = ["ref_model", "precompute_ref_log_probs"])]
    pub reference_free: bool,
    /// Divergence from the reference that the implicit reward belongs to
    #[arg(long, value_name = "CHOICE", default_value = "reverse_kl", value_parser = values::choice::<FDivergence>(DIVERGENCES))]
    pub f_divergence_type: FDivergence,
    /// α of the alpha_divergence
    #[arg(long, value_name = "X", default_value = "0.5", value_parser = values::number, allow_hyphen_values = true)]
    pub f_alpha_divergence_coef: f64,
    /// Temperature of the blend in discopop
    #[arg(long, value_name = "X", default_value = "0.05", value_parser = values::number, allow_hyphen_values = true)]
    pub discopop_tau: f64,
    /// Weight of the tokens of the longer answer beyond the length of the shorter one (LD-DPO) [default: plain sums]
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub ld_alpha: Option<f64>,
    /// Weight pairs by how likely the policy would have written them (WPO)
    #[arg(long, action = ArgAction::SetTrue)]
    pub use_weighting: bool,
    /// Margin of simpo
    #[arg(long, value_name = "X", default_value = "0.5", value_parser = values::number, allow_hyphen_values = true)]
    pub simpo_gamma: f64,
    /// Shape of the reward of simpo (AlphaPO, 2501.03884; TRL's alpha): β (1 − p^−α) / α, p the geometric mean of
    /// the probabilities of an answer's tokens; 0 is plain simpo
    #[arg(long, value_name = "X", default_value = "0", value_parser = values::number, allow_hyphen_values = true)]
    pub simpo_alpha: f64,
    /// Weight of the likelihood of the chosen answers in cpo
    #[arg(long, value_name = "X", default_value = "1", value_parser = values::number, allow_hyphen_values = true)]
    pub cpo_alpha: f64,
    /// Over what the likelihood of the chosen answers is averaged in sft, cpo and orpo
    #[arg(long, value_enum, value_name = "CHOICE", default_value = "token-mean")]
    pub sft_aggregation: AggregationName,
}

/// Values of `--loss-type`, by their names in TRL.
const LOSSES: &[(&str, &str)] = &[
    ("sigmoid", "direct preference optimisation, 2305.18290; with --label-smoothing the conservative form"),
    ("hinge", "hinge on the margin, 2309.06657"),
    ("ipo", "identity preference optimisation over averages per token, 2310.12036"),
    ("exo_pair", "exact optimisation of pairs, 2402.00856; needs --label-smoothing above 0"),
    ("nca_pair", "noise-contrastive alignment, 2402.05369"),
    ("robust", "unbiased when labels are flipped with probability --label-smoothing, 2403.00409"),
    ("bco_pair", "binary classifier optimisation of pairs, 2404.04656"),
    ("sppo_hard", "self-play preference optimisation, 2405.00675"),
    ("aot", "alignment by optimal transport of pairs over the batch, 2406.05882"),
    ("aot_unpaired", "alignment by optimal transport of answers over the batch, 2406.05882"),
    ("apo_zero", "anchored, for chosen answers better than the model's, 2408.06266"),
    ("apo_down", "anchored, for chosen answers worse than the model's, 2408.06266"),
    ("discopop", "the discovered loss, 2406.08414"),
    ("sft", "likelihood of the chosen answers, as a term beside another loss"),
    ("sigmoid_norm", "over averages per token, 2411.15124; beta about 5"),
    ("simpo", "simple preference optimisation, 2405.14734, without a reference; beta 2 to 2.5"),
    ("cpo", "contrastive preference optimisation, 2401.08417, without a reference"),
    ("orpo", "odds-ratio preference optimisation, 2403.07691, without a reference"),
];

/// Values of `--f-divergence-type`.
const DIVERGENCES: &[(&str, &str)] = &[
    ("reverse_kl", "KL(π ‖ π_ref), that of DPO"),
    ("forward_kl", "KL(π_ref ‖ π)"),
    ("js_divergence", "Jensen-Shannon"),
    ("alpha_divergence", "with --f-alpha-divergence-coef"),
];

impl DpoArgs {
    /// Makes the configuration of the loss.
    pub fn dpo_config(&self) -> DpoConfig {
        let method = &self.method;
        DpoConfig {
            beta: method.beta,
            loss_type: method.loss_type.clone(),
            loss_weights: method.loss_weights.clone(),
            label_smoothing: method.label_smoothing,
            reference_free: method.reference_free,
            f_divergence_type: method.f_divergence_type,
            f_alpha_divergence_coef: method.f_alpha_divergence_coef,
            discopop_tau: method.discopop_tau,
            ld_alpha: method.ld_alpha,
            use_weighting: method.use_weighting,
            simpo_gamma: method.simpo_gamma,
            simpo_alpha: method.simpo_alpha,
            cpo_alpha: method.cpo_alpha,
            sft_aggregation: method.sft_aggregation.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loss_of_the_family_can_be_named() {
        let named = |(name, _): &(&str, &str)| serde_json::from_value::<DpoLossType>((*name).into()).unwrap();
        assert_eq!(LOSSES.iter().map(named).collect::<Vec<_>>(), DpoLossType::ALL);
        for (name, _) in DIVERGENCES {
            serde_json::from_value::<FDivergence>((*name).into()).unwrap();
        }
    }
}
