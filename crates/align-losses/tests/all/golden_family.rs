//! Golden vectors of the DPO family, KTO, BCO and UNA, computed in float64 with numpy from the papers' formulas and
//! checked by hand; never copied from our own output.

use align_core::{
    LossOutput,
    tch::{Kind, Tensor},
};
use align_losses::{
    Aggregation, BcoBatch, DpoConfig, DpoInputs, DpoLossType, FeedbackInputs, KtoConfig, KtoInputs,
    KtoLossType, PairLengths, UnaConfig, UnaInputs, UnaLossType, a_star_target, bco_loss, dpo_loss,
    kto_baseline, kto_loss, qrpo_target, una_loss,
};
use align_testkit::{assert_close, gradient_check};

const EXACT: f64 = 5e-9;

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double)).unwrap()
}

fn terms(output: &LossOutput, component: usize) -> Vec<f64> {
    values(&output.components[component].terms)
}

/// G2: three pairs with D = (1, −1, 0.5) and averages (0.225, −0.15476190, 0.1).
fn g2(config: &DpoConfig) -> LossOutput {
    g2_of_lengths(config, &[5, 6, 4], &[4, 7, 5])
}

fn g2_of_lengths(config: &DpoConfig, chosen_len: &[i64], rejected_len: &[i64]) -> LossOutput {
    let chosen = Tensor::from_slice(&[-10.0, -12.5, -8.0]);
    let rejected = Tensor::from_slice(&[-11.0, -12.0, -9.5]);
    let ref_chosen = Tensor::from_slice(&[-10.5, -12.0, -8.0]);
    let ref_rejected = Tensor::from_slice(&[-10.5, -12.5, -9.0]);
    let (chosen_len, rejected_len) = (Tensor::from_slice(chosen_len), Tensor::from_slice(rejected_len));
    let inputs = DpoInputs {
        ref_chosen: config.uses_reference().then_some(&ref_chosen),
        ref_rejected: config.uses_reference().then_some(&ref_rejected),
        lengths: Some(PairLengths { chosen: &chosen_len, rejected: &rejected_len }),
        ..DpoInputs::new(&chosen, &rejected)
    };
    dpo_loss(&inputs, config).unwrap()
}

fn mean(output: &LossOutput) -> f64 {
    output.mean().unwrap().double_value(&[])
}

fn of(loss: DpoLossType) -> DpoConfig {
    DpoConfig::of(loss)
}

#[test]
fn g2_losses_of_the_margin() {
    let robust = g2(&DpoConfig { label_smoothing: 0.1, ..of(DpoLossType::Robust) });
    assert_close(&terms(&robust, 0), &[0.63189666, 0.75689666, 0.66220965], EXACT);
    assert_close(&[mean(&robust)], &[0.68366766], EXACT);
    assert_close(&[mean(&g2(&of(DpoLossType::Hinge)))], &[0.98333333], EXACT);
    assert_close(&[mean(&g2(&of(DpoLossType::Ipo)))], &[24.46073176], EXACT);
    // Lengths of 1 turn averages into the sums that the paper prints.
    let sums = g2_of_lengths(&of(DpoLossType::Ipo), &[1; 3], &[1; 3]);
    assert_close(&[mean(&sums)], &[24.08333333], EXACT);
    let norm = g2(&DpoConfig { beta: 5.0, ..of(DpoLossType::SigmoidNorm) });
    assert_close(&[mean(&norm)], &[0.63611021], EXACT);
}

#[test]
fn g2_losses_of_single_rewards() {
    assert_close(&[mean(&g2(&of(DpoLossType::BcoPair)))], &[1.37848181], EXACT);
    assert_close(&terms(&g2(&of(DpoLossType::SppoHard)), 0), &[40.5, 60.5, 45.25], 1e-12);
    let apo = g2(&of(DpoLossType::ApoZero));
    assert_close(&terms(&apo, 0), &[0.975005207, 1.024994793, 0.987502604], EXACT);
}

#[test]
fn g2_reference_free_losses() {
    let simpo = g2(&DpoConfig { beta: 2.0, simpo_gamma: 1.0, ..of(DpoLossType::Simpo) });
    assert_close(&[mean(&simpo)], &[1.27915009], EXACT);
    let orpo = DpoConfig { beta: 0.1, ..of(DpoLossType::Orpo) };
    let by_token = g2(&orpo);
    let ratio = terms(&by_token, 0).iter().sum::<f64>() / 3.0;
    assert_close(&[ratio, mean(&by_token)], &[0.68304397, 2.10163773], EXACT);
    let by_sequence = g2(&DpoConfig { sft_aggregation: Aggregation::SeqMeanMean, ..orpo });
    assert_close(&[mean(&by_sequence)], &[2.09608217], EXACT);
    // SLiC-HF with margin 1: max(0, 1 − log π(c) + log π(r)) = (0, 1.5, 0).
    let slic = g2(&DpoConfig { beta: 1.0, reference_free: true, ..of(DpoLossType::Hinge) });
    assert_close(&terms(&slic, 0), &[0.0, 1.5, 0.0], 1e-12);
}

