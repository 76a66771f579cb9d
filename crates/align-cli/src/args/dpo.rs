use std::path::PathBuf;

use align_types::config::{DpoConfig, DpoLossType};
use clap::{ArgAction, Args, ValueEnum, ValueHint};

use super::{TrainArgs, values};

/// `align dpo`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  align dpo --model models/sft --data pairs.jsonl --output-dir runs/dpo
  align dpo --model models/sft --data pairs.jsonl --eval-data held-out.jsonl --eval-every 50 --output-dir runs/dpo
  align dpo --config runs/dpo/config.toml --output-dir runs/dpo-again")]
pub struct DpoArgs {
    /// What every training command has.
    #[command(flatten)]
    pub train: TrainArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub method: DpoMethodArgs,
}

/// The loss and its reference.
#[derive(Debug, Args)]
#[command(next_help_heading = "Method")]
pub struct DpoMethodArgs {
    /// Reference policy [default: the model itself before the first step]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub ref_model: Option<PathBuf>,
    /// Strength of the pull to the reference
    #[arg(long, value_name = "X", default_value = "0.1", value_parser = values::number, allow_hyphen_values = true)]
    pub beta: f64,
    /// Loss of the family
    #[arg(long, value_enum, value_name = "CHOICE", default_value = "sigmoid")]
    pub loss_type: LossTypeName,
    /// Probability that a label is wrong
    #[arg(long, value_name = "X", default_value = "0", value_parser = values::number, allow_hyphen_values = true)]
    pub label_smoothing: f64,
    /// Leave the reference out: its log-probabilities count as 0
    #[arg(long, action = ArgAction::SetTrue, conflicts_with_all = ["ref_model", "precompute_ref_log_probs"])]
    pub reference_free: bool,
    /// Compute the reference's log-probabilities once, before the first step
    #[arg(long, action = ArgAction::SetTrue)]
    pub precompute_ref_log_probs: bool,
}

/// Values of `--loss-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LossTypeName {
    /// Direct preference optimisation, 2305.18290
    Sigmoid,
}

impl DpoArgs {
    /// Makes the configuration of the loss.
    pub fn dpo_config(&self) -> DpoConfig {
        DpoConfig {
            beta: self.method.beta,
            loss_type: vec![match self.method.loss_type {
                LossTypeName::Sigmoid => DpoLossType::Sigmoid,
            }],
            label_smoothing: self.method.label_smoothing,
            reference_free: self.method.reference_free,
            ..DpoConfig::default()
        }
    }
}
