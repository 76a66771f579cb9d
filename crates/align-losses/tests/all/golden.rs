//! Golden vectors, computed in float64 with numpy and checked by hand; never copied from our own output.

use align_core::{
    TokenLogProbs,
    tch::{Kind, Tensor},
};
use align_losses::{Aggregation, DpoConfig, DpoInputs, SftConfig, SftLossType, dpo_loss, sft_loss};
use align_testkit::{assert_close, gradient_check};

/// G2: three pairs at β = 0.1.
struct Pairs {
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
}

impl Pairs {
    fn g2() -> Self {
        Self {
            chosen: Tensor::from_slice(&[-10.0, -12.5, -8.0]),
            rejected: Tensor::from_slice(&[-11.0, -12.0, -9.5]),
            ref_chosen: Tensor::from_slice(&[-10.5, -12.0, -8.0]),
            ref_rejected: Tensor::from_slice(&[-10.5, -12.5, -9.0]),
        }
    }

    fn inputs(&self) -> DpoInputs<'_> {
        DpoInputs {
            ref_chosen: Some(&self.ref_chosen),
            ref_rejected: Some(&self.ref_rejected),
            ..DpoInputs::new(&self.chosen, &self.rejected)
        }
    }
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double)).unwrap()
}

#[test]
fn dpo_terms_mean_gradient_and_metrics() {
    let mut pairs = Pairs::g2();
    pairs.chosen = pairs.chosen.set_requires_grad(true);
    pairs.rejected = pairs.rejected.set_requires_grad(true);
    let output = dpo_loss(&pairs.inputs(), &DpoConfig::default()).unwrap();
    let component = &output.components[0];
    assert_close(&values(&component.terms), &[0.64439666, 0.74439666, 0.66845965], 5e-9);
    assert_eq!(component.denominator, 3.0);
    let mean = output.mean().unwrap();
    assert_close(&[mean.double_value(&[])], &[0.68575099], 5e-9);
    component.terms.sum(Kind::Double).backward();
    let expected = [-0.04750208, -0.05249792, -0.04875026];
    assert_close(&values(&pairs.chosen.grad()), &expected, 5e-9);
    assert_close(&values(&pairs.rejected.grad()), &expected.map(|g| -g), 5e-9);
    let metric = |name: &str| {
        let m = output.metrics.iter().find(|m| m.name == name).unwrap();
        m.sum / m.count
    };
    assert_close(&[metric("rewards/chosen")], &[0.0], 1e-12); // (.05 - .05 + 0) / 3
    assert_close(&[metric("rewards/margins")], &[0.01666667], 5e-9);
    assert_close(&[metric("rewards/accuracies")], &[2.0 / 3.0], 1e-12);
    assert_close(&[metric("logps/chosen")], &[-30.5 / 3.0], 1e-12);
    assert_close(&[metric("logps/rejected")], &[-32.5 / 3.0], 1e-12);
}

#[test]
fn label_smoothing_is_the_conservative_form() {
    let pairs = Pairs::g2();
    let config = DpoConfig { label_smoothing: 0.1, ..Default::default() };
    let mean = dpo_loss(&pairs.inputs(), &config).unwrap().mean().unwrap();
    assert_close(&[mean.double_value(&[])], &[0.68741766], 5e-9);
}

/// The gradient of the conservative form vanishes where σ(β D) = 1 − ε: D = ln(9) / β for ε = 0.1.
#[test]
fn label_smoothing_has_its_optimum_at_the_label_frequency() {
    let chosen = Tensor::from_slice(&[9f64.ln() / 0.1]).set_requires_grad(true);
    let zero = Tensor::from_slice(&[0.0]);
    let inputs =
        DpoInputs { ref_chosen: Some(&zero), ref_rejected: Some(&zero), ..DpoInputs::new(&chosen, &zero) };
    let config = DpoConfig { label_smoothing: 0.1, ..Default::default() };
    dpo_loss(&inputs, &config).unwrap().mean().unwrap().backward();
    assert_close(&values(&chosen.grad()), &[0.0], 1e-12);
}

/// Without a reference D = log π(chosen) − log π(rejected) = (1, −0.5, 1.5): the terms are softplus(−0.1 D).
#[test]
fn reference_free_dpo_uses_the_policy_alone_and_names_its_metrics_differently() {
    let pairs = Pairs::g2();
    let inputs = DpoInputs { ref_chosen: None, ref_rejected: None, ..pairs.inputs() };
    let config = DpoConfig { reference_free: true, ..Default::default() };
    let output = dpo_loss(&inputs, &config).unwrap();
    let softplus = |z: f64| z.exp().ln_1p();
    let expected = [softplus(-0.1), softplus(0.05), softplus(-0.15)];
    assert_close(&values(&output.components[0].terms), &expected, 1e-12);
    assert!(output.metrics.iter().all(|m| !m.name.starts_with("rewards/")));
    assert!(dpo_loss(&pairs.inputs(), &config).is_err(), "a reference is refused");
    assert!(dpo_loss(&inputs, &DpoConfig::default()).is_err(), "a missing reference is refused");
}

