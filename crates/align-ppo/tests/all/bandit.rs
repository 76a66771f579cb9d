//! Five arms, by exact enumeration: what each place of the KL divergence does to the gradient, and where training ends.

use align_core::{
    kl,
    tch::{Kind, Tensor},
};
use align_ppo::{
    Averaging, KlEstimator, PolicyAggregation, PolicyInputs, PolicyLoss, kl_estimate, policy_loss,
};

use crate::common::{assert_close, doubles};

const ARMS: [usize; 5] = [1; 5];

fn policy() -> Tensor {
    Tensor::from_slice(&[0.3f64, -0.2, 0.5, 0.0, -0.6]).set_requires_grad(true)
}

fn reference() -> Tensor {
    Tensor::from_slice(&[0.1f64, 0.4, -0.3, 0.2, -0.1]).log_softmax(0, Kind::Double)
}

fn gradient(of: &Tensor, logits: &Tensor) -> Vec<f64> {
    doubles(&Tensor::run_backward(&[of], &[logits], true, false)[0])
}

/// The loss of all arms with advantages `A`; the expectation weighs component `index` by the probabilities, which are
/// constants: samples come from the policy as it was.
fn expected(logits: &Tensor, advantages: &Tensor, kl: Option<KlEstimator>, index: usize) -> Tensor {
    let log_probs = logits.log_softmax(0, Kind::Double);
    let (old, reference) = (log_probs.detach(), reference());
    let inputs = PolicyInputs {
        log_probs: &log_probs,
        old: &old,
        advantages,
        reference: Some(&reference),
        entropy: None,
        lens: &ARMS,
    };
    let averaging = Averaging { mode: PolicyAggregation::TokenMean, token_limit: 1 };
    let loss = PolicyLoss { clip: Some((0.2, 0.2)), kl: kl.map(|k| (k, 1.0)), entropy_coef: 0.0, averaging };
    let output = policy_loss(&inputs, &loss).unwrap();
    (&output.components[index].terms * old.exp()).sum(Kind::Double)
}

fn divergences(logits: &Tensor) -> (Tensor, Tensor) {
    let (log_probs, reference) = (logits.log_softmax(0, Kind::Double), reference());
    let reverse = (log_probs.exp() * (&log_probs - &reference)).sum(Kind::Double);
    let forward = (reference.exp() * (&reference - &log_probs)).sum(Kind::Double);
    (reverse, forward)
}

/// Golden vector G4: the four statements on gradients, to 1e-10 against the divergences themselves.
#[test]
fn g4_what_the_kl_divergence_does_by_its_place() {
    let logits = policy();
    let none = Tensor::zeros([5], (Kind::Double, align_core::tch::Device::Cpu));
    let (reverse, forward) = divergences(&logits);
    assert_close(&[reverse.double_value(&[]), forward.double_value(&[])], &[0.13424091, 0.12431896], 5e-9);
    let (of_reverse, of_forward) = (gradient(&reverse, &logits), gradient(&forward, &logits));
    let printed = [0.02109126, -0.10926670, 0.21010870, -0.05891693, -0.06301632];
    assert_close(&of_reverse, &printed, 5e-9);
    assert_close(&of_forward, &[0.04928992, -0.12045125, 0.17166597, -0.03717987, -0.06332477], 5e-9);
    // 1. k1 as a loss: nothing. The loss refuses it; this is the estimator itself.
    let log_probs = logits.log_softmax(0, Kind::Double);
    let k1 = (kl::k1(&log_probs, &reference()).unwrap() * log_probs.detach().exp()).sum(Kind::Double);
    assert_close(&gradient(&k1, &logits), &[0.0; 5], 1e-10);
    // 2. k2 as a loss: the gradient of KL(π ‖ π_ref).
    assert_close(&gradient(&expected(&logits, &none, Some(KlEstimator::K2), 1), &logits), &of_reverse, 1e-10);
    // 3. k3 as a loss: that of KL(π_ref ‖ π).
    assert_close(&gradient(&expected(&logits, &none, Some(KlEstimator::K3), 1), &logits), &of_forward, 1e-10);
    // 4. k1 in the reward: that of KL(π ‖ π_ref), through the advantages.
    let d = doubles(&(&log_probs - reference()));
    let rewards: Vec<f64> = d.iter().map(|d| -kl_estimate(KlEstimator::K1, *d)).collect();
    let in_reward = expected(&logits, &Tensor::from_slice(&rewards), None, 0);
    assert_close(&gradient(&in_reward, &logits), &of_reverse, 1e-10);
    // Expectations of the estimators.
    let p = doubles(&log_probs.exp());
    let mean = |e| d.iter().zip(&p).map(|(d, p)| p * kl_estimate(e, *d)).sum::<f64>();
    assert_close(
        &[mean(KlEstimator::K1), mean(KlEstimator::K2), mean(KlEstimator::K3)],
        &[0.13424091, 0.14958870, 0.13424091],
        5e-9,
    );
}

/// Gradient ascent on E[r] − β KL ends at π* ∝ π_ref exp(r / β), with the KL in the reward and with k2 in the loss; with k3
/// in the loss it ends elsewhere, as that is another divergence.
#[test]
fn training_ends_at_the_optimum_under_kl() {
    align_core::threads::prepare_compute_thread();
    let rewards = [1.0, 0.0, -0.5, 0.3, 0.8];
    let beta = 0.5;
    let tilted: Vec<f64> = doubles(&reference()).iter().zip(rewards).map(|(l, r)| l + r / beta).collect();
    let optimum = doubles(&Tensor::from_slice(&tilted).softmax(0, Kind::Double));
    let train = |kl: Option<KlEstimator>| {
        let logits = policy();
        for _ in 0..800 {
            let d = doubles(&(logits.log_softmax(0, Kind::Double) - reference()));
            let in_reward = if kl.is_none() { beta } else { 0.0 };
            let advantages: Vec<f64> = rewards.iter().zip(d).map(|(r, d)| r - in_reward * d).collect();
            let mut loss = expected(&logits, &Tensor::from_slice(&advantages), kl, 0);
            if kl.is_some() {
                loss += expected(&logits, &Tensor::from_slice(&advantages), kl, 1) * beta;
            }
            let step = &Tensor::run_backward(&[&loss], &[&logits], false, false)[0];
            let _ = logits.detach().subtract_(&(step * 4.0));
        }
        doubles(&logits.softmax(0, Kind::Double))
    };
    assert_close(&train(None), &optimum, 1e-6);
    assert_close(&train(Some(KlEstimator::K2)), &optimum, 1e-6);
    let other = train(Some(KlEstimator::K3));
    let apart: f64 = other.iter().zip(&optimum).map(|(a, b)| (a - b).abs()).sum();
    assert!(apart > 0.05, "{other:?} against {optimum:?}");
}
