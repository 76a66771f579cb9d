//! Golden vectors, computed in float64 with numpy and checked by hand; never copied from our own output.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use align_core::{LossOutput, tch::Tensor};
use align_rm::{
    Comparison, PairInputs, RewardConfig, ScoreLoss, TieRule, comparison_loss, label_loss, pair_loss,
    regression_loss,
};
use align_testkit::{assert_close, gradient_check};

const SCORES: [f64; 4] = [1.2, 0.3, -0.5, 0.9];

fn value(output: &LossOutput) -> f64 {
    output.mean().unwrap().double_value(&[])
}

fn metric(output: &LossOutput, name: &str) -> f64 {
    let terms = output.metrics.iter().filter(|term| term.name == name);
    let (sum, count) = terms.fold((0.0, 0.0), |(sum, count), term| (sum + term.sum, count + term.count));
    sum / count
}

fn softplus(z: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p()
}

/// G1: four answers in strict order; the gradient is that of 2203.02155 eq. 1.
#[test]
fn a_ranking_has_the_loss_and_the_gradient_of_the_paper() {
    let scores = Tensor::from_slice(&SCORES).set_requires_grad(true);
    let ranking = Comparison::of_ranks(&[1, 2, 3, 4], 0, TieRule::Skip);
    assert_eq!(ranking.len(), 6);
    let loss = comparison_loss(&scores, &[ranking], &RewardConfig::default()).unwrap();
    assert_close(&[value(&loss)], &[0.68205020], 5e-9);
    assert_eq!(loss.components[0].denominator, 1.0);
    loss.mean().unwrap().backward();
    let gradient: Vec<f64> = Vec::try_from(scores.grad()).unwrap();
    assert_close(&gradient, &[-0.14484554, -0.11110522, -0.05628218, 0.31223295], 5e-9);
}

/// G1 with answers 1 and 2 tied: five comparisons are left, and the divisor is 5 and not 6.
#[test]
fn skipped_ties_are_not_in_the_divisor() {
    let scores = Tensor::from_slice(&SCORES);
    let ranking = Comparison::of_ranks(&[1, 2, 2, 3], 0, TieRule::Skip);
    assert_eq!(ranking.len(), 5);
    let loss = comparison_loss(&scores, &[ranking], &RewardConfig::default()).unwrap();
    assert_close(&[value(&loss), value(&loss) * 5.0 / 6.0], &[0.74424010, 0.62020008], 5e-9);
}

/// G1: margin 1 on the pair (1.2, 0.3), and centering with 0.01: 0.35410... + 0.01 · (1.2 + 0.3)².
#[test]
fn margins_and_centering() {
    let (chosen, rejected) = (Tensor::from_slice(&[1.2]), Tensor::from_slice(&[0.3]));
    let plain = PairInputs::new(&chosen, &rejected);
    let margin = PairInputs { margins: Some(&[1.0]), ..plain };
    assert_close(&[value(&pair_loss(&margin, &RewardConfig::default()).unwrap())], &[0.74439666], 5e-9);
    let config = RewardConfig { center_rewards_coefficient: 0.01, ..Default::default() };
    let loss = pair_loss(&plain, &config).unwrap();
    assert_close(&[value(&loss)], &[0.36365387], 5e-9);
    let names: Vec<_> = loss.components.iter().map(|c| (c.name, c.weight, c.denominator)).collect();
    assert_eq!(names, [("loss/pairs", 1.0, 1.0), ("loss/centering", 0.01, 1.0)]);
    assert_close(&[metric(&loss, "rewards/margins")], &[0.9], 1e-12);
}

