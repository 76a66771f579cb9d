use align_types::config::{Aggregation, SftConfig};
use clap::{ArgAction, Args, ValueEnum};

use super::TrainArgs;

/// `align sft`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  align sft --model models/base --data chats.jsonl --output-dir runs/sft
  align sft --config runs/sft/config.toml --output-dir runs/sft-again")]
pub struct SftArgs {
    /// What every training command has.
    #[command(flatten)]
    pub train: TrainArgs,
    /// Over what token losses are averaged
    #[arg(long, value_enum, value_name = "CHOICE", default_value = "token-mean", help_heading = "Method")]
    pub aggregation: AggregationName,
    /// Take preference rows too, and train on their chosen answers
    #[arg(long, action = ArgAction::SetTrue, help_heading = "Method")]
    pub sft_on_chosen: bool,
}

/// Values of `--aggregation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AggregationName {
    /// All answer tokens of the batch alike
    TokenMean,
    /// All answers of the batch alike
    SeqMeanMean,
}

impl SftArgs {
    /// Makes the configuration of the loss.
    pub fn sft_config(&self) -> SftConfig {
        SftConfig {
            aggregation: match self.aggregation {
                AggregationName::TokenMean => Aggregation::TokenMean,
                AggregationName::SeqMeanMean => Aggregation::SeqMeanMean,
            },
        }
    }
}
