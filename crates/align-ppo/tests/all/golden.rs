//! Golden vectors G3, G4 and G7 (float64; computed with numpy and checked by hand), and one of A2C derived here.

use align_core::{
    align_types::{Completion, FinishReason, PromptGroup, Trajectory},
    stats::{Divisor, Mean},
    tch::Tensor,
};
use align_ppo::{
    AdvantageKind, Averaging, GaeInputs, KlController, KlEstimator, OverlongPenalty, PolicyAggregation,
    PolicyInputs, PolicyLoss, PpoConfig, ShapingInputs, ValueInputs, centred, estimate_advantages, gae,
    group_normalised, has_signal, kl_estimate, leave_one_out, overlong_penalty, policy_loss, shape_rewards,
    value_loss, whiten,
};

use crate::common::{assert_close, trajectory};

const OLD: [f32; 4] = [-1.0, -0.5, -2.0, -0.7];
const REFERENCE: [f32; 4] = [-1.2, -0.4, -1.5, -0.7];
const VALUES: [f64; 4] = [0.2, 0.4, 0.5, 0.9];
const REWARDS: [f64; 4] = [-0.02, 0.01, 0.05, 1.5];
const WHITE: [f64; 4] = [1.00831815, 0.45339373, 0.19365124, -1.65536312];
const RETURNS: [f64; 4] = [1.40505, 1.479, 1.52, 1.5];

/// The answer of G3. Its log-probabilities and values are written in float32: 1e-7 apart from the decimals.
fn answer() -> Completion {
    let trajectory = Trajectory {
        old: OLD.to_vec(),
        reference: REFERENCE.to_vec(),
        values: VALUES.iter().map(|v| *v as f32).collect(),
        ..Trajectory::default()
    };
    Completion {
        reward: Some(1.5),
        finish_reason: Some(FinishReason::Stop),
        trajectory: Some(Box::new(trajectory)),
        ..Completion::new(vec![1, 2, 3, 4])
    }
}

fn config() -> PpoConfig {
    PpoConfig { kl_coef: 0.1, whiten_advantages: false, ..PpoConfig::default() }
}

fn run(mut completion: Completion, config: &PpoConfig, kl_coef: f64) -> Trajectory {
    completion.trajectory.get_or_insert_default().value_after = Some(0.6);
    let mut groups = [PromptGroup::new(vec![0], vec![completion])];
    shape_rewards(&mut groups, config, ShapingInputs { kl_coef, ..Default::default() }).unwrap();
    estimate_advantages(&mut groups, config, None).unwrap();
    trajectory(&groups[0].completions[0]).clone()
}

#[test]
fn g3_rewards_and_advantages_through_the_phases() {
    let out = run(answer(), &config(), 0.1);
    assert_close(&out.rewards, &REWARDS, 1e-7);
    assert_close(&out.advantages, &[1.20505, 1.079, 1.02, 0.6], 1e-6);
    assert_close(&out.returns, &RETURNS, 1e-6);
    let one = run(answer(), &PpoConfig { lam: 1.0, ..config() }, 0.1);
    assert_close(&one.advantages, &[1.34, 1.16, 1.05, 0.6], 1e-6);
    let discounted = run(answer(), &PpoConfig { gamma: 0.99, lam: 0.9, ..config() }, 0.1);
    assert_close(&discounted.advantages, &[1.0440653, 0.9742596, 0.9756, 0.6], 1e-6);
    let white = run(answer(), &PpoConfig { whiten_advantages: true, ..config() }, 0.1);
    assert_close(&white.advantages, &WHITE, 1e-5);
    // Returns are those before whitening.
    assert_close(&white.returns, &RETURNS, 1e-6);
}

