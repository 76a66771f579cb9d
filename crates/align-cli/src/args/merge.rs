use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::ModelArgs;

/// `align merge`.
#[derive(Debug, Args)]
#[command(after_help = "\
Writes a model folder with the base's tokenizer, chat template and data type.

Example:
  align merge --model models/base --adapter runs/dpo/model --output models/merged")]
pub struct MergeArgs {
    /// Base of the adapter: a Hugging Face folder
    #[arg(long, value_name = "DIR", required = true, value_hint = ValueHint::DirPath)]
    pub model: PathBuf,
    /// Model folder to write; it must not hold anything yet
    #[arg(long, value_name = "DIR", required = true, value_hint = ValueHint::DirPath)]
    pub output: PathBuf,
    /// What every command with a model has.
    #[command(flatten)]
    pub machine: ModelArgs,
}
