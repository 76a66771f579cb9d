//! A reward model of two numbers learns a ranking with a tie, and is then asked how far it can be trusted: no files.
//!
//! ```text
//! cargo run --release -p align-rm --example rank_four_answers
//! ```
//! prints the loss before and after 200 steps of gradient descent, the learned scores, and the accuracy, the length baseline
//! and the calibration on pairs that were not trained on.

use align_core::{
    evaluation::Prompts,
    no_grad,
    tch::{Kind, Tensor},
};
use align_rm::{Calibration, CalibrationPair, Comparison, RewardConfig, TieRule, comparison_loss};

/// What the model sees of an answer: how right it is, and its length in hundreds of words.
const ANSWERS: [[f64; 2]; 4] = [[1.0, 0.5], [0.6, 1.5], [0.6, 0.9], [0.1, 2.0]];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let features = Tensor::f_from_slice(&ANSWERS.concat())?.f_reshape([4, 2])?;
    let mut weights =
        Tensor::f_zeros([2], (Kind::Double, align_core::tch::Device::Cpu))?.f_set_requires_grad(true)?;
    let config = RewardConfig { ties: TieRule::RaoKupper, tie_margin: Some(0.5), ..Default::default() };
    // Answers 1 and 2 are equally good: six comparisons of four scores, one of them a tie.
    let ranking = [Comparison::of_ranks(&[1, 2, 2, 3], 0, config.ties)];
    for step in 0..=200 {
        let loss = comparison_loss(&features.f_mv(&weights)?, &ranking, &config)?.mean()?;
        if step % 100 == 0 {
            println!("step {step:>3}   loss {:.4}", loss.f_double_value(&[])?);
        }
        loss.f_backward()?;
        let _guard = no_grad();
        let gradient = weights.f_grad()?;
        let _ = weights.f_sub_(&gradient.f_mul_scalar(0.5)?)?;
        align_core::clear_gradients([&weights])?;
    }
    println!("scores     {:.2?}", Vec::<f64>::try_from(features.f_mv(&weights)?.f_detach()?)?);

    let learned = Vec::<f64>::try_from(weights.f_detach()?)?;
    let score = |answer: [f64; 2]| answer.iter().zip(&learned).map(|(x, w)| x * w).sum::<f64>();
    let pairs: Vec<CalibrationPair> = (0..40).map(|i| held_out(f64::from(i), &score)).collect();
    let prompts = Prompts { of_rows: (0..40).collect(), count: 40 };
    let found = Calibration::of(&pairs, &prompts, None, 0)?;
    for (name, estimate) in [
        ("accuracy", found.agreement.accuracy),
        ("longer wins", found.agreement.chosen_longer),
        ("above length", found.agreement.above_length),
        ("calibration", found.raw.calibration_error),
    ] {
        let (low, high) = estimate.interval.unwrap_or((f64::NAN, f64::NAN));
        println!("{name:<13} {:.3} [{low:.3}, {high:.3}]", estimate.mean);
    }
    Ok(())
}

/// A pair whose right answer is often, but not always, the better one in what the model sees.
fn held_out(i: f64, score: &dyn Fn([f64; 2]) -> f64) -> CalibrationPair {
    let (chosen, rejected) =
        ([0.5 + 0.4 * (i * 1.7).sin(), 1.0], [0.3 + 0.4 * (i * 2.3).cos(), 1.0 + (i * 0.9).sin()]);
    CalibrationPair {
        chosen: score(chosen),
        rejected: score(rejected),
        chosen_length: chosen[1],
        rejected_length: rejected[1],
        subset: None,
    }
}