#[test]
fn g3_gae_to_all_digits() {
    let of = |rewards: &[f64], bootstrap, gamma, lam| {
        gae(&GaeInputs { rewards, values: &VALUES, bootstrap, gamma, lam }).unwrap()
    };
    let out = of(&REWARDS, 0.0, 1.0, 0.95);
    assert_close(&out.advantages, &[1.20505, 1.079, 1.02, 0.6], 1e-12);
    assert_close(&out.returns, &RETURNS, 1e-12);
    assert_close(&of(&REWARDS, 0.0, 1.0, 1.0).advantages, &[1.34, 1.16, 1.05, 0.6], 1e-12);
    assert_close(&of(&REWARDS, 0.0, 0.99, 0.9).advantages, &[1.0440653, 0.9742596, 0.9756, 0.6], 1e-7);
    let cut = of(&[-0.02, 0.01, 0.05, 0.0], 0.6, 1.0, 0.95);
    assert_close(&cut.advantages, &[0.4334125, 0.26675, 0.165, -0.3], 1e-12);
}

/// Cut off: no score, the value of the state behind the answer (0.6) instead.
#[test]
fn g3_truncation_through_the_phases() {
    let cut = Completion { finish_reason: Some(FinishReason::Length), ..answer() };
    let out = run(cut, &config(), 0.1);
    assert_close(&out.rewards, &[-0.02, 0.01, 0.05, 0.0], 1e-7);
    assert_close(&out.advantages, &[0.4334125, 0.26675, 0.165, -0.3], 1e-6);
}

#[test]
fn g3_whitening() {
    let of = |mean, divisor| {
        let mut lists = [vec![1.20505], vec![1.079, 1.02, 0.6]];
        whiten(&mut lists, mean, divisor);
        lists.concat()
    };
    assert_close(&of(Mean::Remove, Divisor::Count), &WHITE, 1e-7);
    let kept = [1.98433065, 1.42940623, 1.16966374, -0.67935062];
    assert_close(&of(Mean::Keep, Divisor::Count), &kept, 1e-7);
    let unbiased = [0.87322916, 0.39265050, 0.16770689, -1.43358655];
    assert_close(&of(Mean::Remove, Divisor::CountMinusOne), &unbiased, 1e-7);
}

#[test]
fn g3_losses() {
    let tensor = |values: &[f64]| Tensor::from_slice(values);
    let (new, old) = (tensor(&[-0.8, -0.9, -2.0, -0.65]), tensor(&[-1.0, -0.5, -2.0, -0.7]));
    let advantages = tensor(&WHITE);
    let inputs = PolicyInputs {
        log_probs: &new,
        old: &old,
        advantages: &advantages,
        reference: None,
        entropy: None,
        lens: &[4],
    };
    let loss = policy_loss(&inputs, &PolicyLoss::of(&PpoConfig::default(), 128)).unwrap();
    assert_close(&[loss.mean().unwrap().double_value(&[])], &[0.00817087], 1e-7);
    let metric = |name: &str| {
        let term = loss.metrics.iter().find(|term| term.name == name).unwrap();
        term.sum / term.count
    };
    assert_close(&[metric("policy/clipfrac_avg"), metric("policy/approxkl_avg")], &[0.25, 0.0253125], 1e-9);
    let ratio = (1.22140276 + 0.67032005 + 1.0 + 1.05127110) / 4.0;
    assert_close(&[metric("val/ratio"), metric("loss/policy_avg")], &[ratio, 0.00817087], 1e-7);
    let (values, old, returns) = (tensor(&[0.5, 0.3, 1.0, 1.2]), tensor(&VALUES), tensor(&RETURNS));
    let loss = value_loss(&ValueInputs { values: &values, old: &old, returns: &returns }, 0.2).unwrap();
    assert_close(&[loss.mean().unwrap().double_value(&[])], &[0.40407081], 1e-7);
    // Clipped values (.4, .3, .7, 1.1) are farther from the returns than (.5, .3, 1, 1.2) at three tokens.
    assert_close(&[loss.metrics[0].sum / loss.metrics[0].count], &[0.75], 1e-12);
}

