//! The policy: a small Llama that is made, fine-tuned on mixed writing, sampled and measured.

use std::path::Path;

use align_core::{
    BatchReport, CausalLm, Objective, PackedBatch, Trainable,
    align_types::{
        Completion, Generator, PromptGroup, PromptSource, Purpose, RngStream,
        config::{OptimizerConfig, SamplingConfig},
    },
    no_grad,
    tch::Kind,
};
use align_data::ShuffledRows;
use align_lm::{LlamaConfig, LoadOptions, Model, ModelConfig, SaveDtype};
use align_losses::{Sft, SftConfig};
use align_rollout::auto_generator;
use align_train::{Compute, Engine, learning_rate};
use serde::{Deserialize, Serialize};

use super::gold::{ANSWER_TOKENS, Request, VOCABULARY};
use crate::{Error, Result, progress::UnitProgress};

/// Flat tokens of one forward pass; it changes memory, not results.
pub(crate) const MICRO_BATCH_TOKENS: usize = 8192;
/// Groups of one forward pass without gradient.
pub(crate) const GROUPS_PER_PASS: usize = 64;

/// Size and fine-tuning of the policy, which are the same for all arms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySettings {
    /// Width.
    pub hidden: usize,
    /// Width of the feed-forward layers.
    pub feed_forward: usize,
    /// Layers.
    pub layers: usize,
    /// Heads.
    pub heads: usize,
    /// Demonstrations by writers of all skills.
    pub demonstrations: usize,
    /// Demonstrations per step of SFT.
    pub sft_batch: usize,
    /// Steps of SFT.
    pub sft_steps: u64,
    /// Learning rate of SFT.
    pub sft_rate: f64,
}

/// Requests by what they are for; no request is in two lists.
#[derive(Debug, Clone)]
pub struct Requests {
    /// What the policy is trained on.
    pub train: Vec<Request>,
    /// What settings are chosen on.
    pub validation: Vec<Request>,
    /// What is reported, read once per arm.
    pub test: Vec<Request>,
}

impl Requests {
    /// Splits the 168 requests by seed: 28 for the test, 20 for validation, 120 for training.
    pub fn split(seed: u64) -> Self {
        let mut train = Request::all();
        RngStream::new(seed, Purpose::Split, 0, 0).shuffle(&mut train);
        let mut validation = train.split_off(train.len().saturating_sub(48));
        let test = validation.split_off(20);
        Self { train, validation, test }
    }
}

/// Makes the policy and fine-tunes it on demonstrations of the training requests.
///
/// # Errors
/// A failed step, or the user stops the run.
pub fn fine_tune(
    settings: &PolicySettings,
    requests: &Requests,
    seed: u64,
    progress: &UnitProgress<'_>,
) -> Result<Model> {
    let config = LlamaConfig {
        vocab_size: VOCABULARY,
        hidden_size: settings.hidden,
        intermediate_size: settings.feed_forward,
        num_hidden_layers: settings.layers,
        num_attention_heads: settings.heads,
        num_key_value_heads: settings.heads,
        head_dim: settings.hidden / settings.heads.max(1),
        max_position_embeddings: 2 * ANSWER_TOKENS,
        ..LlamaConfig::default()
    };
    let model = Model::init(&ModelConfig::llama(config)?, seed)?;
    let mut random = RngStream::new(seed, Purpose::Synthetic, 0, 3);
    let mut rows = Vec::with_capacity(settings.demonstrations);
    for _ in 0..settings.demonstrations {
        if let Some(request) = requests.train.get(random.below(requests.train.len())) {
            let skill = skill(random.uniform());
            let answer = Completion::new(request.write(skill, &mut random));
            rows.push(PromptGroup::new(request.prompt(), vec![answer]));
        }
    }
    let job = Job {
        objective: Box::new(Sft::new(SftConfig::default())),
        rows,
        batch: settings.sft_batch,
        steps: settings.sft_steps,
        descent: Descent::usual(settings.sft_rate, settings.sft_steps),
        seed,
    };
    job.run(CausalLm::replicate(&model)?, progress, |_| Ok(()))?;
    Ok(model)
}

