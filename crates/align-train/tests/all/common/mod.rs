//! A small model, a pair loss and a row source that the tests of the training loop share.

pub mod events;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use align_core::align_types::{
    self, Completion, PromptGroup, PromptSource, Purpose, RngStream,
    config::{OptimizerConfig, TrainConfig},
};
use align_core::tch::{Device, Tensor};
use align_core::{
    CausalLm, Error, LossComponent, LossOutput, MetricTerm, Objective, PackedBatch, Parameter, Result,
    no_grad,
};
use align_train::{BoxError, Hooks, OpenMode, Outcome, RunFolder, Start, TrainJob, Unit, train};

pub const VOCAB: usize = 24;
const HIDDEN: i64 = 16;
/// The step whose rows are the held-out ones.
const HELD_OUT: u64 = 1_000_000;

/// Next-token logits from the current token through a hidden layer; with a bias that does not decay and a
/// parameter that no loss ever reaches.
pub struct TinyLm {
    embedding: Tensor,
    output: Tensor,
    bias: Tensor,
    unused: Tensor,
}

impl TinyLm {
    pub fn new(seed: u64) -> Self {
        let mut rng = RngStream::new(seed, Purpose::Init, 0, 0);
        let mut leaf = |shape: &[i64]| {
            let values: Vec<f32> =
                (0..shape.iter().product::<i64>()).map(|_| 0.5 * rng.normal() as f32).collect();
            Tensor::from_slice(&values).reshape(shape).set_requires_grad(true)
        };
        let vocab = VOCAB as i64;
        Self {
            embedding: leaf(&[vocab, HIDDEN]),
            output: leaf(&[HIDDEN, vocab]),
            bias: leaf(&[vocab]),
            unused: leaf(&[3]),
        }
    }

    fn named(&self) -> [(&'static str, &Tensor); 4] {
        let Self { embedding, output, bias, unused } = self;
        [("embedding", embedding), ("output", output), ("bias", bias), ("unused", unused)]
    }

    pub fn handle(&self) -> Self {
        let alias = |t: &Tensor| t.detach().set_requires_grad(true);
        Self {
            embedding: alias(&self.embedding),
            output: alias(&self.output),
            bias: alias(&self.bias),
            unused: alias(&self.unused),
        }
    }

    /// The exact bits of all weights.
    pub fn bytes(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for (_, tensor) in self.named() {
            let values = Vec::<f32>::try_from(tensor.detach().reshape([-1])).unwrap();
            all.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        }
        all
    }

    pub fn save(&self, folder: &Path) -> Result<(), BoxError> {
        std::fs::write(folder.join("weights.bin"), self.bytes())?;
        Ok(())
    }

    pub fn load(&self, folder: &Path) {
        let _guard = no_grad();
        let bytes = std::fs::read(folder.join("weights.bin")).unwrap();
        let mut values = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        for (_, tensor) in self.named() {
            let mine: Vec<f32> = values.by_ref().take(tensor.numel()).collect();
            tensor.shallow_clone().copy_(&Tensor::from_slice(&mine).reshape(tensor.size()));
        }
        assert!(values.next().is_none());
    }
}

impl CausalLm for TinyLm {
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
        batch.check_vocabulary(VOCAB)?;
        let current: Vec<i64> = batch.predict_rows().iter().map(|row| batch.ids()[*row as usize]).collect();
        let rows = PackedBatch::index_tensor(&current, Device::Cpu)?;
        let hidden = self.embedding.f_index_select(0, &rows)?.f_tanh()?;
        Ok(hidden.f_matmul(&self.output)?.f_add(&self.bias)?)
    }

    fn parameters(&self) -> Vec<Parameter> {
        let parameter = |(name, tensor): (&str, &Tensor)| Parameter {
            name: name.into(),
            tensor: tensor.shallow_clone(),
            decay: name != "bias",
        };
        self.named().map(parameter).into()
    }

    fn replicate(&self) -> Result<Box<dyn CausalLm>> {
        Ok(Box::new(self.handle()))
    }
}

/// The loss of a pair: softplus of the difference of log-probabilities, plus half a token mean of the first
/// answer's negative log-probability. Two components with denominators of different kind.
#[derive(Clone, Default)]
pub struct PairLoss {
    /// Announces twice the right denominator.
    pub lies: bool,
    /// Returns NaN for a group whose prompt begins with this token.
    pub poison: Option<u32>,
    /// Expects this loss at the first step.
    pub first_loss: Option<f64>,
    /// Refuses held-out rows while it is set.
    pub refuse_held_out: Arc<AtomicBool>,
    /// Counts down with every evaluation of held-out rows, and sets the flag when it comes to 0.
    pub countdown: Option<(Arc<AtomicI64>, Arc<AtomicBool>)>,
}

