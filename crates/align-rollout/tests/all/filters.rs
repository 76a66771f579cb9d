//! Penalty, temperature, top-k, top-p and min-p together, against what transformers makes of the same rows
//! (`fixtures/sampling/make_filters.py`).

use align_core::align_types::config::SamplingConfig;
use align_rollout::sampling::{NextToken, keep_min_p, penalise};
use align_testkit::fixture;
use proptest::prelude::*;
use serde_json::Value;

fn cases() -> Vec<Value> {
    serde_json::from_slice(&std::fs::read(fixture("sampling/filters.json")).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

#[test]
fn probabilities_are_those_of_transformers() {
    let cases = cases();
    assert_eq!(cases.len(), 39);
    for case in &cases {
        let config: SamplingConfig = serde_json::from_value(case["settings"].clone()).unwrap();
        config.validate().unwrap();
        let before: Vec<u32> = numbers(&case["before"]).iter().map(|id| *id as u32).collect();
        let logits: Vec<f32> = numbers(&case["logits"]).iter().map(|x| *x as f32).collect();
        let mut next = NextToken::default();
        // Where the prompt ends makes no difference.
        let (prompt, drawn) = before.split_at(4);
        assert!(next.set(&logits, [prompt, drawn], &config));
        // Each token is drawn by the numbers that its probability spans, and by no others.
        let mut reached = 0.0;
        for (token, probability) in numbers(&case["probabilities"]).into_iter().enumerate() {
            if probability > 1e-6 {
                let inside = [reached + 4e-7, reached + probability - 4e-7];
                assert_eq!(inside.map(|u| next.draw(u) as usize), [token; 2], "{case}");
            }
            reached += probability;
        }
        // The log-probability is that of the row before penalty and filters.
        let scaled: Vec<f64> = logits.iter().map(|l| f64::from(*l) / config.temperature).collect();
        let total = scaled.iter().map(|s| s.exp()).sum::<f64>().ln();
        let token = next.draw(0.4);
        assert!((next.log_prob(token) - (scaled[token as usize] - total)).abs() < 1e-12, "{case}");
    }
}

proptest! {
    #[test]
    fn min_p_keeps_what_is_near_the_largest(
        weights in prop::collection::vec(0u8..20, 1..30), p in (0u32..=16).prop_map(|n| f64::from(n) / 16.0),
    ) {
        let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
        let largest = weights.iter().copied().fold(0.0, f64::max);
        let mut got = weights.clone();
        keep_min_p(&mut got, p);
        for (got, weight) in got.iter().zip(&weights) {
            prop_assert_eq!(*got, if *weight >= p * largest { *weight } else { 0.0 });
        }
    }

    /// A penalty above 1 makes what was said less likely and nothing else; said twice is penalised once.
    #[test]
    fn a_penalty_touches_only_what_was_said(
        logits in prop::collection::vec(-9.0f32..9.0, 3..30), said in prop::collection::vec(0u32..40, 0..9),
        penalty in 1.01f64..4.0,
    ) {
        let mut got = logits.clone();
        penalise(&mut got, &logits, [&said, &said], penalty);
        for (token, (got, plain)) in got.iter().zip(&logits).enumerate() {
            if !said.contains(&(token as u32)) {
                prop_assert_eq!(got, plain);
            } else {
                let expected = if *plain > 0.0 { f64::from(*plain) / penalty } else { f64::from(*plain) * penalty };
                prop_assert!(*got <= *plain && (f64::from(*got) - expected).abs() < 1e-5);
            }
        }
    }
}

#[test]
fn greedy_takes_the_best_after_the_penalty() {
    let mut next = NextToken::default();
    let config = SamplingConfig { greedy: true, repetition_penalty: 2.0, ..SamplingConfig::default() };
    // 3 / 2 < 2: the second wins once the first was said, and the third, below 0, is pushed down.
    let logits = [3.0, 2.0, -1.0];
    assert!(next.set(&logits, [&[], &[]], &config));
    assert_eq!(next.draw(0.0), 0);
    assert!(next.set(&logits, [&[0], &[]], &config));
    assert_eq!(next.draw(0.0), 1);
    assert!(next.set(&logits, [&[1], &[0, 0]], &config));
    assert_eq!(next.draw(0.0), 0);
    let total: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
    assert!((next.log_prob(0) - (3.0 - total.ln())).abs() < 1e-12);
}

/// A weak penalty in the other direction can lift a token above all others; nothing overflows.
#[test]
fn a_penalty_below_one_repeats_and_stays_finite() {
    let mut next = NextToken::default();
    let config = SamplingConfig { repetition_penalty: 0.01, temperature: 0.05, ..SamplingConfig::default() };
    config.validate().unwrap();
    assert!(next.set(&[50.0, 60.0, -70.0], [&[0], &[]], &config));
    assert_eq!([0.0, 0.5, 0.999].map(|u| next.draw(u)), [0; 3]);
    assert!(next.log_prob(0).is_finite() && next.log_prob(0) < -100.0);
}