/// The skill of a writer: a quarter of them are at each end, the others between.
pub(crate) fn skill(uniform: f64) -> f64 {
    (2.0 * uniform - 0.5).clamp(0.0, 1.0)
}

/// How weights follow gradients over a run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Descent {
    pub optimizer: OptimizerConfig,
    /// The steps that the schedule is made for.
    pub horizon: u64,
}

impl Descent {
    /// Warm-up over a tenth of the steps, then a linear fall to 0.
    pub fn usual(rate: f64, steps: u64) -> Self {
        let warmup_steps = (steps / 10).max(1);
        let optimizer = OptimizerConfig { learning_rate: rate, warmup_steps, ..OptimizerConfig::default() };
        // The rate of step s + 1 is taken: with warm-up, step 0 has the rate 0 and would be no update.
        Self { optimizer, horizon: steps + 1 }
    }
}

/// A training run of any objective over any kind of model.
pub(crate) struct Job<M: Trainable + ?Sized = dyn CausalLm> {
    pub objective: Box<dyn Objective<M>>,
    pub rows: Vec<PromptGroup>,
    pub batch: usize,
    pub steps: u64,
    pub descent: Descent,
    pub seed: u64,
}

/// What training a policy took, the same on every machine.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Work {
    /// Updates.
    pub updates: u64,
    /// Responses that were trained on, repeats counted.
    pub responses: usize,
    /// Flat tokens that went forward and backward.
    pub tokens: usize,
    /// Mean over updates of KTO's baseline z0; 0 for the others.
    pub baseline: f64,
}

impl<M: Trainable + ?Sized> Job<M> {
    /// Trains the weights of `model` with one thread; `after` sees the number of updates so far.
    pub fn run(
        self,
        model: Box<M>,
        progress: &UnitProgress<'_>,
        mut after: impl FnMut(u64) -> Result<()>,
    ) -> Result<Work> {
        let mut trainer = Trainer::new(model, self.objective, self.descent)?;
        let mut rows = ShuffledRows::new(self.rows, self.batch, self.seed, self.steps)?;
        for step in 0..self.steps {
            progress.check()?;
            trainer.update(rows.batch(step)?)?;
            after(trainer.work.updates)?;
        }
        Ok(trainer.work)
    }
}

/// Training of a model whose rows come one batch at a time.
pub(crate) struct Trainer<M: Trainable + ?Sized = dyn CausalLm> {
    engine: Engine<M>,
    descent: Descent,
    /// What it took so far.
    pub work: Work,
}

impl<M: Trainable + ?Sized> Trainer<M> {
    /// Trains the weights of `model` with one thread.
    pub fn new(model: Box<M>, objective: Box<dyn Objective<M>>, descent: Descent) -> Result<Self> {
        let compute = Compute { threads: 1, micro_batch_tokens: MICRO_BATCH_TOKENS };
        let engine = Engine::over(model, objective, &descent.optimizer, compute)?;
        Ok(Self { engine, descent, work: Work::default() })
    }

    /// Takes one step on a batch, and returns the batch's metrics.
    pub fn update(&mut self, batch: Vec<PromptGroup>) -> Result<BatchReport> {
        let work = &mut self.work;
        work.responses += batch.iter().map(|group| group.completions.len()).sum::<usize>();
        let report = self.engine.compute(batch)?;
        if work.updates == 0 {
            let loss = std::iter::once(("loss".to_owned(), report.loss));
            let first: Vec<(String, f64)> = loss.chain(report.metrics.iter().cloned()).collect();
            self.engine.objective().map_or(Ok(()), |objective| objective.check_first_step(&first))?;
        }
        work.tokens += report.tokens;
        work.updates += 1;
        work.baseline += (report.metric("kl").unwrap_or(0.0) - work.baseline) / work.updates as f64;
        self.engine.apply(learning_rate(&self.descent.optimizer, work.updates, self.descent.horizon))?;
        Ok(report)
    }
}

/// Samples answers at temperature 1: one group per request, `count` answers each.
///
/// # Errors
/// A failure of the sampling engine.
pub fn sample(model: &Model, requests: &[Request], count: usize, seed: u64) -> Result<Vec<PromptGroup>> {
    let prompts: Vec<Vec<u32>> = requests.iter().map(Request::prompt).collect();
    let config =
        SamplingConfig { num_completions: count, max_new_tokens: ANSWER_TOKENS, seed, ..Default::default() };
    let mut generator = auto_generator(model, Vec::new())?.with_threads(1);
    Ok(generator.generate(&prompts, &config, 0)?)
}

