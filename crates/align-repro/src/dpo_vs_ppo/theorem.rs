//! Theorem 4.1 of 2404.10719 on its own three-response example, and two exact examples beside it.

use std::collections::BTreeMap;

use align_core::{
    align_types::{Purpose, RngStream},
    tch::{Kind, Tensor},
};
use serde::{Deserialize, Serialize};

use super::{
    Tamper,
    exact::{Sides, dpo_terms, kl_optimum, ppo_objective},
};
use crate::{Result, progress::UnitProgress};

/// Stands for probability 0, whose logarithm tensors cannot hold.
const ZERO: f64 = 1e-300;

/// Random rewards and references for the subset half of the theorem.
const DRAWS: u64 = 1000;

/// Gradient steps on the transient example; the third response is back below its start after some 1500.
const TRANSIENT_STEPS: usize = 4000;
const TRANSIENT_RATE: f64 = 0.02;

/// Steps between kept points of a path.
const KEEP_EVERY: usize = 40;

const ABSTAIN_STEPS: usize = 4000;
const ABSTAIN_RATE: f64 = 2.0;

/// What the part leads to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TheoremResult {
    /// Exact figures by the ids of their claims.
    pub figures: BTreeMap<String, f64>,
    /// Mass of the third response over the steps, when the chosen response starts less likely.
    pub rises: Vec<(f64, f64)>,
    /// The same when it starts more likely.
    pub falls: Vec<(f64, f64)>,
}

/// Computes all figures; a second or two.
///
/// # Errors
/// An operation on tensors fails, or the user stops the run.
pub fn run(tamper: Tamper, progress: &UnitProgress<'_>) -> Result<TheoremResult> {
    let mut figures = BTreeMap::new();
    let mut put = |id: &str, value: f64| figures.insert(id.to_owned(), value);
    put("dpo-minimum", table_loss(&DPO_MINIMISER, tamper)?);
    put("ppo-solution-is-dpo-minimum", table_loss(&PPO_SOLUTION, tamper)?);
    put("ppo-refuses", smallest_advantage()?);
    put("ppo-subset", largest_subset_gap(tamper, progress)?);
    progress.share(0.4);
    let rises = transient([0.2, 0.78, 0.02], tamper, progress)?;
    put("transient-peak", rises.iter().fold(0.0, |most: f64, p| most.max(*p)));
    put("transient-falls", rises.last().copied().unwrap_or(f64::NAN));
    progress.share(0.6);
    let falls = transient([0.78, 0.2, 0.02], tamper, progress)?;
    let start = falls.first().copied().unwrap_or(f64::NAN);
    put("transient-never", falls.iter().fold(f64::NEG_INFINITY, |most: f64, p| most.max(p - start)));
    progress.share(0.8);
    put("abstain-optimum", abstain_optimum(progress)?);
    put("answer-threshold", answer_threshold());
    let kept = |path: &[f64]| {
        path.iter().enumerate().step_by(KEEP_EVERY).map(|(step, mass)| (step as f64, *mass)).collect()
    };
    Ok(TheoremResult { figures, rises: kept(&rises), falls: kept(&falls) })
}

/// Table 1 of the paper: probabilities of (y1, y2, y3); the data are one pair, y1 preferred to y2.
const REFERENCE: [f64; 3] = [0.5, 0.5, ZERO];
const DPO_MINIMISER: [f64; 3] = [0.1, ZERO, 0.9];
const PPO_SOLUTION: [f64; 3] = [1.0, ZERO, ZERO];

fn log(probabilities: &[f64; 3]) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(&probabilities.map(f64::ln))?)
}

/// Takes response `index` of log-probabilities `[3]` as a batch of one.
fn response(policy: &Tensor, index: i64) -> Result<Tensor> {
    Ok(policy.f_narrow(0, index, 1)?)
}

/// Computes the DPO loss of the one pair under a policy `[3]` with a reference `[3]`.
fn pair_loss(policy: &Tensor, reference: &Tensor, beta: f64, tamper: Tamper) -> Result<Tensor> {
    let (chosen, rejected) = (response(policy, 0)?, response(policy, 1)?);
    let (ref_chosen, ref_rejected) = (response(reference, 0)?, response(reference, 1)?);
    let policy = Sides { chosen: &chosen, rejected: &rejected };
    let reference = Sides { chosen: &ref_chosen, rejected: &ref_rejected };
    Ok(dpo_terms(policy, reference, beta, tamper)?.f_sum(Kind::Double)?)
}

fn table_loss(policy: &[f64; 3], tamper: Tamper) -> Result<f64> {
    Ok(pair_loss(&log(policy)?, &log(&REFERENCE)?, 1.0, tamper)?.f_double_value(&[])?)
}