#[test]
fn gradients_are_the_slopes_of_the_loss() {
    let p = Pairs::g2();
    for smoothing in [0.0, 0.2] {
        let config = DpoConfig { beta: 0.7, label_smoothing: smoothing, ..Default::default() };
        gradient_check(&[p.chosen.copy(), p.rejected.copy()], 1e-7, |t| {
            let inputs = DpoInputs { chosen: &t[0], rejected: &t[1], ..p.inputs() };
            dpo_loss(&inputs, &config).unwrap().mean().unwrap()
        });
    }
    let logps = Tensor::from_slice(&[-0.3f64, -1.2, -2.5, -0.1]);
    for aggregation in [Aggregation::TokenMean, Aggregation::SeqMeanMean] {
        gradient_check(&[logps.copy()], 1e-7, |t| {
            let logps = TokenLogProbs::new(t[0].shallow_clone(), vec![3, 1]).unwrap();
            sft_loss(&logps, &SftConfig { aggregation, ..Default::default() }).unwrap().mean().unwrap()
        });
    }
}

/// Margins of ±1000 in float32: log(σ(z)) would be −∞, exp would overflow.
#[test]
fn extreme_margins_stay_finite() {
    let chosen = Tensor::from_slice(&[-10_000.0f32, 0.0]).set_requires_grad(true);
    let rejected = Tensor::from_slice(&[0.0f32, -10_000.0]);
    let zero = Tensor::from_slice(&[0.0f32, 0.0]);
    let inputs = DpoInputs {
        ref_chosen: Some(&zero),
        ref_rejected: Some(&zero),
        ..DpoInputs::new(&chosen, &rejected)
    };
    let output = dpo_loss(&inputs, &DpoConfig::default()).unwrap();
    assert_close(&values(&output.components[0].terms), &[1000.0, 0.0], 1e-3);
    output.mean().unwrap().backward();
    assert_close(&values(&chosen.grad()), &[-0.05, 0.0], 1e-7);
}

/// G7, aggregation: token losses [1, 3] and [2, 2, 4, 1].
#[test]
fn aggregations_divide_by_what_they_say() {
    let logps = Tensor::from_slice(&[-1.0, -3.0, -2.0, -2.0, -4.0, -1.0]);
    let logps = TokenLogProbs::new(logps, vec![2, 4]).unwrap();
    let mean = |aggregation| {
        let config = SftConfig { aggregation, ..Default::default() };
        sft_loss(&logps, &config).unwrap().mean().unwrap().double_value(&[])
    };
    assert_close(&[mean(Aggregation::SeqMeanMean), mean(Aggregation::TokenMean)], &[2.125, 2.16666667], 5e-9);
}

/// Tokens of probability 1/2, 1/4 and 1/8 in answers of two and one: −p ln p is (1/2, 1/2, 3/8) ln 2, and the slope
/// along log p is −p, not −p (1 + ln p), as p is a constant.
#[test]
fn dynamic_fine_tuning_weighs_tokens_by_their_probability() {
    let (half, ln_2) = (0.5f64, std::f64::consts::LN_2);
    for (aggregation, loss, shares) in [
        (Aggregation::TokenMean, (half + half + 0.375) * ln_2 / 3.0, [3.0, 3.0, 3.0]),
        (Aggregation::SeqMeanMean, (half + 0.375) * ln_2 / 2.0, [4.0, 4.0, 2.0]),
    ] {
        let leaf = Tensor::from_slice(&[-ln_2, -2.0 * ln_2, -3.0 * ln_2]).set_requires_grad(true);
        let logps = TokenLogProbs::new(leaf.shallow_clone(), vec![2, 1]).unwrap();
        let config = SftConfig { loss_type: SftLossType::Dft, aggregation };
        let mean = sft_loss(&logps, &config).unwrap().mean().unwrap();
        assert_close(&[mean.double_value(&[])], &[loss], 1e-12);
        mean.backward();
        let slopes = [half, 0.25, 0.125].into_iter().zip(shares).map(|(p, share)| -p / share);
        assert_close(&values(&leaf.grad()), &slopes.collect::<Vec<_>>(), 1e-12);
    }
}

#[test]
fn shapes_that_would_broadcast_are_refused() {
    let p = Pairs::g2();
    let column = p.rejected.reshape([3, 1]);
    let inputs = DpoInputs { rejected: &column, ..p.inputs() };
    let error = dpo_loss(&inputs, &DpoConfig::default()).unwrap_err().to_string();
    assert!(error.contains("rejected log-probabilities") && error.contains("[3, 1]"), "{error}");
}
