//! What the generator promises: the same samples however they are batched, the log-probabilities of the training
//! forward, stops, limits and errors.

use crate::common;

use std::{collections::BTreeSet, sync::atomic::Ordering};

use align_core::{
    CausalLm, PackedBatch,
    align_types::{Completion, FinishReason, Generator, PromptGroup, config::SamplingConfig},
    tch::Tensor,
};
use align_rollout::{BoxError, Error, TensorGenerator};
use align_testkit::{BigramLm, assert_close};
use common::HistoryLm;
use proptest::prelude::*;

const VOCAB: u32 = 11;
const EOS: u32 = 10;

fn prompts(count: u32) -> Vec<Vec<u32>> {
    (0..count).map(|i| (0..=i % 5).map(|j| (i + j) % EOS).collect()).collect()
}

fn config(num_completions: usize, max_new_tokens: usize) -> SamplingConfig {
    SamplingConfig { num_completions, max_new_tokens, seed: 3, ..SamplingConfig::default() }
}

/// Letters for tokens, EOS as a visible mark, so that a test sees whether it was decoded.
fn letters(tokens: &[u32]) -> Result<String, BoxError> {
    Ok(tokens.iter().map(|t| if *t == EOS { '$' } else { (b'a' + *t as u8) as char }).collect())
}

fn all(groups: &[PromptGroup]) -> Vec<&Completion> {
    groups.iter().flat_map(|g| &g.completions).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn samples_do_not_depend_on_slots_or_on_how_a_list_is_cut(
        count in 1u32..9, k in 1usize..5, slots in 1usize..40, cut in 0usize..9, seed: u64, top_p in 0.3f64..=1.0,
    ) {
        let model = HistoryLm::new(i64::from(VOCAB));
        let config = SamplingConfig { seed, top_p, ..config(k, 12) };
        let prompts = prompts(count);
        let whole = TensorGenerator::new(&model, vec![EOS]).generate_from(0, &prompts, &config, 7).unwrap();
        let mut generator = TensorGenerator::new(&model, vec![EOS]).with_slots(slots);
        prop_assert_eq!(&generator.generate_from(0, &prompts, &config, 7).unwrap(), &whole);
        let (head, tail) = prompts.split_at(cut.min(prompts.len()));
        let mut parts = generator.generate_from(0, head, &config, 7).unwrap();
        parts.extend(generator.generate_from(head.len() as u64, tail, &config, 7).unwrap());
        prop_assert_eq!(parts, whole);
    }
}

#[test]
fn samples_do_not_depend_on_other_prompts_or_on_their_number_per_prompt() {
    let model = HistoryLm::new(i64::from(VOCAB));
    let mut generator = TensorGenerator::new(&model, vec![EOS]).with_slots(3);
    let many = generator.generate_from(0, &prompts(6), &config(4, 12), 0).unwrap();
    let alone = generator.generate_from(0, &prompts(6)[..1], &config(4, 12), 0).unwrap();
    assert_eq!(many[0], alone[0]);
    let mut others = vec![vec![9; 7]; 6];
    others[4] = prompts(6)[4].clone();
    assert_eq!(generator.generate_from(0, &others, &config(4, 12), 0).unwrap()[4], many[4]);
    let fewer = generator.generate_from(0, &prompts(6), &config(2, 12), 0).unwrap();
    for (fewer, many) in fewer.iter().zip(&many) {
        assert_eq!(fewer.completions, many.completions[..2]);
    }
}

/// Fewer slots where memory is short, one at least; the samples stay the same.
#[test]
fn the_cache_stays_within_its_bytes() {
    let model = HistoryLm::new(i64::from(VOCAB));
    let whole = TensorGenerator::new(&model, vec![EOS]).generate(&prompts(6), &config(4, 12), 0).unwrap();
    // The longest prompt has 5 tokens, 11 of 12 new ones are fed back, each has a key and a value of 4 bytes.
    for (bytes, slots) in [(1, 1), (3 * 16 * 8, 3), (4 * 16 * 8 - 1, 3)] {
        model.widest.store(0, Ordering::Relaxed);
        let mut generator = TensorGenerator::new(&model, vec![EOS]).with_cache_bytes(bytes);
        assert_eq!(generator.generate(&prompts(6), &config(4, 12), 0).unwrap(), whole);
        assert_eq!(model.widest.load(Ordering::Relaxed), slots, "{bytes} bytes");
    }
}

