//! Rewards: a model of the training pairs that PPO learns from, and what all methods are compared by.

use std::path::{Path, PathBuf};

use align_core::{CausalLm, Objective, ScoreModel, align_types::PromptGroup};
use align_data::{ShuffledRows, Tokenizer};
use align_lm::{LoadOptions, Model, SaveDtype, SequenceClassifier};
use align_ppo::PpoConfig;
use align_rm::{RewardConfig, RewardModelObjective};

use super::{
    PairsBudget, PairsResult, Rates,
    score::{first_texts, mean_points, preferred, sample},
    source::Pairs,
    train::Training,
};
use crate::{
    Result,
    on_policy::{
        rated::{Rated, scale},
        train::{AdamSettings, OnPolicySettings, Run, SLOTS},
    },
    store::{read, write},
    style::policy::{Descent, Job, divergence},
};

const MODEL: &str = "model";
/// Mean and standard deviation of a reward model's scores.
const SCALE: &str = "scale.json";

/// What answers are compared by: nothing was trained on it.
pub(super) enum Gold {
    /// The rule that made the pairs.
    Rule,
    /// A reward model of pairs that nothing else has seen, in standard deviations over held-out answers.
    Model(Box<Rated>),
}

impl Gold {
    /// Reads the gold reward that [`Training::reward`] left in a folder.
    pub fn load(folder: &Path) -> Result<Self> {
        Ok(Self::Model(Box::new(load(folder)?)))
    }

    fn mean(&self, tokenizer: &Tokenizer, groups: &[PromptGroup]) -> Result<f64> {
        match self {
            Self::Rule => mean_points(tokenizer, groups),
            Self::Model(model) => {
                let scores: Vec<f64> = model.scores(groups)?.into_iter().flatten().collect();
                Ok(scores.iter().sum::<f64>() / scores.len().max(1) as f64)
            }
        }
    }
}

fn load(folder: &Path) -> Result<Rated> {
    let model = SequenceClassifier::load(&folder.join(MODEL), &LoadOptions::default())?;
    Ok(Rated::new(model, read(&folder.join(SCALE))?))
}

/// Where PPO begins and what it learns from.
pub(super) struct Optimise<'a> {
    /// The SFT model.
    pub start: &'a Path,
    /// Folder of the arm with the reward model.
    pub reward: PathBuf,
    pub config: &'a PpoConfig,
    pub rates: Rates,
}

impl Training<'_> {
    /// Trains a reward model on pairs and keeps it with the scale of its scores on held-out answers.
    pub fn reward(
        &self,
        start: &Path,
        rows: Vec<PromptGroup>,
        held_out: &[PromptGroup],
        rate: f64,
        own: &Path,
    ) -> Result<PairsResult> {
        let model = SequenceClassifier::from_causal_lm(start, self.seed, &LoadOptions::default())?;
        let objective: Box<dyn Objective<dyn ScoreModel>> =
            Box::new(RewardModelObjective::new(RewardConfig::default())?);
        let steps = self.budget.reward_steps;
        let descent = Descent::usual(rate, steps);
        let batch = self.budget.batch_size;
        let job = Job::<dyn ScoreModel> { objective, rows, batch, steps, descent, seed: self.seed };
        job.run(ScoreModel::replicate(&model)?, self.progress, |_| Ok(()))?;
        model.save(&own.join(MODEL), SaveDtype::F32)?;
        let scores = Rated::new(model, (0.0, 1.0)).scores(held_out)?;
        write(&own.join(SCALE), &scale(&scores))?;
        let right = |scores: &Vec<f64>| match scores.as_slice() {
            [chosen, rejected] => preferred(*chosen, *rejected),
            _ => 0.5,
        };
        Ok(PairsResult { right: scores.iter().map(right).collect(), ..PairsResult::default() })
    }

    /// Runs PPO on the reward model of the training pairs.
    pub fn ppo(
        &self,
        from: &Optimise<'_>,
        pairs: &Pairs,
        tokenizer: &Tokenizer,
    ) -> Result<(Model, PairsResult)> {
        let PairsBudget { ppo_prompts: prompts, ppo_iterations: iterations, max_new_tokens, .. } =
            *self.budget;
        let ppo = PpoConfig { critic_learning_rate: from.rates.ppo, ..from.config.clone() };
        let settings = OnPolicySettings {
            prompts,
            samples: 1,
            iterations,
            rate: from.rates.ppo,
            adam: AdamSettings::default(),
            zero_values: false,
            every: 1,
            ppo,
        };
        let asked: Vec<PromptGroup> =
            pairs.train.iter().map(|pair| PromptGroup::new(pair.prompt.clone(), Vec::new())).collect();
        let mut source = ShuffledRows::new(asked, prompts, self.seed, iterations)?;
        let mut scorer = load(&from.reward)?;
        let critic = from.reward.join(MODEL);
        let run = Run {
            settings: &settings,
            start: from.start,
            critic: Some(&critic),
            stop_tokens: tokenizer.eos_ids().to_vec(),
            answer_tokens: max_new_tokens,
            slots: SLOTS,
            source: &mut source,
            scorer: &mut scorer,
            ptx: None,
            seed: self.seed,
            progress: self.progress,
        };
        let mut path = Vec::new();
        let (model, _) = run.train(|now| {
            let metric = |name: &str| now.report.metric(name).unwrap_or(f64::NAN);
            path.push((now.cost.sampled as f64, metric("objective/scores"), metric("objective/kl")));
            Ok(())
        })?;
        Ok((model, PairsResult { path, ..PairsResult::default() }))
    }

    /// Adds what a policy's own answers to held-out prompts are worth, and how far it is from the SFT model.
    pub fn compare(
        &self,
        result: PairsResult,
        (model, start): (&Model, &Model),
        tokenizer: &Tokenizer,
        pairs: &Pairs,
        gold: &Gold,
    ) -> Result<PairsResult> {
        let groups = sample(model, tokenizer, &pairs.held_out, self.budget, self.seed)?;
        let answers: usize = groups.iter().map(|group| group.completions.len()).sum();
        let kl = divergence(model, start, &groups)? / answers.max(1) as f64;
        let gold = Some(gold.mean(tokenizer, &groups)?);
        let sums = super::score::pair_sums(model as &dyn CausalLm, &pairs.held_out)?;
        let ranking = super::score::ranking(&sums);
        let samples = first_texts(tokenizer, &groups)?;
        Ok(PairsResult { gold, kl: Some(kl), ranking, samples, ..result })
    }
}
