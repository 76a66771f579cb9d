use std::path::PathBuf;

use align_types::config::SamplingConfig;
use clap::{ArgAction, Args, ValueHint};

use super::{ModelArgs, values};
use crate::{Error, Result};

/// `align generate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Writes one JSON object per row: row, prompt, completions [{text, token_ids, logprobs, finish_reason}].
On processors Llama-like models are sampled by an engine of their own, which computes in f32 over f32 weights. With
--dtype bf16 or --load-in-4bit the forward pass of training samples instead, in that format.

Example:
  align generate --model runs/dpo/model --prompts prompts.jsonl --output answers.jsonl --num-completions 4")]
pub struct GenerateArgs {
    /// Model: a Hugging Face folder
    #[arg(long, value_name = "DIR", required = true, value_hint = ValueHint::DirPath)]
    pub model: PathBuf,
    /// Rows with prompts; answers in them are not read
    #[arg(long, value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
    pub prompts: PathBuf,
    /// File to write; an existing one is replaced when all is done
    #[arg(long, value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
    /// Keep the whole rows that are in the output already and append the rest
    #[arg(long, action = ArgAction::SetTrue)]
    pub resume: bool,
    /// Names of columns: prompt=question
    #[arg(long, value_name = "NAME=COLUMN", value_delimiter = ',', value_parser = values::column)]
    pub columns: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub sampling: SamplingArgs,
    /// What every command with a model has.
    #[command(flatten)]
    pub machine: ModelArgs,
}

/// How tokens are drawn.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub draw: DrawArgs,
    /// Keep tokens at least X times as likely as the most likely one
    #[arg(long, value_name = "X", default_value = "0", value_parser = values::number, allow_hyphen_values = true)]
    pub min_p: f64,
    /// Make tokens of prompt and answer rarer: above 1
    #[arg(long, value_name = "X", default_value = "1", value_parser = values::number, allow_hyphen_values = true)]
    pub repetition_penalty: f64,
    /// Take the most likely token instead of drawing
    #[arg(long, action = ArgAction::SetTrue)]
    pub greedy: bool,
    /// Seed of the samples
    #[arg(long, value_name = "N", default_value = "0", value_parser = values::count, allow_hyphen_values = true)]
    pub seed: u64,
}

/// How tokens are drawn, by every command that draws some.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct DrawArgs {
    /// Completions of each prompt
    #[arg(long, value_name = "K", default_value = "1", value_parser = values::size, allow_hyphen_values = true)]
    pub num_completions: usize,
    /// Most tokens of a completion, stop token included
    #[arg(long, value_name = "N", default_value = "128", value_parser = values::size, allow_hyphen_values = true)]
    pub max_new_tokens: usize,
    /// Divides the logits before the softmax
    #[arg(long, value_name = "X", default_value = "1", value_parser = values::number, allow_hyphen_values = true)]
    pub temperature: f64,
    /// Keep the fewest tokens whose probability reaches this
    #[arg(long, value_name = "X", default_value = "1", value_parser = values::number, allow_hyphen_values = true)]
    pub top_p: f64,
    /// Keep this many of the most likely tokens; 0: all
    #[arg(long, value_name = "N", default_value = "0", value_parser = values::size, allow_hyphen_values = true)]
    pub top_k: usize,
    /// A string that ends a completion (repeatable)
    #[arg(long, value_name = "STR", allow_hyphen_values = true)]
    pub stop: Vec<String>,
}

impl DrawArgs {
    /// Makes the configuration of the sampler.
    pub fn config(&self, seed: u64) -> SamplingConfig {
        SamplingConfig {
            num_completions: self.num_completions,
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            stop: self.stop.clone(),
            seed,
            ..SamplingConfig::default()
        }
    }
}

impl SamplingArgs {
    /// Makes the configuration of the sampler.
    pub fn config(&self) -> SamplingConfig {
        SamplingConfig {
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            greedy: self.greedy,
            ..self.draw.config(self.seed)
        }
    }

    /// Checks the ranges, and that nothing is asked for that `--greedy` would pass over.
    ///
    /// # Errors
    /// [`Error::Usage`] names the flags.
    pub fn check(&self) -> Result<()> {
        self.config().validate()?;
        if !self.greedy {
            return Ok(());
        }
        let drawing = [
            ("num-completions", self.draw.num_completions as f64, 1.0),
            ("temperature", self.draw.temperature, 1.0),
            ("top-p", self.draw.top_p, 1.0),
            ("top-k", self.draw.top_k as f64, 0.0),
            ("min-p", self.min_p, 0.0),
        ];
        match drawing.into_iter().find(|(_, value, default)| value != default) {
            None => Ok(()),
            Some((flag, value, _)) => Err(Error::usage(
                format!("--greedy and --{flag} {value} contradict each other: greedy answers are not drawn"),
                [format!("leave out --greedy to sample, or --{flag} for the most likely answer")],
            )),
        }
    }
}
