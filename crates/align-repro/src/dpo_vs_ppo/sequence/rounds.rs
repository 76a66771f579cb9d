//! Learning from graded answers: once, in rounds with a new reference, in rounds with the old one.

use std::path::Path;

use align_core::{
    CausalLm, Objective,
    align_types::{
        PromptGroup, TokenId,
        config::{OptimizerConfig, Schedule},
    },
};
use align_lm::Model;
use align_losses::{Dpo, DpoConfig, DpoLossType, Reference, Sft, SftConfig};
use serde::{Deserialize, Serialize};

use super::{
    arms::SequenceSize,
    curves::{Curves, POINTS},
    feedback::{mixed, pairs, positives, reward, shuffle_labels},
    policy::{Use, at_random, sample},
    task::{Stream, Task},
};
use crate::{
    Result,
    on_policy::{study::Place, train::Cost},
    store::read,
    style::policy::{Descent, Job, Trainer, Work, keep_reference},
};

/// How updates are made in all arms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateSettings {
    /// Rows of one update.
    pub batch: usize,
    /// Updates over which the learning rate rises; it is constant after them.
    pub warmup: u64,
    /// Decay of Adam's moments.
    pub betas: (f64, f64),
}

impl UpdateSettings {
    fn descent(&self, rate: f64) -> Descent {
        let optimizer = OptimizerConfig {
            learning_rate: rate,
            lr_scheduler: Schedule::Constant,
            warmup_steps: self.warmup,
            adam_beta1: self.betas.0,
            adam_beta2: self.betas.1,
            ..OptimizerConfig::default()
        };
        Descent { optimizer, horizon: self.warmup + 1 }
    }
}

/// What is made of graded answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Learn {
    /// DPO with this beta on pairs; passing answers are imitated without it.
    #[serde(default)]
    pub beta: Option<f64>,
    /// Weight of the mean negative log-likelihood of the chosen answers' tokens beside DPO.
    #[serde(default)]
    pub chosen_weight: f64,
    /// Learning rate.
    pub rate: f64,
    /// Passes over the rows.
    pub epochs: u64,
}

impl Learn {
    fn objective(&self) -> Result<Box<dyn Objective>> {
        let Some(beta) = self.beta else { return Ok(Box::new(Sft::new(SftConfig::default()))) };
        let mut config = DpoConfig { beta, ..DpoConfig::default() };
        if self.chosen_weight > 0.0 {
            config.loss_type.push(DpoLossType::Sft);
            config.loss_weights = vec![1.0, self.chosen_weight];
        }
        Ok(Box::new(Dpo::new(config, Reference::Precomputed)?.starting_at_reference()))
    }

    /// Makes rows of graded answers; pairs hold their log-probabilities under the reference.
    fn rows(
        &self,
        groups: Vec<PromptGroup>,
        reference: &Model,
        (seed, round): (u64, u64),
    ) -> Result<Vec<PromptGroup>> {
        if self.beta.is_none() {
            return Ok(positives(&groups));
        }
        let mut groups = mixed(groups);
        keep_reference(reference, &mut groups)?;
        Ok(pairs(&groups, &mut Stream::Pairs.random(seed, round)))
    }
}

/// What an arm took, the same on every machine.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spent {
    answers: usize,
    rows: usize,
    updates: u64,
    tokens: usize,
}

impl Spent {
    /// Counts training.
    pub fn add(&mut self, work: Work) {
        self.updates += work.updates;
        self.tokens += work.tokens;
    }

    /// Counts a run that samples and trains in turn; every answer is a row.
    pub fn spend(&mut self, cost: Cost) {
        self.answers += cost.sampled as usize;
        self.rows += cost.sampled as usize;
        self.updates += cost.updates;
        self.tokens += cost.tokens as usize;
    }

    /// Returns the numbers by the names that they have among the metrics.
    pub fn numbers(self) -> [(&'static str, f64); 4] {
        [
            ("answers", self.answers as f64),
            ("rows", self.rows as f64),
            ("updates", self.updates as f64),
            ("trained_tokens", self.tokens as f64),
        ]
    }
}

/// Pairs whose log-ratios are read after training.
const READ: usize = 256;

/// Averages log π − log π_ref of the first and of the second answers of pairs that hold their reference's.
fn log_ratios(model: &Model, pairs: &[PromptGroup]) -> Result<[f64; 2]> {
    let mut now = pairs.to_vec();
    keep_reference(model, &mut now)?;
    let side = |side: usize| {
        let of = |pair: &PromptGroup| pair.completions.get(side).and_then(|answer| answer.ref_logprob);
        let ratios = pairs.iter().zip(&now).filter_map(|(before, now)| Some(of(now)? - of(before)?));
        ratios.sum::<f64>() / pairs.len().max(1) as f64
    };
    Ok([side(0), side(1)])
}

/// One arm with a seed while it is run.
pub(super) struct Rounds<'a> {
    place: &'a Place<'a, SequenceSize>,
    task: &'a Task,
    /// What it took so far.
    pub spent: Spent,
    /// What it was worth on the way.
    pub curves: Curves<'a>,
    /// Log-ratios of better and worse answers after the last training on pairs.
    ratios: Option<[f64; 2]>,
}

impl<'a> Rounds<'a> {
    pub fn new(place: &'a Place<'a, SequenceSize>, task: &'a Task) -> Self {
        let curves = Curves::new(task, place.size.curve_prompts, place.seed);
        Self { place, task, spent: Spent::default(), curves, ratios: None }
    }

