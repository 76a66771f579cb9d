//! Time to lay preference pairs out as one stream: pure Rust, no tensor.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed bench")]

use align_core::{
    PackedBatch,
    align_types::{Completion, PromptGroup},
};
use criterion::{Criterion, criterion_group, criterion_main};

fn packing(c: &mut Criterion) {
    let completions = || vec![Completion::new(vec![7; 48]), Completion::new(vec![9; 40])];
    let groups: Vec<_> = (0..32).map(|_| PromptGroup::new(vec![5; 140], completions())).collect();
    c.bench_function("pack/32_pairs", |b| b.iter(|| PackedBatch::new(&groups).unwrap()));
}

criterion_group!(benches, packing);
criterion_main!(benches);
