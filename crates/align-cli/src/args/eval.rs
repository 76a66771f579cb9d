use std::path::PathBuf;

use align_rules::Registry;
use align_types::config::{DpoConfig, KtoConfig, UnaConfig};
use clap::{ArgAction, Args, ValueEnum, ValueHint};

use super::{BadRowsName, EnsembleArgs, ModelArgs, SamplingArgs, values};
use crate::{Error, Result};

/// `align eval`.
#[derive(Debug, Args)]
#[command(after_help = eval_help())]
pub struct EvalArgs {
    /// Model: a Hugging Face folder
    #[arg(long, value_name = "DIR", required = true, value_hint = ValueHint::DirPath)]
    pub model: PathBuf,
    /// The model it is compared with: reference policy of the losses and of the divergence, opponent of the win rate
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub reference: Option<PathBuf>,
    /// Held-out rows, or prompts
    #[arg(long, value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
    pub data: PathBuf,
    /// What to measure (repeatable) [default: all that rows and flags allow]
    #[arg(long, value_enum, value_name = "CHOICE")]
    pub measure: Vec<Measure>,
    /// File for the numbers of every row, as JSON lines; an existing one is replaced when all is done
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// What is done about rows that cannot be used
    #[arg(long, value_enum, value_name = "CHOICE", default_value = "refuse")]
    pub bad_rows: BadRowsName,
    /// Names of columns: prompt=question,completion=answer
    #[arg(long, value_name = "NAME=COLUMN", value_delimiter = ',', value_parser = values::column)]
    pub columns: Vec<String>,
    /// Cut rows to this many tokens [default: nothing is cut]
    #[arg(long, value_name = "N", value_parser = values::size, allow_hyphen_values = true)]
    pub max_length: Option<usize>,
    /// Sample for the first N prompts only [default: for all]
    #[arg(long, value_name = "N", value_parser = values::size, allow_hyphen_values = true)]
    pub max_prompts: Option<usize>,
    /// Most tokens of one forward pass; never changes the result
    #[arg(long, value_name = "N", default_value = "2048", value_parser = values::size, allow_hyphen_values = true)]
    pub micro_batch_tokens: usize,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub held_out: HeldOutArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub rewards: RewardArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub sampling: SamplingArgs,
    /// What every command with a model has.
    #[command(flatten)]
    pub machine: ModelArgs,
}

/// What stands below the flags.
fn eval_help() -> String {
    format!("{ABOUT}\n\n{}\n\n{EXAMPLES}", rules_help())
}

const ABOUT: &str = "\
What is measured follows from rows and flags: the loss of the rows' answers (held-out), the divergence from --reference over
sampled answers (kl), rewards of sampled answers and their win rate against those of --reference (rewards). --measure chooses.
Every figure has a 95 % interval, bootstrapped over prompts.";

const EXAMPLES: &str = "\
Examples:
  align eval --model runs/dpo/model --reference models/sft --data held-out.jsonl --measure held-out
  align eval --model runs/dpo/model --reference models/sft --data prompts.jsonl --reward-model models/reward
  align eval --model models/sft --data prompts.jsonl --reward rule:length --reward-command 'python3 score.py'
  align eval --model models/sft --data gsm8k.jsonl --columns prompt=question --reward rule:math-answer --reward rule:format";

/// Values of `--measure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Measure {
    /// Loss, accuracy and margins of the answers in the rows
    HeldOut,
    /// Divergence from the reference over sampled answers
    Kl,
    /// Rewards of sampled answers; with a reference the win rate
    Rewards,
}

/// Values of `--method`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MethodName {
    /// By the rows: pairs dpo, labels kto, scores una, everything else sft
    Auto,
    /// Negative log-likelihood; of pairs that of the chosen answer
    Sft,
    /// The sigmoid loss of pairs
    Dpo,
    /// KTO, its baseline taken over all rows
    Kto,
    /// The squared error of UNA
    Una,
}

/// The loss of held-out rows.
#[derive(Debug, Args)]
#[command(next_help_heading = "Held-out rows")]
pub struct HeldOutArgs {
    /// The loss
    #[arg(long, value_enum, value_name = "CHOICE", default_value = "auto")]
    pub method: MethodName,
    /// Strength of the pull to the reference [default: that of the method: dpo 0.1, kto 0.1, una 0.03]
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub beta: Option<f64>,
    /// Score that becomes 0 (una)
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub score_min: Option<f64>,
    /// Score that becomes 1 (una)
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub score_max: Option<f64>,
}