/// With the same prompt everywhere, only the stream tells samples apart; 11^20 sequences are equally likely.
#[test]
fn every_sample_of_every_prompt_and_step_has_a_stream_of_its_own() {
    let model = BigramLm::uniform(i64::from(VOCAB));
    let mut generator = TensorGenerator::new(&model, vec![]);
    let mut seen = BTreeSet::new();
    for step in [0, 1] {
        for group in generator.generate(&vec![vec![1]; 8], &config(8, 20), step).unwrap() {
            seen.extend(group.completions.into_iter().map(|c| c.token_ids));
        }
    }
    assert_eq!(seen.len(), 2 * 8 * 8);
    let again = generator.generate(&[vec![1]], &config(1, 20), 1).unwrap();
    assert!(seen.contains(&again[0].completions[0].token_ids), "a resumed run draws the same");
}

/// The first numbers of many streams are as uniform as the numbers of one.
#[test]
fn first_tokens_of_many_samples_follow_the_probabilities() {
    let model = BigramLm::uniform(i64::from(VOCAB));
    let groups =
        TensorGenerator::new(&model, vec![]).generate(&[vec![1], vec![1]], &config(5500, 1), 0).unwrap();
    let mut counts = [0.0f64; VOCAB as usize];
    all(&groups).iter().for_each(|c| counts[c.token_ids[0] as usize] += 1.0);
    // 1000 of each are expected; upper 0.1 % point of chi-square with 10 degrees of freedom: 29.59.
    let statistic: f64 = counts.iter().map(|c| (c - 1000.0).powi(2) / 1000.0).sum();
    assert!(statistic < 29.59, "{counts:?}");
}

/// A sample that ends early leaves its slot; the others go on as if it had not.
#[test]
fn finished_samples_do_not_change_others() {
    let model = HistoryLm::new(i64::from(VOCAB));
    let config = config(4, 12);
    let endless = TensorGenerator::new(&model, vec![]).generate(&prompts(9), &config, 0).unwrap();
    let stopped =
        TensorGenerator::new(&model, vec![EOS, 0]).with_slots(5).generate(&prompts(9), &config, 0).unwrap();
    let mut reasons = BTreeSet::new();
    for (endless, stopped) in all(&endless).iter().zip(all(&stopped)) {
        let end = endless.token_ids.iter().position(|t| [EOS, 0].contains(t)).map_or(12, |at| at + 1);
        assert_eq!(stopped.token_ids, endless.token_ids[..end]);
        assert_eq!(stopped.logprobs.as_ref().unwrap(), &endless.logprobs.as_ref().unwrap()[..end]);
        reasons.insert(stopped.finish_reason == Some(FinishReason::Stop));
    }
    assert_eq!(reasons.len(), 2, "the test needs samples of both kinds");
}

/// No padding and no repeated prompt: the model sees each prompt token once and each drawn token once, except
/// for the last of a completion, which nothing follows.
#[test]
fn the_model_sees_every_token_once() {
    let model = HistoryLm::new(i64::from(VOCAB));
    let groups = TensorGenerator::new(&model, vec![EOS])
        .with_slots(6)
        .generate(&prompts(9), &config(5, 30), 0)
        .unwrap();
    let prompt_tokens: usize = groups.iter().map(|g| g.prompt.len()).sum();
    let fed_back: usize = all(&groups).iter().map(|c| c.token_ids.len() - 1).sum();
    assert_eq!(model.rows.load(Ordering::Relaxed), prompt_tokens + fed_back);
    assert_eq!(model.widest.load(Ordering::Relaxed), 6);
}

/// Conformance: sampling log-prob = training log-prob for the same tokens, with temperature, filters or not.
#[test]
fn log_probs_are_those_of_the_training_forward() {
    let model = HistoryLm::new(i64::from(VOCAB));
    let table = Tensor::from_slice(&(0..121).map(|i| (i * i % 17) as f32 / 4.0).collect::<Vec<_>>());
    let bigram = BigramLm::new(&table.reshape([11, 11]));
    let plain = config(3, 12);
    for config in [
        SamplingConfig { temperature: 0.7, ..plain.clone() },
        SamplingConfig { top_k: 3, top_p: 0.8, temperature: 1.5, ..plain.clone() },
        SamplingConfig { greedy: true, temperature: 0.5, ..plain.clone() },
        plain,
    ] {
        for model in [&model as &dyn align_core::CachedLm, &bigram] {
            let groups = TensorGenerator::new(model, vec![EOS]).generate(&prompts(6), &config, 0).unwrap();
            let batch = PackedBatch::new(&groups).unwrap();
            let training = model.token_log_probs(&batch, config.temperature).unwrap().to_vecs().unwrap();
            for (sample, training) in all(&groups).iter().zip(training) {
                let sampled: Vec<f64> = sample.logprobs.iter().flatten().map(|l| f64::from(*l)).collect();
                let training: Vec<f64> = training.into_iter().map(f64::from).collect();
                assert_close(&sampled, &training, 2e-6);
            }
        }
    }
}

