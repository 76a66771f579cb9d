//! `--dry-run`: what a run would do, with memory and time by phase; no weights are loaded.

use align_cli::{Result, args::PpoArgs, talk};
use align_core::{
    align_types::config::{PpoConfig, RewardBaseline},
    tch::Device,
};
use align_lm::{LoadOptions, MemoryEstimate, ModelConfig, Trainable};
use serde_json::{Map, Value, json};

use super::{
    Read,
    costs::{Batch, Shape, operations_per_second},
};
use crate::{
    dry_run::{LIBTORCH, Memory},
    failure, model, reference,
};

/// Answers that a thread samples at once, at most.
const SLOTS: usize = 32;

/// Shows configuration, arithmetic, memory and time on stdout.
///
/// # Errors
/// A model folder that cannot be read; rows on a disk that fails.
pub fn show(flags: &PpoArgs, settings: &toml::Table, read: &Read<'_>, device: Device) -> Result<()> {
    let config = flags.train.train_config();
    let prompts = &read.prompts.rows;
    let steps = config.total_steps(prompts.train.len());
    let plan = Plan::new(flags, read, device)?;
    let (memory, phases) = (plan.memory(), plan.phases()?);
    let rate = operations_per_second()? * config.threads as f64;
    let seconds = |operations: f64| operations / rate;
    let whole: f64 = phases.iter().map(|(_, operations)| operations).sum();
    let report = &read.prompts.reports.train;
    if flags.train.machine.json {
        let by_phase = |of: &dyn Fn(f64) -> f64| -> Map<String, Value> {
            phases.iter().map(|(phase, operations)| ((*phase).to_owned(), json!(of(*operations)))).collect()
        };
        let value = json!({
            "config": settings,
            "prompts": prompts.train.len(),
            "eval_prompts": prompts.eval.len(),
            "ptx_rows": read.prompts.ptx.train.len(),
            "ptx_eval_rows": read.prompts.ptx.eval.len(),
            "steps": steps,
            "samples_per_step": plan.batch.prompts * plan.batch.answers,
            "updates_per_step": plan.updates(),
            "parameters": plan.policy.parameters,
            "trained_parameters": plan.policy.trained,
            "memory_mb": memory.total_mb(),
            "memory_mb_by_part": memory.by_part(),
            "operations_by_phase": by_phase(&|operations| operations),
            "seconds_by_phase": by_phase(&seconds),
            "critic": read.critic.as_ref().map(|critic| critic.describe()),
            "data": report,
        });
        return talk::data(&format!("{value:#}\n"));
    }
    let time: Vec<String> =
        phases.iter().map(|(phase, operations)| format!("{phase} {:.3}", seconds(*operations))).collect();
    let Batch { prompts: batch, answers, answer, .. } = plan.batch;
    talk::data(&format!(
        "{settings}\n\
         # prompts       {} to train on, {} held out, {} cut, {} skipped as bad, {} dropped for want of room\n\
         # iteration     {batch} prompts with {answers} answers each of at most {answer} tokens, {} updates\n\
         # steps         {steps} iterations\n\
         # parameters    {:.2} million, {:.2} million of them trained\n\
         # memory        about {:.0} MB: {}\n\
         # time          {:.3} s per iteration at least, with answers of full length: {}\n\
         #               (operations / {:.1} GFLOP/s, the rate of matrix products measured now on {} threads)\n\
         {}\
         # nothing was trained and nothing was written\n",
        prompts.train.len(),
        prompts.eval.len(),
        report.cut,
        report.bad_count,
        report.dropped_no_room + report.dropped_too_long.count,
        plan.updates(),
        plan.policy.parameters as f64 / 1e6,
        plan.policy.trained as f64 / 1e6,
        memory.total_mb(),
        memory.parts(),
        seconds(whole),
        time.join(", "),
        rate / 1e9,
        config.threads,
        read.critic
            .as_ref()
            .map(|critic| format!("# critic        {}\n", critic.describe()))
            .unwrap_or_default(),
    ))
}

/// Measures the rows of language modelling of an iteration: their means, and the tokens of the longest.
fn texts(rows: &align_data::Rows, batch: usize) -> Result<(Batch, usize)> {
    let (mut prompts, mut all, mut longest) = (0, 0, 0);
    for group in rows.iter() {
        let group = group?;
        prompts += group.prompt.len();
        all += group.flat_tokens();
        longest = longest.max(group.flat_tokens());
    }
    let mean = |tokens: usize| tokens as f64 / rows.len().max(1) as f64;
    let taken = if rows.is_empty() { 0.0 } else { batch as f64 };
    Ok((Batch { prompts: taken, answers: 1.0, prompt: mean(prompts), answer: mean(all - prompts) }, longest))
}

