//! What the engine promises: the samples of the tensor backend, the same bits however the work is cut, stops, limits
//! and errors.

use std::{collections::BTreeSet, ops::ControlFlow};

use align_core::{
    CausalLm, PackedBatch, Parameter,
    align_types::{Completion, FinishReason, Generator, PromptGroup, config::SamplingConfig},
    threads::prepare_compute_thread,
};
use align_lm::{AdapterOptions, LlamaConfig, LoadOptions, Model, ModelConfig, Trainable};
use align_rollout::{AutoGenerator, BoxError, Engine, Error, Instructions, TensorGenerator, auto_generator};
use align_testkit::{assert_close, fixture};
use proptest::prelude::*;

fn load(name: &str) -> Model {
    prepare_compute_thread();
    Model::load(&fixture(&format!("models/{name}")), &LoadOptions::default()).unwrap()
}

/// Prompts of 1 to 40 tokens.
fn prompts(model: &Model, count: u32) -> Vec<Vec<u32>> {
    let vocabulary = model.vocab_size() as u32;
    (0..count).map(|i| (0..=i * 13 % 40).map(|j| (17 * i + 5 * j + 3) % vocabulary).collect()).collect()
}

fn config(num_completions: usize) -> SamplingConfig {
    SamplingConfig { num_completions, max_new_tokens: 24, temperature: 0.8, seed: 1, ..Default::default() }
}

/// A sixteenth of the vocabulary ends a completion, so that sequences leave and enter all the time.
fn stop_tokens(model: &Model) -> Vec<u32> {
    (0..model.vocab_size() as u32).step_by(16).collect()
}

/// One letter for each token, `<` and `>` around it.
fn letters(tokens: &[u32]) -> Result<String, BoxError> {
    Ok(tokens.iter().map(|t| format!("<{t}>")).collect())
}

fn engine(model: &Model) -> Engine<'static> {
    Engine::new(model, stop_tokens(model)).unwrap().with_decoder(letters)
}

fn all(groups: &[PromptGroup]) -> Vec<&Completion> {
    groups.iter().flat_map(|g| &g.completions).collect()
}

fn logprobs(completion: &Completion) -> Vec<f64> {
    completion.logprobs.iter().flatten().map(|l| f64::from(*l)).collect()
}

