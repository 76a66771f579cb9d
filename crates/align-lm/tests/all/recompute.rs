//! Computing activations again in the backward pass changes memory and time, and no gradient.

use crate::fixtures;

use align_core::{
    CausalLm, PackedBatch, clear_gradients, no_grad,
    tch::{Kind, Tensor},
};
use align_lm::{LoadOptions, Model, Trainable};
use fixtures::*;

fn recomputing() -> LoadOptions {
    LoadOptions { recompute: true, ..LoadOptions::default() }
}

fn factors(count: usize) -> Vec<f64> {
    (0..count).map(|i| (i as f64 * 0.37).sin()).collect()
}

#[test]
fn gradients_are_those_of_kept_activations() {
    for name in FIXTURES {
        let (kept, expected) = load(name);
        let (again, _) = load_with(name, &recomputing());
        let groups = groups(&expected);
        let values = log_probs(&kept, &groups);
        assert_eq!(log_probs(&again, &groups).len(), values.len());
        again.discard_forwards();
        let factors = factors(values.len());
        let expected = gradients(&kept, &groups, &factors);
        assert_same_gradients(&gradients(&again, &groups, &factors), &expected, 1e-6);
    }
}

/// What this file compares with: without the model's own backward pass the blocks have no gradient.
#[test]
fn the_graph_of_the_loss_ends_behind_the_blocks() {
    let (model, expected) = load_with("tiny-llama", &recomputing());
    let batch = PackedBatch::new(&groups(&expected)).unwrap();
    model.token_log_probs(&batch, 1.0).unwrap().values().sum(Kind::Double).backward();
    let reached = model.parameters().into_iter().filter(|p| p.tensor.grad().defined()).map(|p| p.name);
    assert_eq!(reached.collect::<Vec<_>>(), ["model.norm.weight", "lm_head.weight"]);
}

/// Two passes in one loss that is no sum of theirs: a product, so that each pass sees the other's value.
#[test]
fn several_passes_may_meet_in_one_loss() {
    for name in ["tiny-llama", "tiny-llama-tied-sharded", "tiny-gemma2", "tiny-bloom", "tiny-gpt2"] {
        let gradients = |model: &Model, expected: &Expected| {
            let groups = groups(expected);
            let mean = |range: std::ops::Range<usize>| {
                let batch = PackedBatch::new(&groups[range]).unwrap();
                model.token_log_probs(&batch, 1.0).unwrap().values().mean(Kind::Double)
            };
            let (first, second, unused) = (mean(0..1), mean(1..3), mean(0..2));
            drop(unused);
            model.backward(&(first * second)).unwrap();
            let read =
                |t: &Tensor| Vec::<f64>::try_from(t.grad().to_kind(Kind::Double).reshape([-1])).unwrap();
            model.parameters().iter().map(|p| (p.name.clone(), read(&p.tensor))).collect::<Vec<_>>()
        };
        let (kept, expected) = load(name);
        let (again, _) = load_with(name, &recomputing());
        assert_same_gradients(&gradients(&again, &expected), &gradients(&kept, &expected), 1e-6);
    }
}

#[test]
fn passes_without_a_backward_pass_leave_nothing_behind() {
    let (model, expected) = load_with("tiny-llama", &recomputing());
    let (kept, _) = load("tiny-llama");
    let groups = groups(&expected);
    let values = {
        let _guard = no_grad();
        log_probs(&model, &groups)
    };
    let factors = factors(values.len());
    // A pass whose loss met an error, and one whose backward pass cannot be done.
    log_probs(&model, &groups);
    model.discard_forwards();
    let batch = PackedBatch::new(&groups).unwrap();
    let sum = || model.token_log_probs(&batch, 1.0).unwrap().values().sum(Kind::Double);
    let loss = sum();
    {
        let _guard = no_grad();
        assert!(model.backward(&loss).unwrap_err().to_string().contains("no_grad"));
    }
    let half_done = sum() + Tensor::from_slice(&[1.0f64, 2.0]);
    assert!(model.backward(&half_done).is_err(), "a loss of two elements has no gradient");
    clear_gradients(model.parameters().iter().map(|p| &p.tensor)).unwrap();
    let again = gradients(&model, &groups, &factors);
    assert_same_gradients(&again, &gradients(&kept, &groups, &factors), 1e-6);
}

#[test]
fn replicas_wait_for_their_own_backward_pass() {
    let (model, expected) = load_with("tiny-llama-tied-sharded", &recomputing());
    let replica = model.replicate().unwrap();
    let batch = PackedBatch::new(&groups(&expected)[1..3]).unwrap();
    let loss = |model: &dyn CausalLm| model.token_log_probs(&batch, 1.0).unwrap().values().sum(Kind::Float);
    let (ours, theirs) = (loss(&model), loss(replica.as_ref()));
    replica.backward(&theirs).unwrap();
    for (a, b) in model.parameters().iter().zip(replica.parameters()) {
        assert!(!a.tensor.grad().defined() && b.tensor.grad().defined(), "{}", a.name);
    }
    model.backward(&ours).unwrap();
    for (a, b) in model.parameters().iter().zip(replica.parameters()) {
        assert!(a.tensor.grad().equal(&b.tensor.grad()), "{}", a.name);
    }
}

#[test]
fn frozen_models_record_nothing() {
    let options = LoadOptions { trainable: Trainable::No, ..recomputing() };
    let (model, expected) = load_with("tiny-llama", &options);
    let batch = PackedBatch::new(&groups(&expected)).unwrap();
    assert!(!model.logits(&batch).unwrap().requires_grad());
}
