use std::path::PathBuf;

use align_data::{BadRows, DataConfig, Truncation};
use align_types::config::{OptimizerConfig, Schedule, TrainConfig};
use clap::{ArgAction, Args, ValueEnum, ValueHint};

use super::{LoraArgs, ModelArgs, values};

/// The flags that every training command shares.
///
/// `model`, `data` and `output_dir` may come from the configuration file, so that clap does not require them;
/// [`crate::settings`] does.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// Configuration file (TOML): each flag is a key, with `_` for `-`; a flag wins over the file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Model to train: a Hugging Face folder
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub model: Option<PathBuf>,
    /// Training rows: JSON Lines, a JSON array or CSV, plain or gzipped, or Parquet (repeatable)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub data: Vec<PathBuf>,
    /// Run folder; refused if not empty unless --resume or --overwrite
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub output_dir: Option<PathBuf>,
    /// Continue bit-exactly from the newest whole checkpoint
    #[arg(long, action = ArgAction::SetTrue, conflicts_with = "overwrite")]
    pub resume: bool,
    /// Delete the run that is in the run folder
    #[arg(long, action = ArgAction::SetTrue)]
    pub overwrite: bool,
    /// Show configuration, batch arithmetic, memory estimate and number of steps; train nothing
    #[arg(long, action = ArgAction::SetTrue)]
    pub dry_run: bool,
    /// Seed of every random stream of the run
    #[arg(long, value_name = "N", default_value = "0", value_parser = values::count, allow_hyphen_values = true)]
    pub seed: u64,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub rows: RowArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub batch: BatchArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub optimizer: OptimizerArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub lora: LoraArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub watch: WatchArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub machine: ModelArgs,
}

/// How rows become tokens.
#[derive(Debug, Args)]
#[command(next_help_heading = "Rows")]
pub struct RowArgs {
    /// What happens to rows that cannot be used: refuse all, or drop them and count
    #[arg(long, value_enum, value_name = "CHOICE", default_value = "refuse")]
    pub bad_rows: BadRowsName,
    /// Names of columns: prompt=question,completion=answer
    #[arg(long, value_name = "NAME=COLUMN", value_delimiter = ',', value_parser = values::column)]
    pub columns: Vec<String>,
    /// Mix the files of --data, one weight each: an epoch has as many rows as all files together, and of each file
    /// its weight's share [default: every row once]
    #[arg(long, value_name = "W", value_delimiter = ',', value_parser = values::number, allow_hyphen_values = true)]
    pub data_weights: Vec<f64>,
    /// Where token ids wait; never changes the result
    #[arg(long, value_enum, value_name = "CHOICE", default_value = "auto")]
    pub row_store: RowStoreName,
    /// Most tokens of a prompt with one of its answers
    #[arg(long, value_name = "N", default_value = "1024", value_parser = values::size, allow_hyphen_values = true)]
    pub max_length: usize,
    /// Most tokens of a prompt; of a longer one the last tokens are kept [default: no bound]
    #[arg(long, value_name = "N", value_parser = values::size, allow_hyphen_values = true)]
    pub max_prompt_length: Option<usize>,
    /// Which tokens of a row over --max-length are kept
    #[arg(long, value_enum, value_name = "CHOICE", default_value = "keep-start")]
    pub truncation: TruncationName,
}

/// How rows become steps.
#[derive(Debug, Args)]
#[command(next_help_heading = "Batches and steps")]
pub struct BatchArgs {
    /// Rows per step (a preference pair is one row)
    #[arg(long, value_name = "N", default_value = "8", value_parser = values::size, allow_hyphen_values = true)]
    pub batch_size: usize,
    /// Most tokens of one forward pass; never changes the result, a longer row runs alone. More is faster on a GPU, on the
    /// CPU it only takes memory
    #[arg(long, value_name = "N", default_value = "1024", value_parser = values::size, allow_hyphen_values = true)]
    pub micro_batch_tokens: usize,
    /// Compute activations again in the backward pass: less memory, about a third more time, the same gradients
    #[arg(long, action = ArgAction::SetTrue)]
    pub gradient_checkpointing: bool,
    /// Steps; wins over --epochs [default: as --epochs has it]
    #[arg(long, value_name = "N", value_parser = values::count, allow_hyphen_values = true)]
    pub max_steps: Option<u64>,
    /// Passes over the data
    #[arg(long, value_name = "X", default_value = "1", value_parser = values::number, allow_hyphen_values = true)]
    pub epochs: f64,
}

/// AdamW and its schedule.
#[derive(Debug, Args)]
#[command(next_help_heading = "Optimiser")]
pub struct OptimizerArgs {
    /// Largest learning rate
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub learning_rate: f64,
    /// Course of the learning rate
    #[arg(long, value_enum, value_name = "CHOICE", default_value = "linear")]
    pub lr_scheduler: ScheduleName,
    /// Steps over which the learning rate rises from 0
    #[arg(long, value_name = "N", default_value = "0", value_parser = values::count, allow_hyphen_values = true)]
    pub warmup_steps: u64,
    /// Decoupled weight decay of matrices and embeddings
    #[arg(long, value_name = "X", default_value = "0", value_parser = values::number, allow_hyphen_values = true)]
    pub weight_decay: f64,
    /// Gradients of a larger norm are scaled down to it; 0: never
    #[arg(long, value_name = "X", default_value = "1", value_parser = values::number, allow_hyphen_values = true)]
    pub max_grad_norm: f64,
    /// Decay of AdamW's first moment
    #[arg(long, value_name = "X", default_value = "0.9", value_parser = values::number, allow_hyphen_values = true)]
    pub adam_beta1: f64,
    /// Decay of AdamW's second moment
    #[arg(long, value_name = "X", default_value = "0.999", value_parser = values::number, allow_hyphen_values = true)]
    pub adam_beta2: f64,
    /// Added to the root of AdamW's second moment
    #[arg(long, value_name = "X", default_value = "1e-8", value_parser = values::number, allow_hyphen_values = true)]
    pub adam_epsilon: f64,
}

