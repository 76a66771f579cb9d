//! `align ppo`.

mod check;
mod config;
mod curriculum;

use std::path::PathBuf;

use align_types::config::{
    AdvantageKind, CriticKind, KlEstimator, KlPlacement, PolicyAggregation, RewardBaseline, RewardScaling,
    Truncated,
};
use clap::{ArgAction, Args, ValueHint};

use super::{DrawArgs, RewardArgs, TrainArgs, rules_help, values};

pub use curriculum::CurriculumArgs;

/// `align ppo`.
#[derive(Debug, Args)]
#[command(after_help = ppo_help())]
pub struct PpoArgs {
    /// What every training command has.
    #[command(flatten)]
    pub train: TrainArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub method: PpoMethodArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub draw: DrawArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub rewards: RewardArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub shaping: ShapingArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub kl: KlArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub critic: CriticArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub ptx: PtxArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub curriculum: CurriculumArgs,
}

/// What stands below the flags.
fn ppo_help() -> String {
    format!("{ABOUT}\n\n{}\n\n{EXAMPLES}", rules_help())
}

const ABOUT: &str = "\
A step is an iteration: prompts are answered by the policy, the answers scored, and policy and critic updated with them.
The rows are prompts; their other columns travel on to rewards. Defaults marked so follow from --advantage. Two ready
configurations: docs/presets/ppo.toml (the practices of arXiv:2404.10719) and docs/presets/grpo-math.toml; what a program
of --reward-command reads and writes: crates/align-rules/README.md.";

const EXAMPLES: &str = "\
Examples:
  align ppo --model models/sft --data prompts.jsonl --reward-model runs/reward/model --output-dir runs/ppo
  align ppo --model models/sft --data prompts.jsonl --reward rule:math-answer --advantage grpo --num-completions 8 --output-dir runs/grpo
  align ppo --model models/sft --data prompts.jsonl --reward-command 'python3 score.py' --critic shared --output-dir runs/ppo";

/// The updates of the policy.
#[derive(Debug, Args)]
#[command(next_help_heading = "Method")]
pub struct PpoMethodArgs {
    /// Where advantages come from
    #[arg(long, value_name = "CHOICE", default_value = "ppo", value_parser = values::choice::<AdvantageKind>(ADVANTAGES))]
    pub advantage: AdvantageKind,
    /// Passes over the samples of an iteration [default: 4; 1 with another advantage than ppo]
    #[arg(long, value_name = "N", value_parser = values::size, allow_hyphen_values = true)]
    pub num_ppo_epochs: Option<usize>,
    /// Updates per pass
    #[arg(long, value_name = "N", default_value = "1", value_parser = values::size, allow_hyphen_values = true)]
    pub num_mini_batches: usize,
    /// The importance ratio is clipped to [1 - X, 1 + X] [default: 0.2]
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub cliprange: Option<f64>,
    /// Another X for the upper bound [default: --cliprange; 0.28 with dapo]
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub cliprange_high: Option<f64>,
    /// Weight of the entropy bonus
    #[arg(long, value_name = "X", default_value = "0", value_parser = values::number, allow_hyphen_values = true)]
    pub entropy_coef: f64,
    /// Over what the terms of tokens are averaged [default: token-mean; grpo seq-mean-mean, dr-grpo seq-sum-const]
    #[arg(long, value_name = "CHOICE", value_parser = values::snake_choice::<PolicyAggregation>(AGGREGATIONS))]
    pub aggregation: Option<PolicyAggregation>,
    /// Scale advantages to mean 0 and variance 1 over all tokens of the iteration [default: on with ppo]
    #[arg(long, value_name = "on|off", value_parser = values::switch())]
    pub whiten_advantages: Option<bool>,
    /// Replace prompts whose answers all have the same score by others [default: on with dapo]
    #[arg(long, value_name = "on|off", value_parser = values::switch())]
    pub dynamic_sampling: Option<bool>,
    /// End the updates of an iteration once policy/approxkl_avg is above it [default: never]
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub target_kl: Option<f64>,
    /// Skip a minibatch whose mean importance ratio is above it; 5 in 2404.10719 [default: never]
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub max_ratio: Option<f64>,
    /// Strength of the pull to the reference in online-dpo [default: 0.1]
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub beta: Option<f64>,
    /// Sample the next iteration's answers while this one's update the policy: they are one update behind, which the
    /// importance ratio corrects
    #[arg(long, action = ArgAction::SetTrue)]
    pub overlap: bool,
}

