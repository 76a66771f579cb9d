//! Estimates of the divergence from a reference against enumeration, on models whose log-probabilities are known.
#![allow(clippy::unwrap_used)]

use align_core::align_types::{Completion, PromptGroup, Purpose, RngStream, TokenId};
use align_core::evaluation::{Divergence, DivergenceMean, Prompts, sequence_divergences};
use align_core::tch::Tensor;
use align_testkit::BigramLm;

const VOCABULARY: usize = 3;

fn table(seed: u64) -> Vec<f32> {
    let mut random = RngStream::new(seed, Purpose::Init, 0, 0);
    (0..VOCABULARY * VOCABULARY).map(|_| random.normal() as f32).collect()
}

fn model(table: &[f32]) -> BigramLm {
    BigramLm::new(&Tensor::from_slice(table).reshape([VOCABULARY as i64, VOCABULARY as i64]))
}

/// The row of probabilities after a token, at a temperature, in plain arithmetic.
fn after(table: &[f32], token: usize, temperature: f64) -> Vec<f64> {
    let row: Vec<f64> = table[token * VOCABULARY..][..VOCABULARY]
        .iter()
        .map(|z| (f64::from(*z) / temperature).exp())
        .collect();
    let sum: f64 = row.iter().sum();
    row.iter().map(|p| p / sum).collect()
}

/// KL of sequences of two tokens after token 0, by enumerating all nine of them.
fn enumerated(policy: &[f32], reference: &[f32], temperature: f64) -> f64 {
    let (p0, r0) = (after(policy, 0, temperature), after(reference, 0, temperature));
    let mut kl = 0.0;
    for first in 0..VOCABULARY {
        let (p1, r1) = (after(policy, first, temperature), after(reference, first, temperature));
        for second in 0..VOCABULARY {
            let (p, r) = (p0[first] * p1[second], r0[first] * r1[second]);
            kl += p * (p / r).ln();
        }
    }
    kl
}

fn pick(random: &mut RngStream, row: &[f64]) -> usize {
    let mut left = random.uniform();
    row.iter()
        .position(|p| {
            left -= p;
            left < 0.0
        })
        .unwrap_or(VOCABULARY - 1)
}

fn sample(policy: &[f32], count: usize, temperature: f64) -> Vec<PromptGroup> {
    let mut random = RngStream::new(9, Purpose::Sampling, 0, 0);
    (0..count)
        .map(|_| {
            let first = pick(&mut random, &after(policy, 0, temperature));
            let second = pick(&mut random, &after(policy, first, temperature));
            PromptGroup::new(vec![0], vec![Completion::new(vec![first as TokenId, second as TokenId])])
        })
        .collect()
}

#[test]
fn estimates_agree_with_the_enumerated_divergence() {
    let (policy, reference) = (table(1), table(2));
    for temperature in [1.0, 0.5] {
        let exact = enumerated(&policy, &reference, temperature);
        assert!(exact > 0.05, "{exact}");
        let samples = sample(&policy, 1500, temperature);
        let sums = sequence_divergences(&model(&policy), &model(&reference), &samples, temperature).unwrap();
        let prompts = Prompts { of_rows: (0..sums.len()).collect(), count: sums.len() };
        let means = Divergence::of(&sums, &prompts, 0).unwrap();
        for (name, mean) in [("k1", &means.k1), ("k3", &means.k3), ("full", &means.full)] {
            let (got, error) = (mean.sequence.mean, mean.standard_error.unwrap());
            assert!((got - exact).abs() < 3.0 * error + 1e-9, "{name}: {got} ± {error}, exactly {exact}");
            assert!((mean.per_token.mean - got / 2.0).abs() < 1e-9, "two tokens each");
        }
        let error = |mean: &DivergenceMean| mean.standard_error.unwrap();
        assert!(error(&means.full) < error(&means.k1), "averaging over the vocabulary removes variance");
    }
}

/// Identities: all are 0 for equal models; k1 is the difference of log-probabilities; k3 = e^(−k1) − 1 + k1 for a
/// sequence of one token; k3 and the full sum are never negative.
#[test]
fn identities_of_the_estimators() {
    let (policy, reference) = (table(3), table(4));
    let samples = sample(&policy, 50, 1.0);
    let same = sequence_divergences(&model(&policy), &model(&policy), &samples, 1.0).unwrap();
    assert!(same.iter().all(|s| s.k1 == 0.0 && s.k3 == 0.0 && s.full.abs() < 1e-12));
    let (ours, theirs) = (model(&policy), model(&reference));
    let single: Vec<PromptGroup> =
        (0..3).map(|token| PromptGroup::new(vec![1], vec![Completion::new(vec![token])])).collect();
    for (token, sum) in sequence_divergences(&ours, &theirs, &single, 1.0).unwrap().iter().enumerate() {
        let k1 = (after(&policy, 1, 1.0)[token] / after(&reference, 1, 1.0)[token]).ln();
        assert!((sum.k1 - k1).abs() < 1e-6 && (sum.k3 - ((-k1).exp() - 1.0 + k1)).abs() < 1e-6);
        assert!(sum.k3 >= 0.0 && sum.full > 0.0 && sum.tokens == 1);
    }
}

#[test]
fn models_of_different_vocabularies_are_refused() {
    let samples = sample(&table(1), 1, 1.0);
    let error =
        sequence_divergences(&BigramLm::uniform(3), &BigramLm::uniform(4), &samples, 1.0).unwrap_err();
    assert!(error.to_string().contains("4 tokens"), "{error}");
}