impl Objective for PairLoss {
    fn denominators(&self, groups: &[PromptGroup]) -> Result<Vec<f64>> {
        let tokens: usize = groups.iter().map(|g| g.completions[0].token_ids.len()).sum();
        Ok(vec![groups.len() as f64 * if self.lies { 2.0 } else { 1.0 }, tokens as f64])
    }

    fn loss(&self, model: &dyn CausalLm, batch: &PackedBatch, groups: &[PromptGroup]) -> Result<LossOutput> {
        let held_out = groups.iter().any(|g| g.describe(0).starts_with(&format!("step{HELD_OUT}.")));
        if held_out && self.refuse_held_out.load(Ordering::SeqCst) {
            return Err(Error::input("held-out rows", "they are refused"));
        }
        if let (Some((left, stop)), true) = (&self.countdown, held_out)
            && left.fetch_sub(1, Ordering::SeqCst) == 1
        {
            stop.store(true, Ordering::SeqCst);
        }
        let logps = model.token_log_probs(batch, 1.0)?;
        let sums = logps.sums()?.f_reshape([-1, 2])?;
        let margins = sums.f_select(1, 0)?.f_sub(&sums.f_select(1, 1)?)?;
        let pairs = margins.f_neg()?.f_softplus()?;
        let poisoned =
            groups.iter().any(|g| self.poison.is_some() && g.prompt.first().copied() == self.poison);
        let pairs = if poisoned { pairs.f_mul_scalar(f64::NAN)? } else { pairs };
        let tokens = self.denominators(groups)?[1];
        let component = |name, weight, terms, denominator| LossComponent { name, weight, terms, denominator };
        Ok(LossOutput {
            components: vec![
                component("loss/pairs", 1.0, pairs, groups.len() as f64),
                component("loss/nll", 0.5, sums.f_select(1, 0)?.f_neg()?, tokens),
            ],
            metrics: vec![MetricTerm::of("margins", &margins)?],
        })
    }

    fn check_first_step(&self, metrics: &[(String, f64)]) -> Result<()> {
        match self.first_loss {
            Some(expected) if (metrics[0].1 - expected).abs() > 1e-9 => {
                Err(Error::input("the first loss", format!("{} instead of {expected}", metrics[0].1)))
            }
            _ => Ok(()),
        }
    }

    fn replicate(&self) -> Result<Box<dyn Objective>> {
        Ok(Box::new(self.clone()))
    }
}

/// Pairs whose tokens are a pure function of the step.
pub struct Pairs {
    pub batch_size: usize,
    /// The step whose first group begins with token 0, which no other group does.
    pub poisoned_step: Option<u64>,
}

impl Pairs {
    /// As [`Self::rows`] with labels: every first answer is good, and one in three of the second ones.
    pub fn labelled(&self, step: u64) -> Vec<PromptGroup> {
        let mut groups = self.rows(step);
        for (index, group) in groups.iter_mut().enumerate() {
            group.completions[0].label = Some(true);
            group.completions[1].label = Some(index % 3 == 0);
        }
        groups
    }

    pub fn rows(&self, step: u64) -> Vec<PromptGroup> {
        let mut rng = RngStream::new(11, Purpose::Synthetic, step, 0);
        let mut tokens = |longest: usize| -> Vec<u32> {
            (0..=rng.below(longest)).map(|_| 1 + rng.below(VOCAB - 1) as u32).collect()
        };
        let mut groups: Vec<PromptGroup> = (0..self.batch_size)
            .map(|row| {
                let answers = vec![Completion::new(tokens(9)), Completion::new(tokens(9))];
                let mut group = PromptGroup::new(tokens(12), answers);
                group.source =
                    Some(align_types::Source { file: format!("step{step}.jsonl").into(), row: row + 1 });
                group
            })
            .collect();
        if self.poisoned_step == Some(step) {
            groups[0].prompt[0] = 0;
        }
        groups
    }
}

impl PromptSource for Pairs {
    fn batch(&mut self, step: u64) -> align_types::Result<Vec<PromptGroup>> {
        Ok(self.rows(step))
    }

    fn steps(&self) -> Option<u64> {
        None
    }
}

/// Pairs that are refused at one batch: the source sets the flag there, as one that is asked to stop meanwhile, and fails.
struct GivingUp {
    pairs: Pairs,
    at: Option<(u64, Arc<AtomicBool>)>,
}

impl PromptSource for GivingUp {
    fn batch(&mut self, step: u64) -> align_types::Result<Vec<PromptGroup>> {
        match &self.at {
            Some((at, stop)) if *at == step => {
                stop.store(true, Ordering::SeqCst);
                Err(align_types::Error::Seam { what: "rows".into(), why: "given up".into(), source: None })
            }
            _ => self.pairs.batch(step),
        }
    }

