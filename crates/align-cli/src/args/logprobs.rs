use std::path::PathBuf;

use clap::{ArgAction, Args, ValueHint};

use super::{ModelArgs, values};

/// `align logprobs`.
#[derive(Debug, Args)]
#[command(after_help = "\
Writes one JSON object per row: row, prompt_tokens (ids), completions [{name, token_ids, logprobs, sum}].

Example:
  align logprobs --model runs/dpo/model --data pairs.jsonl --output logprobs.jsonl")]
pub struct LogprobsArgs {
    /// Model: a Hugging Face folder
    #[arg(long, value_name = "DIR", required = true, value_hint = ValueHint::DirPath)]
    pub model: PathBuf,
    /// Rows with completions
    #[arg(long, value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
    pub data: PathBuf,
    /// File to write; an existing one is replaced when all is done
    #[arg(long, value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
    /// Keep the whole rows that are in the output already and append the rest
    #[arg(long, action = ArgAction::SetTrue)]
    pub resume: bool,
    /// Names of columns: prompt=question,completion=answer
    #[arg(long, value_name = "NAME=COLUMN", value_delimiter = ',', value_parser = values::column)]
    pub columns: Vec<String>,
    /// Cut rows to this many tokens [default: nothing is cut]
    #[arg(long, value_name = "N", value_parser = values::size, allow_hyphen_values = true)]
    pub max_length: Option<usize>,
    /// Most tokens of one forward pass; never changes the result
    #[arg(long, value_name = "N", default_value = "4096", value_parser = values::size, allow_hyphen_values = true)]
    pub micro_batch_tokens: usize,
    /// What every command with a model has.
    #[command(flatten)]
    pub machine: ModelArgs,
}
