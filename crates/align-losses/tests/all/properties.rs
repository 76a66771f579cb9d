//! What every loss must satisfy, whatever its formula: gradients are slopes, rows may come in any order, constants
//! cancel, step 0 has a known value, extremes stay finite, and what makes no sense is refused.

use std::f64::consts::LN_2;

use align_core::{
    TokenLogProbs,
    align_types::{Purpose, RngStream},
    tch::{Kind, Tensor},
};
use align_losses::{
    BcoBatch, DpoConfig, DpoInputs, DpoLossType, FDivergence, FeedbackInputs, KtoConfig, KtoInputs,
    KtoLossType, PairLengths, UnaConfig, UnaInputs, UnaLossType, bco_loss, dpo_loss, kto_loss, una_loss,
};
use align_testkit::{assert_close, gradient_check};

/// Every loss alone, with settings that use its options, the other divergences, and a mixture.
fn configs() -> Vec<DpoConfig> {
    let mut configs: Vec<DpoConfig> = DpoLossType::ALL
        .iter()
        .map(|loss| match loss {
            DpoLossType::ExoPair | DpoLossType::Robust | DpoLossType::Aot => {
                DpoConfig { label_smoothing: 0.1, ..DpoConfig::of(*loss) }
            }
            DpoLossType::Simpo | DpoLossType::SigmoidNorm => DpoConfig { beta: 2.0, ..DpoConfig::of(*loss) },
            _ => DpoConfig { beta: 0.3, ..DpoConfig::of(*loss) },
        })
        .collect();
    for f_divergence_type in [FDivergence::ForwardKl, FDivergence::JsDivergence, FDivergence::AlphaDivergence]
    {
        configs.push(DpoConfig { f_divergence_type, ..DpoConfig::default() });
        configs.push(DpoConfig { f_divergence_type, ..DpoConfig::of(DpoLossType::Ipo) });
    }
    configs.push(DpoConfig {
        loss_type: vec![DpoLossType::Sigmoid, DpoLossType::Aot, DpoLossType::Sft],
        loss_weights: vec![1.0, 0.5, 0.1],
        ..DpoConfig::default()
    });
    configs
}

struct Batch {
    chosen: Vec<f64>,
    rejected: Vec<f64>,
    ref_chosen: Vec<f64>,
    ref_rejected: Vec<f64>,
    chosen_len: Vec<f64>,
    rejected_len: Vec<f64>,
}

impl Batch {
    fn random(pairs: usize) -> Self {
        let mut rng = RngStream::new(7, Purpose::Init, 0, 0);
        let mut sums = || (0..pairs).map(|_| -8.0 + 2.0 * rng.normal()).collect::<Vec<_>>();
        let (chosen, rejected, ref_chosen, ref_rejected) = (sums(), sums(), sums(), sums());
        let lens = |offset: usize| (0..pairs).map(|i| (1 + (i * 5 + offset) % 7) as f64).collect();
        Self { chosen, rejected, ref_chosen, ref_rejected, chosen_len: lens(0), rejected_len: lens(3) }
    }

    /// The value of the loss as a function of the policy's sums.
    fn loss(&self, config: &DpoConfig, chosen: &Tensor, rejected: &Tensor) -> Tensor {
        let tensor = |values: &[f64]| Tensor::from_slice(values);
        let (ref_chosen, ref_rejected) = (tensor(&self.ref_chosen), tensor(&self.ref_rejected));
        let (chosen_len, rejected_len) = (tensor(&self.chosen_len), tensor(&self.rejected_len));
        let inputs = DpoInputs {
            ref_chosen: config.uses_reference().then_some(&ref_chosen),
            ref_rejected: config.uses_reference().then_some(&ref_rejected),
            lengths: Some(PairLengths { chosen: &chosen_len, rejected: &rejected_len }),
            ..DpoInputs::new(chosen, rejected)
        };
        dpo_loss(&inputs, config).unwrap().mean().unwrap()
    }

