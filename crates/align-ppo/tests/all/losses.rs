//! Gradients of the pure losses.

use align_core::tch::{Kind, Tensor};
use align_ppo::{
    AdvantageKind, Averaging, KlEstimator, PolicyAggregation, PolicyInputs, PolicyLoss, PpoConfig,
    ValueInputs, entropies, policy_loss, value_loss,
};
use align_testkit::gradient_check;

use crate::common::{assert_close, doubles};

const LENS: [usize; 2] = [2, 3];
const AVERAGING: Averaging = Averaging { mode: PolicyAggregation::TokenMean, token_limit: 4 };

fn tensor(values: &[f64]) -> Tensor {
    Tensor::from_slice(values)
}

fn value(loss: &PolicyLoss, inputs: &PolicyInputs<'_>) -> Tensor {
    policy_loss(inputs, loss).unwrap().mean().unwrap()
}

/// In and out of the clip on both sides, with advantages of both signs, away from the corners.
#[test]
fn the_gradient_of_the_policys_loss_is_that_of_central_differences() {
    let new = tensor(&[-0.7, -1.4, -2.0, -0.6, -0.9]);
    let (old, reference) =
        (tensor(&[-1.0, -1.0, -1.95, -1.0, -0.5]), tensor(&[-1.2, -1.1, -1.0, -2.0, -0.4]));
    let advantages = tensor(&[1.0, -0.7, 0.4, -1.2, 0.8]);
    for mode in [
        PolicyAggregation::TokenMean,
        PolicyAggregation::SeqMeanMean,
        PolicyAggregation::SeqSumMean,
        PolicyAggregation::SeqSumConst,
    ] {
        for (clip, kl) in [
            (Some((0.2, 0.2)), None),
            (Some((0.2, 0.28)), Some((KlEstimator::K3, 0.3))),
            (None, Some((KlEstimator::K2, 0.3))),
        ] {
            let averaging = Averaging { mode, token_limit: 4 };
            let loss = PolicyLoss { clip, kl, entropy_coef: 0.1, averaging };
            gradient_check(&[new.copy(), tensor(&[0.5, 0.4, 0.3, 0.2, 0.1])], 1e-7, |leaves| {
                let inputs = PolicyInputs {
                    log_probs: &leaves[0],
                    old: &old,
                    advantages: &advantages,
                    reference: Some(&reference),
                    entropy: Some(&leaves[1]),
                    lens: &LENS,
                };
                value(&loss, &inputs)
            });
        }
    }
}

/// ρ = e^0.5 with A > 0 and ρ = e^-0.5 with A < 0 are clipped; with the other sign they are not.
#[test]
fn the_gradient_is_zero_where_the_ratio_is_clipped() {
    let old = tensor(&[-1.0; 5]);
    let new = tensor(&[-0.5, -0.5, -1.5, -1.5, -1.0]).set_requires_grad(true);
    let advantages = tensor(&[1.0, -1.0, 1.0, -1.0, 1.0]);
    let loss = PolicyLoss { clip: Some((0.2, 0.2)), kl: None, entropy_coef: 0.0, averaging: AVERAGING };
    let inputs = PolicyInputs {
        log_probs: &new,
        old: &old,
        advantages: &advantages,
        reference: None,
        entropy: None,
        lens: &LENS,
    };
    let output = policy_loss(&inputs, &loss).unwrap();
    output.mean().unwrap().backward();
    let expected = [0.0, 0.5f64.exp() / 5.0, -(-0.5f64).exp() / 5.0, 0.0, -0.2];
    assert_close(&doubles(&new.grad()), &expected, 1e-12);
    let fraction = output.metrics.iter().find(|m| m.name == "policy/clipfrac_avg").unwrap();
    assert_eq!((fraction.sum, fraction.count), (2.0, 5.0));
}

/// DAPO: a ratio of 1.25 is above 1 + 0.2 and below 1 + 0.28.
#[test]
fn the_upper_clip_can_be_wider() {
    let gradient = |config: &PpoConfig| {
        let new = tensor(&[1.25f64.ln()]).set_requires_grad(true);
        let (old, advantages) = (tensor(&[0.0]), tensor(&[1.0]));
        let inputs = PolicyInputs {
            log_probs: &new,
            old: &old,
            advantages: &advantages,
            reference: None,
            entropy: None,
            lens: &[1],
        };
        value(&PolicyLoss::of(config, 4), &inputs).backward();
        doubles(&new.grad())[0]
    };
    assert_eq!(gradient(&PpoConfig::default()), 0.0);
    assert_close(&[gradient(&PpoConfig::for_advantage(AdvantageKind::Dapo))], &[-1.25], 1e-12);
}

