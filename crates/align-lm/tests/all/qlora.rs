//! Adapters on bases that are stored in few bits, and on models that compute activations again.

use crate::fixtures;

use align_core::{
    CausalLm,
    align_types::{Purpose, RngStream, config::LoraConfig},
    no_grad,
    tch::{Kind, Tensor},
};
use align_lm::{FrozenStorage, LoadOptions, Model, SaveDtype, Trainable};
use align_testkit::assert_close;
use fixtures::*;

const BASES: [&str; 5] = ["tiny-llama", "tiny-llama-tied-sharded", "tiny-gemma2", "tiny-bloom", "tiny-gpt2"];

fn frozen(frozen: FrozenStorage) -> LoadOptions {
    LoadOptions { trainable: Trainable::No, frozen, ..LoadOptions::default() }
}

/// Adds an adapter whose B is not zero, the same to every model.
fn adapt(model: &mut Model, dropout: f64) {
    model.add_adapter(&LoraConfig { rank: 4, alpha: 8.0, dropout, ..LoraConfig::default() }, 7).unwrap();
    let _guard = no_grad();
    for (index, p) in model.parameters().iter().enumerate() {
        let mut rng = RngStream::new(1, Purpose::Synthetic, 0, index as u64);
        let values: Vec<f32> = (0..p.tensor.numel()).map(|_| 0.2 * rng.normal() as f32).collect();
        p.tensor.shallow_clone().copy_(&Tensor::from_slice(&values).reshape(p.tensor.size()));
    }
}

fn factors(count: usize) -> Vec<f64> {
    (0..count).map(|i| (i as f64 * 0.37).sin()).collect()
}

/// The same base, packed and as float32 of what the packed one reads.
#[test]
fn an_adapter_on_4_bits_has_the_values_and_gradients_of_one_on_their_numbers() {
    for name in BASES {
        let (mut packed, expected) = load_with(name, &frozen(FrozenStorage::Nf4));
        let out = tempfile::tempdir().unwrap();
        packed.save(&out.path().join("dense"), SaveDtype::F32).unwrap();
        let mut dense = Model::load(&out.path().join("dense"), &LoadOptions::default()).unwrap();
        let before = packed.weight_bytes();
        adapt(&mut packed, 0.0);
        adapt(&mut dense, 0.0);
        let groups = groups(&expected);
        let values = log_probs(&dense, &groups);
        assert_close(&log_probs(&packed, &groups), &values, 1e-5);
        packed.discard_forwards();
        let factors = factors(values.len());
        let replica = packed.replica().unwrap();
        let ours = gradients(&packed, &groups, &factors);
        assert!(ours.iter().all(|(name, _)| name.contains("lora_")), "{name}");
        assert_same_gradients(&ours, &gradients(&dense, &groups, &factors), 1e-5);
        assert_same_gradients(&gradients(&replica, &groups, &factors), &ours, 1e-6);
        assert_eq!(packed.weight_bytes(), before);
    }
}

#[test]
fn merging_into_4_bits_makes_float32_of_what_was_computed() {
    for name in BASES {
        let (mut model, expected) = load_with(name, &frozen(FrozenStorage::Nf4));
        adapt(&mut model, 0.0);
        let groups = groups(&expected);
        let _guard = no_grad();
        let values = log_probs(&model, &groups);
        assert_close(&log_probs(&model.frozen_copy().unwrap(), &groups), &values, 1e-6);
        model.merge_adapter().unwrap();
        assert_close(&log_probs(&model, &groups), &values, 1e-4);
        // What was merged is not packed again.
        let merged = log_probs(&model, &groups);
        assert_eq!(log_probs(&model.replica().unwrap(), &groups), merged);
        assert_eq!(log_probs(&model.frozen_copy().unwrap(), &groups), merged);
    }
}

/// Blocks that are computed again must drop what they dropped, whichever batch came last.
#[test]
fn dropout_is_drawn_again_as_it_was() {
    for name in BASES {
        let options = LoadOptions { trainable: Trainable::No, ..LoadOptions::default() };
        let (mut kept, expected) = load_with(name, &options);
        let (mut again, _) = load_with(name, &LoadOptions { recompute: true, ..options });
        let groups = groups(&expected);
        let run = |model: &mut Model| {
            adapt(model, 0.3);
            model.begin_step(Some(5));
            let mean = |range: std::ops::Range<usize>| {
                let batch = align_core::PackedBatch::new(&groups[range]).unwrap();
                model.token_log_probs(&batch, 1.0).unwrap().values().mean(Kind::Double)
            };
            let loss = mean(0..1) * mean(1..3);
            model.backward(&loss).unwrap();
            let read =
                |t: &Tensor| Vec::<f64>::try_from(t.grad().to_kind(Kind::Double).reshape([-1])).unwrap();
            let gradients = model.parameters().into_iter().map(|p| (p.name, read(&p.tensor)));
            (loss.double_value(&[]), gradients.collect::<Vec<_>>())
        };
        let (a, b) = (run(&mut kept), run(&mut again));
        assert_close(&[a.0], &[b.0], 1e-6);
        assert_same_gradients(&b.1, &a.1, 1e-5);
    }
}

/// A base in 16 bits that came in 16 bits is the base, and its adapter is trained in float32.
#[test]
fn a_base_in_16_bits_is_trained_on_like_one_in_float32() {
    let (mut wide, expected) = load("tiny-llama-bf16");
    let (mut narrow, _) = load_with("tiny-llama-bf16", &frozen(FrozenStorage::Half));
    adapt(&mut wide, 0.0);
    adapt(&mut narrow, 0.0);
    let groups = groups(&expected);
    let factors = factors(log_probs(&wide, &groups).len());
    let ours = gradients(&narrow, &groups, &factors);
    assert_same_gradients(&ours, &gradients(&wide, &groups, &factors), 1e-6);
    assert!(narrow.parameters().iter().all(|p| p.tensor.kind() == Kind::Float));
}
