//! Time of a DPO loss, forward and backward, over a batch of pairs.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed bench")]

use align_core::tch::{Device, Kind, Tensor};
use align_losses::{DpoConfig, DpoInputs, dpo_loss};
use criterion::{Criterion, criterion_group, criterion_main};

fn dpo(c: &mut Criterion) {
    align_core::threads::prepare_compute_thread();
    for pairs in [8i64, 512] {
        let draw = || Tensor::randn([pairs], (Kind::Double, Device::Cpu));
        let (chosen, rejected) = (draw().set_requires_grad(true), draw().set_requires_grad(true));
        let (ref_chosen, ref_rejected) = (draw(), draw());
        let inputs = DpoInputs {
            chosen: &chosen,
            rejected: &rejected,
            ref_chosen: Some(&ref_chosen),
            ref_rejected: Some(&ref_rejected),
        };
        c.bench_function(&format!("dpo/{pairs}_pairs"), |b| {
            b.iter(|| dpo_loss(&inputs, &DpoConfig::default()).unwrap().mean().unwrap().backward());
        });
    }
}

criterion_group!(benches, dpo);
criterion_main!(benches);
