//! Time of every loss, forward and backward, over a batch of 4,096 pairs or 8,192 answers; that of DPO also at 8 pairs,
//! where the cost of a call shows.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed bench")]

use align_core::tch::{Device, Kind, Tensor};
use align_losses::{
    BcoBatch, DpoConfig, DpoInputs, DpoLossType, FeedbackInputs, KtoConfig, KtoInputs, KtoLossType,
    PairLengths, UnaConfig, UnaInputs, UnaLossType, bco_loss, dpo_loss, kto_loss, una_loss,
};
use criterion::{Criterion, criterion_group, criterion_main};

const PAIRS: i64 = 4096;

fn draw(items: i64) -> Tensor {
    Tensor::randn([items], (Kind::Double, Device::Cpu)) - 8.0
}

fn leaf(items: i64) -> Tensor {
    draw(items).set_requires_grad(true)
}

fn pairs(c: &mut Criterion) {
    align_core::threads::prepare_compute_thread();
    let few = [(DpoLossType::Sigmoid, 8)];
    for (loss, pairs) in few.into_iter().chain(DpoLossType::ALL.map(|loss| (loss, PAIRS))) {
        let (chosen, rejected) = (leaf(pairs), leaf(pairs));
        let (ref_chosen, ref_rejected) = (draw(pairs), draw(pairs));
        let lens = Tensor::randint_low(1, 500, [pairs], (Kind::Int64, Device::Cpu));
        let label_smoothing = if loss == DpoLossType::ExoPair { 1e-3 } else { 0.0 };
        let config = DpoConfig { label_smoothing, ..DpoConfig::of(loss) };
        let inputs = DpoInputs {
            ref_chosen: config.uses_reference().then_some(&ref_chosen),
            ref_rejected: config.uses_reference().then_some(&ref_rejected),
            lengths: Some(PairLengths { chosen: &lens, rejected: &lens }),
            ..DpoInputs::new(&chosen, &rejected)
        };
        c.bench_function(&format!("{loss:?}/{pairs}_pairs"), |b| {
            b.iter(|| dpo_loss(&inputs, &config).unwrap().mean().unwrap().backward());
        });
    }
}

fn answers(c: &mut Criterion) {
    align_core::threads::prepare_compute_thread();
    let items = 2 * PAIRS;
    let (policy, reference) = (leaf(items), draw(items));
    let desirable: Vec<bool> = (0..items).map(|item| item % 3 == 0).collect();
    let targets = Tensor::rand([items], (Kind::Double, Device::Cpu));
    let labels = KtoInputs { policy: &policy, reference: &reference, desirable: &desirable };
    c.bench_function(&format!("Kto/{items}_answers"), |b| {
        b.iter(|| kto_loss(&labels, 0.5, &KtoConfig::default()).unwrap().mean().unwrap().backward());
    });
    let up = desirable.iter().filter(|label| **label).count();
    let batch = BcoBatch { shift: 0.1, desirable: up, undesirable: desirable.len() - up };
    let config = KtoConfig { loss_type: KtoLossType::Bco, ..Default::default() };
    c.bench_function(&format!("Bco/{items}_answers"), |b| {
        b.iter(|| bco_loss(&labels, &batch, &config).unwrap().mean().unwrap().backward());
    });
    let rows = FeedbackInputs { policy: &policy, reference: &reference, targets: &targets };
    for loss_type in [UnaLossType::Mse, UnaLossType::Bce, UnaLossType::RawMse] {
        let config = UnaConfig { loss_type, ..Default::default() };
        let inputs = UnaInputs { scored: Some(rows), ..Default::default() };
        c.bench_function(&format!("Una{loss_type:?}/{items}_answers"), |b| {
            b.iter(|| una_loss(&inputs, &config).unwrap().mean().unwrap().backward());
        });
    }
}

criterion_group!(benches, pairs, answers);
criterion_main!(benches);
