//! SFT, then DPO, of a small Llama on preference pairs: an illustration with the workspace's own data, model,
//! losses, training and sampling.

pub mod rule;
mod score;
mod show;
mod source;
mod train;

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Options, Tamper};
use crate::{
    Result,
    experiment::Size,
    study::{Findings, Results, Unit, UnitContext},
};
use source::{PairSource, swap, swap_half};
use train::Training;

pub use train::{PairPoint, PairsResult};

const SFT: &str = "pairs-sft";
const DPO: &str = "pairs-dpo";
const SHUFFLED: &str = "pairs-dpo-shuffled";

/// Data, model and steps of one size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairsBudget {
    /// Seeds; the size's own number when missing.
    #[serde(default)]
    pub seeds: Option<u64>,
    /// Training pairs, at most.
    pub rows: usize,
    /// Held-out pairs; at most a quarter of the user's rows.
    pub held_out: usize,
    /// Most tokens of a prompt with an answer.
    pub max_length: usize,
    /// Tokens of a new tokenizer.
    pub vocabulary: usize,
    /// Width of a new model.
    pub hidden: usize,
    /// Width of its feed-forward layers.
    pub feed_forward: usize,
    /// Its layers.
    pub layers: usize,
    /// Its heads.
    pub heads: usize,
    /// Pairs per step.
    pub batch_size: usize,
    /// Steps of SFT.
    pub sft_steps: u64,
    /// Steps of DPO.
    pub dpo_steps: u64,
    /// Steps of linear warm-up of both.
    pub warmup_steps: u64,
    /// Steps between points of the curves.
    pub evaluate_every: u64,
    /// Held-out prompts that are sampled.
    pub sample_prompts: usize,
    /// Most tokens of a sample.
    pub max_new_tokens: usize,
}

/// Learning rates of SFT and DPO.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Of SFT.
    pub sft: f64,
    /// Of DPO.
    pub dpo: f64,
}

/// A budget for each size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerSize {
    /// Of `--quick`.
    pub quick: PairsBudget,
    /// Of the full size.
    pub full: PairsBudget,
}

/// Settings of the illustration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairsSettings {
    /// Beta of DPO.
    pub beta: f64,
    /// Rates for a new model.
    pub new_model: Rates,
    /// Rates for a model that the user gives.
    pub given_model: Rates,
    /// With pairs made from the rule.
    pub made: PerSize,
    /// With pairs that the user gives.
    pub real: PerSize,
}

/// The illustration, ready to run.
#[derive(Debug)]
pub struct PairsStudy {
    source: PairSource,
    beta: f64,
    rates: Rates,
    tamper: Tamper,
}

impl PairsStudy {
    /// Chooses data, model and budget by the options.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn new(settings: &PairsSettings, size: Size, options: &Options) -> Result<Self> {
        let per_size = if options.data.is_empty() { &settings.made } else { &settings.real };
        let budget = size.choose(&per_size.quick, None, &per_size.full).clone();
        let rates = if options.model.is_some() { settings.given_model } else { settings.new_model };
        let source = PairSource { data: options.data.clone(), model: options.model.clone(), budget };
        source.inputs()?;
        Ok(Self { source, beta: settings.beta, rates, tamper: options.common.tamper })
    }

    /// Returns the number of seeds that the budget asks for, if it does.
    pub fn seeds(&self) -> Option<u64> {
        self.source.budget.seeds
    }

    /// Returns what a result depends on besides the plan.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn inputs(&self) -> Result<Value> {
        self.source.inputs()
    }

    /// Estimates seconds of an arm on one core, for the remaining time only.
    pub fn cost(&self, arm: &str) -> f64 {
        let budget = &self.source.budget;
        let answers = if arm == SFT { 1.0 } else { 2.0 };
        let steps = if arm == SFT { budget.sft_steps } else { budget.dpo_steps };
        let tokens =
            steps as f64 * budget.batch_size as f64 * (1.0 + answers) / 2.0 * budget.max_length as f64;
        tokens * (budget.layers * budget.hidden * (budget.hidden + budget.vocabulary)) as f64 * 1e-10 + 3.0
    }

    /// Runs one arm with one seed.
    ///
    /// # Errors
    /// Data or a model that cannot be used, a failed step, or the user stops the run.
    pub fn run(&self, unit: &Unit, context: &UnitContext<'_>) -> Result<PairsResult> {
        let seed = unit.seed.unwrap_or(0);
        let folder = context.folder(SFT, seed);
        let model_folder = folder.join("model");
        let training = Training { budget: &self.source.budget, seed, progress: &context.progress };
        if unit.arm == SFT {
            return self.sft(&training, &folder, &model_folder);
        }
        let (model, tokenizer) = train::load(&model_folder)?;
        let mut pairs = self.source.pairs(&folder, &tokenizer, seed)?;
        let shuffled = unit.arm == SHUFFLED || self.tamper == Tamper::ShuffleLabels;
        if shuffled {
            swap_half(&mut pairs.train, seed);
        } else if self.tamper == Tamper::FlipMargin {
            pairs.train.iter_mut().for_each(swap);
        }
        let result = training.dpo(&model, &mut pairs, self.beta, self.rates.dpo)?;
        let result = training.finish(result, &model, &tokenizer, &pairs, !self.source.is_real())?;
        train::save(&model, &tokenizer, &context.folder(&unit.arm, seed).join("model"))?;
        Ok(result)
    }

    fn sft(&self, training: &Training<'_>, folder: &Path, model_folder: &Path) -> Result<PairsResult> {
        let tokenizer = self.source.prepare(folder, training.seed)?;
        let model = self.source.model(&tokenizer, training.seed)?;
        let pairs = self.source.pairs(folder, &tokenizer, training.seed)?;
        let result = training.sft(&model, &pairs, self.rates.sft)?;
        let result = training.finish(result, &model, &tokenizer, &pairs, !self.source.is_real())?;
        train::save(&model, &tokenizer, model_folder)?;
        Ok(result)
    }

    /// Turns results into figures, curves and samples.
    ///
    /// # Errors
    /// A figure that is not finite.
    pub fn show(&self, results: &Results, findings: &mut Findings) -> Result<()> {
        let sft = results.of::<PairsResult>(SFT)?;
        let dpo = results.of::<PairsResult>(DPO)?;
        let shuffled = results.of::<PairsResult>(SHUFFLED)?;
        show::show(&show::Runs { sft: &sft, dpo: &dpo, shuffled: &shuffled }, findings)
    }

    /// Says what is particular to the data and the model of this run.
    pub fn deviations(&self) -> Vec<String> {
        let data = if self.source.is_real() {
            let files: Vec<String> = self.source.data.iter().map(|f| f.display().to_string()).collect();
            format!(
                "Illustration on the pairs of {}: rows that cannot be used are dropped and counted, a new tokenizer \
                 sees the text of all rows.",
                files.join(", ")
            )
        } else {
            format!("Illustration on pairs made by the program: {}.", rule::RULE)
        };
        let model = match &self.source.model {
            Some(folder) => format!("The model is {}.", folder.display()),
            None => "The model is a new Llama with random weights, far smaller than any that is useful."
                .to_owned(),
        };
        vec![data, model]
    }
}