    fn value_and_gradient(&self, config: &DpoConfig) -> (f64, Vec<f64>) {
        let leaf = |values: &[f64]| Tensor::from_slice(values).set_requires_grad(true);
        let (chosen, rejected) = (leaf(&self.chosen), leaf(&self.rejected));
        let loss = self.loss(config, &chosen, &rejected);
        loss.backward();
        let gradient = |t: &Tensor| {
            let gradient = t.grad();
            if gradient.defined() {
                Vec::<f64>::try_from(gradient).unwrap()
            } else {
                vec![0.0; self.chosen.len()]
            }
        };
        (loss.double_value(&[]), [gradient(&chosen), gradient(&rejected)].concat())
    }

    fn value(&self, config: &DpoConfig) -> f64 {
        self.value_and_gradient(config).0
    }

    fn reversed(&self) -> Self {
        let turn = |values: &[f64]| values.iter().rev().copied().collect();
        Self {
            chosen: turn(&self.chosen),
            rejected: turn(&self.rejected),
            ref_chosen: turn(&self.ref_chosen),
            ref_rejected: turn(&self.ref_rejected),
            chosen_len: turn(&self.chosen_len),
            rejected_len: turn(&self.rejected_len),
        }
    }
}

fn plus(values: &[f64], shift: impl Fn(usize) -> f64) -> Vec<f64> {
    values.iter().enumerate().map(|(i, v)| v + shift(i)).collect()
}

#[test]
fn gradients_of_pairs_are_slopes() {
    let batch = Batch::random(5);
    for config in configs() {
        let leaves = [Tensor::from_slice(&batch.chosen), Tensor::from_slice(&batch.rejected)];
        gradient_check(&leaves, 1e-6, |t| batch.loss(&config, &t[0], &t[1]));
    }
}

#[test]
fn the_order_of_pairs_does_not_matter() {
    let batch = Batch::random(6);
    for config in configs() {
        let (value, gradient) = batch.value_and_gradient(&config);
        let (turned, mut turned_gradient) = batch.reversed().value_and_gradient(&config);
        let (chosen, rejected) = turned_gradient.split_at_mut(6);
        chosen.reverse();
        rejected.reverse();
        assert_close(&[turned], &[value], 1e-12 * value.abs().max(1.0));
        assert_close(&turned_gradient, &gradient, 1e-12 * value.abs().max(1.0));
    }
}

/// What policy and reference have in common cancels in every loss that uses h alone.
#[test]
fn a_shift_of_policy_and_reference_cancels() {
    let batch = Batch::random(5);
    let shift = |i: usize| 3.0 - 2.0 * i as f64;
    let moved = Batch {
        chosen: plus(&batch.chosen, shift),
        ref_chosen: plus(&batch.ref_chosen, shift),
        rejected: plus(&batch.rejected, |i| -shift(i)),
        ref_rejected: plus(&batch.ref_rejected, |i| -shift(i)),
        ..Batch::random(5)
    };
    let on_ratios = |c: &DpoConfig| {
        let of_ratios = |l: &DpoLossType| l.uses_reference() && *l != DpoLossType::Aot;
        c.loss_type.iter().all(of_ratios)
    };
    let tested: Vec<DpoConfig> = configs().into_iter().filter(on_ratios).collect();
    assert!(tested.len() > 15);
    for config in tested {
        let value = batch.value(&config);
        assert_close(&[moved.value(&config)], &[value], 1e-10 * value.abs().max(1.0));
    }
}