/// d = −1: k3 = e − 2, its slope 1 − e. d = −3: k3 = e³ − 4 is above the bound of 10, which has no slope.
#[test]
fn the_divergence_of_a_token_in_the_loss_is_bounded() {
    let new = tensor(&[-2.0, -4.0]).set_requires_grad(true);
    let (old, reference, advantages) = (tensor(&[-2.0, -4.0]), tensor(&[-1.0, -1.0]), tensor(&[0.0, 0.0]));
    let inputs = PolicyInputs {
        log_probs: &new,
        old: &old,
        advantages: &advantages,
        reference: Some(&reference),
        entropy: None,
        lens: &[2],
    };
    let kl = Some((KlEstimator::K3, 1.0));
    let loss = PolicyLoss { clip: None, kl, entropy_coef: 0.0, averaging: AVERAGING };
    let output = policy_loss(&inputs, &loss).unwrap();
    assert_close(&doubles(&output.components[1].terms), &[1f64.exp() - 2.0, 10.0], 1e-12);
    output.mean().unwrap().backward();
    assert_close(&doubles(&new.grad()), &[(1.0 - 1f64.exp()) / 2.0, 0.0], 1e-12);
}

#[test]
fn the_gradient_of_the_critics_loss_is_that_of_central_differences() {
    let (old, returns) = (tensor(&[0.2, 0.4, 0.5, 0.9]), tensor(&[1.4, -1.0, 0.6, 0.2]));
    gradient_check(&[tensor(&[0.55, 0.3, 0.6, 1.3])], 1e-7, |leaves| {
        let inputs = ValueInputs { values: &leaves[0], old: &old, returns: &returns };
        value_loss(&inputs, 0.2).unwrap().mean().unwrap()
    });
    // Moved by 0.35 towards its goal: clipped, so that it stays; by 0.4 away from its goal: it comes back.
    let values = tensor(&[0.55, 1.3]).set_requires_grad(true);
    let (old, returns) = (tensor(&[0.2, 0.9]), tensor(&[1.4, 0.2]));
    let inputs = ValueInputs { values: &values, old: &old, returns: &returns };
    value_loss(&inputs, 0.2).unwrap().mean().unwrap().backward();
    assert_close(&doubles(&values.grad()), &[0.0, (1.3 - 0.2) / 2.0], 1e-12);
}

#[test]
fn entropies_have_the_right_values_and_gradient() {
    let half = Tensor::from_slice(&[0.5f64, 0.5, 1.0, 1e-300]).log().reshape([2, 2]);
    assert_close(&doubles(&entropies(&half, 1.0).unwrap()), &[2f64.ln(), 0.0], 1e-12);
    // At temperature 2 the probabilities (.8, .2) are proportional to their roots: (2/3, 1/3).
    let uneven = Tensor::from_slice(&[0.8f64, 0.2]).log().reshape([1, 2]);
    let expected = -(2.0 / 3.0 * (2.0f64 / 3.0).ln() + (1.0f64 / 3.0).ln() / 3.0);
    assert_close(&doubles(&entropies(&uneven, 2.0).unwrap()), &[expected], 1e-12);
    gradient_check(&[tensor(&[0.3, -0.2, 0.9, 0.1, 0.0, 2.0]).reshape([2, 3])], 1e-7, |leaves| {
        entropies(&leaves[0], 0.7).unwrap().sum(Kind::Double)
    });
    // In pieces where no gradient is recorded.
    let many = Tensor::randn([600, 5], (Kind::Double, align_core::tch::Device::Cpu));
    let whole = doubles(&entropies(&many, 1.3).unwrap());
    let _guard = align_core::no_grad();
    assert_close(&doubles(&entropies(&many, 1.3).unwrap()), &whole, 1e-12);
}

#[test]
fn what_is_missing_or_of_another_shape_is_refused() {
    let (two, three) = (tensor(&[0.0, 0.0]), tensor(&[0.0, 0.0, 0.0]));
    let inputs = PolicyInputs {
        log_probs: &two,
        old: &two,
        advantages: &two,
        reference: None,
        entropy: None,
        lens: &[2],
    };
    let loss = PolicyLoss { clip: None, kl: None, entropy_coef: 0.0, averaging: AVERAGING };
    policy_loss(&inputs, &loss).unwrap();
    assert!(policy_loss(&PolicyInputs { lens: &[3], ..inputs }, &loss).is_err());
    assert!(policy_loss(&PolicyInputs { old: &three, ..inputs }, &loss).is_err());
    assert!(policy_loss(&PolicyInputs { advantages: &three, ..inputs }, &loss).is_err());
    let kl = PolicyLoss { kl: Some((KlEstimator::K3, 0.1)), ..loss };
    assert!(policy_loss(&inputs, &kl).unwrap_err().to_string().contains("reference"));
    let k1 = PolicyLoss { kl: Some((KlEstimator::K1, 0.1)), ..loss };
    assert!(policy_loss(&PolicyInputs { reference: Some(&two), ..inputs }, &k1).is_err());
    assert!(policy_loss(&inputs, &PolicyLoss { entropy_coef: 0.1, ..loss }).is_err());
    assert!(value_loss(&ValueInputs { values: &two, old: &three, returns: &two }, 0.2).is_err());
}