/// Values of `--advantage`.
const ADVANTAGES: &[(&str, &str)] = &[
    ("ppo", "generalised advantage estimation with a critic, clipped (1707.06347)"),
    ("a2c", "rewards-to-go less the critic's value, one update (1602.01783)"),
    ("reinforce", "the return less the mean of the batch's other answers, one update"),
    ("rloo", "the return less the mean of the other answers to the prompt (2402.14740)"),
    ("grpo", "the return normalised over the answers to the prompt (2402.03300)"),
    ("dr-grpo", "the return less the mean over the answers to the prompt (2503.20783)"),
    ("dapo", "grpo with a wider upper clip and prompts without signal replaced (2503.14476)"),
    ("online-dpo", "DPO on the best and the worst answer to each prompt (2402.04792)"),
];

/// Values of `--aggregation`.
const AGGREGATIONS: &[(&str, &str)] = &[
    ("token-mean", "all tokens of the batch alike"),
    ("seq-mean-mean", "all answers alike: mean over answers of each one's mean"),
    ("seq-sum-mean", "mean over answers of each one's sum"),
    ("seq-sum-const", "sum over all tokens / (answers x --max-new-tokens)"),
];

/// From scores to the rewards of tokens.
#[derive(Debug, Args)]
#[command(next_help_heading = "Rewards")]
pub struct ShapingArgs {
    /// Subtracted from the score of an answer that reached --max-new-tokens [default: nothing]
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub missing_eos_penalty: Option<f64>,
    /// What becomes of an answer that reached --max-new-tokens, with a critic [default: bootstrap]
    #[arg(long, value_name = "CHOICE", value_parser = values::choice::<Truncated>(TRUNCATED))]
    pub truncated: Option<Truncated>,
    /// Leave answers that reached --max-new-tokens out of the loss
    #[arg(long, action = ArgAction::SetTrue)]
    pub mask_truncated: bool,
    /// What scores are divided by
    #[arg(long, value_name = "CHOICE", default_value = "none", value_parser = values::choice::<RewardScaling>(SCALINGS))]
    pub reward_scaling: RewardScaling,
    /// Largest absolute score, after scaling [default: no bound]
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub reward_clip: Option<f64>,
    /// What is subtracted from scores
    #[arg(long, value_name = "CHOICE", default_value = "none", value_parser = values::choice::<RewardBaseline>(BASELINES))]
    pub reward_baseline: RewardBaseline,
    /// Penalty of long answers: it falls from 0 to -1 over the CACHE tokens before MAX [default: none]
    #[arg(long, value_name = "MAX,CACHE", value_delimiter = ',', value_parser = values::size, allow_hyphen_values = true)]
    pub overlong_penalty: Vec<usize>,
    /// Scale the rewards of tokens to variance 1 and keep their mean
    #[arg(long, action = ArgAction::SetTrue)]
    pub whiten_rewards: bool,
}

/// Values of `--truncated`.
const TRUNCATED: &[(&str, &str)] = &[
    ("bootstrap", "it has no score and goes on with the critic's value of its last state"),
    ("score", "it is over, and its score counts"),
];

/// Values of `--reward-scaling`.
const SCALINGS: &[(&str, &str)] =
    &[("none", "nothing"), ("running", "the standard deviation of all scores of the run so far")];

/// Values of `--reward-baseline`.
const BASELINES: &[(&str, &str)] =
    &[("none", "nothing"), ("reference", "the score of the reference model's own answer to the prompt")];

