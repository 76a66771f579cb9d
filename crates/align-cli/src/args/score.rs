use std::path::PathBuf;

use align_data::DataConfig;
use clap::{ArgAction, Args, ValueEnum, ValueHint};

use super::{BadRowsName, EnsembleArgs, ModelArgs, values};
use crate::{Error, Result};

/// `align score`.
#[derive(Debug, Args)]
#[command(after_help = "\
Writes one JSON object per row: row, rewards (one per answer, in the row's order; of pairs chosen first), with --margins also
margin. Rewards are raw logits, of which only differences within a prompt mean something, unless --normalize is given. Nothing
is cut unless --max-length is given: the reward of a cut answer is that of another answer. Rows that are cut have
\"cut\": true, and no figure counts them; --report and --fit-normalization refuse them.

--fit-normalization writes a digest of the weights beside the scale, and --normalize refuses a scale of other weights.

Rows of `align generate` are read, too. Their prompts are text without special tokens, so that those of conversations are not
what a template makes of the messages; answers that ended at the token limit are counted.

Examples:
  align score --model runs/reward/model --data pairs.jsonl --output rewards.jsonl --margins
  align score --model runs/reward/model --data held-out.jsonl --report report.json --subset-column source
  align score --model runs/reward/model --data answers.jsonl --fit-normalization samples
  align score --model a --model b --model c --ensemble min --normalize --data pairs.jsonl --output rewards.jsonl")]
pub struct ScoreArgs {
    /// Reward model (repeatable with --ensemble): a folder of AutoModelForSequenceClassification with one label
    #[arg(long, value_name = "DIR", required = true, value_hint = ValueHint::DirPath)]
    pub model: Vec<PathBuf>,
    /// Rows with answers of any kind, or the file of `align generate`
    #[arg(long, value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
    pub data: PathBuf,
    /// File to write; an existing one is replaced when all is done. Needed unless something else is asked for
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// Keep the whole rows that are in the output already and append the rest
    #[arg(long, action = ArgAction::SetTrue)]
    pub resume: bool,
    /// What is done about rows that cannot be used
    #[arg(long, value_enum, value_name = "CHOICE", default_value = "refuse")]
    pub bad_rows: BadRowsName,
    /// Names of columns: prompt=question,completion=answer
    #[arg(long, value_name = "NAME=COLUMN", value_delimiter = ',', value_parser = values::column)]
    pub columns: Vec<String>,
    /// Cut rows to this many tokens [default: nothing is cut]
    #[arg(long, value_name = "N", value_parser = values::size, allow_hyphen_values = true)]
    pub max_length: Option<usize>,
    /// Most tokens of one forward pass; never changes the result
    #[arg(long, value_name = "N", default_value = "2048", value_parser = values::size, allow_hyphen_values = true)]
    pub micro_batch_tokens: usize,
    /// Write the margin of each pair, r(chosen) - r(rejected), and show how often it is right
    #[arg(long, action = ArgAction::SetTrue)]
    pub margins: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub trust: TrustArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub scale: ScaleArgs,
    /// What every command with a model has.
    #[command(flatten)]
    pub machine: ModelArgs,
}

/// How far rewards can be trusted.
#[derive(Debug, Args)]
#[command(next_help_heading = "Report")]
pub struct TrustArgs {
    /// Write a report on pairs, rankings or labels as JSON to this file, and show it: accuracy, calibration, temperature,
    /// the accuracy by length difference, and that of preferring length
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub report: Option<PathBuf>,
    /// Show the accuracy for each value of this column, too (repeatable)
    #[arg(long, value_name = "NAME")]
    pub subset_column: Vec<String>,
}

/// The scale of rewards.
#[derive(Debug, Args)]
#[command(next_help_heading = "Scale and ensembles")]
pub struct ScaleArgs {
    /// Bring rewards to the scale in reward_normalization.json of the model's folder, or its adapter's: (reward - mean) / std
    #[arg(long, action = ArgAction::SetTrue)]
    pub normalize: bool,
    /// Measure mean and deviation of the rewards of all answers and write them to the model folder, with what the answers
    /// are
    #[arg(long, value_enum, value_name = "CHOICE")]
    pub fit_normalization: Option<AnswersName>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub several: EnsembleArgs,
}

/// Values of `--fit-normalization`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AnswersName {
    /// Samples of the policy that training starts from
    Samples,
    /// Demonstrations, so that a reward above 0 is better than their average
    Demonstrations,
}

impl AnswersName {
    /// Names them as files do.
    pub fn name(self) -> &'static str {
        match self {
            Self::Samples => "samples",
            Self::Demonstrations => "demonstrations",
        }
    }
}

impl ScoreArgs {
    /// Returns how rows are read, for a model of this context.
    pub fn data_config(&self, context: Option<usize>) -> DataConfig {
        let limit = match (self.max_length, context) {
            (Some(given), Some(context)) => Some(given.min(context)),
            (given, context) => given.or(context),
        };
        DataConfig {
            max_length: limit,
            truncation: match self.max_length {
                Some(_) => align_data::Truncation::KeepStart,
                None => align_data::Truncation::Error,
            },
            bad_rows: self.bad_rows.into(),
            columns: super::columns(&self.columns),
            ..DataConfig::default()
        }
    }

    /// Checks what flags ask of each other.
    ///
    /// # Errors
    /// [`Error::Usage`] names the flags.
    pub fn check(&self) -> Result<()> {
        let usage = |message: &str, hint: &str| Err(Error::usage(message, [hint.to_owned()]));
        let ScaleArgs { normalize, fit_normalization, several } = &self.scale;
        if self.output.is_none() {
            if self.margins {
                return usage("--margins needs --output FILE", "margins are written beside the rewards");
            }
            if self.resume {
                return usage("--resume needs --output FILE", "it continues that file");
            }
            if self.trust.report.is_none() && fit_normalization.is_none() {
                return usage(
                    "--output <FILE> is missing",
                    "--report FILE or --fit-normalization CHOICE can stand for it",
                );
            }
        }
        if self.trust.report.is_none() && !self.trust.subset_column.is_empty() {
            return usage("--subset-column needs --report FILE", "subsets are a part of the report");
        }
        if fit_normalization.is_some() && *normalize {
            return usage(
                "--fit-normalization and --normalize exclude each other",
                "a scale is measured on raw rewards",
            );
        }
        if let (Some(adapter), [_, _, ..]) = (&self.machine.adapter, self.model.as_slice()) {
            let message = format!("--adapter {}: it belongs to one of several --model", adapter.display());
            let hint = "`align merge --model DIR --adapter DIR --output DIR` makes one model of it first";
            return usage(&message, hint);
        }
        match (several.ensemble, self.model.as_slice()) {
            (None, [_, _, ..]) => {
                usage("several --model need --ensemble CHOICE", "choices: mean, min, variance")
            }
            (Some(_), _) if fit_normalization.is_some() => usage(
                "--fit-normalization and --ensemble exclude each other",
                "fit the scale of each model first, one by one",
            ),
            _ => several.check("--model", self.model.len(), *normalize),
        }
    }
}