/// Where rewards come from.
#[derive(Debug, Args)]
#[command(next_help_heading = "Rewards")]
pub struct RewardArgs {
    /// Reward model (repeatable): a folder of AutoModelForSequenceClassification with one label, with a tokenizer and a
    /// template of its own; it abstains from an answer that is too long for it
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub reward_model: Vec<PathBuf>,
    /// Bring the rewards of reward models to the scale in the reward_normalization.json of their folders
    #[arg(long, action = ArgAction::SetTrue)]
    pub normalize: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub several: EnsembleArgs,
    /// Rule (repeatable), such as rule:length, rule:contains=TEXT, rule:regex=PATTERN, rule:math-answer, rule:format; all
    /// of them stand below
    #[arg(long, value_name = "rule:NAME[=ARG]", value_parser = parse_rule)]
    pub reward: Vec<String>,
    /// Program (repeatable) that reads {"id","prompt","completion","row"} per line and answers {"id","reward"} per line;
    /// null abstains
    #[arg(long, value_name = "PROGRAM ARGS", value_parser = parse_command)]
    pub reward_command: Vec<String>,
    /// Weights of the rewards, which are added up: first those of --reward-model (one for an --ensemble of them), then
    /// --reward, then --reward-command
    /// [default: 1 each]
    #[arg(long, value_name = "X", value_delimiter = ',', value_parser = values::number, allow_hyphen_values = true)]
    pub reward_weights: Vec<f64>,
    /// Longest wait for one answer of a program, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = values::number, allow_hyphen_values = true)]
    pub reward_timeout: f64,
}

/// Returns the rewards that `--reward` knows by name: what is added here is in the help, is checked and can be used.
pub fn registry() -> Registry {
    Registry::new()
}

/// Lists the rules of `--reward`.
pub fn rules_help() -> String {
    let registry = registry();
    let lines: Vec<String> = registry.help().map(|(rule, help)| format!("  {rule:<33} {help}")).collect();
    format!("Rules of --reward:\n{}", lines.join("\n"))
}

