//! The arithmetic on one row: filters against their definitions, draws against probabilities.

use align_core::align_types::{Purpose, RngStream, config::SamplingConfig};
use align_rollout::sampling::{NextToken, argmax, draw, keep_top_k, keep_top_p, softmax_weights};
use proptest::prelude::*;

/// Weights with many ties and zeros.
fn weights() -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec((0u8..6).prop_map(f64::from), 1..40)
        .prop_filter("no weight", |w| w.iter().sum::<f64>() > 0.0)
}

/// The ids from the most to the least likely, equals by id.
fn sorted(weights: &[f64]) -> Vec<usize> {
    let mut ids: Vec<usize> = (0..weights.len()).collect();
    ids.sort_by(|a, b| weights[*b].partial_cmp(&weights[*a]).unwrap().then(a.cmp(b)));
    ids
}

fn with_only(weights: &[f64], ids: &[usize]) -> Vec<f64> {
    (0..weights.len()).map(|id| if ids.contains(&id) { weights[id] } else { 0.0 }).collect()
}

proptest! {
    #[test]
    fn top_k_keeps_the_first_k_of_the_sorted_tokens(weights in weights(), k in 0usize..45) {
        let kept = if k == 0 { weights.len() } else { k.min(weights.len()) };
        let expected = with_only(&weights, &sorted(&weights)[..kept]);
        let mut got = weights;
        keep_top_k(&mut got, k);
        prop_assert_eq!(got, expected);
    }

    /// Among all prefixes of the sorted tokens, the shortest whose share reaches p. The weights are whole numbers
    /// and p a fraction of 64, so that no comparison is rounded.
    #[test]
    fn top_p_keeps_the_smallest_set_that_reaches_p(weights in weights(), p in (1u32..64).prop_map(|n| f64::from(n) / 64.0)) {
        let order = sorted(&weights);
        let total: f64 = weights.iter().sum();
        let share = |n: usize| order[..n].iter().map(|id| weights[*id]).sum::<f64>();
        let smallest = (1..=order.len()).find(|n| share(*n) >= p * total).unwrap();
        let expected = with_only(&weights, &order[..smallest]);
        let mut got = weights;
        keep_top_p(&mut got, p);
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn drawing_inverts_the_distribution_function(weights in weights(), uniform in 0.0f64..1.0) {
        let total: f64 = weights.iter().sum();
        let index = draw(&weights, uniform).unwrap();
        let below: f64 = weights[..index].iter().sum();
        prop_assert!(weights[index] > 0.0);
        prop_assert!(below <= uniform * total && uniform * total < below + weights[index]);
    }

    #[test]
    fn a_small_temperature_is_greedy(logits in prop::collection::vec(-50i16..50, 1..40), uniform in 0.0f64..1.0) {
        // Equal logits stay equally likely at any temperature; only a single best token must win.
        let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
        let best = argmax(&logits).unwrap();
        prop_assume!(logits.iter().filter(|l| **l == logits[best]).count() == 1);
        let mut next = NextToken::default();
        let config = SamplingConfig { temperature: 1e-3, ..SamplingConfig::default() };
        prop_assert!(next.set(&logits, [&[], &[]], &config));
        prop_assert_eq!(next.draw(uniform) as usize, best);
    }

    /// The log-probability is that of the whole vocabulary, whatever the filters leave.
    #[test]
    fn log_probs_are_those_before_filtering(
        logits in prop::collection::vec(-20.0f32..20.0, 2..30), temperature in 0.1f64..3.0,
        top_k in 0usize..5, top_p in 0.05f64..=1.0, uniform in 0.0f64..1.0,
    ) {
        let config = SamplingConfig { temperature, top_k, top_p, ..SamplingConfig::default() };
        let mut next = NextToken::default();
        prop_assert!(next.set(&logits, [&[], &[]], &config));
        let token = next.draw(uniform);
        let scaled: Vec<f64> = logits.iter().map(|l| f64::from(*l) / temperature).collect();
        let expected = scaled[token as usize] - scaled.iter().map(|s| s.exp()).sum::<f64>().ln();
        prop_assert!((next.log_prob(token) - expected).abs() < 1e-9);
    }
}

/// Top-p is taken of what top-k leaves: 0.4, 0.3, 0.2 of 1 become 4/9, 3/9, 2/9, and 7/9 > 0.75 is reached by two;
/// of the whole distribution 0.75 would need three.
#[test]
fn top_p_comes_after_top_k() {
    let mut weights = vec![0.2, 0.4, 0.1, 0.3];
    keep_top_k(&mut weights, 3);
    keep_top_p(&mut weights, 0.75);
    assert_eq!(weights, [0.0, 0.4, 0.0, 0.3]);
    let logits = [0.2f32, 0.4, 0.1, 0.3].map(f32::ln);
    let mut next = NextToken::default();
    assert!(next.set(
        &logits,
        [&[], &[]],
        &SamplingConfig { top_k: 3, top_p: 0.75, ..SamplingConfig::default() }
    ));
    assert_eq!([0.0, 0.5, 0.6, 0.999].map(|uniform| next.draw(uniform)), [1, 1, 3, 3]);
}

#[test]
fn ties_go_to_the_smaller_id() {
    assert_eq!(argmax(&[0.0, 3.0, 3.0]), Some(1));
    let mut weights = vec![1.0; 5];
    keep_top_k(&mut weights, 2);
    assert_eq!(weights, [1.0, 1.0, 0.0, 0.0, 0.0]);
    let mut weights = vec![1.0; 4];
    keep_top_p(&mut weights, 0.5);
    assert_eq!(weights, [1.0, 1.0, 0.0, 0.0]);
}

#[test]
fn the_ends_of_the_unit_interval_are_drawn_from_tokens_that_have_weight() {
    let weights = [0.0, 1.0, 2.0, 0.0];
    assert_eq!(draw(&weights, 0.0), Some(1));
    assert_eq!(draw(&weights, 1.0 - f64::EPSILON / 2.0), Some(2));
    assert_eq!(draw(&weights, 1.0), Some(2), "rounding up to 1 must not leave the list");
    assert_eq!(draw(&[0.0, 0.0], 0.5), None);
    assert_eq!(draw(&[], 0.5), None);
}

#[test]
fn rows_that_make_no_distribution_are_refused() {
    let mut weights = Vec::new();
    let bad = [
        vec![],
        vec![f32::NAN, 1.0],
        vec![1.0, f32::NAN],
        vec![f32::INFINITY, 0.0],
        vec![f32::NEG_INFINITY; 2],
    ];
    for logits in bad {
        assert_eq!(softmax_weights(&logits, 1.0, &mut weights), None, "{logits:?}");
        assert!(!NextToken::default().set(&logits, [&[], &[]], &SamplingConfig::default()), "{logits:?}");
    }
    // A token that the model excludes is no error.
    let mut next = NextToken::default();
    assert!(next.set(&[f32::NEG_INFINITY, 0.0], [&[], &[]], &SamplingConfig::default()));
    assert_eq!((next.draw(0.0), next.log_prob(1)), (1, 0.0));
}

/// Pearson's statistic of counts against probabilities.
fn chi_square(counts: &[u32], probabilities: &[f64]) -> f64 {
    let n: f64 = counts.iter().map(|c| f64::from(*c)).sum();
    counts.iter().zip(probabilities).map(|(c, p)| (f64::from(*c) - n * p).powi(2) / (n * p)).sum()
}

#[test]
fn draws_follow_the_probabilities() {
    // Upper 0.1 % points of chi-square with 3 and 2 degrees of freedom (any table): 16.27 and 13.82.
    let probabilities = [0.5f64, 0.25, 0.15, 0.1];
    let logits = probabilities.map(|p| p.ln() as f32);
    let mut stream = RngStream::new(11, Purpose::Sampling, 0, 0);
    let mut count = |config: SamplingConfig| {
        let mut counts = [0u32; 4];
        let mut next = NextToken::default();
        assert!(next.set(&logits, [&[], &[]], &config));
        (0..40_000).for_each(|_| counts[next.draw(stream.uniform()) as usize] += 1);
        counts
    };
    let plain = SamplingConfig::default();
    assert!(chi_square(&count(plain.clone()), &probabilities) < 16.27);
    // At temperature 1/2 probabilities are proportional to their squares: 0.25, 0.0625, 0.0225, 0.01 over 0.345.
    let sharp = [0.25 / 0.345, 0.0625 / 0.345, 0.0225 / 0.345, 0.01 / 0.345];
    assert!(chi_square(&count(SamplingConfig { temperature: 0.5, ..plain.clone() }), &sharp) < 16.27);
    // Two tokens stay, over 0.75; upper 0.1 % point for 1 degree of freedom: 10.83.
    let counts = count(SamplingConfig { top_k: 2, ..plain.clone() });
    assert_eq!(counts[2..], [0, 0]);
    assert!(chi_square(&counts[..2], &[0.5 / 0.75, 0.25 / 0.75]) < 10.83);
    // 0.5 + 0.25 < 0.8 <= 0.5 + 0.25 + 0.15: three tokens stay, over 0.9.
    let counts = count(SamplingConfig { top_p: 0.8, ..plain });
    assert_eq!(counts[3], 0);
    assert!(chi_square(&counts[..3], &[0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9]) < 13.82);
}