/// AlphaPO of tokens with probability 1/2 in the chosen and 1/4 in the rejected answer, of any length: at α = 1 the
/// scores 1 − 1/p are −1 and −3, at α = −1 they are p − 1, so −1/2 and −3/4; at α → 0 they are ln p.
#[test]
fn alphapo_bends_the_scores_of_simpo() {
    let ln_2 = std::f64::consts::LN_2;
    let (chosen, rejected) = (Tensor::from_slice(&[-3.0 * ln_2]), Tensor::from_slice(&[-4.0 * ln_2]));
    let (three, two) = (Tensor::from_slice(&[3i64]), Tensor::from_slice(&[2i64]));
    let lengths = Some(PairLengths { chosen: &three, rejected: &two });
    let softplus = |z: f64| z.exp().ln_1p();
    for (simpo_alpha, difference) in [(1.0, 2.0), (-1.0, 0.25), (0.0, ln_2), (1e-9, ln_2)] {
        let config = DpoConfig { beta: 0.5, simpo_gamma: 0.25, simpo_alpha, ..of(DpoLossType::Simpo) };
        let loss = |chosen: &Tensor, rejected: &Tensor| {
            let inputs = DpoInputs { lengths, ..DpoInputs::new(chosen, rejected) };
            dpo_loss(&inputs, &config).unwrap().mean().unwrap()
        };
        let expected = softplus(0.25 - 0.5 * difference);
        assert_close(&[loss(&chosen, &rejected).double_value(&[])], &[expected], 1e-8);
        gradient_check(&[chosen.copy(), rejected.copy()], 1e-7, |t| loss(&t[0], &t[1]));
    }
}

/// ORPO's terms are −log σ of the log odds ratios (0.82935072, −0.43463448, −0.11659809).
#[test]
fn g2_log_odds() {
    let softplus = |z: f64| z.exp().ln_1p();
    let expected = [0.82935072, -0.43463448, -0.11659809].map(|log_odds: f64| softplus(-log_odds));
    assert_close(&terms(&g2(&of(DpoLossType::Orpo)), 0), &expected, EXACT);
}

#[test]
fn g2_several_losses_with_weights() {
    let both = DpoConfig { loss_type: vec![DpoLossType::Sigmoid, DpoLossType::Sft], ..Default::default() };
    assert_close(&[mean(&g2(&both))], &[2.71908432], EXACT);
    let irpo = DpoConfig { sft_aggregation: Aggregation::SeqMeanMean, ..both.clone() };
    assert_close(&[mean(&g2(&irpo))], &[2.71352877], EXACT);
    let half = DpoConfig { loss_weights: vec![1.0, 0.5], ..both };
    assert_close(&[mean(&g2(&half))], &[0.68575099 + 0.5 * (2.71908432 - 0.68575099)], 1e-8);
}

/// Two actions, the first always preferred, uniform reference: IPO's optimum is h_1 − h_2 = 1 / (2 τ), so
/// π(1) = σ(1 / (2 τ)) and not 1, which DPO goes to for any β (2310.12036, section 5).
#[test]
fn ipo_has_a_finite_optimum_and_dpo_has_none() {
    let slope = |loss: DpoLossType, probability: f64| {
        let logits =
            Tensor::from_slice(&[(probability / (1.0 - probability)).ln(), 0.0]).set_requires_grad(true);
        let policy = logits.log_softmax(0, Kind::Double).reshape([2, 1]);
        let (uniform, one) = (Tensor::from_slice(&[0.5f64.ln()]), Tensor::from_slice(&[1i64]));
        let (chosen, rejected) = (policy.select(0, 0), policy.select(0, 1));
        let inputs = DpoInputs {
            ref_chosen: Some(&uniform),
            ref_rejected: Some(&uniform),
            lengths: Some(PairLengths { chosen: &one, rejected: &one }),
            ..DpoInputs::new(&chosen, &rejected)
        };
        let config = DpoConfig { beta: 1.0, ..DpoConfig::of(loss) };
        dpo_loss(&inputs, &config).unwrap().mean().unwrap().backward();
        logits.grad().double_value(&[0])
    };
    let sigma = |z: f64| 1.0 / (1.0 + (-z).exp());
    // 0.62245933 = σ(1/2).
    assert_close(&[slope(DpoLossType::Ipo, sigma(0.5))], &[0.0], 1e-12);
    assert!(slope(DpoLossType::Ipo, 0.6) < 0.0 && slope(DpoLossType::Ipo, 0.65) > 0.0);
    assert!([0.6, 0.9, 0.999].iter().all(|p| slope(DpoLossType::Sigmoid, *p) < 0.0));
}