/// What is measured and saved on the way.
#[derive(Debug, Args)]
#[command(next_help_heading = "Watching and saving")]
pub struct WatchArgs {
    /// Held-out rows (repeatable)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub eval_data: Vec<PathBuf>,
    /// Steps between evaluations on the held-out rows; 0: at the end only
    #[arg(long, value_name = "N", default_value = "0", value_parser = values::count, allow_hyphen_values = true)]
    pub eval_every: u64,
    /// Keep the checkpoint with the best value of this held-out metric beside the last: the smallest where its name
    /// says loss, kl, perplexity, nll, error, ece, brier, abstained or share, else the largest
    #[arg(long, value_name = "METRIC")]
    pub keep_best: Option<String>,
    /// Steps between checkpoints; 0: at the end and on interruption only
    #[arg(long, value_name = "N", default_value = "100", value_parser = values::count, allow_hyphen_values = true)]
    pub save_every: u64,
    /// Checkpoints that are kept
    #[arg(long, value_name = "N", default_value = "2", value_parser = values::size, allow_hyphen_values = true)]
    pub keep_checkpoints: usize,
    /// Steps between lines of metrics.jsonl
    #[arg(long, value_name = "N", default_value = "10", value_parser = values::count, allow_hyphen_values = true)]
    pub log_every: u64,
    /// Prompts that are answered before and after training, into completions.jsonl; 0: none
    #[arg(long, value_name = "N", default_value = "4", value_parser = values::size, allow_hyphen_values = true)]
    pub samples: usize,
}

/// Values of `--bad-rows`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BadRowsName {
    /// Nothing starts; the first ten are shown and all are counted
    Refuse,
    /// They are dropped and counted
    Skip,
}

impl From<BadRowsName> for BadRows {
    fn from(name: BadRowsName) -> Self {
        match name {
            BadRowsName::Refuse => Self::Refuse,
            BadRowsName::Skip => Self::Skip,
        }
    }
}

/// Values of `--truncation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TruncationName {
    /// The first tokens of prompt and answer
    KeepStart,
    /// The last tokens
    KeepEnd,
    /// None: a row over the limit is an error
    Error,
    /// None: a row over the limit is dropped and counted
    Drop,
}

/// Values of `--row-store`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RowStoreName {
    /// In memory, or on disk where the files of --data have more than 512 MiB (compressed ones count four times)
    Auto,
    /// In memory
    Memory,
    /// In a file without a name on the disk of --output-dir; held-out rows stay in memory
    Disk,
}

/// Values of `--lr-scheduler`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScheduleName {
    /// The same after warm-up
    Constant,
    /// Falls linearly to 0
    Linear,
    /// Falls as half a cosine to 0
    Cosine,
}

impl TrainArgs {
    /// Makes the configuration of batches, steps and saving.
    pub fn train_config(&self) -> TrainConfig {
        TrainConfig {
            seed: self.seed,
            batch_size: self.batch.batch_size,
            micro_batch_tokens: self.batch.micro_batch_tokens,
            max_steps: self.batch.max_steps,
            epochs: self.batch.epochs,
            save_every: self.watch.save_every,
            keep_checkpoints: self.watch.keep_checkpoints,
            log_every: self.watch.log_every,
            eval_every: self.watch.eval_every,
            threads: self.machine.threads(),
        }
    }

    /// Makes the configuration of the optimiser.
    pub fn optimizer_config(&self) -> OptimizerConfig {
        let given = &self.optimizer;
        OptimizerConfig {
            learning_rate: given.learning_rate,
            lr_scheduler: match given.lr_scheduler {
                ScheduleName::Constant => Schedule::Constant,
                ScheduleName::Linear => Schedule::Linear,
                ScheduleName::Cosine => Schedule::Cosine,
            },
            warmup_steps: given.warmup_steps,
            weight_decay: given.weight_decay,
            max_grad_norm: given.max_grad_norm,
            adam_beta1: given.adam_beta1,
            adam_beta2: given.adam_beta2,
            adam_epsilon: given.adam_epsilon,
        }
    }

    /// Makes the configuration of reading and tokenising.
    pub fn data_config(&self) -> DataConfig {
        DataConfig {
            max_length: Some(self.rows.max_length),
            max_prompt_length: self.rows.max_prompt_length,
            truncation: match self.rows.truncation {
                TruncationName::KeepStart => Truncation::KeepStart,
                TruncationName::KeepEnd => Truncation::KeepEnd,
                TruncationName::Error => Truncation::Error,
                TruncationName::Drop => Truncation::Drop,
            },
            bad_rows: self.rows.bad_rows.into(),
            columns: super::columns(&self.rows.columns),
            ..DataConfig::default()
        }
    }
}
