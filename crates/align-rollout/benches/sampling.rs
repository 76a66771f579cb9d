//! Tokens per second of both backends on a random model of a million parameters, of the tensor backend around a model
//! that costs nothing, and the arithmetic on one row.
//!
//! `cargo bench -p align-rollout`
#![allow(missing_docs, clippy::unwrap_used)]

use align_core::{
    align_types::{Generator, Purpose, RngStream, config::SamplingConfig},
    tch::{Device, Kind, Tensor},
};
use align_lm::{LlamaConfig, Model, ModelConfig};
use align_rollout::{Engine, Instructions, TensorGenerator, sampling::NextToken};
use align_testkit::BigramLm;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn normal_logits(vocabulary: usize) -> Vec<f32> {
    let mut stream = RngStream::new(0, Purpose::Synthetic, 0, 0);
    (0..vocabulary).map(|_| (2.0 * stream.normal()) as f32).collect()
}

fn generator(c: &mut Criterion) {
    align_core::threads::prepare_compute_thread();
    let model = BigramLm::new(&Tensor::zeros([512, 512], (Kind::Float, Device::Cpu)));
    let prompts: Vec<Vec<u32>> = (0..64).map(|i| vec![i; 16]).collect();
    let config = SamplingConfig { num_completions: 2, max_new_tokens: 64, ..SamplingConfig::default() };
    let mut group = c.benchmark_group("generate");
    group.sample_size(10).throughput(Throughput::Elements(64 * 2 * 64));
    for slots in [1, 8, 32] {
        let mut generator = TensorGenerator::new(&model, vec![]).with_slots(slots);
        group.bench_function(format!("bigram 512, {slots} slots"), |b| {
            b.iter(|| generator.generate(&prompts, &config, 0).unwrap());
        });
    }
}

/// Texts of very different length: a stop token is drawn once in 32 tokens.
fn backends(c: &mut Criterion) {
    align_core::threads::prepare_compute_thread();
    let model = Model::init(&ModelConfig::llama(LlamaConfig::default()).unwrap(), 0).unwrap();
    let stop: Vec<u32> = (0..512).step_by(32).collect();
    let prompts: Vec<Vec<u32>> =
        (0..32u32).map(|i| (0..10 + 13 * i % 180).map(|j| (7 * i + j) % 512).collect()).collect();
    for samples in [1, 8] {
        let config =
            SamplingConfig { num_completions: samples, max_new_tokens: 128, ..SamplingConfig::default() };
        let mut tensor = TensorGenerator::new(&model, stop.clone());
        let groups = tensor.generate(&prompts, &config, 0).unwrap();
        let tokens: usize = groups.iter().flat_map(|g| &g.completions).map(|c| c.token_ids.len()).sum();
        let mut group = c.benchmark_group(format!("llama 1M, {samples} samples per prompt, one thread"));
        group.sample_size(10).throughput(Throughput::Elements(tokens as u64));
        group.bench_function("tensor", |b| b.iter(|| tensor.generate(&prompts, &config, 0).unwrap()));
        for set in Instructions::available() {
            let engine = Engine::new(&model, stop.clone()).unwrap();
            let mut engine = engine.with_threads(1).with_instructions(set);
            group.bench_function(format!("engine, {}", set.name()), |b| {
                b.iter(|| engine.generate(&prompts, &config, 0).unwrap());
            });
        }
    }
}

fn row(c: &mut Criterion) {
    let logits = normal_logits(32_000);
    let plain = SamplingConfig::default();
    let mut group = c.benchmark_group("row of 32000 logits");
    for (name, config) in [
        ("greedy", SamplingConfig { greedy: true, ..plain.clone() }),
        ("top-k 50", SamplingConfig { top_k: 50, ..plain.clone() }),
        ("top-p 0.9", SamplingConfig { top_p: 0.9, ..plain.clone() }),
        ("plain", plain),
    ] {
        let mut next = NextToken::default();
        group.bench_function(name, |b| {
            b.iter(|| next.set(&logits, [&[], &[]], &config).then(|| next.draw(0.5)))
        });
    }
}

criterion_group!(benches, backends, generator, row);
criterion_main!(benches);