#[test]
fn g3_adaptive_controller() {
    let config = PpoConfig { kl_coef: 0.15, kl_target: Some(6.0), ..Default::default() };
    let mut controller = KlController::new(&config);
    controller.update(9.0, 64).unwrap();
    assert_close(&[controller.coef()], &[0.150192], 1e-12);
    let mut fixed = KlController::new(&PpoConfig { kl_target: None, ..config });
    fixed.update(9.0, 64).unwrap();
    assert_eq!(fixed.coef(), 0.15);
}

#[test]
fn g4_estimators() {
    let of = |estimator| -> Vec<f64> {
        let pairs = [(-1.0, -1.2), (-0.5, -0.4), (-2.0, -1.5), (-0.7, -0.7)];
        pairs
            .iter()
            .map(|(policy, reference): &(f64, f64)| kl_estimate(estimator, policy - reference))
            .collect()
    };
    assert_close(&of(KlEstimator::K1), &[0.2, -0.1, -0.5, 0.0], 1e-12);
    assert_close(&of(KlEstimator::K2), &[0.02, 0.005, 0.125, 0.0], 1e-12);
    assert_close(&of(KlEstimator::K3), &[0.01873075, 0.00517092, 0.14872127, 0.0], 5e-9);
}

#[test]
fn g7_groups() {
    let rewards = [1.0, 0.0, 0.0, 0.5];
    assert_close(&leave_one_out(&rewards), &[0.83333333, -0.5, -0.5, 0.16666667], 1e-8);
    let unbiased = group_normalised(&rewards, Divisor::CountMinusOne, 1e-4);
    assert_close(&unbiased, &[1.30530975, -0.78318585, -0.78318585, 0.26106195], 1e-8);
    let biased = group_normalised(&rewards, Divisor::Count, 0.0);
    assert_close(&biased, &[1.50755672, -0.90453403, -0.90453403, 0.30151134], 1e-8);
    assert_close(&centred(&rewards), &[0.625, -0.375, -0.375, 0.125], 1e-12);
}

/// The same numbers through the phases, each kind with its own.
#[test]
fn g7_groups_through_the_phases() {
    for (kind, expected) in [
        (AdvantageKind::Rloo, [0.83333333, -0.5, -0.5, 0.16666667]),
        (AdvantageKind::Grpo, [1.30530975, -0.78318585, -0.78318585, 0.26106195]),
        (AdvantageKind::Dapo, [1.30530975, -0.78318585, -0.78318585, 0.26106195]),
        (AdvantageKind::DrGrpo, [0.625, -0.375, -0.375, 0.125]),
    ] {
        let config = PpoConfig::for_advantage(kind);
        let mut groups = [crate::common::rewards(&[1.0, 0.0, 0.0, 0.5])];
        shape_rewards(&mut groups, &config, ShapingInputs::default()).unwrap();
        estimate_advantages(&mut groups, &config, None).unwrap();
        assert_close(&crate::common::advantages(&groups), &expected, 1e-8);
    }
}

#[test]
fn g7_aggregation() {
    let terms = Tensor::from_slice(&[1.0, 3.0, 2.0, 2.0, 4.0, 1.0]);
    let of = |mode| {
        let averaging = Averaging { mode, token_limit: 8 };
        let sum =
            averaging.weigh(&terms, &[2, 4]).unwrap().sum(align_core::tch::Kind::Double).double_value(&[]);
        sum / averaging.denominator([2, 4].into_iter())
    };
    assert_close(&[of(PolicyAggregation::SeqMeanMean)], &[2.125], 1e-12);
    assert_close(&[of(PolicyAggregation::TokenMean)], &[2.16666667], 1e-8);
    assert_close(&[of(PolicyAggregation::SeqSumMean)], &[6.5], 1e-12);
    assert_close(&[of(PolicyAggregation::SeqSumConst)], &[0.8125], 1e-12);
}