/// A constant on both answers of a pair cancels in losses of the difference; per token in losses of averages.
#[test]
fn a_shift_of_both_answers_cancels_in_losses_of_the_difference() {
    use DpoLossType::{Aot, Cpo, Discopop, ExoPair, Hinge, Ipo, Robust, Sigmoid, SigmoidNorm, Simpo};
    let batch = Batch::random(5);
    let both = Batch {
        chosen: plus(&batch.chosen, |i| i as f64 - 2.0),
        rejected: plus(&batch.rejected, |i| i as f64 - 2.0),
        ..Batch::random(5)
    };
    let per_token = Batch {
        chosen: plus(&batch.chosen, |i| -0.7 * batch.chosen_len[i]),
        rejected: plus(&batch.rejected, |i| -0.7 * batch.rejected_len[i]),
        ..Batch::random(5)
    };
    let mut tested = 0;
    for config in configs().into_iter().filter(|c| c.f_divergence_type == FDivergence::ReverseKl) {
        let [loss] = config.loss_type[..] else { continue };
        // The likelihood of the chosen answer, which CPO adds, is no loss of the difference.
        let config = if loss == Cpo { DpoConfig { cpo_alpha: 0.0, ..config } } else { config };
        let value = batch.value(&config);
        let moved = match loss {
            Sigmoid | Hinge | ExoPair | Robust | Discopop | Aot | Cpo => &both,
            Ipo | SigmoidNorm | Simpo => &per_token,
            _ => continue,
        };
        tested += 1;
        assert_close(&[moved.value(&config)], &[value], 1e-10 * value.abs().max(1.0));
    }
    assert_eq!(tested, 10);
}

/// Policy and reference equal: the value of every loss that they determine, derived by putting h = 0 into its formula.
#[test]
fn step_zero_has_known_values() {
    use DpoLossType as L;
    let batch = Batch::random(4);
    let equal =
        Batch { ref_chosen: batch.chosen.clone(), ref_rejected: batch.rejected.clone(), ..Batch::random(4) };
    let (beta, epsilon) = (0.2, 0.1f64);
    let smooth = |loss| DpoConfig { beta, label_smoothing: epsilon, ..DpoConfig::of(loss) };
    let plain = |loss| DpoConfig { beta, ..DpoConfig::of(loss) };
    for (config, expected) in [
        (plain(L::Sigmoid), LN_2),
        (smooth(L::Sigmoid), LN_2),
        (plain(L::Hinge), 1.0),
        (plain(L::Ipo), 1.0 / (4.0 * beta * beta)),
        (smooth(L::ExoPair), -LN_2 - 0.5 * ((1.0 - epsilon).ln() + epsilon.ln())),
        (plain(L::NcaPair), 2.0 * LN_2),
        (smooth(L::Robust), LN_2),
        (plain(L::BcoPair), 2.0 * LN_2),
        (plain(L::SppoHard), 0.5 / (beta * beta)),
        (smooth(L::Aot), LN_2),
        (smooth(L::AotUnpaired), LN_2),
        (plain(L::ApoZero), 1.0),
        (plain(L::ApoDown), 1.0),
        (plain(L::Discopop), 0.5 * LN_2 + 0.5),
        (plain(L::SigmoidNorm), LN_2),
    ] {
        assert_close(&[equal.value(&config)], &[expected], 1e-12);
    }
    for f_divergence_type in [FDivergence::ForwardKl, FDivergence::JsDivergence, FDivergence::AlphaDivergence]
    {
        assert_close(&[equal.value(&DpoConfig { f_divergence_type, ..plain(L::Sigmoid) })], &[LN_2], 1e-12);
    }
}

