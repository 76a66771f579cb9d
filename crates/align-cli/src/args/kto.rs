use align_types::config::{KtoConfig, KtoLossType};
use clap::Args;

use super::{ReferenceArgs, TrainArgs, values};

/// `align kto`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  align kto --model models/sft --data thumbs.jsonl --output-dir runs/kto
  align kto --model models/sft --data thumbs.jsonl --desirable-weight 4 --output-dir runs/kto
  align kto --model models/sft --data pairs.jsonl --output-dir runs/kto-of-pairs")]
pub struct KtoArgs {
    /// What every training command has.
    #[command(flatten)]
    pub train: TrainArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub method: KtoMethodArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub reference: ReferenceArgs,
}

/// The loss.
#[derive(Debug, Args)]
#[command(next_help_heading = "Method")]
pub struct KtoMethodArgs {
    /// Strength of the pull to the reference
    #[arg(long, value_name = "X", default_value = "0.1", value_parser = values::number, allow_hyphen_values = true)]
    pub beta: f64,
    /// Loss of labelled answers
    #[arg(long, value_name = "CHOICE", default_value = "kto", value_parser = values::choice::<KtoLossType>(LOSSES))]
    pub loss_type: KtoLossType,
    /// Weight of desirable answers
    #[arg(long, value_name = "X", default_value = "1", value_parser = values::number, allow_hyphen_values = true)]
    pub desirable_weight: f64,
    /// Weight of undesirable answers
    #[arg(long, value_name = "X", default_value = "1", value_parser = values::number, allow_hyphen_values = true)]
    pub undesirable_weight: f64,
}

/// Values of `--loss-type`, by their names in TRL.
const LOSSES: &[(&str, &str)] = &[
    ("kto", "Kahneman-Tversky optimisation, 2402.01306; its baseline belongs to the whole batch"),
    ("apo_zero_unpaired", "anchored, without a baseline, 2408.06266"),
    ("bco", "binary classifier optimisation, 2404.04656, without its density ratio"),
];

impl KtoArgs {
    /// Makes the configuration of the loss.
    pub fn kto_config(&self) -> KtoConfig {
        KtoConfig {
            beta: self.method.beta,
            loss_type: self.method.loss_type,
            desirable_weight: self.method.desirable_weight,
            undesirable_weight: self.method.undesirable_weight,
        }
    }
}
