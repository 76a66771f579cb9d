use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::ModelArgs;
use crate::{Error, Result};

/// `align merge`.
#[derive(Debug, Args)]
#[command(after_help = "\
Writes a model folder with the base's tokenizer, chat template and data type.

The average of reward models (WARM, 2401.12187) is one model: it costs one forward pass, and needs no normalisation. It works
where all began with the same weights and the same head, and differ in the order of rows, learning rate or dropout.

Examples:
  align merge --model models/base --adapter runs/dpo/model --output models/merged
  align merge --average runs/rm-1/model --average runs/rm-2/model --output models/averaged")]
pub struct MergeArgs {
    /// Base of the adapter: a Hugging Face folder
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub model: Option<PathBuf>,
    /// Reward model whose weights are averaged with those of the others (twice or more); instead of --model and --adapter
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub average: Vec<PathBuf>,
    /// Model folder to write; it must not hold anything yet
    #[arg(long, value_name = "DIR", required = true, value_hint = ValueHint::DirPath)]
    pub output: PathBuf,
    /// What every command with a model has.
    #[command(flatten)]
    pub machine: ModelArgs,
}

impl MergeArgs {
    /// Checks what flags ask of each other.
    ///
    /// # Errors
    /// [`Error::Usage`] names the flags.
    pub fn check(&self) -> Result<()> {
        let averages = !self.average.is_empty();
        let missing = |flag: &str| Err(Error::usage(format!("{flag} <DIR> is missing"), []));
        match (&self.model, &self.machine.adapter) {
            (None, None) if averages => {}
            _ if averages => {
                return Err(Error::usage(
                    "--average and --model or --adapter exclude each other",
                    ["merge the adapter of each model first".to_owned()],
                ));
            }
            (None, _) => return missing("--model"),
            (_, None) => return missing("--adapter"),
            _ => return Ok(()),
        }
        if self.average.len() < 2 {
            return Err(Error::usage(
                "--average: one model has no average with others",
                ["give it once for each model".to_owned()],
            ));
        }
        match self.machine.load_in_4bit {
            true => Err(Error::usage(
                "--load-in-4bit and --average exclude each other",
                ["4 bits are too few to average".to_owned()],
            )),
            false => Ok(()),
        }
    }
}
