//! One update of 8 million parameters on one thread: in one pass over memory, and by tensor operations.
//!
//! `cargo bench -p align-train --bench adamw`

use std::hint::black_box;

use align_core::Parameter;
use align_core::align_types::config::OptimizerConfig;
use align_core::tch::{Device, Kind, Tensor};
use align_core::{no_grad, threads::prepare_compute_thread};
use align_train::{AdamW, Update, gradient_norm};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const SHAPE: [i64; 2] = [4096, 2048];

fn updates(criterion: &mut Criterion) {
    prepare_compute_thread();
    let random = || Tensor::f_rand(SHAPE, (Kind::Float, Device::Cpu));
    let Ok(tensors) = (0..4).map(|_| random()).collect::<Result<Vec<_>, _>>() else { return };
    let [weights, gradient, mut first, mut second] = <[Tensor; 4]>::try_from(tensors).unwrap_or_default();
    let mut parameters = [Parameter { name: "p".into(), tensor: weights.copy(), decay: true }];
    let gradients = [Some(gradient.shallow_clone())];
    let mut optimizer = AdamW::new(&parameters, &OptimizerConfig::default());
    let mut group = criterion.benchmark_group("adamw_8m");
    group.throughput(Throughput::Elements((SHAPE[0] * SHAPE[1]) as u64)).sample_size(20);
    let update = Update { learning_rate: 1e-6, scale: 0.5, threads: 1 };
    group.bench_function("one_pass", |b| {
        b.iter(|| black_box(optimizer.step(&mut parameters, &gradients, update)));
    });
    let mut values = weights.copy();
    group.bench_function("tensor_operations", |b| {
        let _guard = no_grad();
        b.iter(|| black_box(by_tensors(&mut values, &gradient, &mut first, &mut second)));
    });
    group.bench_function("gradient_norm", |b| b.iter(|| black_box(gradient_norm(&gradients, 1))));
    group.finish();
}

/// The update as a chain of operations in place, as PyTorch does it for one tensor.
fn by_tensors(
    values: &mut Tensor,
    gradient: &Tensor,
    first: &mut Tensor,
    second: &mut Tensor,
) -> Result<(), align_core::Error> {
    let gradient = gradient.f_mul_scalar(0.5)?;
    let _ = first.f_lerp_(&gradient, 0.1)?;
    let _ = second.f_mul_scalar_(0.999)?.f_addcmul_(&gradient, &gradient)?;
    let root = second.f_sqrt()?.f_div_scalar(0.03)?.f_add_scalar(1e-8)?;
    let _ = values.f_mul_scalar_(1.0)?.f_addcdiv_(first, &root)?;
    Ok(())
}

criterion_group!(benches, updates);
criterion_main!(benches);