/// G5: h = (0.5, −0.5, 0.25, 1.5), labels D U D U.
fn g5(config: &KtoConfig, mismatched: &[f64]) -> (Vec<f64>, f64, Vec<f64>) {
    let policy = Tensor::from_slice(&[-9.5, -10.5, -9.75, -8.5]).set_requires_grad(true);
    let reference = Tensor::from_slice(&[-10.0; 4]);
    let labels = [true, false, true, false];
    let inputs = KtoInputs { policy: &policy, reference: &reference, desirable: &labels };
    let output = kto_loss(&inputs, kto_baseline(mismatched), config).unwrap();
    // The gradients of the vector are those of the items, before the division by m.
    output.components[0].terms.sum(Kind::Double).backward();
    (terms(&output, 0), mean(&output), values(&policy.grad()))
}

#[test]
fn g5_kto() {
    let mismatched = [0.3, -0.6, 0.9, 0.2];
    assert_close(&[kto_baseline(&mismatched)], &[0.2], 1e-12);
    let (terms, loss, gradient) = g5(&KtoConfig::default(), &mismatched);
    assert_close(&terms, &[0.49250056, 0.48250714, 0.49875000, 0.53245431], EXACT);
    assert_close(&[loss], &[0.50155300], EXACT);
    assert_close(&gradient, &[-0.02499438, 0.02496940, -0.02499984, 0.02489467], EXACT);
    let lower = mismatched.map(|ratio| ratio - 1.0);
    assert_eq!(kto_baseline(&lower), 0.0);
    assert_close(&[g5(&KtoConfig::default(), &lower).1], &[0.50154634], EXACT);
    let weighted = KtoConfig { desirable_weight: 1.33, ..Default::default() };
    assert_close(&[g5(&weighted, &mismatched).1], &[0.58333118], EXACT);
}

/// At δ = 0, with as many of each label, BCO of the answers of G2 is `bco_pair` of its pairs.
#[test]
fn g5_bco_without_shift_is_the_loss_of_pairs() {
    let policy = Tensor::from_slice(&[-10.0, -11.0, -12.5, -12.0, -8.0, -9.5]);
    let reference = Tensor::from_slice(&[-10.5, -10.5, -12.0, -12.5, -8.0, -9.0]);
    let labels = [true, false, true, false, true, false];
    let inputs = KtoInputs { policy: &policy, reference: &reference, desirable: &labels };
    let batch = BcoBatch { shift: 0.0, desirable: 3, undesirable: 3 };
    let config = KtoConfig { loss_type: KtoLossType::Bco, ..Default::default() };
    assert_close(&[mean(&bco_loss(&inputs, &batch, &config).unwrap())], &[1.37848181], EXACT);
}

/// G6: the ratios of G5 under UNA.
fn g6(loss_type: UnaLossType, targets: &[f64], labels: bool) -> (f64, Vec<f64>) {
    let policy = Tensor::from_slice(&[-9.5, -10.5, -9.75, -8.5]).set_requires_grad(true);
    let reference = Tensor::from_slice(&[-10.0; 4]);
    let targets = Tensor::from_slice(targets);
    let rows = Some(FeedbackInputs { policy: &policy, reference: &reference, targets: &targets });
    let inputs = if labels {
        UnaInputs { binary: rows, ..Default::default() }
    } else {
        UnaInputs { scored: rows, ..Default::default() }
    };
    let config = UnaConfig { beta: 0.1, loss_type, ..Default::default() };
    let output = una_loss(&inputs, &config).unwrap();
    let loss = output.mean().unwrap();
    loss.backward();
    (loss.double_value(&[]), values(&policy.grad()))
}

#[test]
fn g6_una() {
    let labels = [1.0, 0.0, 1.0, 0.0];
    assert_close(&[g6(UnaLossType::Mse, &labels, true).0], &[0.25198445], EXACT);
    assert_close(&[g6(UnaLossType::Bce, &labels, true).0], &[0.69715041], EXACT);
    let scores = [0.9, 0.2, 0.6, 0.4];
    assert_close(&[g6(UnaLossType::Bce, &scores, false).0], &[0.68840041], EXACT);
    let (loss, gradient) = g6(UnaLossType::Mse, &scores, false);
    assert_close(&[loss], &[0.06512303], EXACT);
    // The vector has the gradient of each item; the loss is a mean over four.
    let per_item: Vec<f64> = gradient.iter().map(|g| 4.0 * g).collect();
    assert_close(&per_item, &[-0.01936303, 0.01436615, -0.00468678, 0.00683298], EXACT);
}