#[test]
fn samples_are_those_of_the_tensor_backend() {
    for name in ["tiny-llama", "tiny-llama-mha-bias", "tiny-llama-tied-sharded"] {
        let model = load(name);
        let plain = config(3);
        for config in [
            SamplingConfig { greedy: true, ..plain.clone() },
            SamplingConfig { top_k: 20, ..plain.clone() },
            SamplingConfig { top_p: 0.7, ..plain.clone() },
            SamplingConfig { top_k: 30, top_p: 0.8, temperature: 1.4, ..plain.clone() },
            SamplingConfig { stop: vec!["1><".into()], ..plain.clone() },
            SamplingConfig { min_p: 0.2, ..plain.clone() },
            SamplingConfig { repetition_penalty: 1.4, min_p: 0.05, top_k: 40, ..plain.clone() },
            SamplingConfig { repetition_penalty: 1.4, greedy: true, ..plain.clone() },
            plain,
        ] {
            let expected = TensorGenerator::new(&model, stop_tokens(&model))
                .with_decoder(letters)
                .generate(&prompts(&model, 9), &config, 4)
                .unwrap();
            for set in Instructions::available() {
                let got =
                    engine(&model).with_instructions(set).generate(&prompts(&model, 9), &config, 4).unwrap();
                for (got, expected) in all(&got).iter().zip(all(&expected)) {
                    assert_eq!(got.token_ids, expected.token_ids, "{name}, {}, {config:?}", set.name());
                    assert_eq!((&got.text, got.finish_reason), (&expected.text, expected.finish_reason));
                    assert_close(&logprobs(got), &logprobs(expected), 1e-5);
                }
                assert_eq!(got.len(), expected.len());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Bit for bit: tokens, text and log-probabilities.
    #[test]
    fn samples_do_not_depend_on_slots_threads_or_how_a_list_is_cut(
        count in 1u32..20, k in 1usize..6, slots in 1usize..40, threads in 1usize..5, cut in 0usize..20,
        bytes in prop::sample::select(vec![1usize, 1 << 30]), seed: u64,
    ) {
        let model = load("tiny-llama");
        let config = SamplingConfig { seed, ..config(k) };
        let prompts = prompts(&model, count);
        let whole = engine(&model).with_threads(1).with_slots(1).generate(&prompts, &config, 7).unwrap();
        let mut engine = engine(&model).with_threads(threads).with_slots(slots).with_cache_bytes(bytes);
        prop_assert_eq!(&engine.generate(&prompts, &config, 7).unwrap(), &whole);
        let (head, tail) = prompts.split_at(cut.min(prompts.len()));
        let mut parts = engine.generate_from(0, head, &config, 7).unwrap();
        parts.extend(engine.generate_from(head.len() as u64, tail, &config, 7).unwrap());
        prop_assert_eq!(parts, whole);
    }
}

/// Prompts of more rows than one step takes, beside short ones.
#[test]
fn long_prompts_come_in_pieces() {
    prepare_compute_thread();
    let shape = LlamaConfig {
        vocab_size: 96,
        hidden_size: 48,
        num_hidden_layers: 2,
        head_dim: 12,
        ..Default::default()
    };
    let model = Model::init(&ModelConfig::llama(shape).unwrap(), 2).unwrap();
    let prompts: Vec<Vec<u32>> =
        [700, 3, 255, 256, 257, 999, 1].map(|len| (0..len).map(|i| (i * i + len) % 96).collect()).into();
    let config = SamplingConfig { max_new_tokens: 20, ..config(2) };
    let together = engine(&model).with_threads(1).generate(&prompts, &config, 0).unwrap();
    for (index, prompt) in prompts.iter().enumerate() {
        let alone =
            engine(&model).generate_from(index as u64, std::slice::from_ref(prompt), &config, 0).unwrap();
        assert_eq!(alone[0], together[index], "prompt {index}");
    }
    let expected = TensorGenerator::new(&model, stop_tokens(&model)).generate(&prompts, &config, 0).unwrap();
    for (got, expected) in all(&together).iter().zip(all(&expected)) {
        assert_eq!(got.token_ids, expected.token_ids);
    }
}

#[test]
fn log_probs_are_those_of_the_training_forward() {
    let model = load("tiny-llama");
    for config in [
        config(4),
        SamplingConfig { top_k: 5, ..config(4) },
        SamplingConfig { greedy: true, ..config(1) },
        SamplingConfig { repetition_penalty: 2.0, min_p: 0.1, ..config(4) },
    ] {
        let groups = engine(&model).generate(&prompts(&model, 8), &config, 0).unwrap();
        let batch = PackedBatch::new(&groups).unwrap();
        let training = model.token_log_probs(&batch, config.temperature).unwrap().to_vecs().unwrap();
        for (sample, training) in all(&groups).iter().zip(training) {
            let training: Vec<f64> = training.into_iter().map(f64::from).collect();
            assert_close(&logprobs(sample), &training, 1e-5);
        }
    }
}

#[test]
fn groups_come_in_order_and_can_be_stopped() {
    let model = load("tiny-llama");
    let prompts = prompts(&model, 30);
    let whole = engine(&model).generate(&prompts, &config(2), 0).unwrap();
    let mut seen = Vec::new();
    let sink = |group| {
        seen.push(group);
        if seen.len() == 11 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    engine(&model).with_threads(3).generate_each(0, &prompts, &config(2), 0, sink).unwrap();
    assert_eq!(seen, whole[..11]);
}

#[test]
fn completions_end_at_stop_tokens_stop_strings_and_limits() {
    let model = load("tiny-llama");
    let prompts = prompts(&model, 12);
    let endless = Engine::new(&model, vec![]).unwrap().with_decoder(letters);
    let endless = { endless }.generate(&prompts, &config(3), 0).unwrap();
    assert!(
        all(&endless)
            .iter()
            .all(|c| c.token_ids.len() == 24 && c.finish_reason == Some(FinishReason::Length))
    );
    // The seventh token of the first completion and its neighbour, as a string across tokens.
    let first = &endless[0].completions[0].token_ids;
    let string = format!("{}><{}", first[6] % 10, first[7]);
    let stopped = Engine::new(&model, vec![]).unwrap().with_decoder(letters).with_threads(2);
    let stopped = { stopped }
        .generate(&prompts, &SamplingConfig { stop: vec![string.clone()], ..config(3) }, 0)
        .unwrap();
    let mut reasons = BTreeSet::new();
    for (endless, stopped) in all(&endless).iter().zip(all(&stopped)) {
        let whole = endless.text.as_ref().unwrap();
        let text = whole.find(&string).map_or(whole.as_str(), |at| &whole[..at]);
        assert_eq!(stopped.text.as_deref(), Some(text));
        assert_eq!(stopped.token_ids, endless.token_ids[..stopped.token_ids.len()]);
        assert_eq!(stopped.finish_reason == Some(FinishReason::Stop), text.len() < whole.len());
        reasons.insert(text.len() < whole.len());
    }
    assert_eq!(reasons.len(), 2, "the test needs completions of both kinds");
}

#[test]
fn completions_end_at_the_context() {
    let model = load("tiny-llama");
    let context = model.context_length().unwrap();
    let groups =
        engine(&model).generate(&[vec![1; context - 1], vec![1; context - 2]], &config(3), 0).unwrap();
    for (group, room) in groups.iter().zip([1, 2]) {
        assert!(group.completions.iter().all(|c| (1..=room).contains(&c.token_ids.len())));
    }
    model.token_log_probs(&PackedBatch::new(&groups).unwrap(), 1.0).unwrap();
    let refused = |prompt: Vec<u32>| {
        engine(&model).generate(&[vec![1], prompt], &config(1), 0).unwrap_err().to_string()
    };
    assert!(refused(vec![1; context]).contains(&format!("prompt 1: has {context} tokens")));
    assert!(refused(vec![1; context + 1000]).contains("prompt 1"));
    assert!(refused(vec![]).contains("prompt 1: is empty"));
    assert!(refused(vec![u32::MAX]).contains("has token 4294967295"));
    assert!(engine(&model).generate(&[], &config(1), 0).unwrap().is_empty());
    let stop = SamplingConfig { stop: vec!["x".into()], ..config(1) };
    let error = Engine::new(&model, vec![]).unwrap().generate_from(0, &[vec![1]], &stop, 0).unwrap_err();
    assert!(matches!(error, Error::NoDecoder));
    // More than any machine has: bounds come from the context, not from the request.
    let huge = SamplingConfig { max_new_tokens: usize::MAX, ..config(1) };
    let groups = Engine::new(&model, vec![])
        .unwrap()
        .with_slots(usize::MAX)
        .generate(&[vec![1; 9]], &huge, 0)
        .unwrap();
    assert_eq!(groups[0].completions[0].token_ids.len(), context - 9);
}

#[test]
fn a_decoder_that_fails_is_an_error_with_its_place() {
    let model = load("tiny-llama");
    for threads in [1, 3] {
        let mut engine = Engine::new(&model, vec![])
            .unwrap()
            .with_threads(threads)
            .with_decoder(|_: &[u32]| Err("no such token".into()));
        let error = engine.generate(&prompts(&model, 9), &config(2), 0).unwrap_err().to_string();
        assert!(error.contains("sample") && error.contains("no such token"), "{error}");
    }
}

#[test]
fn damaged_weights_are_an_error() {
    let model = load("tiny-llama");
    let Parameter { tensor, .. } = model.parameters().remove(0);
    let mut engine = engine(&model);
    let _ = align_core::tch::no_grad(|| tensor.shallow_clone().fill_(f64::NAN));
    engine.generate(&[vec![1, 2]], &config(1), 0).unwrap();
    engine.repack(&model).unwrap();
    let error = engine.generate(&[vec![1, 2]], &config(1), 0).unwrap_err().to_string();
    assert!(error.contains("prompt 0: the logits after token 2"), "{error}");
}

/// After a change of the weights the engine samples from the new ones once it is told.
#[test]
fn repacking_takes_the_weights_as_they_are() {
    let model = load("tiny-llama");
    let mut engine = engine(&model);
    let before = engine.generate(&prompts(&model, 6), &config(2), 0).unwrap();
    for Parameter { mut tensor, .. } in model.parameters() {
        align_core::tch::no_grad(|| {
            let noise = tensor.randn_like() * 0.05;
            let _ = tensor.g_add_(&noise);
        });
    }
    assert_eq!(engine.generate(&prompts(&model, 6), &config(2), 0).unwrap(), before);
    engine.repack(&model).unwrap();
    let after = engine.generate(&prompts(&model, 6), &config(2), 0).unwrap();
    assert_ne!(after, before);
    let expected = TensorGenerator::new(&model, stop_tokens(&model))
        .generate(&prompts(&model, 6), &config(2), 0)
        .unwrap();
    for (got, expected) in all(&after).iter().zip(all(&expected)) {
        assert_eq!(got.token_ids, expected.token_ids);
    }
}

/// With an adapter the engine samples from W + s B A, as it is when it is packed.
#[test]
fn adapters_are_sampled_from_as_they_are_trained() {
    let mut model = load("tiny-llama");
    let base = engine(&model).generate(&prompts(&model, 6), &config(2), 0).unwrap();
    model.load_adapter(&fixture("lora/llama"), &AdapterOptions::default()).unwrap();
    let mut engine = engine(&model);
    for change in [0.0, 0.03] {
        for Parameter { mut tensor, .. } in model.parameters() {
            align_core::tch::no_grad(|| {
                let noise = tensor.randn_like() * change;
                let _ = tensor.g_add_(&noise);
            });
        }
        engine.repack(&model).unwrap();
        let plain = SamplingConfig { temperature: 1.0, ..config(2) };
        let groups = engine.generate(&prompts(&model, 6), &plain, 0).unwrap();
        assert_ne!(groups, base);
        for group in &groups {
            let batch = PackedBatch::new(std::slice::from_ref(group)).unwrap();
            let trained = model.token_log_probs(&batch, 1.0).unwrap().to_vecs().unwrap();
            for (completion, trained) in group.completions.iter().zip(trained) {
                let trained: Vec<f64> = trained.into_iter().map(f64::from).collect();
                // The engine has W + s B A in one matrix, rounded once; training adds the two products of each layer.
                assert_close(&logprobs(completion), &trained, 5e-5);
            }
        }
    }
    let merged = engine.generate(&prompts(&model, 6), &config(2), 0).unwrap();
    model.merge_adapter().unwrap();
    engine.repack(&model).unwrap();
    assert_eq!(engine.generate(&prompts(&model, 6), &config(2), 0).unwrap(), merged);
}

#[test]
fn a_model_that_is_not_trained_is_served_too() {
    prepare_compute_thread();
    let folder = fixture("models/tiny-llama");
    let frozen =
        Model::load(&folder, &LoadOptions { trainable: Trainable::No, ..Default::default() }).unwrap();
    let whole = engine(&load("tiny-llama")).generate(&prompts(&frozen, 3), &config(1), 0).unwrap();
    assert_eq!(engine(&frozen).generate(&prompts(&frozen, 3), &config(1), 0).unwrap(), whole);
}

/// What the engine does not know goes to the tensor backend, with the same results.
#[test]
fn the_backend_is_chosen_by_the_model() {
    let model = load("tiny-llama");
    let chosen = auto_generator(&model, stop_tokens(&model)).unwrap().with_threads(2).with_slots(9);
    assert!(matches!(chosen, AutoGenerator::Engine(_)), "{chosen:?}");
    let tensor = AutoGenerator::Tensor(Box::new(TensorGenerator::new(&model, stop_tokens(&model))));
    let (prompts, config) = (prompts(&model, 40), config(2));
    let [fast, plain] = [chosen, tensor].map(|backend| {
        let mut groups = Vec::new();
        let mut backend = backend.with_decoder(letters);
        let sink = |group| {
            groups.push(group);
            if groups.len() == 37 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        backend.generate_each(3, &prompts, &config, 0, sink).unwrap();
        let mut longer = prompts.clone();
        longer[35] = vec![];
        let error = backend.generate_each(0, &longer, &config, 0, |_| ControlFlow::Continue(())).unwrap_err();
        assert!(error.to_string().contains("prompt 35: is empty"), "{error}");
        groups
    });
    assert_eq!(fast.len(), 37);
    assert_eq!(plain.len(), 37);
    for (fast, plain) in all(&fast).iter().zip(all(&plain)) {
        assert_eq!((&fast.token_ids, &fast.text), (&plain.token_ids, &plain.text));
    }
}