    /// Returns what it took and where the pairs went, by the names among the metrics.
    pub fn numbers(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let ratios = self.ratios.map(|[better, worse]| [("better_ratio", better), ("worse_ratio", worse)]);
        self.spent.numbers().into_iter().chain(ratios.into_iter().flatten())
    }

    /// Keeps the log-ratios of pairs after training on them; nothing of rows that are no pairs.
    fn look(&mut self, model: &Model, pairs: &[PromptGroup], learn: &Learn) -> Result<()> {
        if learn.beta.is_some() {
            self.ratios = Some(log_ratios(model, pairs)?);
        }
        Ok(())
    }

    /// Samples answers and rewards them.
    pub fn sample(
        &mut self,
        model: &Model,
        prompts: &[Vec<TokenId>],
        round: u64,
    ) -> Result<Vec<PromptGroup>> {
        let seed = self.place.seed;
        let config = at_random(self.place.size.samples, Use::Learning.seed(seed));
        let mut groups = sample(model, prompts, &config, round)?;
        reward(self.task, &mut groups, self.place.tamper, (seed, round));
        self.spent.answers += groups.iter().map(|group| group.completions.len()).sum::<usize>();
        Ok(groups)
    }

    /// Samples answers to fresh prompts, `rounds` of which are the budget.
    fn fresh(&mut self, model: &Model, round: u64, rounds: u64) -> Result<Vec<PromptGroup>> {
        let count = self.place.size.prompts / (rounds.max(1) as usize);
        let prompts = self.task.prompts(count, &mut Stream::Fresh.random(self.place.seed, round));
        self.sample(model, &prompts, round)
    }

    /// Reads the answers that all offline arms share.
    pub fn shared(&mut self, file: &Path) -> Result<Vec<PromptGroup>> {
        let groups: Vec<PromptGroup> = read(file)?;
        self.spent.answers += groups.iter().map(|group| group.completions.len()).sum::<usize>();
        Ok(groups)
    }

    /// Trains on all rows of graded answers; the policy as it is then is the reference.
    pub fn learn(
        &mut self,
        model: &Model,
        groups: Vec<PromptGroup>,
        (learn, shuffled): (&Learn, bool),
        round: u64,
    ) -> Result<()> {
        let (seed, updates) = (self.place.seed, &self.place.size.updates);
        let mut rows = learn.rows(groups, model, (seed, round))?;
        if shuffled {
            shuffle_labels(&mut rows, &mut Stream::Labels.random(seed, round));
        }
        if rows.is_empty() {
            return Ok(());
        }
        self.spent.rows += rows.len();
        let seen = rows.get(..READ).unwrap_or(&rows).to_vec();
        let job = Job {
            objective: learn.objective()?,
            steps: learn.epochs * rows.len().div_ceil(updates.batch.max(1)) as u64,
            rows,
            batch: updates.batch,
            descent: updates.descent(learn.rate),
            seed: seed ^ (round << 32),
        };
        self.spent.add(job.run(CausalLm::replicate(model)?, &self.place.context.progress, |_| Ok(()))?);
        self.look(model, &seen, learn)
    }

    /// Samples from the current policy and learns, with a new reference and optimiser in every round.
    pub fn iterate(&mut self, model: &Model, learn: &Learn) -> Result<()> {
        let rounds = self.place.size.rounds;
        for round in 0..rounds {
            self.place.context.progress.share(round as f64 / rounds as f64);
            let groups = self.fresh(model, round, rounds)?;
            self.learn(model, groups, (learn, false), round)?;
            self.curves.add(model, self.spent.answers)?;
        }
        Ok(())
    }

    /// Learns from small rounds with one reference and one optimiser, from the same number of rows in each: those that are
    /// there go round, or are too many. `frozen` are answers of the reference, which stand in for the current policy's.
    pub fn online(
        &mut self,
        model: &Model,
        reference: &Model,
        learn: &Learn,
        frozen: Option<Vec<PromptGroup>>,
    ) -> Result<()> {
        let size = self.place.size;
        let rounds = size.online_rounds.max(1);
        let descent = size.updates.descent(learn.rate);
        let mut trainer = Trainer::new(CausalLm::replicate(model)?, learn.objective()?, descent)?;
        let count = (size.prompts / rounds as usize).max(1);
        for round in 0..rounds {
            self.place.context.progress.share(round as f64 / rounds as f64);
            self.place.context.progress.check()?;
            let groups = match &frozen {
                Some(groups) => groups.chunks(count).nth(round as usize).unwrap_or_default().to_vec(),
                None => self.fresh(model, round, rounds)?,
            };
            let rows = learn.rows(groups, reference, (self.place.seed, round))?;
            let batch: Vec<PromptGroup> = rows.iter().cycle().take(size.online_pairs).cloned().collect();
            if !batch.is_empty() {
                self.spent.rows += batch.len();
                for _ in 0..learn.epochs {
                    trainer.update(batch.clone())?;
                }
                self.look(model, &batch, learn)?;
            }
            if (round + 1).is_multiple_of((rounds / POINTS).max(1)) {
                let sampled = size.samples * count * (round as usize + 1);
                self.curves.add(model, sampled)?;
            }
        }
        self.spent.add(trainer.work);
        Ok(())
    }
}
