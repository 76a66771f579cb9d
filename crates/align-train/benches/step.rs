//! A whole training step (loss, backward pass, clipping, AdamW) of a 29M Llama beside the rate at which this machine
//! multiplies matrices, and what a token costs at 8 and at 32 pairs.
//!
//!     cargo bench -p align-train --bench step [-- --threads 2]
//!
//! The rate of the machine is that of float32 products of 1024 × 1024 matrices, one in each thread at a time. Of a step
//! these operations count, each multiplication with its addition as two:
//!
//! * 6 per token of the stream and weight of a linear layer of the blocks: 2 forward, 4 backward;
//! * 6 per answer token and weight of the output layer, which sees the rows that predict alone;
//! * 12 per layer, width of a query row and pair of rows of which one may see the other.
//!
//! Norms, activation functions, rotations, softmax, the optimiser and everything that attention computes of rows that
//! do not see each other take time and count nothing. The reference's log-probabilities are there before the step.
//!
//! CPU time is that of the process, over the threads: on a machine that does something else besides it says more than
//! wall time, but it does not see a thread that waits.

use std::time::{Duration, Instant};

use align_core::align_types::config::OptimizerConfig;
use align_core::align_types::{Completion, PromptGroup, Purpose, RngStream};
use align_core::tch::{Device, Kind, Tensor};
use align_core::{PackedBatch, no_grad};
use align_lm::{LlamaConfig, Model, ModelConfig};
use align_losses::{Dpo, DpoConfig, Reference};
use align_train::{Compute, Engine, parallel};

type Failure = Box<dyn std::error::Error>;

const PAIRS: usize = 8;
/// Batches of [`PAIRS`] that together are the large batch.
const BATCHES: usize = 4;
const MATRIX: i64 = 1024;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // A filter names criterion's benches; this is one of them by its file alone.
    let mut threads = std::thread::available_parallelism()?.get().min(8);
    let mut words = arguments.iter();
    let mut tiny = false;
    while let Some(word) = words.next() {
        match word.as_str() {
            "--threads" => threads = words.next().ok_or("--threads needs a number")?.parse()?,
            "--test" => tiny = true,
            "--bench" => {}
            filter if !filter.starts_with('-') && !"step".contains(filter) => return Ok(()),
            _ => {}
        }
    }
    run(threads, tiny)
}

fn run(threads: usize, tiny: bool) -> Result<(), Failure> {
    let model = Model::init(&ModelConfig::llama(shape(tiny))?, 0)?;
    let vocabulary = model.config().sizes().vocab_size;
    let mut rng = RngStream::new(0, Purpose::Synthetic, 0, 0);
    let batches: Vec<Vec<PromptGroup>> =
        (0..BATCHES).map(|_| (0..PAIRS).map(|_| pair(&mut rng, vocabulary)).collect()).collect();
    let work: f64 = batches.iter().map(|batch| operations(&model, batch)).sum::<Result<f64, _>>()?;
    let tokens: usize = batches.iter().flatten().map(PromptGroup::flat_tokens).sum();
    println!(
        "{threads} thread(s), {} pairs of {} tokens on average",
        PAIRS * BATCHES,
        tokens / PAIRS / BATCHES
    );

    let compute = Compute { threads, micro_batch_tokens: 4096 };
    let objective = Dpo::new(DpoConfig::default(), Reference::Precomputed)?;
    let mut engine = Engine::new(Box::new(model), Box::new(objective), &OptimizerConfig::default(), compute)?;
    let mut step = |groups: Vec<PromptGroup>| -> Result<(), Failure> {
        engine.compute(groups)?;
        Ok(engine.apply(1e-6)?)
    };
    let together: Vec<PromptGroup> = batches.concat();
    // The first step makes the optimiser's moments and the pages of everything.
    step(together.clone())?;
    let rounds = if tiny { 1 } else { 3 };
    let mut best = [Took::NEVER; 3];
    for _ in 0..rounds {
        best[0] = best[0].min(took(|| multiply(threads, tiny))?);
        best[1] = best[1].min(took(|| batches.iter().try_for_each(|batch| step(batch.clone())))?);
        best[2] = best[2].min(took(|| step(together.clone()))?);
    }
    let [machine, small, large] = best;
    let products = threads as f64 * PRODUCTS as f64 * 2.0 * (if tiny { 64.0 } else { MATRIX as f64 }).powi(3);
    let rate = |operations: f64, took: Took| {
        (operations / took.wall / 1e9, operations * threads as f64 / took.cpu / 1e9)
    };
    let (wall, cpu) = rate(products, machine);
    println!("matrix products             {wall:6.0} GFLOP/s by wall time, {cpu:6.0} by CPU time");
    for (name, took) in [("batch 8", small), ("batch 32", large)] {
        let (step_wall, step_cpu) = rate(work, took);
        println!(
            "step, {name:<8}              {step_wall:6.0} GFLOP/s by wall time, {step_cpu:6.0} by CPU time: {:.0} % and {:.0} % of that",
            100.0 * step_wall / wall,
            100.0 * step_cpu / cpu
        );
    }
    let per_token = |seconds: f64| seconds * 1e6 / tokens as f64;
    println!(
        "a token, batch 8 / batch 32 {:6.0} / {:.0} us wall ({:.2}), {:.0} / {:.0} us CPU ({:.2})",
        per_token(small.wall),
        per_token(large.wall),
        large.wall / small.wall,
        per_token(small.cpu),
        per_token(large.cpu),
        large.cpu / small.cpu
    );
    Ok(())
}