/// Ratios of ±10,000 and probabilities of 1, in float32 and float64: finite losses and gradients.
#[test]
fn extremes_stay_finite() {
    let far = 1e4;
    for config in configs() {
        for kind in [Kind::Float, Kind::Double] {
            let tensor = |values: &[f64]| Tensor::from_slice(values).to_kind(kind);
            let chosen = tensor(&[-far, 0.0, 0.0, -far]).set_requires_grad(true);
            let rejected = tensor(&[0.0, -far, 0.0, -far]).set_requires_grad(true);
            let (ref_chosen, ref_rejected) =
                (tensor(&[0.0, -far, -far, 0.0]), tensor(&[-far, 0.0, 0.0, -far]));
            let lens = tensor(&[1.0, 2.0, 3.0, 4.0]);
            let inputs = DpoInputs {
                ref_chosen: config.uses_reference().then_some(&ref_chosen),
                ref_rejected: config.uses_reference().then_some(&ref_rejected),
                lengths: Some(PairLengths { chosen: &lens, rejected: &lens }),
                ..DpoInputs::new(&chosen, &rejected)
            };
            let loss = dpo_loss(&inputs, &config).unwrap().mean().unwrap();
            loss.backward();
            assert!(loss.double_value(&[]).is_finite(), "{config:?}: {loss:?}");
            for leaf in [&chosen, &rejected] {
                let gradient = leaf.grad();
                let finite = !gradient.defined() || gradient.isfinite().all().int64_value(&[]) == 1;
                assert!(finite, "{config:?}: {gradient:?}");
            }
        }
    }
}

#[test]
fn extremes_of_labels_and_scores_stay_finite() {
    for far in [1e4f32, -1e4] {
        let reference = Tensor::from_slice(&[0.0f32; 2]);
        let leaf = || Tensor::from_slice(&[far, far]).set_requires_grad(true);
        let finite = |loss: Tensor, leaf: &Tensor| {
            loss.backward();
            assert!(loss.double_value(&[]).is_finite() && leaf.grad().isfinite().all().int64_value(&[]) == 1);
        };
        let labels = [true, false];
        let policy = leaf();
        let inputs = KtoInputs { policy: &policy, reference: &reference, desirable: &labels };
        finite(kto_loss(&inputs, 1e4, &KtoConfig::default()).unwrap().mean().unwrap(), &policy);
        let policy = leaf();
        let inputs = KtoInputs { policy: &policy, reference: &reference, desirable: &labels };
        let batch = BcoBatch { shift: -1e4, desirable: 1, undesirable: 1 };
        let config = KtoConfig { loss_type: KtoLossType::Bco, ..Default::default() };
        finite(bco_loss(&inputs, &batch, &config).unwrap().mean().unwrap(), &policy);
        for loss_type in [UnaLossType::Mse, UnaLossType::Bce, UnaLossType::RawMse] {
            let (policy, targets) = (leaf(), Tensor::from_slice(&[1.0, 0.0]));
            let rows = FeedbackInputs { policy: &policy, reference: &reference, targets: &targets };
            let inputs = UnaInputs { scored: Some(rows), ..Default::default() };
            let config = UnaConfig { loss_type, beta: 1.0, ..Default::default() };
            finite(una_loss(&inputs, &config).unwrap().mean().unwrap(), &policy);
        }
    }
}

#[test]
fn gradients_of_labels_and_scores_are_slopes() {
    let reference = Tensor::from_slice(&[-8.0, -9.0, -7.5]);
    let policy = Tensor::from_slice(&[-8.5, -7.0, -9.25]);
    let labels = [true, false, true];
    for loss_type in [KtoLossType::Kto, KtoLossType::ApoZeroUnpaired, KtoLossType::Bco] {
        let config = KtoConfig { loss_type, beta: 0.7, desirable_weight: 1.5, ..Default::default() };
        gradient_check(&[policy.copy()], 1e-7, |t| {
            let inputs = KtoInputs { policy: &t[0], reference: &reference, desirable: &labels };
            let batch = BcoBatch { shift: 0.3, desirable: 2, undesirable: 1 };
            let output = match loss_type {
                KtoLossType::Bco => bco_loss(&inputs, &batch, &config),
                KtoLossType::Kto => kto_loss(&inputs, 0.4, &config),
                _ => kto_loss(&inputs, 0.0, &config),
            };
            output.unwrap().mean().unwrap()
        });
    }
    let targets = Tensor::from_slice(&[0.9, 0.2, 0.5]);
    for loss_type in [UnaLossType::Mse, UnaLossType::Bce, UnaLossType::RawMse, UnaLossType::Qrpo] {
        let config = UnaConfig { loss_type, beta: 0.7, ..Default::default() };
        gradient_check(&[policy.copy()], 1e-7, |t| {
            let rows = FeedbackInputs { policy: &t[0], reference: &reference, targets: &targets };
            let inputs = UnaInputs { scored: Some(rows), ..Default::default() };
            una_loss(&inputs, &config).unwrap().mean().unwrap()
        });
    }
}

