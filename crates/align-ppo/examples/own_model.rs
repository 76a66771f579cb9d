//! GRPO of a model, a sampler and prompts of one's own: a table of logits of the next token given the current one.
//!
//! `cargo run --release -p align-ppo --example own_model`
//!
//! Prints the share of answers that count upwards every ten iterations; it rises from about 0.2 to above 0.9.

use std::sync::atomic::AtomicBool;

use align_core::align_types::{
    self, Completion, FinishReason, Generator, PromptGroup, PromptSource, Purpose, RngStream, TokenId,
    config::{OptimizerConfig, SamplingConfig, Schedule},
};
use align_core::tch::{Device, Kind, Tensor};
use align_core::{BoxError, CausalLm, PackedBatch, Parameter, Result, StepAt, Stepped, Steps};
use align_ppo::{
    AdvantageKind, Parts, PolicyObjective, Ppo, PpoConfig, References, Sampler, Scorer, Settings,
};
use align_train::{Compute, Engine};

const VOCAB: usize = 6;

/// Row i of the table `[V, V]` holds the logits of what follows token i.
struct Table(Tensor);

impl Table {
    fn again(&self) -> Result<Self> {
        Ok(Self(self.0.f_detach()?.f_set_requires_grad(true)?))
    }
}

impl CausalLm for Table {
    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn context_length(&self) -> Option<usize> {
        None
    }

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn logits(&self, batch: &PackedBatch) -> Result<Tensor> {
        let tokens = PackedBatch::index_tensor(batch.ids(), Device::Cpu)?;
        let rows = PackedBatch::index_tensor(batch.predict_rows(), Device::Cpu)?;
        Ok(self.0.f_index_select(0, &tokens.f_index_select(0, &rows)?)?)
    }

    fn parameters(&self) -> Vec<Parameter> {
        vec![Parameter { name: "table".into(), tensor: self.0.shallow_clone(), decay: false }]
    }

    fn replicate(&self) -> Result<Box<dyn CausalLm>> {
        Ok(Box::new(self.again()?))
    }
}

/// Samples from the probabilities that it copied last.
struct Rows {
    model: Table,
    probabilities: Vec<f32>,
}

impl Generator for Rows {
    fn generate(
        &mut self,
        prompts: &[Vec<TokenId>],
        config: &SamplingConfig,
        step: u64,
    ) -> align_types::Result<Vec<PromptGroup>> {
        let draw = |(index, prompt): (usize, &Vec<TokenId>)| {
            let mut random = RngStream::new(config.seed, Purpose::Sampling, step, index as u64);
            let mut answer = || {
                let mut token = prompt.last().copied().unwrap_or(0) as usize;
                let mut tokens = Vec::new();
                while tokens.len() < config.max_new_tokens {
                    let mut left = random.uniform() as f32;
                    let row = self.probabilities.iter().skip(token * VOCAB).take(VOCAB);
                    let drawn = row.into_iter().position(|p| {
                        left -= p;
                        left < 0.0
                    });
                    token = drawn.unwrap_or(VOCAB - 1);
                    tokens.push(token as TokenId);
                }
                Completion { finish_reason: Some(FinishReason::Length), ..Completion::new(tokens) }
            };
            PromptGroup::new(prompt.clone(), (0..config.num_completions).map(|_| answer()).collect())
        };
        Ok(prompts.iter().enumerate().map(draw).collect())
    }

    fn refresh(&mut self) -> align_types::Result<()> {
        let rows = || -> Result<Vec<f32>> {
            Ok(Vec::try_from(&self.model.0.f_detach()?.f_softmax(1, Kind::Float)?.f_reshape([-1])?)?)
        };
        let failed = |error: align_core::Error| align_types::Error::Seam {
            what: "table".into(),
            why: error.to_string(),
            source: None,
        };
        self.probabilities = rows().map_err(failed)?;
        Ok(())
    }
}

struct Prompts;

impl PromptSource for Prompts {
    fn batch(&mut self, step: u64) -> align_types::Result<Vec<PromptGroup>> {
        let prompt = |i: u64| PromptGroup::new(vec![((step + i) % VOCAB as u64) as TokenId], Vec::new());
        Ok((0..8).map(prompt).collect())
    }

    fn steps(&self) -> Option<u64> {
        None
    }
}

/// The share of tokens that are one more than the token before.
struct Counts;

impl Scorer for Counts {
    fn score(&mut self, groups: &[PromptGroup]) -> Result<Vec<Vec<Option<f64>>>, BoxError> {
        let share = |group: &PromptGroup, answer: &Completion| {
            let before = group.prompt.last().into_iter().chain(&answer.token_ids);
            let counts = before.zip(&answer.token_ids).filter(|(a, b)| (**a + 1) % VOCAB as u32 == **b);
            Some(counts.count() as f64 / answer.token_ids.len() as f64)
        };
        Ok(groups.iter().map(|g| g.completions.iter().map(|answer| share(g, answer)).collect()).collect())
    }
}

fn main() -> Result<(), BoxError> {
    let table = || Tensor::f_zeros([VOCAB as i64, VOCAB as i64], (Kind::Float, Device::Cpu));
    let model = Table(table()?.f_set_requires_grad(true)?);
    let config = PpoConfig::for_advantage(AdvantageKind::Grpo);
    let sampling = SamplingConfig { num_completions: 8, max_new_tokens: 5, ..SamplingConfig::default() };
    let objective = PolicyObjective::new(&config, 1.0, 5, References::frozen(Box::new(Table(table()?))))?;
    let layout = objective.layout();
    let optimizer = OptimizerConfig { lr_scheduler: Schedule::Constant, ..OptimizerConfig::default() };
    let compute = Compute { threads: 1, micro_batch_tokens: 4096 };
    let mut policy = Engine::new(Box::new(model.again()?), Box::new(objective), &optimizer, compute)?;
    let mut generator = Rows { model, probabilities: Vec::new() };
    generator.refresh()?;
    let (mut source, mut scorer) = (Prompts, Counts);
    let parts = Parts {
        source: &mut source,
        generator: Sampler::InTurn(&mut generator),
        scorer: &mut scorer,
        policy: &mut policy,
        layout,
        critic: None,
        reference_generator: None,
        ptx: None,
        eval: Vec::new(),
        observer: None,
        figures: Vec::new(),
    };
    let mut ppo = Ppo::new(Settings { config, sampling, seed: 0, learning_rate: 0.1 }, parts)?;
    let stop = AtomicBool::new(false);
    for step in 1..=40 {
        let at = StepAt { step, total: 40, schedule: 1.0, stop: &stop };
        let Stepped::Done(report) = ppo.step(&at).map_err(|error| error.source)? else { break };
        if step % 10 == 1 || step == 40 {
            println!("{step:3}  {:.2}", report.metric("objective/scores").unwrap_or(f64::NAN));
        }
    }
    Ok(())
}