#[test]
fn greedy_follows_the_most_likely_token_and_ties_go_to_the_smaller_id() {
    let model = HistoryLm::new(i64::from(VOCAB));
    let greedy = SamplingConfig { greedy: true, ..config(2, 15) };
    let groups = TensorGenerator::new(&model, vec![EOS]).generate(&prompts(4), &greedy, 0).unwrap();
    let cold = SamplingConfig { temperature: 1e-4, ..config(2, 15) };
    let cold = TensorGenerator::new(&model, vec![EOS]).generate(&prompts(4), &cold, 0).unwrap();
    for (greedy, cold) in all(&groups).iter().zip(all(&cold)) {
        assert_eq!(greedy.token_ids, cold.token_ids);
    }
    let batch = PackedBatch::new(&groups).unwrap();
    let best: Vec<i64> = Vec::try_from(model.logits(&batch).unwrap().argmax(-1, false)).unwrap();
    assert_eq!(best, batch.targets());
    let tied = BigramLm::uniform(4);
    let groups = TensorGenerator::new(&tied, vec![]).generate(&[vec![3]], &greedy, 0).unwrap();
    assert_eq!(groups[0].completions[0].token_ids, [0; 15]);
}

/// The history of a sample is its prompt and what it drew, in whatever slot it is.
#[test]
fn a_penalty_looks_at_the_prompt_and_the_sample_alone() {
    let model = BigramLm::new(
        &(Tensor::ones([i64::from(VOCAB); 2], (align_core::tch::Kind::Float, align_core::tch::Device::Cpu))
            * 9.0),
    );
    let config = SamplingConfig { repetition_penalty: 100.0, ..config(3, 6) };
    let prompts: Vec<Vec<u32>> = (0..4).map(|i| vec![i, i + 3, i]).collect();
    // Tokens that were said have a logit of 0.09 against 9: nothing is said twice while something is left.
    for slots in [1, 5, 32] {
        let groups =
            TensorGenerator::new(&model, vec![]).with_slots(slots).generate(&prompts, &config, 0).unwrap();
        for group in &groups {
            for completion in &group.completions {
                let said: BTreeSet<u32> = group.prompt.iter().chain(&completion.token_ids).copied().collect();
                assert_eq!(said.len(), 2 + 6, "{group:?}");
                // All tokens are equally likely without the penalty.
                let expected = -f64::from(VOCAB).ln();
                let logprobs: Vec<f64> =
                    completion.logprobs.iter().flatten().map(|l| f64::from(*l)).collect();
                assert_close(&logprobs, &[expected; 6], 1e-6);
            }
        }
    }
}

/// A chain a -> b -> ... -> j -> EOS: what comes next is certain, so that stops can be written down.
fn chain() -> BigramLm {
    let entries: Vec<f32> =
        (0..VOCAB * VOCAB).map(|i| if (i / VOCAB + 1).min(EOS) == i % VOCAB { 200.0 } else { 0.0 }).collect();
    BigramLm::new(&Tensor::from_slice(&entries).reshape([i64::from(VOCAB), i64::from(VOCAB)]))
}

fn chained(stop: &[&str], max_new_tokens: usize) -> Completion {
    let model = chain();
    let config =
        SamplingConfig { stop: stop.iter().map(ToString::to_string).collect(), ..config(1, max_new_tokens) };
    let mut generator = TensorGenerator::new(&model, vec![EOS]).with_decoder(letters);
    generator.generate(&[vec![0]], &config, 0).unwrap().remove(0).completions.remove(0)
}

#[test]
fn completions_end_at_stop_tokens_stop_strings_and_limits() {
    let whole = chained(&[], 20);
    assert_eq!(whole.token_ids, (1..=EOS).collect::<Vec<_>>());
    assert_eq!((whole.text.as_deref(), whole.finish_reason), (Some("bcdefghij"), Some(FinishReason::Stop)));
    assert_eq!(chained(&[], 10), whole, "a stop at the last token allowed is a stop");
    let cut = chained(&[], 9);
    assert_eq!((cut.text.as_deref(), cut.finish_reason), (Some("bcdefghij"), Some(FinishReason::Length)));
    // The stop string lies across three tokens: the text ends before it, the tokens stay as they were drawn.
    let stopped = chained(&["efg", "zz"], 20);
    assert_eq!(stopped.token_ids, [1, 2, 3, 4, 5, 6]);
    assert_eq!(stopped.logprobs.as_ref().map(Vec::len), Some(6));
    assert_eq!((stopped.text.as_deref(), stopped.finish_reason), (Some("bcd"), Some(FinishReason::Stop)));
    let at_once = chained(&["b"], 20);
    assert_eq!((at_once.text.as_deref(), at_once.token_ids.len()), (Some(""), 1));
    // The prompt is no part of the text: "ab" begins in it.
    assert_eq!(chained(&["ab"], 20), whole);
}

