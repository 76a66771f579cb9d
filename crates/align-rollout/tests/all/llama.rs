//! Sampling from a real architecture: a small random Llama with rotary positions and grouped key-value heads.

use std::ops::ControlFlow;

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

/// Families without an engine use all cores, too; a model on a thread of its own rounds as it does among other rows.
#[test]
fn samples_are_the_same_on_any_number_of_threads() {
    for name in ["tiny-llama", "tiny-gemma", "tiny-bloom", "tiny-gpt2"] {
        prepare_compute_thread();
        let model = Model::load(&fixture(&format!("models/{name}")), &LoadOptions::default()).unwrap();
        let config = SamplingConfig { repetition_penalty: 1.2, ..config() };
        let draw = |threads, slots| {
            let generator = TensorGenerator::new(&model, stop_tokens(&model));
            generator.with_threads(threads).with_slots(slots).generate(&prompts(&model), &config, 0).unwrap()
        };
        let one = draw(1, 32);
        for (threads, slots) in [(2, 32), (3, 2), (40, 1)] {
            let many = draw(threads, slots);
            assert_eq!(many.len(), one.len());
            for (one, many) in all(&one).iter().zip(all(&many)) {
                assert_eq!(one.token_ids, many.token_ids, "{name} on {threads} threads");
                assert_eq!(one.finish_reason, many.finish_reason);
                assert_close(&logprobs(one), &logprobs(many), 1e-5);
            }
        }
    }
}

/// Fewer prompts than threads: the samples of a prompt are drawn on several threads. Groups come in order.
#[test]
fn threads_share_the_samples_of_one_prompt_and_hand_groups_out_in_order() {
    let model = load();
    let whole =
        TensorGenerator::new(&model, stop_tokens(&model)).generate(&prompts(&model), &config(), 0).unwrap();
    let mut threads = TensorGenerator::new(&model, stop_tokens(&model)).with_threads(4);
    let alone = threads.generate(&prompts(&model)[..1], &config(), 0).unwrap();
    let ids = |group: &PromptGroup| group.completions.iter().map(|c| c.token_ids.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&alone[0]), ids(&whole[0]));
    let mut seen = Vec::new();
    let sink = |group: PromptGroup| {
        seen.push(ids(&group));
        if seen.len() == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    threads.generate_each(0, &prompts(&model), &config(), 0, sink).unwrap();
    assert_eq!(seen, whole.iter().take(5).map(ids).collect::<Vec<_>>());
    // An error on any thread ends the call and keeps its place.
    let mut failing = threads.with_decoder(|_| Err("no such piece".into()));
    let error = failing.generate(&prompts(&model), &config(), 0).unwrap_err().to_string();
    assert!(error.contains("sample") && error.contains("no such piece"), "{error}");
}

#[test]
fn log_probs_are_those_of_the_training_forward() {
    let model = load();
    for config in [
        config(),
        SamplingConfig { top_k: 20, top_p: 0.7, ..config() },
        SamplingConfig { greedy: true, ..config() },
        SamplingConfig { repetition_penalty: 1.3, min_p: 0.1, ..config() },
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
