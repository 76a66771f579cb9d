//! Configurations of every method, with the defaults of the papers or of TRL where users know them.
//!
//! Each is a plain struct with public fields; build one with `..Default::default()` and call `validate()`.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

mod curriculum;
mod dpo;
mod kto;
mod ppo;
mod reference;
mod reward;
mod una;

pub use curriculum::{CurriculumConfig, CurriculumKind};
pub use dpo::{DpoConfig, DpoLossType, FDivergence};
pub use kto::{KtoConfig, KtoLossType};
pub use ppo::{
    AdvantageKind, CriticKind, KlEstimator, KlPlacement, OverlongPenalty, PolicyAggregation, PpoConfig,
    RewardBaseline, RewardScaling, Truncated,
};
pub use reference::ReferenceSync;
pub use reward::{RewardConfig, ScoreLoss, TieRule};
pub use una::{ScoreTransform, UnaConfig, UnaLossType};

/// Checks that a number is finite and inside a range.
pub(crate) fn check(key: &'static str, value: f64, ok: bool, expected: &'static str) -> Result<()> {
    if ok && value.is_finite() {
        return Ok(());
    }
    // 1e300 has more digits than a line.
    let value =
        if value.is_finite() && value.abs() >= 1e15 { format!("{value:e}") } else { value.to_string() };
    Err(Error::Config { key, value, expected })
}

/// How tokens are sampled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingConfig {
    /// Samples per prompt.
    pub num_completions: usize,
    /// Most tokens of a completion, stop token included.
    pub max_new_tokens: usize,
    /// Divides the logits before the softmax; > 0.
    pub temperature: f64,
    /// Keeps the smallest set of tokens whose probability reaches this; in (0, 1], 1 keeps all.
    pub top_p: f64,
    /// Keeps this many of the most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the tokens at least this times as likely as the most likely one (2407.01082); in [0, 1], 0 keeps all.
    pub min_p: f64,
    /// Makes tokens of the prompt and the completion less likely to come again: a logit above 0 is divided by it, one
    /// below 0 multiplied (1909.05858, section 4.1); in [0.01, 100], 1 changes nothing.
    pub repetition_penalty: f64,
    /// Takes the most likely token instead of drawing; ties go to the smaller id.
    pub greedy: bool,
    /// Strings that end a completion when its text contains them.
    pub stop: Vec<String>,
    /// Seed of the streams the samples are drawn from.
    pub seed: u64,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self {
            num_completions: 1,
            max_new_tokens: 128,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            greedy: false,
            stop: Vec::new(),
            seed: 0,
        }
    }
}

impl SamplingConfig {
    /// Most samples per prompt: a bound that no use reaches, so that a slip of the keyboard does not ask for
    /// all memory.
    pub const MOST_COMPLETIONS: usize = 1_000_000;

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Config`] names the first value outside its range.
    pub fn validate(&self) -> Result<()> {
        check(
            "temperature",
            self.temperature,
            self.temperature > 0.0,
            "a number above 0 (use greedy for 0)",
        )?;
        check("top-p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "a number in (0, 1]")?;
        check("min-p", self.min_p, (0.0..=1.0).contains(&self.min_p), "a number in [0, 1]")?;
        // Beyond these bounds logits of ordinary size leave float32.
        let penalty = self.repetition_penalty;
        check("repetition-penalty", penalty, (0.01..=100.0).contains(&penalty), "a number in [0.01, 100]")?;
        let most = Self::MOST_COMPLETIONS;
        let samples = (1..=most).contains(&self.num_completions);
        check("num-completions", self.num_completions as f64, samples, "a whole number from 1 to 1000000")?;
        check("max-new-tokens", self.max_new_tokens as f64, self.max_new_tokens > 0, "at least 1")?;
        if self.stop.iter().any(String::is_empty) {
            return Err(Error::Config {
                key: "stop",
                value: "\"\"".into(),
                expected: "a string of at least one character",
            });
        }
        Ok(())
    }
}

/// Over what the token losses of SFT are averaged (the aggregation modes of DAPO, 2503.14476, section 3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// Sum over all tokens of the optimiser batch / number of those tokens.
    #[default]
    TokenMean,
    /// Mean over sequences of each sequence's token mean.
    SeqMeanMean,
}

/// The losses of a token of a demonstration, by their names in TRL 1.16; p is its probability under the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SftLossType {
    /// Negative log-likelihood, −log p.
    #[default]
    Nll,
    /// Dynamic fine-tuning, −p log p with the factor p as a constant (2508.05629).
    Dft,
}

/// Supervised fine-tuning (behaviour cloning).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SftConfig {
    /// Which loss a token has.
    pub loss_type: SftLossType,
    /// Over what token losses are averaged.
    pub aggregation: Aggregation,
}

/// Which linear layers get an adapter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoraTargets {
    /// Every linear layer but the output layer.
    #[default]
    AllLinear,
    /// Layers whose name is one of these, or ends with a dot and one of these (`q_proj`, `mlp.down_proj`).
    Names(Vec<String>),
}

/// Low-rank adapters of linear layers (2106.09685): W x becomes W x + s B A x with A of `rank` rows.
///
/// ```
/// use align_types::config::LoraConfig;
/// let config = LoraConfig { rank: 16, alpha: 32.0, ..Default::default() };
/// config.validate()?;
/// assert_eq!(config.scale(16), 2.0);
/// assert_eq!(LoraConfig { use_rslora: true, ..config }.scale(16), 8.0);
/// # Ok::<(), align_types::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rows of A and columns of B, r; at least 1 and at most the smaller side of each matrix.
    pub rank: usize,
    /// Numerator of the scale s; > 0.
    pub alpha: f64,
    /// Probability that an input of an adapter is dropped while it is trained; in [0, 1).
    pub dropout: f64,
    /// Scales by alpha / sqrt(r) instead of alpha / r (2312.03732).
    pub use_rslora: bool,
    /// Which layers get an adapter.
    pub targets: LoraTargets,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 8, alpha: 16.0, dropout: 0.0, use_rslora: false, targets: LoraTargets::AllLinear }
    }
}