fn shape(tiny: bool) -> LlamaConfig {
    let large = LlamaConfig {
        vocab_size: 8192,
        hidden_size: 512,
        intermediate_size: 1408,
        num_hidden_layers: 8,
        num_attention_heads: 8,
        num_key_value_heads: 8,
        head_dim: 64,
        max_position_embeddings: 2048,
        tie_word_embeddings: true,
        ..LlamaConfig::default()
    };
    if tiny { LlamaConfig { num_hidden_layers: 1, hidden_size: 64, vocab_size: 64, ..large } } else { large }
}

/// A pair with lengths like those of real ones: log-normal, with mean 140 for the prompt and 50 for an answer.
fn pair(rng: &mut RngStream, vocabulary: usize) -> PromptGroup {
    let mut tokens = |mean: f64| -> Vec<u32> {
        let sigma = 0.8;
        let length = (mean.ln() - sigma * sigma / 2.0 + sigma * rng.normal()).exp();
        (0..length.clamp(4.0, 400.0) as usize).map(|_| rng.below(vocabulary) as u32).collect()
    };
    let prompt = tokens(140.0);
    let answers = (0..2).map(|_| Completion::new(tokens(50.0))).map(|mut answer| {
        // That of a model that knows nothing, as the one here does: a saturated pair would have no gradient.
        answer.ref_logprob = Some(-(vocabulary as f64).ln() * answer.token_ids.len() as f64);
        answer
    });
    PromptGroup::new(prompt, answers.collect())
}

/// The operations of a step that the head of this file counts.
fn operations(model: &Model, groups: &[PromptGroup]) -> Result<f64, Failure> {
    let sizes = model.config().sizes();
    let batch = PackedBatch::new(groups)?;
    let (hidden, inner) = (sizes.hidden_size, sizes.intermediate_size);
    let rows = sizes.num_attention_heads * sizes.head_dim;
    let keys = sizes.num_key_value_heads * sizes.head_dim;
    let block = hidden * (2 * rows + 2 * keys) + 3 * hidden * inner;
    let seen: usize = batch
        .groups()
        .iter()
        .map(|group| {
            let causal = |length: usize| length * (length + 1) / 2;
            let answers =
                group.completion_lens.iter().map(|length| group.prompt_len * length + causal(*length));
            causal(group.prompt_len) + answers.sum::<usize>()
        })
        .sum();
    let linear = 6 * (sizes.num_hidden_layers * block * batch.tokens());
    let output = 6 * (sizes.vocab_size * hidden * batch.targets().len());
    Ok((linear + output + 12 * sizes.num_hidden_layers * rows * seen) as f64)
}

/// Products of one thread.
const PRODUCTS: usize = 40;

fn multiply(threads: usize, tiny: bool) -> Result<(), Failure> {
    let size = if tiny { 64 } else { MATRIX };
    let work = |()| -> Result<(), align_core::Error> {
        let _guard = no_grad();
        let matrix = || Tensor::f_ones([size, size], (Kind::Float, Device::Cpu));
        let (a, b, product) = (matrix()?, matrix()?, matrix()?);
        for _ in 0..PRODUCTS {
            let _ = a.f_mm_out(&product, &b)?;
        }
        Ok(())
    };
    for result in parallel::map(vec![(); threads], work)? {
        result?;
    }
    Ok(())
}

/// Seconds of the clock and of all threads of the process.
#[derive(Clone, Copy)]
struct Took {
    wall: f64,
    cpu: f64,
}

impl Took {
    const NEVER: Self = Self { wall: f64::INFINITY, cpu: f64::INFINITY };

    fn min(self, other: Self) -> Self {
        Self { wall: self.wall.min(other.wall), cpu: self.cpu.min(other.cpu) }
    }
}

fn took(work: impl FnOnce() -> Result<(), Failure>) -> Result<Took, Failure> {
    let (cpu, wall) = (cpu_time(), Instant::now());
    work()?;
    Ok(Took { wall: wall.elapsed().as_secs_f64(), cpu: (cpu_time() - cpu).as_secs_f64() })
}

fn cpu_time() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the one structure it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