fn parse_rule(text: &str) -> Result<String, String> {
    registry().reward(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn parse_command(text: &str) -> Result<String, String> {
    align_rules::Program::check(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

impl RewardArgs {
    /// Counts the rewards; an ensemble is one.
    pub fn count(&self) -> usize {
        let models = self.reward_model.len();
        let models = if self.several.ensemble.is_some() { models.min(1) } else { models };
        models + self.reward.len() + self.reward_command.len()
    }

    /// Names the first of the flags that was given.
    pub fn given(&self) -> Option<&'static str> {
        let given = [
            (!self.reward_model.is_empty(), "--reward-model"),
            (!self.reward.is_empty(), "--reward"),
            (!self.reward_command.is_empty(), "--reward-command"),
        ];
        given.into_iter().find(|(given, _)| *given).map(|(_, flag)| flag)
    }

    /// Checks numbers, and that every flag is for something.
    ///
    /// # Errors
    /// [`Error::Usage`] names the flag.
    pub(super) fn check(&self) -> Result<()> {
        let count = self.count();
        let weights = &self.reward_weights;
        if !weights.is_empty() && weights.len() != count {
            let message = format!("--reward-weights has {} numbers for {count} rewards", weights.len());
            return Err(Error::usage(message, ["give one for each, or none".to_owned()]));
        }
        if weights.iter().any(|weight| !weight.is_finite()) {
            return Err(Error::usage("--reward-weights: expected finite numbers", []));
        }
        if self.normalize && self.reward_model.is_empty() {
            return Err(Error::usage("--normalize needs --reward-model DIR", []));
        }
        self.several.check("--reward-model", self.reward_model.len(), self.normalize)?;
        let seconds = self.reward_timeout;
        if !(seconds > 0.0 && seconds <= 1e6) {
            return Err(Error::usage(
                format!("--reward-timeout {seconds}: expected seconds above 0 and at most a million"),
                [],
            ));
        }
        Ok(())
    }
}

impl HeldOutArgs {
    /// Names the first of these flags that was given.
    pub fn given(&self) -> Option<&'static str> {
        let given = [
            (self.method != MethodName::Auto, "--method"),
            (self.beta.is_some(), "--beta"),
            (self.score_min.is_some(), "--score-min"),
            (self.score_max.is_some(), "--score-max"),
        ];
        given.into_iter().find(|(given, _)| *given).map(|(_, flag)| flag)
    }

    /// Refuses flags that a method would not look at; `auto` is none yet, and looks at all.
    ///
    /// # Errors
    /// [`Error::Usage`] names the flag.
    pub fn check_method(&self, method: MethodName) -> Result<()> {
        let has_beta = method != MethodName::Sft;
        let has_scores = matches!(method, MethodName::Auto | MethodName::Una);
        let unread = [
            (!has_beta && self.beta.is_some(), "--beta", "it has no reference to be pulled to"),
            (!has_scores && self.score_min.is_some(), "--score-min", "only una reads scores"),
            (!has_scores && self.score_max.is_some(), "--score-max", "only una reads scores"),
        ];
        match unread.into_iter().find(|(unread, ..)| *unread) {
            None => Ok(()),
            Some((_, flag, why)) => {
                let name = method.to_possible_value();
                let name = name.as_ref().map_or("the method", |value| value.get_name());
                let hint = match self.method {
                    MethodName::Auto => "--method says which loss the rows are measured with".to_owned(),
                    _ => format!("leave {flag} out"),
                };
                let message = format!("{flag} would change nothing: the loss is that of {name}, {why}");
                Err(Error::usage(message, [hint]))
            }
        }
    }

    /// Makes the configuration of the DPO loss.
    pub fn dpo_config(&self) -> DpoConfig {
        let default = DpoConfig::default();
        DpoConfig { beta: self.beta.unwrap_or(default.beta), ..default }
    }

    /// Makes the configuration of the KTO loss.
    pub fn kto_config(&self) -> KtoConfig {
        let default = KtoConfig::default();
        KtoConfig { beta: self.beta.unwrap_or(default.beta), ..default }
    }

    /// Makes the configuration of the UNA loss.
    pub fn una_config(&self) -> UnaConfig {
        let default = UnaConfig::default();
        let beta = self.beta.unwrap_or(default.beta);
        UnaConfig { beta, score_min: self.score_min, score_max: self.score_max, ..default }
    }
}

impl EvalArgs {
    /// Says whether something is to be measured: asked for, or nothing else was.
    pub fn wants(&self, measure: Measure) -> bool {
        self.measure.is_empty() || self.measure.contains(&measure)
    }

    /// Says whether something is asked for by name.
    pub fn insists(&self, measure: Measure) -> bool {
        self.measure.contains(&measure)
    }

    /// Says why samples under these flags are none of the model's own distribution, if they are none: their divergence
    /// would be another model's.
    pub fn off_policy(&self) -> Option<&'static str> {
        let sampling = &self.sampling;
        let changes = [
            (sampling.greedy, "--greedy"),
            (sampling.draw.top_p < 1.0, "--top-p"),
            (sampling.draw.top_k > 0, "--top-k"),
            (sampling.min_p > 0.0, "--min-p"),
            (sampling.repetition_penalty != 1.0, "--repetition-penalty"),
        ];
        changes.into_iter().find(|(given, _)| *given).map(|(_, flag)| flag)
    }

    /// Refuses a flag of something that --measure leaves out.
    fn unused(&self, measure: Measure, name: &str, given: Option<&str>) -> Result<()> {
        match given.filter(|_| !self.wants(measure)) {
            None => Ok(()),
            Some(flag) => Err(Error::usage(
                format!("{flag} would change nothing: --measure leaves {name} out"),
                [format!("add --measure {name}, or leave {flag} out")],
            )),
        }
    }

    /// Checks ranges, that something is left to measure, and that every flag is for something.
    ///
    /// # Errors
    /// [`Error::Usage`] names the flags.
    pub fn check(&self) -> Result<()> {
        self.sampling.check()?;
        self.rewards.check()?;
        self.held_out.check_method(self.held_out.method)?;
        self.unused(Measure::Rewards, "rewards", self.rewards.given())?;
        self.unused(Measure::HeldOut, "held-out", self.held_out.given())?;
        self.held_out.dpo_config().validate()?;
        self.held_out.una_config().validate()?;
        let rewards = self.rewards.count() > 0;
        let needs = |measure, given: bool, name: &str, flag: &str| {
            let missing = self.insists(measure) && !given;
            let message = || format!("--measure {name} needs {flag}");
            if missing { Err(Error::usage(message(), [])) } else { Ok(()) }
        };
        needs(Measure::Kl, self.reference.is_some(), "kl", "--reference DIR")?;
        needs(Measure::Rewards, rewards, "rewards", "--reward-model, --reward or --reward-command")?;
        if let (true, Some(flag)) = (self.insists(Measure::Kl), self.off_policy()) {
            let why = "the divergence is estimated from samples of the model itself";
            return Err(Error::usage(format!("--measure kl and {flag} exclude each other: {why}"), []));
        }
        if self.max_prompts == Some(0) {
            return Err(Error::usage("--max-prompts 0: expected at least 1", []));
        }
        let unpaired =
            !matches!(self.held_out.method, MethodName::Auto | MethodName::Sft) && self.reference.is_none();
        if unpaired {
            let message = "the loss compares with a reference policy: --reference DIR is missing";
            return Err(Error::usage(message, ["--method sft needs none".to_owned()]));
        }
        Ok(())
    }
}