impl LoraConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Config`] names the first value outside its range.
    pub fn validate(&self) -> Result<()> {
        check("lora-rank", self.rank as f64, self.rank > 0, "a whole number of at least 1")?;
        check("lora-alpha", self.alpha, self.alpha > 0.0, "a finite number above 0")?;
        check("lora-dropout", self.dropout, (0.0..1.0).contains(&self.dropout), "a number in [0, 1)")?;
        let LoraTargets::Names(names) = &self.targets else { return Ok(()) };
        let expected = "all-linear, or names of linear layers such as q_proj";
        match names.iter().find(|name| name.trim().is_empty()) {
            None if !names.is_empty() => Ok(()),
            empty => {
                let value = empty.map_or_else(|| "nothing".to_owned(), |name| format!("{name:?}"));
                Err(Error::Config { key: "lora-targets", value, expected })
            }
        }
    }

    /// Computes the scale s of an adapter of this rank: alpha / r (2106.09685 section 4.1), or alpha / sqrt(r)
    /// (2312.03732).
    pub fn scale(&self, rank: usize) -> f64 {
        let rank = rank as f64;
        self.alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }
}

/// Shape of the learning rate over the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// The same rate after warm-up.
    Constant,
    /// Falls linearly to 0.
    #[default]
    Linear,
    /// Falls as half a cosine to 0.
    Cosine,
}

/// Largest learning rate and weight decay: above these a step leaves 32-bit floats whatever the model is.
const MOST_RATE: f64 = 1e3;
const MOST_DECAY: f64 = 1e6;

/// AdamW (1711.05101) with gradient clipping and a schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Peak learning rate; > 0 and at most 1000.
    pub learning_rate: f64,
    /// Shape of the learning rate.
    pub lr_scheduler: Schedule,
    /// Steps over which the rate rises linearly from 0.
    pub warmup_steps: u64,
    /// Decoupled weight decay of matrices and embeddings (not of norms and biases); from 0 to a million.
    pub weight_decay: f64,
    /// Largest global gradient norm; 0 switches clipping off.
    pub max_grad_norm: f64,
    /// Decay of the first moment; in [0, 1).
    pub adam_beta1: f64,
    /// Decay of the second moment; in [0, 1).
    pub adam_beta2: f64,
    /// Added to the root of the second moment; > 0 and at most 1.
    pub adam_epsilon: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-6,
            lr_scheduler: Schedule::Linear,
            warmup_steps: 0,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
        }
    }
}

impl OptimizerConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Config`] names the first value outside its range.
    pub fn validate(&self) -> Result<()> {
        let rate = self.learning_rate > 0.0 && self.learning_rate <= MOST_RATE;
        check("learning-rate", self.learning_rate, rate, "a finite number above 0 and at most 1000")?;
        let decay = (0.0..=MOST_DECAY).contains(&self.weight_decay);
        check("weight-decay", self.weight_decay, decay, "a finite number from 0 to 1000000")?;
        let norm = self.max_grad_norm >= 0.0;
        check("max-grad-norm", self.max_grad_norm, norm, "a finite number of at least 0 (0: no clipping)")?;
        check("adam-beta1", self.adam_beta1, (0.0..1.0).contains(&self.adam_beta1), "a number in [0, 1)")?;
        check("adam-beta2", self.adam_beta2, (0.0..1.0).contains(&self.adam_beta2), "a number in [0, 1)")?;
        let epsilon = self.adam_epsilon > 0.0 && self.adam_epsilon <= 1.0;
        check("adam-epsilon", self.adam_epsilon, epsilon, "a finite number above 0 and at most 1")
    }
}