/// What memory and time are counted from.
struct Plan<'a> {
    flags: &'a PpoArgs,
    config: PpoConfig,
    batch: Batch,
    /// The policy's folder, and those of the other models.
    model: &'a ModelConfig,
    policy: MemoryEstimate,
    critic: Option<(ModelConfig, MemoryEstimate)>,
    /// The reference, where it has weights of its own.
    reference: Option<(ModelConfig, MemoryEstimate)>,
    reward_models: Vec<(ModelConfig, MemoryEstimate)>,
    /// The model whose own answers are the baseline of rewards: its shape, and the bytes of its weights and of the copy
    /// that it samples from.
    answering: Option<(ModelConfig, usize)>,
    longest_prompt: usize,
    /// Rows of language modelling of an iteration, and the tokens of the longest.
    ptx: Batch,
    longest_text: usize,
    /// Bytes of the policy's copy of its weights for sampling.
    copy: usize,
}

/// Counts the bytes of the weights that the engine of processors packs for itself; other models are sampled from as they
/// are.
fn copy_for_sampling(
    config: &ModelConfig,
    options: &LoadOptions,
    device: Device,
    parameters: usize,
) -> usize {
    if config.is_plain(&LoadOptions { device, ..*options }) { parameters * size_of::<f32>() } else { 0 }
}

impl<'a> Plan<'a> {
    fn new(flags: &'a PpoArgs, read: &'a Read<'_>, device: Device) -> Result<Self> {
        let train = &flags.train;
        let model = &read.folder.config;
        // What would be computed on is not asked: shapes take the same bytes everywhere.
        let trained = model::trained(train, Device::Cpu);
        let frozen = model::frozen(&train.machine, Device::Cpu);
        let estimate = |config: &ModelConfig, options: &LoadOptions| {
            config.memory_estimate_for(options).map_err(failure::of)
        };
        let (policy, loaded) = match read.trained {
            None => (estimate(model, &trained)?, trained),
            Some(adapter) => {
                let options = LoadOptions { trainable: Trainable::No, ..trained };
                (estimate(model, &options)?.with_adapter(adapter), options)
            }
        };
        let copy = copy_for_sampling(model, &loaded, device, policy.parameters);
        let other =
            |folder: &std::path::Path, options: &LoadOptions| -> Result<(ModelConfig, MemoryEstimate)> {
                let config = ModelConfig::read(folder).map_err(failure::of)?;
                let memory = estimate(&config, options)?;
                Ok((config, memory))
            };
        let critic = read.critic.as_ref().map(|critic| other(&critic.folder, &trained)).transpose()?;
        let config = flags.ppo_config();
        let given = flags.kl.ref_model.as_deref();
        let follows = config.ref_ema.is_some();
        let reference = match (flags.has_reference(), given, read.trained) {
            (false, ..) | (true, None, Some(_)) => None,
            (true, given, _) => {
                let folder = given.or(train.model.as_deref()).unwrap_or_else(|| std::path::Path::new(""));
                let options = if follows { reference::following(&frozen) } else { frozen };
                Some(other(folder, &options)?)
            }
        };
        let answering = if config.reward_baseline == RewardBaseline::Reference {
            // As the reference that is measured, but it never follows; below an adapter the base is there already.
            let folder = given.or(train.model.as_deref()).unwrap_or_else(|| std::path::Path::new(""));
            let shared = read.trained.is_some() && (given.is_none() || given == train.model.as_deref());
            let (config, estimate) = other(folder, &frozen)?;
            let copy = copy_for_sampling(&config, &frozen, device, estimate.parameters);
            Some((config, copy + if shared { 0 } else { estimate.weights }))
        } else {
            None
        };
        let reward_models = flags.rewards.reward_model.iter().map(|folder| other(folder, &frozen));
        let reward_models = reward_models.collect::<Result<Vec<_>>>()?;
        let (mut tokens, mut longest_prompt) = (0, 0);
        for group in read.prompts.rows.train.iter() {
            let prompt = group?.prompt.len();
            tokens += prompt;
            longest_prompt = longest_prompt.max(prompt);
        }
        let (ptx, longest_text) = texts(&read.prompts.ptx.train, flags.ptx_batch_size())?;
        let batch = Batch {
            prompts: train.batch.batch_size as f64,
            answers: flags.draw.num_completions as f64,
            prompt: tokens as f64 / read.prompts.rows.train.len().max(1) as f64,
            answer: flags.draw.max_new_tokens as f64,
        };
        Ok(Self {
            flags,
            config,
            batch,
            model,
            policy,
            critic,
            reference,
            reward_models,
            answering,
            longest_prompt,
            ptx,
            longest_text,
            copy,
        })
    }

