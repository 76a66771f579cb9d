use align_types::config::{ScoreTransform, UnaConfig, UnaLossType};
use clap::Args;

use super::{ReferenceArgs, TrainArgs, values};

/// `align una`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  align una --model models/sft --data scores.jsonl --score-min 0 --score-max 10 --output-dir runs/una
  align una --model models/sft --data pairs.jsonl --data thumbs.jsonl --data scores.jsonl --output-dir runs/una")]
pub struct UnaArgs {
    /// What every training command has.
    #[command(flatten)]
    pub train: TrainArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub method: UnaMethodArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub reference: ReferenceArgs,
}

/// The loss of each kind of rows.
#[derive(Debug, Args)]
#[command(next_help_heading = "Method")]
pub struct UnaMethodArgs {
    /// Scale of the implicit reward
    #[arg(long, value_name = "X", default_value = "0.03", value_parser = values::number, allow_hyphen_values = true)]
    pub beta: f64,
    /// Loss of labels and scores; pairs have that of dpo
    #[arg(long, value_name = "CHOICE", default_value = "mse", value_parser = values::choice::<UnaLossType>(LOSSES))]
    pub loss_type: UnaLossType,
    /// Weight of the mean over pairs
    #[arg(long, value_name = "X", default_value = "1", value_parser = values::number, allow_hyphen_values = true)]
    pub pair_weight: f64,
    /// Weight of the mean over labelled answers
    #[arg(long, value_name = "X", default_value = "1", value_parser = values::number, allow_hyphen_values = true)]
    pub binary_weight: f64,
    /// Weight of the mean over scored answers
    #[arg(long, value_name = "X", default_value = "1", value_parser = values::number, allow_hyphen_values = true)]
    pub score_weight: f64,
    /// Score that becomes 0
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub score_min: Option<f64>,
    /// Score that becomes 1
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub score_max: Option<f64>,
    /// How scores come into [0, 1]
    #[arg(long, value_name = "CHOICE", default_value = "linear", value_parser = values::choice::<ScoreTransform>(TRANSFORMS))]
    pub score_transform: ScoreTransform,
}

/// Values of `--loss-type`.
const LOSSES: &[(&str, &str)] = &[
    ("mse", "squared error of σ(β h), 2408.15339"),
    ("bce", "cross-entropy of σ(β h), 2408.15339; its gradient does not vanish"),
    ("raw_mse", "squared error of β h and scores as they are, which should be centred per prompt"),
    (
        "qrpo",
        "quantile rewards, 2507.08068; rows carry ref_rewards, rewards of the reference for their prompt",
    ),
    ("a_star_po", "advantages over the optimal value, 2505.20686; rows carry ref_rewards"),
];

/// Values of `--score-transform`.
const TRANSFORMS: &[(&str, &str)] = &[
    ("linear", "from --score-min and --score-max where they are given"),
    ("sigmoid", "the logistic function"),
];

impl UnaArgs {
    /// Makes the configuration of the loss.
    pub fn una_config(&self) -> UnaConfig {
        let method = &self.method;
        UnaConfig {
            beta: method.beta,
            loss_type: method.loss_type,
            pair_weight: method.pair_weight,
            binary_weight: method.binary_weight,
            score_weight: method.score_weight,
            score_min: method.score_min,
            score_max: method.score_max,
            score_transform: method.score_transform,
        }
    }
}
