//! Figures of held-out pairs: golden vector, identities, and what is refused.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use align_core::{
    align_types::{Purpose, RngStream},
    evaluation::Prompts,
};
use align_rm::{Calibration, CalibrationPair, calibration_error, fit_temperature};
use align_testkit::assert_close;
use proptest::prelude::*;

fn pair(margin: f64, longer_by: f64) -> CalibrationPair {
    CalibrationPair {
        chosen: margin + 0.25,
        rejected: 0.25,
        chosen_length: 100.0 + longer_by,
        rejected_length: 100.0,
        subset: None,
    }
}

fn own_prompts(rows: usize) -> Prompts {
    Prompts { of_rows: (0..rows).collect(), count: rows }
}

fn logit(p: f64) -> f64 {
    (p / (1.0 - p)).ln()
}

/// G12, checked by hand: the bins [.5, .6), [.6, .7), [.7, .8), [.9, 1] hold .45, .27, .7 and .15 of difference, over 6.
const PROBABILITIES: [f64; 6] = [0.55, 0.65, 0.9, 0.95, 0.62, 0.7];
const OUTCOMES: [f64; 6] = [1.0, 0.0, 1.0, 1.0, 1.0, 0.0];

#[test]
fn the_golden_vector_of_calibration() {
    let outcomes: Vec<(f64, f64)> = PROBABILITIES.into_iter().zip(OUTCOMES).collect();
    assert_close(&[calibration_error(&outcomes).unwrap()], &[0.26166667], 5e-9);
    // The same as pairs: a preference of confidence p that is right or wrong is a margin of ± logit p.
    let pairs: Vec<_> = outcomes.iter().map(|(p, y)| pair((2.0 * y - 1.0) * logit(*p), 0.0)).collect();
    let found = Calibration::of(&pairs, &own_prompts(6), None, 0).unwrap();
    assert_close(&[found.raw.calibration_error.mean, found.raw.brier.mean], &[0.26166667, 0.21198333], 5e-9);
    let nll: f64 =
        outcomes.iter().map(|(p, y)| -(if *y > 0.5 { *p } else { 1.0 - p }).ln()).sum::<f64>() / 6.0;
    assert_close(&[found.raw.nll.mean, found.agreement.accuracy.mean], &[nll, 4.0 / 6.0], 1e-12);
    let bins: Vec<_> = found.raw.bins.iter().map(|bin| (bin.range.0, bin.count, bin.right)).collect();
    assert_eq!(bins, [(0.5, 1, 1.0), (0.6, 2, 0.5), (0.7, 1, 0.0), (0.9, 2, 1.0)]);
}

/// Outcomes drawn with the probability that the margin says: the temperature is 1, the error small; the same margins
/// three times as large are overconfident, and the temperature that other rows give mends it.
#[test]
fn a_temperature_of_other_rows_mends_overconfidence() {
    let draw = |seed: u64, gain: f64| -> Vec<f64> {
        let mut random = RngStream::new(seed, Purpose::Synthetic, 0, 0);
        let one = |_| {
            let size = 2.5 * random.uniform();
            let right = random.uniform() < 1.0 / (1.0 + (-size).exp());
            gain * if right { size } else { -size }
        };
        (0..4000).map(one).collect()
    };
    // The slope of the score has variance E[d² σ (1 − σ)] ≈ 0.35 per pair: 4000 pairs give 1 / T to about 0.03.
    assert!((fit_temperature(&draw(1, 1.0)).unwrap() - 1.0).abs() < 0.12);
    let temperature = fit_temperature(&draw(2, 3.0)).unwrap();
    assert!((temperature - 3.0).abs() < 0.36, "{temperature}");
    let pairs: Vec<_> = draw(3, 3.0).into_iter().map(|margin| pair(margin, 0.0)).collect();
    let found = Calibration::of(&pairs, &own_prompts(4000), Some(temperature), 0).unwrap();
    let scaled = found.scaled.unwrap();
    assert!(found.raw.calibration_error.interval.unwrap().0 > 0.1, "{:?}", found.raw);
    assert!(scaled.calibration_error.mean < 0.03, "{scaled:?}");
    assert!(scaled.nll.mean < found.raw.nll.mean && scaled.brier.mean < found.raw.brier.mean);
    assert_eq!(scaled.temperature, temperature);
}