    fn updates(&self) -> usize {
        self.config.num_ppo_epochs * self.config.num_mini_batches
    }

    /// Counts the operations of each phase of an iteration.
    fn phases(&self) -> Result<Vec<(&'static str, f64)>> {
        let (policy, batch) = (Shape::of(self.model)?, &self.batch);
        let one = Batch { answers: 1.0, ..*batch };
        let critic = self.critic.as_ref().map(|(config, _)| Shape::of(config)).transpose()?;
        // Rows of language modelling lie in the passes of critic and references, too.
        let critic = critic.map_or(0.0, |shape| shape.trunk(batch) + shape.trunk(&self.ptx));
        let mut score = 0.0;
        for (config, _) in &self.reward_models {
            let shape = Shape::of(config)?;
            score += shape.trunk(batch) + self.answering.as_ref().map_or(0.0, |_| shape.trunk(&one));
        }
        let references = match (self.flags.has_reference(), self.config.ref_ema) {
            (false, _) => 0.0,
            (true, None) => 1.0,
            // The first one too, so that the divergence from it stays known.
            (true, Some(_)) => 2.0,
        };
        let answering = self.answering.as_ref().map(|(config, _)| Shape::of(config)).transpose()?;
        let epochs = self.config.num_ppo_epochs as f64;
        let forward = policy.forward(batch) + policy.forward(&self.ptx);
        Ok(vec![
            ("sample", policy.forward(batch) + answering.map_or(0.0, |shape| shape.forward(&one))),
            ("score", score),
            ("logprobs", (1.0 + references) * forward + critic),
            // A backward pass takes two forward passes.
            ("update", 3.0 * epochs * (forward + critic)),
        ])
    }

    fn memory(&self) -> Memory {
        let config = self.flags.train.train_config();
        let threads = config.threads;
        let group = self.longest_prompt + self.flags.draw.num_completions * self.flags.draw.max_new_tokens;
        let pass = config.micro_batch_tokens.max(group).max(self.longest_text);
        let activations = |estimate: &MemoryEstimate| {
            let per_token = estimate.activations_per_token + estimate.activations_per_completion_token;
            (per_token * pass + estimate.casts) * threads
        };
        let policy = &self.policy;
        let mut parts = vec![
            ("libtorch", LIBTORCH),
            ("policy", policy.weights),
            ("gradients", policy.gradients * threads),
            ("optimiser", policy.optimizer),
            ("keys and values", self.cache()),
        ];
        if self.copy > 0 {
            parts.push(("copy for sampling", self.copy));
        }
        // Policy and critic are never computed together.
        let mut most = activations(policy);
        if let Some((_, critic)) = &self.critic {
            let moving = critic.gradients * threads + critic.optimizer;
            parts.push(("critic", critic.weights + moving));
            most = most.max(activations(critic));
        }
        parts.push(("activations", most));
        if let Some((_, reference)) = &self.reference {
            let references = if self.config.ref_ema.is_some() { 2 } else { 1 };
            parts.push(("reference", reference.weights * references));
        }
        if let Some((_, bytes)) = self.answering {
            parts.push(("model of the baseline", bytes));
        }
        if !self.reward_models.is_empty() {
            let weights = self.reward_models.iter().map(|(_, estimate)| estimate.weights).sum();
            parts.push(("reward models", weights));
        }
        Memory::new(parts)
    }

    /// Counts the bytes of keys and values of the answers under way.
    fn cache(&self) -> usize {
        let threads = self.flags.train.train_config().threads;
        let answers = (self.batch.prompts * self.batch.answers) as usize;
        let under_way = answers.min(SLOTS * threads);
        under_way * (self.longest_prompt + self.flags.draw.max_new_tokens) * Shape::cache_bytes(self.model)
    }
}