/// Most passes over the data, and most steps, that are taken for meant.
const MOST_EPOCHS: f64 = 1e6;
const MOST_STEPS: u64 = 1_000_000_000_000;

/// The part of a training run that no method changes: batches, length, saving.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Seed of every random stream of the run.
    pub seed: u64,
    /// Prompt groups per optimiser step.
    pub batch_size: usize,
    /// Upper bound of flat tokens in one forward pass; never changes the result.
    pub micro_batch_tokens: usize,
    /// Optimiser steps, at most 10¹²; wins over `epochs`.
    pub max_steps: Option<u64>,
    /// Passes over the data; > 0 and at most a million.
    pub epochs: f64,
    /// Steps between checkpoints; 0 saves at the end and on interruption only.
    pub save_every: u64,
    /// Checkpoints that are kept.
    pub keep_checkpoints: usize,
    /// Steps between logged lines.
    pub log_every: u64,
    /// Steps between evaluations on held-out rows; 0 evaluates at the end only.
    pub eval_every: u64,
    /// Compute threads.
    pub threads: usize,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            batch_size: 8,
            micro_batch_tokens: 1024,
            max_steps: None,
            epochs: 1.0,
            save_every: 100,
            keep_checkpoints: 2,
            log_every: 10,
            eval_every: 0,
            threads: 1,
        }
    }
}