/// −p log σ(d) − (1 − p) log σ(−d) by hand; smoothing mixes p with 1 − p, and p = 1 with ε is p = 1 − ε.
#[test]
fn soft_labels_and_smoothing() {
    let (chosen, rejected) = (Tensor::from_slice(&[1.2]), Tensor::from_slice(&[0.3]));
    let soft = |p: f64, epsilon: f64| {
        let inputs = PairInputs { preferences: Some(&[p]), ..PairInputs::new(&chosen, &rejected) };
        let config = RewardConfig { label_smoothing: epsilon, ..Default::default() };
        value(&pair_loss(&inputs, &config).unwrap())
    };
    let by_hand = |q: f64| q * softplus(-0.9) + (1.0 - q) * softplus(0.9);
    for (p, epsilon, q) in [(1.0, 0.1, 0.9), (0.7, 0.0, 0.7), (0.7, 0.1, 0.66), (0.0, 0.0, 0.0)] {
        assert_close(&[soft(p, epsilon)], &[by_hand(q)], 1e-12);
    }
}

/// Rao and Kupper: the probabilities of the three outcomes add up to 1, a tie of equal scores has tanh(η / 2), and
/// the losses are their negative logarithms. Worths π are e^1.2 and e^0.3, θ = e^0.7.
#[test]
fn ties_have_the_probability_of_rao_and_kupper() {
    let config = RewardConfig { ties: TieRule::RaoKupper, tie_margin: Some(0.7), ..Default::default() };
    let of = |scores: [f64; 2], comparison: Comparison| {
        let loss = comparison_loss(&Tensor::from_slice(&scores), &[vec![comparison]], &config).unwrap();
        (-value(&loss)).exp()
    };
    let (a, b, theta) = (1.2f64.exp(), 0.3f64.exp(), 0.7f64.exp());
    let first = of([1.2, 0.3], Comparison::new(0, 1));
    let second = of([1.2, 0.3], Comparison::new(1, 0));
    let tie = of([1.2, 0.3], Comparison::tie(0, 1));
    assert_close(&[first, second], &[a / (a + theta * b), b / (b + theta * a)], 1e-12);
    assert_close(&[tie], &[(theta * theta - 1.0) * a * b / ((a + theta * b) * (b + theta * a))], 1e-12);
    assert_close(&[first + second + tie], &[1.0], 1e-12);
    assert_close(&[of([0.4, 0.4], Comparison::tie(0, 1))], &[0.35f64.tanh()], 1e-12);
}

/// A tie at half and half: (softplus(d) + softplus(−d)) / 2, ln 2 at equal scores; it is in the divisor.
#[test]
fn ties_of_one_half_pull_scores_together() {
    let config = RewardConfig { ties: TieRule::Half, ..Default::default() };
    let scores = Tensor::from_slice(&SCORES);
    let ranking = Comparison::of_ranks(&[1, 2, 2, 3], 0, TieRule::Half);
    let loss = comparison_loss(&scores, &[ranking], &config).unwrap();
    // Five ordered comparisons add up to 5 · 0.7442401; the tie is of 0.3 and −0.5.
    let tie = (softplus(0.8) + softplus(-0.8)) / 2.0;
    assert_close(&[value(&loss)], &[(5.0 * 0.74424010 + tie) / 6.0], 5e-9);
    let equal = comparison_loss(&Tensor::from_slice(&[0.3, 0.3]), &[vec![Comparison::tie(0, 1)]], &config);
    assert_close(&[value(&equal.unwrap())], &[std::f64::consts::LN_2], 1e-12);
}