/// What a policy is worth on some requests.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Worth {
    /// Mean gold reward of sampled answers.
    pub gold: f64,
    /// KL(π || π_ref) per answer in nats, over the answers that the policy itself samples: the sum over positions of the
    /// KL of the whole next-token distributions, which has no variance within a position.
    pub kl: f64,
    /// Share of distinct tokens in an answer, to see repetition.
    pub distinct: f64,
}

/// Measures a policy on answers that it samples itself.
///
/// # Errors
/// [`Error::NonFinite`] for a policy that has diverged.
pub fn measure(
    model: &Model,
    reference: &Model,
    requests: &[Request],
    count: usize,
    seed: u64,
) -> Result<Worth> {
    let groups = sample(model, requests, count, seed)?;
    let (mut gold, mut distinct, mut answers) = (0.0, 0.0, 0.0);
    for (request, group) in requests.iter().zip(&groups) {
        for completion in &group.completions {
            gold += request.gold(&completion.token_ids);
            let different: std::collections::BTreeSet<_> = completion.token_ids.iter().collect();
            distinct += different.len() as f64 / completion.token_ids.len().max(1) as f64;
            answers += 1.0;
        }
    }
    let kl = divergence(model, reference, &groups)?;
    Ok(Worth { gold: gold / answers, kl: kl / answers, distinct: distinct / answers })
}

/// Sums KL(π || π_ref) in nats over completions that the policy has sampled: at each position that of the whole next-token
/// distributions.
///
/// # Errors
/// [`Error::NonFinite`] for a policy that has diverged.
pub(crate) fn divergence(policy: &Model, reference: &Model, groups: &[PromptGroup]) -> Result<f64> {
    let _guard = no_grad();
    let mut kl = 0.0;
    for part in groups.chunks(GROUPS_PER_PASS) {
        let batch = PackedBatch::new(part)?;
        let log_probs =
            |model: &Model| Ok::<_, Error>(model.logits(&batch)?.f_log_softmax(-1, Kind::Double)?);
        let (policy, reference) = (log_probs(policy)?, log_probs(reference)?);
        kl += policy.f_exp()?.f_mul(&policy.f_sub(&reference)?)?.f_sum(Kind::Double)?.f_double_value(&[])?;
    }
    if !kl.is_finite() {
        return Err(Error::NonFinite { what: "KL to the reference".into(), value: kl });
    }
    Ok(kl)
}

/// Writes the summed log-probabilities under the reference into every answer.
///
/// # Errors
/// A failure of the model.
pub fn keep_reference(reference: &Model, groups: &mut [PromptGroup]) -> Result<()> {
    let _guard = no_grad();
    for part in groups.chunks_mut(GROUPS_PER_PASS) {
        let sums = reference.token_log_probs(&PackedBatch::new(part)?, 1.0)?.sums()?;
        let sums = Vec::<f64>::try_from(sums.f_to_kind(Kind::Double)?)?;
        let answers = part.iter_mut().flat_map(|group| group.completions.iter_mut());
        answers.zip(sums).for_each(|(answer, sum)| answer.ref_logprob = Some(sum));
    }
    Ok(())
}

/// Writes a model folder.
pub(crate) fn save(model: &Model, folder: &Path) -> Result<()> {
    Ok(model.save(folder, SaveDtype::F32)?)
}

/// Reads what [`save`] wrote.
pub(crate) fn load(folder: &Path) -> Result<Model> {
    Ok(Model::load(folder, &LoadOptions::default())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_request_is_in_two_lists() {
        let requests = Requests::split(3);
        assert_eq!((requests.train.len(), requests.validation.len(), requests.test.len()), (120, 20, 28));
        let all: std::collections::BTreeSet<_> =
            requests.train.iter().chain(&requests.validation).chain(&requests.test).collect();
        assert_eq!(all.len(), 168);
        assert_ne!(Requests::split(4).test, requests.test);
    }
}
