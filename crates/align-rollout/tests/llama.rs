//! Sampling from a real architecture: a small random Llama with rotary positions and grouped key-value heads.
#![allow(missing_docs, clippy::unwrap_used)]

use align_core::{
    CausalLm, PackedBatch,
    align_types::{Completion, Generator, PromptGroup, config::SamplingConfig},
    threads::prepare_compute_thread,
};
use align_lm::{LoadOptions, Model};
use align_rollout::TensorGenerator;
use align_testkit::{assert_close, fixture};

fn load() -> Model {
    prepare_compute_thread();
    Model::load(&fixture("models/tiny-llama"), &LoadOptions::default()).unwrap()
}

/// Prompts of 1 to 23 tokens.
fn prompts(model: &Model) -> Vec<Vec<u32>> {
    let vocabulary = model.vocab_size() as u32;
    (0..8u32).map(|i| (0..=i * 22 / 7).map(|j| (17 * i + 5 * j + 3) % vocabulary).collect()).collect()
}

fn config() -> SamplingConfig {
    SamplingConfig {
        num_completions: 5,
        max_new_tokens: 24,
        temperature: 0.8,
        seed: 1,
        ..SamplingConfig::default()
    }
}

/// A sixteenth of the vocabulary ends a completion, so that sequences leave and enter all the time.
fn stop_tokens(model: &Model) -> Vec<u32> {
    (0..model.vocab_size() as u32).step_by(16).collect()
}

fn all(groups: &[PromptGroup]) -> Vec<&Completion> {
    groups.iter().flat_map(|g| &g.completions).collect()
}

fn logprobs(completion: &Completion) -> Vec<f64> {
    completion.logprobs.iter().flatten().map(|l| f64::from(*l)).collect()
}

#[test]
fn samples_are_the_same_in_any_number_of_slots() {
    let model = load();
    let draw = |slots| {
        let mut generator = TensorGenerator::new(&model, stop_tokens(&model)).with_slots(slots);
        generator.generate(&prompts(&model), &config(), 0).unwrap()
    };
    let one = draw(1);
    let lengths: std::collections::BTreeSet<usize> = all(&one).iter().map(|c| c.token_ids.len()).collect();
    assert!(lengths.len() > 5, "the test needs completions of many lengths: {lengths:?}");
    for slots in [3, 32, 64] {
        for (one, many) in all(&one).iter().zip(all(&draw(slots))) {
            assert_eq!(one.token_ids, many.token_ids);
            assert_close(&logprobs(one), &logprobs(many), 1e-5);
        }
    }
}

#[test]
fn log_probs_are_those_of_the_training_forward() {
    let model = load();
    for config in [
        config(),
        SamplingConfig { top_k: 20, top_p: 0.7, ..config() },
        SamplingConfig { greedy: true, ..config() },
    ] {
        let mut generator = TensorGenerator::new(&model, stop_tokens(&model)).with_slots(7);
        let groups = generator.generate(&prompts(&model), &config, 0).unwrap();
        let batch = PackedBatch::new(&groups).unwrap();
        let training = model.token_log_probs(&batch, config.temperature).unwrap().to_vecs().unwrap();
        for (sample, training) in all(&groups).iter().zip(training) {
            let training: Vec<f64> = training.into_iter().map(f64::from).collect();
            assert_close(&logprobs(sample), &training, 1e-4);
        }
    }
}

#[test]
fn a_completion_fills_the_context_and_no_more() {
    let model = load();
    let context = model.context_length().unwrap();
    let prompt = vec![1; context - 2];
    let groups = TensorGenerator::new(&model, vec![]).generate(&[prompt], &config(), 0).unwrap();
    assert!(groups[0].completions.iter().all(|c| c.token_ids.len() == 2));
    model.token_log_probs(&PackedBatch::new(&groups).unwrap(), 1.0).unwrap();
    let error = TensorGenerator::new(&model, vec![]).generate(&[vec![1; context]], &config(), 0).unwrap_err();
    assert!(error.to_string().contains("prompt 0"), "{error}");
}