/// Scores 2, 1 | 0, 0 | 1, 3 and a pair of which nothing is known: one right, one tie, one wrong.
#[test]
fn metrics_are_of_the_comparisons_with_a_better_answer() {
    let chosen = Tensor::from_slice(&[2.0, 0.0, 1.0, 9.0]);
    let rejected = Tensor::from_slice(&[1.0, 0.0, 3.0, 7.0]);
    let inputs =
        PairInputs { preferences: Some(&[0.8, 1.0, 1.0, 0.5]), ..PairInputs::new(&chosen, &rejected) };
    let loss = pair_loss(&inputs, &RewardConfig::default()).unwrap();
    let names =
        ["rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "rewards/ties"];
    let got = names.map(|name| metric(&loss, name));
    assert_close(&got, &[1.0, 4.0 / 3.0, -1.0 / 3.0, 0.5, 1.0 / 3.0], 1e-12);
    // With 0.2 the second answer is the better one.
    let turned = PairInputs { preferences: Some(&[0.2, 1.0, 1.0, 0.5]), ..inputs };
    assert_close(
        &[metric(&pair_loss(&turned, &RewardConfig::default()).unwrap(), names[0])],
        &[2.0 / 3.0],
        1e-12,
    );
}

/// Squared errors and cross-entropies by hand.
#[test]
fn labels_and_scores() {
    let scores = Tensor::from_slice(&[0.4, -1.0]);
    let labels = label_loss(&scores, &[true, false], &RewardConfig::default()).unwrap();
    assert_close(&[value(&labels)], &[(softplus(-0.4) + softplus(-1.0)) / 2.0], 1e-12);
    assert_close(
        &[metric(&labels, "rewards/chosen"), metric(&labels, "rewards/rejected")],
        &[0.4, -1.0],
        1e-12,
    );
    let mse = regression_loss(&scores, &[1.0, -3.0], &RewardConfig::default()).unwrap();
    assert_close(&[value(&mse)], &[(0.36 + 4.0) / 2.0], 1e-12);
    let config = RewardConfig {
        score_loss: ScoreLoss::Bce,
        score_min: Some(1.0),
        score_max: Some(5.0),
        ..Default::default()
    };
    let bce = regression_loss(&scores, &[4.0, 1.0], &config).unwrap();
    let expected = (0.75 * softplus(-0.4) + 0.25 * softplus(0.4) + softplus(-1.0)) / 2.0;
    assert_close(&[value(&bce)], &[expected], 1e-12);
}

/// Every loss of comparisons with every option, and those of single answers.
#[test]
fn gradients_are_slopes() {
    let scores = Tensor::from_slice(&[1.2, 0.3, -0.5, 0.9, 0.2]);
    let ranks = [2, 1, 2, 3, 3];
    for (ties, tie_margin) in [(TieRule::Skip, None), (TieRule::Half, None), (TieRule::RaoKupper, Some(0.4))]
    {
        let config = RewardConfig {
            ties,
            tie_margin,
            label_smoothing: 0.1,
            center_rewards_coefficient: 0.05,
            ..Default::default()
        };
        let soft = Comparison { margin: 0.3, preference: 0.7, ..Comparison::new(4, 0) };
        let prompts = [Comparison::of_ranks(&ranks, 0, ties), vec![soft]];
        gradient_check(&[scores.copy()], 1e-7, |t| {
            comparison_loss(&t[0], &prompts, &config).unwrap().mean().unwrap()
        });
    }
    let labels = [true, false, true, true, false];
    gradient_check(&[scores.copy()], 1e-7, |t| {
        label_loss(&t[0], &labels, &RewardConfig::default()).unwrap().mean().unwrap()
    });
    for score_loss in [ScoreLoss::Mse, ScoreLoss::Bce] {
        let config = RewardConfig { score_loss, ..Default::default() };
        gradient_check(&[scores.copy()], 1e-7, |t| {
            regression_loss(&t[0], &[0.1, 0.0, 1.0, 0.5, 0.7], &config).unwrap().mean().unwrap()
        });
    }
}

/// Differences of ±20,000 in float32: the logarithm of σ would be −∞.
#[test]
fn saturated_differences_stay_finite() {
    let scores = Tensor::from_slice(&[-10_000.0f32, 10_000.0]).set_requires_grad(true);
    for (ties, tie_margin) in [(TieRule::Half, None), (TieRule::RaoKupper, Some(100.0))] {
        let config = RewardConfig { ties, tie_margin, ..Default::default() };
        let prompts = [vec![Comparison::new(0, 1)], vec![Comparison::new(1, 0)], vec![Comparison::tie(0, 1)]];
        let loss = comparison_loss(&scores, &prompts, &config).unwrap().mean().unwrap();
        assert!(loss.double_value(&[]).is_finite());
        loss.backward();
    }
    let gradient: Vec<f32> = Vec::try_from(scores.grad()).unwrap();
    assert!(gradient.iter().all(|slope| slope.is_finite()) && gradient[0] < 0.0, "{gradient:?}");
}