#[test]
fn g6_losses_that_know_the_partition_function() {
    let at = |loss_type, target: f64| {
        let (policy, reference) = (Tensor::from_slice(&[-9.75]), Tensor::from_slice(&[-10.0]));
        let targets = Tensor::from_slice(&[target]);
        let rows = FeedbackInputs { policy: &policy, reference: &reference, targets: &targets };
        let config = UnaConfig { beta: 0.5, loss_type, ..Default::default() };
        mean(&una_loss(&UnaInputs { scored: Some(rows), ..Default::default() }, &config).unwrap())
    };
    let target = qrpo_target(0.5, &[-1.0, 0.0, 0.5, 2.0], 0.5).unwrap();
    // q = 3/4, log Z = 1.16143936.
    assert_close(&[target], &[0.75 - 0.5 * 1.16143936], EXACT);
    assert_close(&[at(UnaLossType::Qrpo, target)], &[0.00196075], EXACT);
    let target = a_star_target(1.0, &[0.0, 1.0, 1.0, 0.0], 0.5).unwrap();
    assert_close(&[target], &[1.0 - 0.71689042], EXACT);
    assert_close(&[at(UnaLossType::AStarPo, target)], &[0.02499864], EXACT);
}

/// For small β, log Z → 1/β + ln β; e^(1/β) alone would be infinite below β = 0.0014.
#[test]
fn the_partition_function_of_qrpo_does_not_overflow() {
    let beta = 1e-4f64;
    let target = qrpo_target(1.0, &[0.0], beta).unwrap();
    assert_close(&[target], &[1.0 - (1.0 + beta * beta.ln())], 1e-12);
    let far = a_star_target(1e4, &[-1e4, 1e4], 1e-3).unwrap();
    assert_close(&[far], &[1e-3 * 2f64.ln()], 1e-9);
}

/// Minimises the mean of (σ(β h) − s)² over all policies of some arms with uniform reference; `scores` are those of
/// the first arms, which alone are in the data.
fn una_optimum(arms: i64, scores: &[f64]) -> Vec<f64> {
    let mut logits =
        Tensor::zeros([arms], (Kind::Double, align_core::tch::Device::Cpu)).set_requires_grad(true);
    let seen = scores.len() as i64;
    let reference = Tensor::from_slice(&vec![(1.0 / arms as f64).ln(); scores.len()]);
    let targets = Tensor::from_slice(scores);
    let config = UnaConfig { beta: 1.0, ..Default::default() };
    for _ in 0..1500 {
        let policy = logits.log_softmax(0, Kind::Double).narrow(0, 0, seen);
        let rows = FeedbackInputs { policy: &policy, reference: &reference, targets: &targets };
        let inputs = UnaInputs { scored: Some(rows), ..Default::default() };
        una_loss(&inputs, &config).unwrap().mean().unwrap().backward();
        align_core::tch::no_grad(|| {
            let step = logits.grad() * 12.0;
            let _ = logits.subtract_(&step);
        });
        logits.zero_grad();
    }
    values(&logits.detach().softmax(0, Kind::Double))
}

/// G8: with f = 0 the optimum is not that of RLHF, which is softmax(logit s) here, and an arm that is not in the
/// data is emptied where all scores are above 1/2.
#[test]
fn g8_una_takes_the_partition_function_for_one() {
    let rlhf = |scores: &[f64]| {
        let odds: Vec<f64> = scores.iter().map(|s| s / (1.0 - s)).collect();
        odds.iter().map(|o| o / odds.iter().sum::<f64>()).collect::<Vec<_>>()
    };
    let high = [0.9, 0.8, 0.7];
    assert_close(&rlhf(&high), &[0.587, 0.261, 0.152], 2e-3);
    assert_close(&una_optimum(3, &high), &[0.394, 0.333, 0.273], 2e-3);
    assert_close(&una_optimum(4, &high), &[0.399, 0.332, 0.269, 0.0], 2e-3);
    let spread = [0.9, 0.5, 0.1];
    assert_close(&rlhf(&spread), &[0.890, 0.099, 0.011], 2e-3);
    assert_close(&una_optimum(3, &spread), &[0.719, 0.254, 0.027], 2e-3);
}
