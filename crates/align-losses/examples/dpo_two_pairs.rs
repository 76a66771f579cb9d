//! DPO on two pairs of numbers: no model, no files.
//!
//! ```text
//! cargo run --release -p align-losses --example dpo_two_pairs
//! ```
//! prints the loss of each pair, their mean, and the gradient with respect to the chosen log-probabilities.

use align_core::tch::Tensor;
use align_losses::{DpoConfig, DpoInputs, dpo_loss};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let chosen = Tensor::from_slice(&[-10.0, -12.5]).f_set_requires_grad(true)?;
    let rejected = Tensor::from_slice(&[-11.0, -12.0]);
    let (ref_chosen, ref_rejected) =
        (Tensor::from_slice(&[-10.5, -12.0]), Tensor::from_slice(&[-10.5, -12.5]));
    let inputs = DpoInputs {
        ref_chosen: Some(&ref_chosen),
        ref_rejected: Some(&ref_rejected),
        ..DpoInputs::new(&chosen, &rejected)
    };
    let output = dpo_loss(&inputs, &DpoConfig::default())?;
    for component in &output.components {
        println!(
            "terms    {:.6?} / {}",
            Vec::<f64>::try_from(component.terms.f_detach()?)?,
            component.denominator
        );
    }
    let mean = output.mean()?;
    println!("loss     {:.6}", mean.f_double_value(&[])?);
    mean.f_backward()?;
    println!("gradient {:.6?}", Vec::<f64>::try_from(chosen.f_grad()?)?);
    for metric in &output.metrics {
        println!("{:<19} {:.6}", metric.name, metric.sum / metric.count);
    }
    Ok(())
}