#[test]
fn completions_end_at_the_context() {
    let model = HistoryLm::new(i64::from(VOCAB)).with_context(8);
    let groups =
        TensorGenerator::new(&model, vec![]).generate(&[vec![1; 7], vec![1; 5]], &config(3, 20), 0).unwrap();
    for (group, room) in groups.iter().zip([1, 3]) {
        for completion in &group.completions {
            assert_eq!(completion.token_ids.len(), room);
            assert_eq!(completion.finish_reason, Some(FinishReason::Length));
        }
    }
    assert_eq!(PackedBatch::new(&groups).unwrap().longest(), 8, "training takes what was sampled");
}

fn refused(model: &dyn align_core::CachedLm, prompts: &[Vec<u32>], config: &SamplingConfig) -> String {
    TensorGenerator::new(model, vec![]).generate(prompts, config, 0).unwrap_err().to_string()
}

#[test]
fn prompts_that_cannot_be_continued_are_named() {
    let model = HistoryLm::new(i64::from(VOCAB)).with_context(8);
    let second = |prompt: Vec<u32>| refused(&model, &[vec![1], prompt], &config(1, 4));
    assert!(second(vec![]).starts_with("prompt 1: is empty"), "{}", second(vec![]));
    let full = second(vec![1; 8]);
    assert!(full.starts_with("prompt 1: has 8 tokens and the model's context 8"), "{full}");
    let unknown = second(vec![1, 11]);
    assert!(unknown.contains("prompt 1: has token 11") && unknown.contains("11 tokens"), "{unknown}");
    assert_eq!(model.rows.load(Ordering::Relaxed), 0, "nothing is computed before all prompts are looked at");
}

#[test]
fn settings_that_cannot_be_followed_are_refused() {
    let model = chain();
    let hot = SamplingConfig { temperature: 0.0, ..config(1, 4) };
    assert!(refused(&model, &[vec![1]], &hot).contains("temperature = 0"));
    let stop = SamplingConfig { stop: vec!["x".into()], ..config(1, 4) };
    assert!(refused(&model, &[vec![1]], &stop).contains("decoder"));
    let empty = SamplingConfig { stop: vec!["x".into(), String::new()], ..config(1, 4) };
    assert!(refused(&model, &[vec![1]], &empty).contains("stop = \"\""));
    let unlikely = SamplingConfig { min_p: 1.5, ..config(1, 4) };
    assert!(refused(&model, &[vec![1]], &unlikely).contains("min-p = 1.5"));
    let penalty = SamplingConfig { repetition_penalty: 0.0, ..config(1, 4) };
    assert!(refused(&model, &[vec![1]], &penalty).contains("repetition-penalty = 0"));
    assert!(TensorGenerator::new(&model, vec![]).generate(&[], &config(1, 4), 0).unwrap().is_empty());
}

#[test]
fn damaged_weights_and_failing_decoders_are_named() {
    let mut table = vec![0.0f32; 4];
    table[2] = f32::NAN;
    table[1] = 500.0;
    let model = BigramLm::new(&Tensor::from_slice(&table).reshape([2, 2]));
    // Token 0 is followed by token 1, whose own row is damaged.
    let later =
        TensorGenerator::new(&model, vec![]).generate_from(0, &[vec![0, 0]], &config(1, 4), 0).unwrap_err();
    assert!(matches!(later, Error::NonFinite { prompt: 0, position: 3 }), "{later}");
    let first = TensorGenerator::new(&model, vec![]).generate_from(0, &[vec![0], vec![1]], &config(1, 1), 0);
    assert!(matches!(first.unwrap_err(), Error::NonFinite { prompt: 1, position: 1 }));
    let model = chain();
    let mut generator = TensorGenerator::new(&model, vec![EOS]).with_decoder(|_| Err("no such piece".into()));
    let error = generator.generate(&[vec![1]], &config(1, 4), 0).unwrap_err().to_string();
    assert!(error.contains("prompt 0: sample 0") && error.contains("no such piece"), "{error}");
}