/// A model that scores by length is exactly as good as length, and the paired difference says so.
#[test]
fn length_is_told_from_quality_and_subsets_from_each_other() {
    let mut pairs: Vec<_> = (0..60)
        .map(|i| {
            let longer_by = f64::from(i % 6) - 2.0;
            CalibrationPair { subset: Some("essays".into()), ..pair(0.1 * longer_by, longer_by) }
        })
        .collect();
    pairs.push(CalibrationPair { subset: Some("code".into()), ..pair(1.0, -5.0) });
    pairs.push(pair(-1.0, -5.0));
    let found = Calibration::of(&pairs, &own_prompts(62), None, 3).unwrap();
    let essays = &found.subsets["essays"];
    assert_eq!(essays.accuracy, essays.chosen_longer);
    assert_eq!(essays.above_length.interval, Some((0.0, 0.0)));
    // Of −2, −1, 0, 1, 2, 3 three are longer and one is equal.
    assert_close(&[essays.accuracy.mean], &[3.5 / 6.0], 1e-12);
    let code = &found.subsets["code"];
    assert_eq!((code.accuracy.mean, code.chosen_longer.mean, code.accuracy.count), (1.0, 0.0, 1));
    assert_eq!((found.pairs, found.subsets.len(), found.agreement.ties), (62, 2, 10));
    let in_bins: usize = found.agreement.length_control.bins.iter().map(|bin| bin.count).sum();
    assert_eq!(in_bins, 62);
}

/// Rows of one prompt are resampled together: two prompts of a hundred equal rows have the interval of two rows.
#[test]
fn intervals_are_over_prompts() {
    let pairs: Vec<_> = (0..200).map(|row| pair(if row < 100 { 1.0 } else { -1.0 }, 0.0)).collect();
    let prompts = Prompts { of_rows: (0..200).map(|row| row / 100).collect(), count: 2 };
    let found = Calibration::of(&pairs, &prompts, None, 0).unwrap();
    assert_eq!(found.agreement.accuracy.interval, Some((0.0, 1.0)));
    let wide = found.raw.calibration_error.interval.unwrap();
    let narrow =
        Calibration::of(&pairs, &own_prompts(200), None, 0).unwrap().raw.calibration_error.interval.unwrap();
    assert!(wide.1 - wide.0 > 3.0 * (narrow.1 - narrow.0), "{wide:?} against {narrow:?}");
}

#[test]
fn saturated_scores_have_finite_figures() {
    let found = Calibration::of(&[pair(1e5, 0.0), pair(-1e5, 0.0)], &own_prompts(2), None, 0).unwrap();
    assert_close(&[found.raw.brier.mean, found.raw.nll.mean / 5e4], &[0.5, 1.0], 1e-9);
    assert_close(&[found.raw.calibration_error.mean], &[0.5], 1e-9);
}

#[test]
fn what_has_no_figure_is_refused() {
    let refused = |pairs: &[CalibrationPair], prompts: Prompts, temperature, expected: &str| {
        let error = Calibration::of(pairs, &prompts, temperature, 0).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(&[], own_prompts(0), None, "no pair");
    refused(&[pair(1.0, 0.0)], own_prompts(2), None, "2 rows with prompts for 1 pairs");
    refused(&[pair(1.0, 0.0)], Prompts { of_rows: vec![4], count: 2 }, None, "prompt 4 of 2");
    refused(&[pair(1.0, 0.0), pair(f64::NAN, 0.0)], own_prompts(2), None, "pair 1");
    refused(&[pair(1.0, f64::INFINITY)], own_prompts(1), None, "pair 0");
    refused(&[pair(1.0, 0.0)], own_prompts(1), Some(0.0), "temperature");
    for (margins, expected) in [
        (&[][..], "0 pairs"),
        (&[0.0, 0.0], "two different scores"),
        (&[1.0, 0.0, 2.0], "right on all 3 pairs"),
        (&[1.0, -1.0], "no better than chance"),
        (&[1.0, f64::NAN], "difference of pair 1"),
    ] {
        let error = fit_temperature(margins).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    for wrong in [&[][..], &[(1.5, 1.0)], &[(0.5, f64::NAN)]] {
        assert!(calibration_error(wrong).is_err());
    }
}

proptest! {
    /// At the temperature the slope is 0, and it scales with the rewards.
    #[test]
    fn the_temperature_is_a_minimum_and_scales(
        margins in prop::collection::vec(-3.0f64..4.0, 4..40), gain in 0.01f64..100.0,
    ) {
        let sum: f64 = margins.iter().sum();
        prop_assume!(sum > 0.5 && margins.iter().any(|d| *d < -0.1));
        let temperature = fit_temperature(&margins).unwrap();
        let nll = |t: f64| margins.iter().map(|d| {
            let z = d / t;
            (-z).max(0.0) + (-z.abs()).exp().ln_1p()
        }).sum::<f64>();
        for other in [0.9, 0.99, 1.01, 1.1] {
            prop_assert!(nll(temperature) <= nll(temperature * other) + 1e-12);
        }
        let stretched: Vec<f64> = margins.iter().map(|d| gain * d).collect();
        prop_assert!((fit_temperature(&stretched).unwrap() / (gain * temperature) - 1.0).abs() < 1e-9);
    }
}