    fn steps(&self) -> Option<u64> {
        None
    }
}

/// A run of the tests: everything that can be varied.
#[derive(Clone)]
pub struct Setup {
    pub config: TrainConfig,
    pub optimizer: OptimizerConfig,
    pub steps: u64,
    pub objective: PairLoss,
    pub poisoned_step: Option<u64>,
    /// The batch (from 0) at which the source sets the flag and fails.
    pub gives_up: Option<(u64, Arc<AtomicBool>)>,
    /// Whether the first held-out group begins with token 0.
    pub poisoned_held_out: bool,
    pub keep_best: Option<String>,
    pub inputs: String,
    pub mode: OpenMode,
}

impl Default for Setup {
    fn default() -> Self {
        let config = TrainConfig {
            batch_size: 6,
            micro_batch_tokens: 40,
            save_every: 5,
            log_every: 3,
            eval_every: 4,
            ..TrainConfig::default()
        };
        let optimizer = OptimizerConfig {
            learning_rate: 0.02,
            weight_decay: 0.05,
            warmup_steps: 3,
            ..OptimizerConfig::default()
        };
        Self {
            config,
            optimizer,
            steps: 20,
            objective: PairLoss::default(),
            poisoned_step: None,
            gives_up: None,
            poisoned_held_out: false,
            keep_best: None,
            inputs: "rows and weights".into(),
            mode: OpenMode::Resume,
        }
    }
}

impl Setup {
    pub fn toml(&self) -> String {
        let TrainConfig { seed, batch_size, threads, log_every, .. } = self.config;
        format!(
            "seed = {seed}\nbatch_size = {batch_size}\nthreads = {threads}\nlog_every = {log_every}\n\
             max_steps = {}\nlearning_rate = {:?}\n",
            self.steps, self.optimizer.learning_rate
        )
    }

    pub fn held_out(&self) -> Vec<PromptGroup> {
        let poisoned_step = self.poisoned_held_out.then_some(HELD_OUT);
        Pairs { batch_size: 9, poisoned_step }.rows(HELD_OUT)
    }

    /// Opens the folder and trains; hooks can be changed before.
    pub fn run(
        &self,
        path: &Path,
        change: impl FnOnce(&mut Hooks<'_>),
    ) -> align_train::Result<(Outcome, Vec<String>)> {
        self.run_with(path, |model, folder| model.save(folder), change)
    }

    pub fn run_with(
        &self,
        path: &Path,
        save: impl Fn(&TinyLm, &Path) -> Result<(), BoxError>,
        change: impl FnOnce(&mut Hooks<'_>),
    ) -> align_train::Result<(Outcome, Vec<String>)> {
        let opened = RunFolder::open(path, self.mode, &self.toml())?;
        let model = TinyLm::new(3);
        let start = match opened.start {
            Start::Finished(summary) => return Ok((Outcome::Finished(summary), opened.notices)),
            Start::Beginning => None,
            Start::Checkpoint(checkpoint) => {
                model.load(&checkpoint.model_dir());
                Some(*checkpoint)
            }
        };
        let pairs = Pairs { batch_size: self.config.batch_size, poisoned_step: self.poisoned_step };
        let mut source = GivingUp { pairs, at: self.gives_up.clone() };
        let job = TrainJob {
            folder: &opened.folder,
            start,
            model: model.replicate()?,
            objective: self.objective.replicate()?,
            source: &mut source,
            eval: self.held_out(),
            keep_best: self.keep_best.clone(),
            total_steps: self.steps,
            config: &self.config,
            optimizer: &self.optimizer,
            unit: Unit::Pairs,
            inputs: self.inputs.clone(),
            summary: serde_json::Map::new(),
        };
        let save = |folder: &Path| save(&model, folder);
        let mut hooks = Hooks::new(&save);
        change(&mut hooks);
        Ok((train(job, hooks)?, opened.notices))
    }
}

/// The weights of a finished run.
pub fn final_weights(path: &Path) -> Vec<u8> {
    std::fs::read(path.join("model/weights.bin")).unwrap()
}

/// The content of `summary.json`.
pub fn summary(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path.join("summary.json")).unwrap()).unwrap()
}

/// The lines of `metrics.jsonl` without what depends on the clock and the memory of a process.
pub fn timeless_metrics(path: &Path) -> Vec<serde_json::Map<String, serde_json::Value>> {
    let text = std::fs::read_to_string(path.join("metrics.jsonl")).unwrap();
    let parse = |line: &str| {
        let mut record: serde_json::Map<_, _> = serde_json::from_str(line).unwrap();
        for name in ["tokens_per_second", "pairs_per_second", "peak_rss_mb", "time"] {
            assert!(record.remove(name).is_some(), "{name} is missing in {line}");
        }
        record
    };
    text.lines().map(parse).collect()
}