#[test]
fn g7_overlong() {
    let of = |tokens| overlong_penalty(tokens, OverlongPenalty { max: 20, cache: 5 });
    assert_close(&[15, 16, 18, 20, 21].map(of), &[0.0, -0.2, -0.6, -1.0, -1.0], 1e-12);
}

/// A2C on the answer of G3 with γ = 0.9. Rewards-to-go, from the end:
/// G3 = 1.5, G2 = .05 + .9 · 1.5 = 1.4, G1 = .01 + .9 · 1.4 = 1.27, G0 = −.02 + .9 · 1.27 = 1.123;
/// less the values (.2, .4, .5, .9): (.923, .87, .9, .6). The returns are the rewards-to-go, whatever λ says.
/// Cut off, with .6 behind it and no score: G3 = .9 · .6 = .54, G2 = .05 + .9 · .54 = .536, G1 = .01 + .9 · .536 = .4924,
/// G0 = −.02 + .9 · .4924 = .42316; less the values: (.22316, .0924, .036, −.36).
#[test]
fn a2c_is_rewards_to_go_less_the_value() {
    let config =
        PpoConfig { kl_coef: 0.1, gamma: 0.9, lam: 0.3, ..PpoConfig::for_advantage(AdvantageKind::A2c) };
    config.validate().unwrap();
    let out = run(answer(), &config, 0.1);
    assert_close(&out.advantages, &[0.923, 0.87, 0.9, 0.6], 1e-6);
    assert_close(&out.returns, &[1.123, 1.27, 1.4, 1.5], 1e-6);
    let cut = Completion { finish_reason: Some(FinishReason::Length), ..answer() };
    assert_close(&run(cut, &config, 0.1).advantages, &[0.22316, 0.0924, 0.036, -0.36], 1e-6);
    // Its loss is not clipped: −A ρ at ρ = 2 and A = 1 is −2, where PPO has −1.2.
    let (new, old, one) =
        (Tensor::from_slice(&[2f64.ln()]), Tensor::from_slice(&[0f64]), Tensor::from_slice(&[1f64]));
    let inputs = PolicyInputs {
        log_probs: &new,
        old: &old,
        advantages: &one,
        reference: None,
        entropy: None,
        lens: &[1],
    };
    let value = |config: &PpoConfig| {
        policy_loss(&inputs, &PolicyLoss::of(config, 1)).unwrap().mean().unwrap().double_value(&[])
    };
    assert_close(&[value(&config), value(&PpoConfig::default())], &[-2.0, -1.2], 1e-12);
}

/// G13: of a group of 8 answers, each right with probability p, the probability of an advantage that is not 0, summed over
/// all 256 outcomes: 1 − p^8 − (1 − p)^8.
#[test]
fn groups_have_a_signal_as_often_as_their_answers_differ() {
    for (p, expected) in [(0.05f64, 0.33657957), (0.5, 0.99218750)] {
        let mut sum = 0.0;
        for outcome in 0..1u32 << 8 {
            let rewards: Vec<f64> = (0..8).map(|answer| f64::from(outcome >> answer & 1)).collect();
            let right = outcome.count_ones() as i32;
            let chance = p.powi(right) * (1.0 - p).powi(8 - right);
            let advantages = group_normalised(&rewards, Divisor::CountMinusOne, 1e-4);
            let answers =
                rewards.iter().map(|reward| Completion { reward: Some(*reward), ..Completion::new(vec![1]) });
            let teaches = advantages.iter().any(|advantage| *advantage != 0.0);
            assert_eq!(teaches, has_signal(&PromptGroup::new(vec![0], answers.collect())), "{rewards:?}");
            for other in [centred(&rewards), leave_one_out(&rewards)] {
                assert_eq!(teaches, other.iter().any(|advantage| *advantage != 0.0), "{rewards:?}");
            }
            sum += if teaches { chance } else { 0.0 };
        }
        assert_close(&[sum], &[expected], 5e-9);
    }
}
