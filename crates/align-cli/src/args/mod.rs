//! The flags of every command, one file per command.

mod dpo;
mod ensemble;
mod eval;
mod generate;
mod kto;
mod logprobs;
mod lora;
mod merge;
mod model;
mod ppo;
mod reference;
mod report;
mod reward;
mod score;
mod sft;
mod train;
mod una;
mod values;

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueHint};

pub use dpo::DpoArgs;
pub use ensemble::{EnsembleArgs, EnsembleName};
pub use eval::{EvalArgs, HeldOutArgs, Measure, MethodName, RewardArgs, registry, rules_help};
pub use generate::{DrawArgs, GenerateArgs, SamplingArgs};
pub use kto::KtoArgs;
pub use logprobs::LogprobsArgs;
pub use lora::LoraArgs;
pub use merge::MergeArgs;
pub use model::{DeviceName, Dtype, ModelArgs};
pub use ppo::{CriticArgs, CurriculumArgs, KlArgs, PpoArgs, PpoMethodArgs, PtxArgs, ShapingArgs};
pub use reference::ReferenceArgs;
pub use report::ReportArgs;
pub use reward::{PairBand, RewardMethodArgs, RewardModelArgs, TiesName};
pub use score::{AnswersName, ScaleArgs, ScoreArgs, TrustArgs};
pub use sft::{AggregationName, SftArgs, TrainOnName};
pub use train::{BadRowsName, RowStoreName, ScheduleName, TrainArgs, TruncationName};
pub use una::UnaArgs;

/// Commands that are promised but not written yet.
pub(crate) const NOT_YET: &[&str] = &["rest", "cgpo"];

/// Flags that are promised but not written yet, without their dashes.
pub(crate) const FLAGS_NOT_YET: &[&str] = &[
    // Rewards.
    "reward-url",
];

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    the run finished but failed its criterion
  2    usage or configuration
  3    environment: libtorch, device, memory, disk
  4    data and models
  130  interrupted, after a checkpoint was written";

/// Aligns language models with human preferences.
#[derive(Debug, Parser)]
#[command(
    name = "align",
    bin_name = "align",
    version,
    after_help = EXIT_CODES,
    arg_required_else_help = true,
    subcommand_required = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what libtorch, which devices, threads and memory there are; what is missing and how to get it
    Doctor(DoctorArgs),
    /// Look at data before training on them
    #[command(subcommand, arg_required_else_help = true, disable_help_subcommand = true)]
    Data(DataCommand),
    /// Compute the log-probability of every token of the completions of a file
    Logprobs(LogprobsArgs),
    /// Sample completions of prompts
    Generate(GenerateArgs),
    /// Compute the rewards of answers under a reward model, and how far they can be trusted
    Score(ScoreArgs),
    /// Fine-tune on texts, conversations or prompts with their answers
    Sft(SftArgs),
    /// Train a reward model on pairs, rankings, thumbs or scores
    Reward(RewardModelArgs),
    /// Train on preference pairs with direct preference optimisation and its family
    Dpo(DpoArgs),
    /// Train on answers with thumbs up or down with Kahneman-Tversky optimisation
    Kto(KtoArgs),
    /// Train on pairs, thumbs and scores together with one implicit reward
    Una(UnaArgs),
    /// Train on samples of the model itself, scored by rewards: PPO and its relatives
    Ppo(Box<PpoArgs>),
    /// Measure a model: held-out loss, rewards, win rate, divergence from a reference
    Eval(EvalArgs),
    /// Add an adapter to the weights of its base, or average reward models
    Merge(MergeArgs),
    /// Show runs on one HTML page: curves, distributions, samples, configuration
    Report(ReportArgs),
    /// Write a completion script for a shell
    Completions(CompletionsArgs),
}

impl Command {
    /// Says whether the command needs libtorch.
    pub fn needs_torch(&self) -> bool {
        !matches!(self, Self::Data(_) | Self::Report(_) | Self::Completions(_))
    }
}

/// `align doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Write the findings as one JSON object to stdout
    #[arg(long)]
    pub json: bool,
}

/// `align data ...`.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Show format, counts, lengths and every problem of data files
    Check(DataCheckArgs),
}

/// `align data check`.
#[derive(Debug, Args)]
pub struct DataCheckArgs {
    /// Data files
    #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
    /// Folder whose tokenizer and chat template are used: counts tokens and shows rows as the model reads them
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub model: Option<PathBuf>,
    /// Held-out files; rows and prompts that the data files hold too are reported
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub eval_data: Vec<PathBuf>,
    /// Tokens of a prompt with one answer; with --model the rows that training would cut are counted
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub max_length: usize,
    /// Names of columns, `prompt=question,completion=answer`
    #[arg(long, value_name = "NAME=COLUMN", value_delimiter = ',', value_parser = values::column)]
    pub columns: Vec<String>,
    /// Which tokens `align sft` would train on, marked in the rows that --model shows
    #[arg(long, value_enum, value_name = "CHOICE", default_value = "all")]
    pub train_on: TrainOnName,
    /// Write the findings as one JSON object to stdout
    #[arg(long)]
    pub json: bool,
}

/// `align completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// Builds the command line with the defaults that differ from command to command.
pub fn command() -> clap::Command {
    let rate = |rate: &'static str| {
        move |command: clap::Command| {
            command.mut_arg("learning_rate", |arg| arg.required(false).default_value(rate))
        }
    };
    Cli::command()
        .mut_subcommand("sft", rate("2e-5"))
        .mut_subcommand("reward", |command| reward(rate("1e-4")(command)))
        .mut_subcommand("dpo", rate("1e-6"))
        .mut_subcommand("kto", rate("1e-6"))
        .mut_subcommand("una", rate("1e-6"))
        .mut_subcommand("ppo", |command| ppo(rate("3e-6")(command)))
}

/// Changes the shared flags that mean something else where rows are prompts and a step is an iteration.
fn ppo(command: clap::Command) -> clap::Command {
    command
        .mut_arg("data", |arg| arg.help("Prompts: rows of any kind, whose answers are not read (repeatable)"))
        .mut_arg("batch_size", |arg| {
            arg.default_value("64").help("Prompts per iteration, each with --num-completions answers")
        })
        .mut_arg("max_length", |arg| {
            arg.help("Most tokens of a prompt with its answer, and of a row of --ptx-data")
        })
        .mut_arg("truncation", |arg| {
            arg.help("What becomes of prompts without room for --max-new-tokens: keep-start and drop drop them, keep-end \
                      cuts their beginning")
        })
        .mut_arg("row_store", |arg| arg.hide(true))
        .mut_arg("eval_data", |arg| arg.help("Held-out prompts (repeatable)"))
        .mut_arg("samples", |arg| {
            arg.help("Answers of each logged iteration that go into completions.jsonl; 0: none")
        })
}

/// Changes the shared flags that mean something else where a score is read at the end of each answer.
fn reward(command: clap::Command) -> clap::Command {
    command
        .mut_arg("truncation", |arg| arg.default_value("drop"))
        .mut_arg("samples", |arg| arg.default_value("0").hide(true))
}

/// Makes the map of column names from `NAME=COLUMN` entries, which are well formed because clap read them.
pub fn columns(entries: &[String]) -> std::collections::BTreeMap<String, String> {
    let split =
        |entry: &String| entry.split_once('=').map(|(name, column)| (name.to_owned(), column.to_owned()));
    entries.iter().filter_map(split).collect()
}