/// The gradient of KTO turns round with the label when nothing else changes (h = z0).
#[test]
fn the_label_turns_the_gradient_of_kto_round() {
    let slope = |label: bool| {
        let (policy, reference) =
            (Tensor::from_slice(&[-8.0]).set_requires_grad(true), Tensor::from_slice(&[-9.0]));
        let inputs = KtoInputs { policy: &policy, reference: &reference, desirable: &[label] };
        kto_loss(&inputs, 1.0, &KtoConfig::default()).unwrap().mean().unwrap().backward();
        policy.grad().double_value(&[0])
    };
    assert_close(&[slope(true)], &[-0.025], 1e-12);
    assert_eq!(slope(true), -slope(false));
}

/// The MSE of UNA stops learning from an answer that is far on the wrong side; its cross-entropy does not:
/// slope (s^ − s) β.
#[test]
fn the_cross_entropy_of_una_learns_where_its_squared_error_does_not() {
    let slope = |loss_type| {
        let (policy, reference) =
            (Tensor::from_slice(&[-50.0]).set_requires_grad(true), Tensor::from_slice(&[0.0]));
        let targets = Tensor::from_slice(&[1.0]);
        let rows = FeedbackInputs { policy: &policy, reference: &reference, targets: &targets };
        let inputs = UnaInputs { binary: Some(rows), ..Default::default() };
        let config = UnaConfig { beta: 1.0, loss_type, ..Default::default() };
        una_loss(&inputs, &config).unwrap().mean().unwrap().backward();
        policy.grad().double_value(&[0])
    };
    assert!(slope(UnaLossType::Mse).abs() < 1e-20);
    assert_close(&[slope(UnaLossType::Bce)], &[-1.0], 1e-12);
}

/// A pair of 4,000 tokens each whose sums differ by little: token log-probabilities in float32, summed as this crate
/// does, give the loss of float64; a running sum in float32 does not.
#[test]
fn long_answers_keep_the_margin_that_the_loss_sees() {
    let tokens = 4000;
    let mut rng = RngStream::new(3, Purpose::Init, 0, 0);
    let exact: Vec<f64> = (0..2 * tokens).map(|_| -6.0 + rng.normal()).collect();
    let rounded: Vec<f32> = exact.iter().map(|lp| *lp as f32).collect();
    let references: Vec<f32> = exact.iter().map(|lp| (lp + 1e-3 * rng.normal()) as f32).collect();
    let loss = |policy: &Tensor, reference: &Tensor| {
        let side = |sums: &Tensor, i: i64| sums.narrow(0, i, 1);
        let (ref_chosen, ref_rejected) = (side(reference, 0), side(reference, 1));
        let (chosen, rejected) = (side(policy, 0), side(policy, 1));
        let inputs = DpoInputs {
            ref_chosen: Some(&ref_chosen),
            ref_rejected: Some(&ref_rejected),
            ..DpoInputs::new(&chosen, &rejected)
        };
        let config = DpoConfig { beta: 1.0, ..Default::default() };
        dpo_loss(&inputs, &config).unwrap().mean().unwrap().double_value(&[])
    };
    let sums = |values: &[f32]| {
        TokenLogProbs::new(Tensor::from_slice(values), vec![tokens, tokens]).unwrap().sums().unwrap()
    };
    let wide = |values: &[f32]| {
        let halves = values.chunks(tokens).map(|half| half.iter().map(|v| f64::from(*v)).sum::<f64>());
        Tensor::from_slice(&halves.collect::<Vec<_>>())
    };
    let narrow = |values: &[f32]| {
        let halves = values.chunks(tokens).map(|half| half.iter().sum::<f32>());
        Tensor::from_slice(&halves.collect::<Vec<_>>())
    };
    let expected = loss(&wide(&rounded), &wide(&references));
    assert_close(&[loss(&sums(&rounded), &sums(&references))], &[expected], 1e-9);
    let off = (loss(&narrow(&rounded), &narrow(&references)) - expected).abs();
    assert!(off > 1e-4, "a running sum in float32 was off by {off} only: the case is too easy");
}

