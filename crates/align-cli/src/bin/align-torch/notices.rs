//! Settings that are allowed and do less than they seem to.

use align_cli::talk;
use align_core::{align_types::config::OptimizerConfig, tch::Device};

/// Warns of what a user of these settings should know before the first step.
pub fn give(optimizer: &OptimizerConfig, device: Device) {
    let notices = [lost_decay(optimizer), inexact_resume(device)];
    notices.iter().flatten().for_each(|notice| talk::warn(notice));
}

/// A step scales weights by 1 - η λ; 32-bit floats below 1 are ε / 2 apart.
fn lost_decay(optimizer: &OptimizerConfig) -> Option<String> {
    let (rate, decay) = (optimizer.learning_rate, optimizer.weight_decay);
    let lost = decay > 0.0 && rate * decay < f64::from(f32::EPSILON) / 2.0;
    lost.then(|| {
        format!(
            "--weight-decay {decay:?} does nothing at --learning-rate {rate:?}: a step would shrink weights by {:.1e} of \
             their size, which is lost when 32-bit numbers are rounded",
            rate * decay
        )
    })
}

/// GPU kernels add in an order that is not fixed.
fn inexact_resume(device: Device) -> Option<String> {
    (device != Device::Cpu).then(|| {
        "on a GPU a resumed run is not the same to the last bit as one that was not interrupted".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decay_is_lost_below_the_step_of_floats() {
        let config = |learning_rate, weight_decay| OptimizerConfig {
            learning_rate,
            weight_decay,
            ..Default::default()
        };
        assert!(lost_decay(&config(1e-6, 0.01)).unwrap().contains("--weight-decay 0.01 does nothing"));
        assert_eq!(lost_decay(&config(1e-5, 0.01)), None);
        assert_eq!(lost_decay(&config(1e-6, 0.0)), None);
        // What is said is so: the factor of the first is 1, that of the second is not.
        let factor = |product: f64| (1.0 - product) as f32;
        assert_eq!(factor(1e-6 * 0.01), 1.0);
        assert!(factor(1e-5 * 0.01) < 1.0);
    }

    #[test]
    fn only_a_gpu_is_inexact() {
        assert!(inexact_resume(Device::Cuda(0)).is_some());
        assert_eq!(inexact_resume(Device::Cpu), None);
    }
}