/// The pull to the reference.
#[derive(Debug, Args)]
#[command(next_help_heading = "Reference")]
pub struct KlArgs {
    /// Reference policy [default: the model itself before the first step]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub ref_model: Option<PathBuf>,
    /// Let the reference follow the policy: after each iteration X of the policy and 1 - X of the reference [default: it
    /// stays]
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub ref_ema: Option<f64>,
    /// Weight of the KL divergence from the reference [default: 0.05; grpo 0.04; dr-grpo, dapo and online-dpo 0]
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub kl_coef: Option<f64>,
    /// How the divergence is estimated [default: k1 in the reward, k3 in the loss]
    #[arg(long, value_name = "CHOICE", value_parser = values::choice::<KlEstimator>(ESTIMATORS))]
    pub kl_estimator: Option<KlEstimator>,
    /// What the divergence is part of [default: reward; grpo, dr-grpo and dapo loss]
    #[arg(long, value_name = "CHOICE", value_parser = values::choice::<KlPlacement>(PLACEMENTS))]
    pub kl_placement: Option<KlPlacement>,
    /// Divergence of an answer, in nats, that --kl-coef is steered to [default: --kl-coef stays]
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub kl_target: Option<f64>,
    /// Answers over which --kl-coef follows --kl-target [default: 10000]
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub kl_horizon: Option<f64>,
}

/// Values of `--kl-estimator`, with d = log policy - log reference of a token.
const ESTIMATORS: &[(&str, &str)] = &[
    ("k1", "d; for the reward"),
    ("k2", "d^2 / 2; for the loss"),
    ("k3", "exp(-d) - 1 + d, at most 10; for either"),
];

/// Values of `--kl-placement`.
const PLACEMENTS: &[(&str, &str)] =
    &[("reward", "the reward of each token, a constant"), ("loss", "the loss, with a gradient")];

/// The critic of ppo and a2c.
#[derive(Debug, Args)]
#[command(next_help_heading = "Critic")]
pub struct CriticArgs {
    /// Where the critic lives
    #[arg(long, value_name = "CHOICE", default_value = "separate", value_parser = values::choice::<CriticKind>(CRITICS))]
    pub critic: CriticKind,
    /// What a separate critic starts from: a reward model, a critic that a run saved, or a model that gets a new value
    /// head [default: the first --reward-model where it has the tokenizer of --model, otherwise --model]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub critic_model: Option<PathBuf>,
    /// Largest learning rate of a separate critic [default: 1e-5]
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub critic_learning_rate: Option<f64>,
    /// Iterations in which the critic alone is trained
    #[arg(long, value_name = "N", default_value = "0", value_parser = values::count, allow_hyphen_values = true)]
    pub critic_warmup: u64,
    /// Weight of the value loss where the critic is shared [default: 0.1]
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub vf_coef: Option<f64>,
    /// How far a value may move from that of the rollout before its loss is clipped, in the critic's units [default: 0.2]
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub cliprange_value: Option<f64>,
    /// Let the critic predict returns of mean 0 and variance 1; one that was trained before gives values in other units and
    /// learns its last layer anew from the second iteration on
    #[arg(long, action = ArgAction::SetTrue)]
    pub normalize_values: bool,
    /// Discount of later rewards [default: 1]
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub gamma: Option<f64>,
    /// Lambda of generalised advantage estimation [default: 0.95]
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub lam: Option<f64>,
}

/// Values of `--critic`.
const CRITICS: &[(&str, &str)] = &[
    ("separate", "a network of its own, with its own optimiser"),
    ("shared", "a head on the policy's transformer"),
];

/// Language modelling beside the rewards (PPO-ptx, 2203.02155).
#[derive(Debug, Args)]
#[command(next_help_heading = "Language modelling (PPO-ptx)")]
pub struct PtxArgs {
    /// Rows as `align sft` takes them, trained on beside the samples (repeatable)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub ptx_data: Vec<PathBuf>,
    /// Weight of their mean loss
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub ptx_coef: Option<f64>,
    /// Rows of each iteration [default: --batch-size]
    #[arg(long, value_name = "N", value_parser = values::size, allow_hyphen_values = true)]
    pub ptx_batch_size: Option<usize>,
    /// Rows as `align sft` takes them, whose loss every evaluation reports as eval/loss/ptx_avg: what was learned earlier
    /// and may be forgotten, with --ptx-data or without (repeatable)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub ptx_eval_data: Vec<PathBuf>,
}