#[test]
fn inputs_that_do_not_fit_the_loss_are_refused() {
    let one = Tensor::from_slice(&[-1.0]);
    let with_reference =
        DpoInputs { ref_chosen: Some(&one), ref_rejected: Some(&one), ..DpoInputs::new(&one, &one) };
    let free = DpoInputs::new(&one, &one);
    let refusal =
        |inputs: &DpoInputs<'_>, config: DpoConfig| dpo_loss(inputs, &config).unwrap_err().to_string();
    let of = DpoConfig::of;
    assert!(refusal(&with_reference, of(DpoLossType::Ipo)).contains("averages over tokens"));
    assert!(refusal(&with_reference, of(DpoLossType::Sft)).contains("reference-free"));
    assert!(refusal(&free, of(DpoLossType::Hinge)).contains("missing"));
    assert!(refusal(&with_reference, of(DpoLossType::ExoPair)).contains("label-smoothing"));
    let weighted = DpoConfig { use_weighting: true, ..Default::default() };
    assert!(refusal(&with_reference, weighted).contains("missing, as use_weighting"));
    let weights = DpoInputs { weights: Some(&one), ..with_reference };
    assert!(refusal(&weights, DpoConfig::default()).contains("without use_weighting"));
    let two = Tensor::from_slice(&[1i64, 2]);
    let lengths = DpoInputs { lengths: Some(PairLengths { chosen: &two, rejected: &two }), ..with_reference };
    assert!(refusal(&lengths, of(DpoLossType::Ipo)).contains("lengths of chosen answers has shape [2]"));
    let labels = KtoInputs { policy: &one, reference: &one, desirable: &[true, false] };
    assert!(kto_loss(&labels, 0.0, &KtoConfig::default()).is_err());
    let label = KtoInputs { desirable: &[true], ..labels };
    for baseline in [-1.0, f64::NAN, f64::INFINITY] {
        let error = kto_loss(&label, baseline, &KtoConfig::default()).unwrap_err().to_string();
        assert!(error.contains("baseline"), "{error}");
    }
    let unpaired = KtoConfig { loss_type: KtoLossType::ApoZeroUnpaired, ..Default::default() };
    assert!(kto_loss(&label, 0.5, &unpaired).unwrap_err().to_string().contains("has none"));
    let batch = BcoBatch { shift: 0.0, desirable: 0, undesirable: 5 };
    assert!(
        bco_loss(&label, &batch, &KtoConfig::default()).unwrap_err().to_string().contains("more answers")
    );
    for target in [-0.1, 1.1, f64::NAN] {
        let targets = Tensor::from_slice(&[target]);
        let rows = FeedbackInputs { policy: &one, reference: &one, targets: &targets };
        let inputs = UnaInputs { scored: Some(rows), ..Default::default() };
        assert!(una_loss(&inputs, &UnaConfig::default()).unwrap_err().to_string().contains("outside [0, 1]"));
    }
    let rows = FeedbackInputs { policy: &one, reference: &one, targets: &one };
    let inputs = UnaInputs { binary: Some(rows), ..Default::default() };
    let raw = UnaConfig { loss_type: UnaLossType::RawMse, ..Default::default() };
    assert!(una_loss(&inputs, &raw).unwrap_err().to_string().contains("no scale"));
}
