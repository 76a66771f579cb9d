use std::path::Path;

use align_core::{
    CausalLm, Objective,
    align_types::{PromptGroup, PromptSource, config::OptimizerConfig},
};
use align_data::{ShuffledRows, Tokenizer};
use align_lm::{LoadOptions, Model, SaveDtype};
use align_losses::{Dpo, DpoConfig, Reference, Sft, SftConfig};
use align_train::{Compute, Engine, learning_rate};
use serde::{Deserialize, Serialize};

use super::{
    PairsBudget,
    score::{self, PairSums},
    source::{Pairs, chosen_side},
};
use crate::{Result, interval::mean, progress::UnitProgress};

/// Flat tokens of one forward pass; it changes memory, not results.
const MICRO_BATCH_TOKENS: usize = 8192;

/// One point of a training curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PairPoint {
    /// Updates so far.
    pub step: u64,
    /// Mean training loss of the batches since the last point; of the first batch at step 0.
    pub train_loss: f64,
    /// Loss on held-out rows.
    pub held_out_loss: f64,
    /// Share of held-out pairs whose chosen answer is more likely.
    pub ranking: f64,
    /// Mean implicit reward of chosen minus rejected on held-out pairs; 0 in SFT.
    pub margin: f64,
}

/// What training of one model leads to; lists have one entry per held-out pair.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PairsResult {
    /// The curve.
    pub curve: Vec<PairPoint>,
    /// Whether the chosen answer is more likely.
    pub ranking: Vec<f64>,
    /// Whether the implicit reward prefers the chosen answer; empty in SFT.
    pub reward: Vec<f64>,
    /// Loss before the first update.
    pub first_loss: f64,
    /// Mean gold reward of sampled answers to held-out prompts.
    pub gold: Option<f64>,
    /// KL to the SFT model in nats per sampled answer.
    pub kl: Option<f64>,
    /// Whether a reward model prefers the chosen answer.
    pub right: Vec<f64>,
    /// PPO: completions so far, mean score by its reward model, KL to the start in nats per answer.
    pub path: Vec<(f64, f64, f64)>,
    /// Sampled prompts and answers.
    pub samples: Vec<(String, String)>,
    /// What is to be said of the data.
    pub notes: Vec<String>,
}

/// A model on its way, with the rows it learns from and those it is measured on.
pub(super) struct Training<'a> {
    pub budget: &'a PairsBudget,
    pub seed: u64,
    pub progress: &'a UnitProgress<'a>,
}

/// What differs between SFT and DPO.
struct Job {
    objective: Box<dyn Objective>,
    train: Vec<PromptGroup>,
    held_out: Vec<PromptGroup>,
    steps: u64,
    rate: f64,
}

impl Training<'_> {
    /// Fine-tunes on the chosen side.
    pub fn sft(&self, model: &Model, pairs: &Pairs, rate: f64) -> Result<PairsResult> {
        let job = Job {
            objective: Box::new(Sft::new(SftConfig::default())),
            train: chosen_side(&pairs.train),
            held_out: chosen_side(&pairs.held_out),
            steps: self.budget.sft_steps,
            rate,
        };
        self.run(model, job, pairs, None)
    }

    /// Runs DPO from the model as it is, with its own log-probabilities as the reference.
    pub fn dpo(&self, model: &Model, pairs: &mut Pairs, beta: f64, rate: f64) -> Result<PairsResult> {
        let train = score::pair_sums(model, &pairs.train)?;
        score::keep_reference(&mut pairs.train, &train);
        let reference = score::pair_sums(model, &pairs.held_out)?;
        score::keep_reference(&mut pairs.held_out, &reference);
        let config = DpoConfig { beta, ..Default::default() };
        let job = Job {
            objective: Box::new(Dpo::new(config, Reference::Precomputed)?),
            train: pairs.train.clone(),
            held_out: pairs.held_out.clone(),
            steps: self.budget.dpo_steps,
            rate,
        };
        self.run(model, job, pairs, Some(&reference))
    }

    fn run(
        &self,
        model: &Model,
        job: Job,
        pairs: &Pairs,
        reference: Option<&PairSums>,
    ) -> Result<PairsResult> {
        let optimizer = OptimizerConfig {
            learning_rate: job.rate,
            warmup_steps: self.budget.warmup_steps,
            ..Default::default()
        };
        let compute = Compute { threads: 1, micro_batch_tokens: MICRO_BATCH_TOKENS };
        let mut engine = Engine::new(model.replicate()?, job.objective, &optimizer, compute)?;
        let held_out = engine.prepare_evaluation(job.held_out)?;
        let mut rows = ShuffledRows::new(job.train, self.budget.batch_size, self.seed, job.steps)?;
        let mut curve = Vec::new();
        let mut losses: Vec<f64> = Vec::new();
        let mut first_loss = f64::NAN;
        for step in 0..=job.steps {
            self.progress.check()?;
            self.progress.share(step as f64 / (job.steps + 1) as f64);
            let report = if step < job.steps { Some(engine.compute(rows.batch(step)?)?) } else { None };
            if let (0, Some(report)) = (step, &report) {
                first_loss = report.loss;
                losses.push(report.loss);
            }
            if step.is_multiple_of(self.budget.evaluate_every.max(1)) || step == job.steps {
                let evaluated = engine.evaluate(&held_out)?;
                let sums = score::pair_sums(model, &pairs.held_out)?;
                let named = |name: &str| evaluated.metrics.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
                curve.push(PairPoint {
                    step,
                    train_loss: mean(&losses),
                    held_out_loss: evaluated.loss,
                    ranking: mean(&score::ranking(&sums)),
                    margin: named("rewards/margins").unwrap_or(0.0),
                });
                losses.clear();
            }
            if let Some(report) = report {
                losses.push(report.loss);
                engine.apply(learning_rate(&optimizer, step, job.steps))?;
            }
        }
        let sums = score::pair_sums(model, &pairs.held_out)?;
        Ok(PairsResult {
            curve,
            ranking: score::ranking(&sums),
            reward: reference.map(|r| score::reward(&sums, r)).unwrap_or_default(),
            first_loss,
            notes: pairs.notes.clone(),
            ..PairsResult::default()
        })
    }
}

/// Writes a model folder with its tokenizer.
pub(super) fn save(model: &Model, tokenizer: &Tokenizer, folder: &Path) -> Result<()> {
    model.save(folder, SaveDtype::F32)?;
    Ok(tokenizer.save(folder)?)
}

/// Reads what [`save`] wrote.
pub(super) fn load(folder: &Path) -> Result<(Model, Tokenizer)> {
    Ok((Model::load(folder, &LoadOptions::default())?, Tokenizer::from_folder(folder)?))
}
