use align_data::TrainOn;
use align_types::config::{Aggregation, SftConfig, SftLossType};
use clap::{ArgAction, Args, ValueEnum};

use super::{TrainArgs, values};

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
    /// Loss of a token
    #[arg(long, value_name = "CHOICE", default_value = "nll", value_parser = values::choice::<SftLossType>(LOSSES), help_heading = "Method")]
    pub loss_type: SftLossType,
    /// Over what token losses are averaged
    #[arg(long, value_enum, value_name = "CHOICE", default_value = "token-mean", help_heading = "Method")]
    pub aggregation: AggregationName,
    /// Which tokens are trained on; of a row with a prompt of its own always some of the answer
    #[arg(long, value_enum, value_name = "CHOICE", default_value = "all", help_heading = "Method")]
    pub train_on: TrainOnName,
    /// Take preference rows too, and train on their chosen answers
    #[arg(long, action = ArgAction::SetTrue, help_heading = "Method")]
    pub sft_on_chosen: bool,
}

/// Values of `--loss-type`, by their names in TRL.
const LOSSES: &[(&str, &str)] = &[
    ("nll", "negative log-likelihood"),
    (
        "dft",
        "dynamic fine-tuning, 2508.05629: weighed by the token's probability, so that unlikely tokens teach less; the \
         loss may rise while answers become likelier, which logps/completion shows",
    ),
];

/// Values of `--aggregation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AggregationName {
    /// All answer tokens of the batch alike
    TokenMean,
    /// All answers of the batch alike
    SeqMeanMean,
}

impl From<AggregationName> for Aggregation {
    fn from(name: AggregationName) -> Self {
        match name {
            AggregationName::TokenMean => Self::TokenMean,
            AggregationName::SeqMeanMean => Self::SeqMeanMean,
        }
    }
}

/// Values of `--train-on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TrainOnName {
    /// All of a text or conversation; of a prompt with its completion the completion
    All,
    /// What the assistant wrote: the {% generation %} blocks of the chat template, or each of its turns
    Assistant,
    /// The last turn of a conversation, which must be the assistant's
    LastAnswer,
}

impl From<TrainOnName> for TrainOn {
    fn from(name: TrainOnName) -> Self {
        match name {
            TrainOnName::All => Self::All,
            TrainOnName::Assistant => Self::Assistant,
            TrainOnName::LastAnswer => Self::LastAnswer,
        }
    }
}

impl SftArgs {
    /// Makes the configuration of the loss.
    pub fn sft_config(&self) -> SftConfig {
        SftConfig { loss_type: self.loss_type, aggregation: self.aggregation.into() }
    }
}
