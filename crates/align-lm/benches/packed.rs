//! Forward and backward over packed groups against the same completions as padded rows with their prompts repeated.
//!
//!     cargo bench -p align-lm
//!
//! Lengths are drawn like those of preference pairs (prompts around 140 tokens, answers around 50, long tails). The
//! padded rows are groups of one completion filled up to the longest, so both sides run the same code. Times are CPU
//! time of the process with one thread: wall time on a shared machine says little. The last line of each model is the
//! ratio of the best of three runs in alternation.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Duration;

use align_core::align_types::{Completion, PromptGroup, Purpose, RngStream};
use align_core::tch::Kind;
use align_core::{CausalLm, PackedBatch, clear_gradients};
use align_lm::{LlamaConfig, Model, ModelConfig};
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const PAIRS: usize = 8;

/// CPU time of the process.
struct CpuTime;

fn cpu_time() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the one structure it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        cpu_time()
    }

    fn end(&self, start: Duration) -> Duration {
        cpu_time() - start
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

fn pairs(vocabulary: usize) -> Vec<PromptGroup> {
    let mut rng = RngStream::new(1, Purpose::Synthetic, 0, 0);
    let mut tokens = |mean: f64| {
        // Log-normal: the mean is exp(mu + sigma²/2).
        let sigma = 0.8;
        let length = ((mean.ln() - sigma * sigma / 2.0) + sigma * rng.normal()).exp();
        (0..length.clamp(4.0, 400.0) as usize).map(|_| rng.below(vocabulary) as u32).collect::<Vec<_>>()
    };
    let completions = |tokens: &mut dyn FnMut(f64) -> Vec<u32>| {
        (0..2).map(|_| Completion::new(tokens(50.0))).collect::<Vec<_>>()
    };
    (0..PAIRS).map(|_| PromptGroup::new(tokens(140.0), completions(&mut tokens))).collect()
}

fn padded(groups: &[PromptGroup]) -> Vec<PromptGroup> {
    let rows =
        groups.iter().flat_map(|g| g.completions.iter().map(|c| (g.prompt.clone(), c.token_ids.clone())));
    let width = rows.clone().map(|(p, c)| p.len() + c.len()).max().unwrap();
    rows.map(|(prompt, mut completion)| {
        completion.resize(width - prompt.len(), 0);
        PromptGroup::new(prompt, vec![Completion::new(completion)])
    })
    .collect()
}

fn step(model: &Model, batch: &PackedBatch) {
    let log_probs = model.token_log_probs(batch, 1.0).unwrap();
    log_probs.values().mean(Kind::Float).backward();
    clear_gradients(model.parameters().iter().map(|p| &p.tensor)).unwrap();
}

fn packed_against_padded(c: &mut Criterion<CpuTime>) {
    align_core::threads::prepare_compute_thread();
    let small = LlamaConfig::default();
    let large = LlamaConfig {
        vocab_size: 4096,
        hidden_size: 256,
        intermediate_size: 640,
        num_hidden_layers: 6,
        num_attention_heads: 8,
        num_key_value_heads: 4,
        ..LlamaConfig::default()
    };
    for (name, config) in [("1M", small), ("5M", large)] {
        let groups = pairs(config.vocab_size);
        let model = Model::init(&ModelConfig::llama(config).unwrap(), 0).unwrap();
        let mut bench = c.benchmark_group(name);
        bench.sample_size(10).throughput(Throughput::Elements(PAIRS as u64));
        let batches = [groups.clone(), padded(&groups)].map(|groups| PackedBatch::new(&groups).unwrap());
        for (layout, batch) in ["packed", "padded"].into_iter().zip(&batches) {
            bench.bench_function(format!("{layout} ({} tokens)", batch.tokens()), |b| {
                b.iter(|| step(black_box(&model), black_box(batch)));
            });
        }
        bench.finish();
        println!("{name}: padded / packed = {:.2}", ratio(&model, &batches));
    }
}

/// The best of three runs in alternation, padded over packed.
fn ratio(model: &Model, batches: &[PackedBatch; 2]) -> f64 {
    let mut best = [Duration::MAX; 2];
    for _ in 0..3 {
        for (best, batch) in best.iter_mut().zip(batches) {
            let start = cpu_time();
            step(model, batch);
            *best = (*best).min(cpu_time() - start);
        }
    }
    best[1].as_secs_f64() / best[0].as_secs_f64()
}

fn cpu_time_criterion() -> Criterion<CpuTime> {
    Criterion::default().with_measurement(CpuTime)
}

criterion_group! {
    name = benches;
    config = cpu_time_criterion();
    targets = packed_against_padded
}
criterion_main!(benches);