impl TrainConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Config`] names the first value outside its range.
    pub fn validate(&self) -> Result<()> {
        let at_least_one = |key, value: usize| check(key, value as f64, value > 0, "at least 1");
        at_least_one("batch-size", self.batch_size)?;
        at_least_one("micro-batch-tokens", self.micro_batch_tokens)?;
        at_least_one("threads", self.threads)?;
        at_least_one("keep-checkpoints", self.keep_checkpoints)?;
        check("log-every", self.log_every as f64, self.log_every > 0, "at least 1")?;
        let epochs = self.epochs > 0.0 && self.epochs <= MOST_EPOCHS;
        check("epochs", self.epochs, epochs, "a finite number above 0 and at most 1000000")?;
        match self.max_steps {
            Some(steps) if steps == 0 || steps > MOST_STEPS => Err(Error::Config {
                key: "max-steps",
                value: steps.to_string(),
                expected: "at least 1 and at most 1000000000000",
            }),
            _ => Ok(()),
        }
    }

    /// Counts the optimiser steps of a run over `rows` rows: `max_steps`, or `epochs` passes with a last
    /// smaller batch per pass.
    ///
    /// A pass takes ceil(rows / batch size) steps; a fraction of a pass is rounded up to whole steps.
    pub fn total_steps(&self, rows: usize) -> u64 {
        let per_epoch = rows.div_ceil(self.batch_size.max(1)) as f64;
        // 100 × 0.07 is 7.000000000000001: `epochs` and the product are rounded, each by at most half of EPSILON
        // relatively, and a product above a whole number by no more than that is meant to be that number.
        const ROUNDING: f64 = 4.0 * f64::EPSILON;
        self.max_steps.unwrap_or_else(|| (per_epoch * self.epochs * (1.0 - ROUNDING)).ceil() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        SamplingConfig::default().validate().unwrap();
        DpoConfig::default().validate().unwrap();
        LoraConfig::default().validate().unwrap();
        OptimizerConfig::default().validate().unwrap();
        TrainConfig::default().validate().unwrap();
    }

    #[test]
    fn values_outside_their_range_are_named() {
        for beta in [0.0, -1.0, 1e300, f64::NAN, f64::INFINITY] {
            let error = DpoConfig { beta, ..Default::default() }.validate().unwrap_err().to_string();
            assert!(error.contains("beta") && error.contains("above 0 and at most 1000000"), "{error}");
        }
        for learning_rate in [0.0, 1e4, f64::NAN] {
            let error = OptimizerConfig { learning_rate, ..Default::default() }.validate().unwrap_err();
            assert!(error.to_string().contains("at most 1000"), "{error}");
        }
        assert!(OptimizerConfig { weight_decay: 1e7, ..Default::default() }.validate().is_err());
        assert!(OptimizerConfig { adam_epsilon: 2.0, ..Default::default() }.validate().is_err());
        assert!(DpoConfig { label_smoothing: 0.5, ..Default::default() }.validate().is_err());
        let names =
            |names: &[&str]| LoraTargets::Names(names.iter().map(|name| (*name).to_owned()).collect());
        for (lora, key) in [
            (LoraConfig { rank: 0, ..Default::default() }, "lora-rank = 0"),
            (LoraConfig { alpha: 0.0, ..Default::default() }, "lora-alpha = 0"),
            (LoraConfig { alpha: f64::NAN, ..Default::default() }, "lora-alpha = NaN"),
            (LoraConfig { dropout: 1.0, ..Default::default() }, "lora-dropout = 1"),
            (LoraConfig { targets: names(&[]), ..Default::default() }, "lora-targets = nothing"),
            (LoraConfig { targets: names(&["q_proj", ""]), ..Default::default() }, "lora-targets = \"\""),
        ] {
            let error = lora.validate().unwrap_err().to_string();
            assert!(error.starts_with(key), "{error}");
        }
        assert!(OptimizerConfig { learning_rate: f64::NAN, ..Default::default() }.validate().is_err());
        assert!(OptimizerConfig { adam_beta2: 1.0, ..Default::default() }.validate().is_err());
        assert!(SamplingConfig { top_p: 0.0, ..Default::default() }.validate().is_err());
        for min_p in [-0.1, 1.1, f64::NAN] {
            let error = SamplingConfig { min_p, ..Default::default() }.validate().unwrap_err().to_string();
            assert!(error.contains("min-p") && error.contains("[0, 1]"), "{error}");
        }
        for repetition_penalty in [0.0, -1.0, 101.0, f64::INFINITY, f64::NAN] {
            let config = SamplingConfig { repetition_penalty, ..Default::default() };
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains("repetition-penalty") && error.contains("[0.01, 100]"), "{error}");
        }
        SamplingConfig { min_p: 1.0, repetition_penalty: 0.01, ..Default::default() }.validate().unwrap();
        assert!(SamplingConfig { num_completions: usize::MAX, ..Default::default() }.validate().is_err());
        assert!(SamplingConfig { stop: vec![String::new()], ..Default::default() }.validate().is_err());
        assert!(TrainConfig { max_steps: Some(0), ..Default::default() }.validate().is_err());
        assert!(TrainConfig { batch_size: 0, ..Default::default() }.validate().is_err());
        for epochs in [0.0, 1e300, 1e7, f64::INFINITY] {
            let error = TrainConfig { epochs, ..Default::default() }.validate().unwrap_err().to_string();
            assert!(error.contains("epochs") && error.contains("at most 1000000"), "{error}");
        }
        assert!(TrainConfig { max_steps: Some(u64::MAX), ..Default::default() }.validate().is_err());
        TrainConfig { epochs: 1e6, max_steps: Some(1_000_000), ..Default::default() }.validate().unwrap();
    }

    #[test]
    fn unknown_keys_are_refused() {
        let error = serde_json::from_str::<DpoConfig>(r#"{"betta": 0.1}"#).unwrap_err().to_string();
        assert!(error.contains("betta") && error.contains("beta"), "{error}");
    }

    #[test]
    fn steps_count_a_last_smaller_batch() {
        let config = TrainConfig { batch_size: 4, ..Default::default() };
        assert_eq!(config.total_steps(10), 3);
        assert_eq!(TrainConfig { epochs: 1.5, ..config.clone() }.total_steps(10), 5);
        assert_eq!(TrainConfig { max_steps: Some(7), ..config }.total_steps(10), 7);
    }

    #[test]
    fn rounding_of_epochs_adds_no_step() {
        let steps =
            |rows, epochs| TrainConfig { batch_size: 1, epochs, ..Default::default() }.total_steps(rows);
        assert_eq!(steps(100, 0.07), 7);
        for hundredths in 1..=100_000 {
            // Division rounds to the nearest float64, as reading the decimal does.
            let epochs = hundredths as f64 / 100.0;
            assert_eq!(steps(100, epochs), hundredths, "{epochs}");
            assert_eq!(steps(1700, epochs), 17 * hundredths, "{epochs}");
        }
        assert_eq!(steps(3_000_000_000, 1.0), 3_000_000_000);
        assert_eq!(steps(100, 0.0701), 8);
        assert_eq!(steps(100, 1e-300), 1);
        assert_eq!(steps(0, 1.0), 0);
    }
}