/// Computes how much PPO's objective prefers its solution to the DPO minimiser, at least over a grid of reward
/// models that fit the pair better and better (r1 − r2 = 2 to 200) with any r3 up to 500.
fn smallest_advantage() -> Result<f64> {
    let (solution, minimiser, reference) = (log(&PPO_SOLUTION)?, log(&DPO_MINIMISER)?, log(&REFERENCE)?);
    let mut least = f64::INFINITY;
    for gap in [1.0, 10.0, 100.0] {
        for third in [-100.0, 0.0, 10.0, 100.0, 500.0] {
            let reward = Tensor::f_from_slice(&[gap, -gap, third])?;
            let value = |policy: &Tensor| {
                Ok::<f64, crate::Error>(ppo_objective(policy, &reference, &reward, 1.0)?.f_double_value(&[])?)
            };
            least = least.min(value(&solution)? - value(&minimiser)?);
        }
    }
    Ok(least)
}

/// Computes |L_DPO(π_r) − (−log σ(r1 − r2))| for the optimum π_r of random rewards, references and β: the DPO
/// loss of a PPO solution is the loss of the reward model it came from, so both are minimal together.
fn largest_subset_gap(tamper: Tamper, progress: &UnitProgress<'_>) -> Result<f64> {
    let mut largest: f64 = 0.0;
    for draw in 0..DRAWS {
        let mut random = RngStream::new(0, Purpose::Synthetic, draw, 0);
        let rewards = [0; 3].map(|_| 4.0 * random.normal());
        let reference =
            Tensor::f_from_slice(&[0; 3].map(|_| random.normal()))?.f_log_softmax(0, Kind::Double)?;
        let beta = 0.05 + random.uniform();
        let optimum = kl_optimum(&reference, &Tensor::f_from_slice(&rewards)?, beta)?;
        let loss = pair_loss(&optimum, &reference, beta, tamper)?.f_double_value(&[])?;
        let margin = rewards[0] - rewards[1];
        // −log σ(m) = log(1 + exp(−m)), without overflow.
        let reward_loss = (-margin).max(0.0) + (-margin.abs()).exp().ln_1p();
        largest = largest.max((loss - reward_loss).abs());
        progress.check()?;
    }
    Ok(largest)
}

/// Runs gradient descent on independent logits with DPO on the one pair and returns the mass of the third
/// response before each step.
///
/// The gradient moves the logit of the chosen response up and that of the rejected one down by the same amount
/// and leaves the third alone; still its mass rises while chosen + rejected shrink.
fn transient(start: [f64; 3], tamper: Tamper, progress: &UnitProgress<'_>) -> Result<Vec<f64>> {
    let reference = log(&start)?;
    let mut logits = log(&start)?;
    let mut masses = Vec::with_capacity(TRANSIENT_STEPS);
    for step in 0..TRANSIENT_STEPS {
        let leaf = logits.f_set_requires_grad(true)?;
        let policy = leaf.f_log_softmax(0, Kind::Double)?;
        masses.push(policy.f_detach()?.f_double_value(&[2])?.exp());
        let loss = pair_loss(&policy, &reference, 1.0, tamper)?;
        logits = descend(&leaf, &loss, TRANSIENT_RATE)?;
        if step.is_multiple_of(100) {
            progress.check()?;
        }
    }
    Ok(masses)
}

/// Takes one plain gradient step and returns the new value, detached.
fn descend(leaf: &Tensor, loss: &Tensor, rate: f64) -> Result<Tensor> {
    let gradient = Tensor::f_run_backward(&[loss], &[leaf], false, false)?;
    match gradient.into_iter().next() {
        Some(gradient) => Ok(leaf.f_detach()?.f_sub(&gradient.f_mul_scalar(rate)?)?),
        None => Ok(leaf.f_detach()?),
    }
}

/// Maximises E[r] − β KL by gradient ascent on logits, for π_ref = (.3, .3, .4), r = (.5, −4, −4), β = 1, and
/// returns the mass of the first response, "I do not know".
fn abstain_optimum(progress: &UnitProgress<'_>) -> Result<f64> {
    let reference = log(&[0.3, 0.3, 0.4])?;
    let reward = Tensor::f_from_slice(&[0.5, -4.0, -4.0])?;
    let mut logits = reference.f_detach()?;
    for step in 0..ABSTAIN_STEPS {
        let leaf = logits.f_set_requires_grad(true)?;
        let policy = leaf.f_log_softmax(0, Kind::Double)?;
        let loss = ppo_objective(&policy, &reference, &reward, 1.0)?.f_neg()?;
        logits = descend(&leaf, &loss, ABSTAIN_RATE)?;
        if step.is_multiple_of(100) {
            progress.check()?;
        }
    }
    Ok(logits.f_softmax(0, Kind::Double)?.f_double_value(&[0])?)
}

/// Finds by bisection the probability of being right from which an answer (right +1, wrong −4) is worth more
/// than "I do not know" (0).
fn answer_threshold() -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let right: f64 = 0.5 * (low + high);
        if right * 1.0 + (1.0 - right) * -4.0 > 0.0 { high = right } else { low = right }
    }
    high
}
