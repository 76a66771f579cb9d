//! SFT, a reward model, DPO and PPO of a small Llama on the same preference pairs, compared by a gold reward that none of
//! them has seen: an illustration with the workspace's own data, model, losses, training and sampling.

mod reward;
pub mod rule;
mod score;
mod show;
mod source;
mod train;

use std::path::Path;

use align_core::align_types::PromptGroup;
use align_ppo::PpoConfig;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Options, Tamper};
use crate::{
    Result,
    experiment::Size,
    study::{Findings, Results, Unit, UnitContext},
};
use reward::{Gold, Optimise};
use source::{PairSource, Pairs, swap, swap_half};
use train::Training;

pub use train::{PairPoint, PairsResult};

const SFT: &str = "pairs-sft";
const DPO: &str = "pairs-dpo";
const SHUFFLED: &str = "pairs-dpo-shuffled";
const GOLD: &str = "pairs-gold";
const REWARD: &str = "pairs-rm";
const PPO: &str = "pairs-ppo";

/// The part of the plan whose arms these are.
pub(super) const PART: &str = "pairs";

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
    /// Pairs of the user that only the gold reward sees; at most half of those that are not held out. Made pairs have the
    /// rule.
    #[serde(default)]
    pub gold_rows: usize,
    /// Steps of a reward model.
    pub reward_steps: u64,
    /// Prompts of an iteration of PPO, each answered once.
    pub ppo_prompts: usize,
    /// Iterations of PPO.
    pub ppo_iterations: u64,
    /// Held-out prompts that are sampled.
    pub sample_prompts: usize,
    /// Answers to each of them.
    pub gold_samples: usize,
    /// Most tokens of a sample.
    pub max_new_tokens: usize,
}

/// Learning rates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Of SFT.
    pub sft: f64,
    /// Of DPO.
    pub dpo: f64,
    /// Of reward models.
    pub reward: f64,
    /// Of PPO and its critic.
    pub ppo: f64,
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
    /// PPO.
    pub ppo: PpoConfig,
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
    ppo: PpoConfig,
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
        Ok(Self {
            source,
            beta: settings.beta,
            ppo: settings.ppo.clone(),
            rates,
            tamper: options.common.tamper,
        })
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
        let (answers, steps) = match arm {
            SFT => (1.0, budget.sft_steps),
            GOLD | REWARD => (2.0, budget.reward_steps),
            PPO => (4.0 * budget.ppo_prompts as f64 / budget.batch_size as f64, budget.ppo_iterations),
            _ => (2.0, budget.dpo_steps),
        };
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
        let start = folder.join("model");
        let training = Training { budget: &self.source.budget, seed, progress: &context.progress };
        if unit.arm == SFT {
            return self.sft(&training, &folder, &start);
        }
        let (model, tokenizer) = train::load(&start)?;
        let mut pairs = self.source.pairs(&folder, &tokenizer, seed)?;
        let own = context.folder(&unit.arm, seed);
        let (model, result) = match unit.arm.as_str() {
            GOLD => {
                let result = self.gold(&training, &start, &pairs, &own)?;
                (model, result)
            }
            REWARD => {
                self.tamper_with(&mut pairs.train, &unit.arm, seed);
                return training.reward(&start, pairs.train, &pairs.held_out, self.rates.reward, &own);
            }
            PPO => {
                let reward = context.folder(REWARD, seed);
                let from = Optimise { start: &start, reward, config: &self.ppo, rates: self.rates };
                training.ppo(&from, &pairs, &tokenizer)?
            }
            _ => {
                self.tamper_with(&mut pairs.train, &unit.arm, seed);
                let result = training.dpo(&model, &mut pairs, self.beta, self.rates.dpo)?;
                (model, result)
            }
        };
        let gold = if self.source.is_real() { Gold::load(&context.folder(GOLD, seed))? } else { Gold::Rule };
        let (before, _) = train::load(&start)?;
        let result = training.compare(result, (&model, &before), &tokenizer, &pairs, &gold)?;
        train::save(&model, &tokenizer, &own.join("policy"))?;
        Ok(result)
    }

    /// Shuffles or exchanges the labels of the control, and those that a test breaks.
    fn tamper_with(&self, pairs: &mut [PromptGroup], arm: &str, seed: u64) {
        if arm == SHUFFLED || self.tamper == Tamper::ShuffleLabels {
            swap_half(pairs, seed);
        } else if self.tamper == Tamper::FlipMargin {
            pairs.iter_mut().for_each(swap);
        }
    }

    fn sft(&self, training: &Training<'_>, folder: &Path, start: &Path) -> Result<PairsResult> {
        let tokenizer = self.source.prepare(folder, training.seed)?;
        let model = self.source.model(&tokenizer, training.seed)?;
        let pairs = self.source.pairs(folder, &tokenizer, training.seed)?;
        let result = training.sft(&model, &pairs, self.rates.sft)?;
        train::save(&model, &tokenizer, start)?;
        Ok(result)
    }

    /// Trains the gold reward of the user's pairs on those that are kept for it; made pairs have the rule.
    fn gold(&self, training: &Training<'_>, start: &Path, pairs: &Pairs, own: &Path) -> Result<PairsResult> {
        if !self.source.is_real() {
            return Ok(PairsResult::default());
        }
        training.reward(start, pairs.gold.clone(), &pairs.held_out, self.rates.reward, own)
    }

    /// Turns results into figures, curves and samples.
    ///
    /// # Errors
    /// A figure that is not finite.
    pub fn show(&self, results: &Results, findings: &mut Findings) -> Result<()> {
        let of = |arm| results.of::<PairsResult>(arm);
        let (sft, dpo, shuffled) = (of(SFT)?, of(DPO)?, of(SHUFFLED)?);
        let (gold, reward, ppo) = (of(GOLD)?, of(REWARD)?, of(PPO)?);
        let runs = show::Runs {
            sft: &sft,
            dpo: &dpo,
            shuffled: &shuffled,
            gold: &gold,
            reward: &reward,
            ppo: &ppo,
            is_real: self.source.is_real(),
        };
        show::show(&runs, findings)?;
        if !sft.is_empty() {
            findings.deviations.extend(self.deviations());
        }
        Ok(())
    }

    /// Says what is particular to the data and the model of this run.
    fn deviations(&self) -> Vec<String> {
        let data = if self.source.is_real() {
            let files: Vec<String> = self.source.data.iter().map(|f| f.display().to_string()).collect();
            format!(
                "Illustration on the pairs of {}: rows that cannot be used are dropped and counted, a new tokenizer \
                 sees the text of all rows. Rows are held out, not prompts: one that occurs in several rows may be on both \
                 sides.",
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
        let gold = match self.source.is_real() {
            true => {
                "The gold reward of the illustration is a reward model of the same size, trained on pairs that \
                     neither DPO nor PPO's reward model has seen: a stand-in for people, not people."
            }
            false => "The gold reward of the illustration is the rule itself.",
        };
        vec![data, model, gold.to_owned()]
    }
}
