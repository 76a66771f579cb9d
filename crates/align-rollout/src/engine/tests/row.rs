use align_core::align_types::config::SamplingConfig;
use proptest::prelude::*;

use super::super::{kernels::Instructions, row::Row};
use super::{normals, rows, stream};
use crate::sampling::NextToken;

proptest! {
    /// The fast row draws what the row in float64 draws: the same token for the same number, except where the number
    /// is within the rounding of the border between two tokens.
    #[test]
    fn rows_are_those_of_the_arithmetic_in_float64(
        vocab in 1usize..700, spread in 0.1f32..6.0, top_k in 0usize..60, top_p in 0.2f64..1.3,
        temperature in 0.3f64..2.0, min_p in 0.0f64..0.3, penalty in 0.5f64..2.0, greedy in prop::bool::weighted(0.1), cuts in 0u8..16, seed: u64,
    ) {
        let mut rng = stream(seed);
        let logits: Vec<f32> = normals(&mut rng, vocab).into_iter().map(|x| spread * x).collect();
        let on = |bit: u8| cuts & bit != 0;
        let config = SamplingConfig {
            top_k: if on(1) { top_k } else { 0 },
            top_p: if on(2) { top_p.min(1.0) } else { 1.0 },
            min_p: if on(4) { min_p } else { 0.0 },
            repetition_penalty: if on(8) { penalty } else { 1.0 },
            temperature,
            greedy,
            ..SamplingConfig::default()
        };
        // Tokens twice, and one that no row has.
        let said: Vec<u32> = (0..20).map(|i| i * i % 97).chain([u32::MAX]).collect();
        let before = [&said[..15], &said[15..]];
        let mut exact = NextToken::default();
        prop_assert!(exact.set(&logits, before, &config));
        for set in Instructions::available() {
            let mut row = Row::default();
            // A longer row before leaves nothing behind.
            prop_assert!(row.set(set, &mut rows(&vec![1.0; 999], 999, 63), 999, before, &config));
            prop_assert!(row.set(set, &mut rows(&logits, vocab, vocab.div_ceil(16)), vocab, before, &config));
            for _ in 0..50 {
                let uniform = rng.uniform();
                let token = row.draw(uniform);
                let near = [uniform, (uniform - 1e-5).max(0.0), (uniform + 1e-5).min(1.0 - 1e-9)];
                prop_assert!(near.iter().any(|u| exact.draw(*u) == token), "{token} at {uniform}");
                prop_assert!((row.log_prob(token) - exact.log_prob(token)).abs() < 2e-6);
            }
        }
    }
}

#[test]
fn rows_that_make_no_distribution_are_refused() {
    let config = SamplingConfig::default();
    for set in Instructions::available() {
        let accepts = |logits: &[f32]| {
            Row::default().set(set, &mut rows(logits, logits.len(), 2), logits.len(), [&[], &[]], &config)
        };
        assert!(accepts(&[0.0, f32::NEG_INFINITY, -1e30]));
        assert!(!accepts(&[0.0, f32::NAN, 1.0]));
        assert!(!accepts(&[0.0, f32::INFINITY, 1.0]));
        assert!(!accepts(&[f32::NEG_INFINITY; 3]));
        assert!(!accepts(&[f32::NAN; 17]));
    }
}

#[test]
fn equals_go_to_the_smaller_id_and_padding_is_never_drawn() {
    for set in Instructions::available() {
        let mut row = Row::default();
        let mut set_row = |config: &SamplingConfig| {
            assert!(row.set(set, &mut rows(&[-9.0; 21], 21, 2), 21, [&[3], &[]], config));
            (row.draw(0.0), row.draw(1.0 - 1e-12))
        };
        let plain = SamplingConfig::default();
        assert_eq!(set_row(&plain), (0, 20));
        assert_eq!(set_row(&SamplingConfig { greedy: true, ..plain.clone() }), (0, 0));
        assert_eq!(set_row(&SamplingConfig { top_k: 3, ..plain.clone() }), (0, 2));
        assert_eq!(set_row(&SamplingConfig { top_p: 0.5, ..plain.clone() }), (0, 10));
        // All tie with the largest.
        assert_eq!(set_row(&SamplingConfig { min_p: 1.0, ..plain.clone() }), (0, 20));
        // Token 3 was said: -9 · 1.5 is below, -9 · 0.5 above all others.
        let greedy = SamplingConfig { greedy: true, ..plain };
        assert_eq!(set_row(&SamplingConfig { repetition_penalty: 1.5, ..greedy.clone() }), (0, 0));
        assert_eq!(set_row(&SamplingConfig { repetition_penalty: 0.5, ..greedy }), (3, 3));
    }
}
