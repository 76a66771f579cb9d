use align_core::align_types::config::{OptimizerConfig, Schedule};

/// Computes the learning rate of a step, counted from 0, as `get_scheduler` of transformers does.
///
/// With warm-up w and total steps n, the factor of the peak rate is
///
/// * s / max(1, w) for s < w, so that step 0 of a run with warm-up has the rate 0;
/// * `constant`: 1;
/// * `linear`: (n − s) / max(1, n − w), at least 0;
/// * `cosine`: (1 + cos(π (s − w) / max(1, n − w))) / 2.
///
/// ```
/// use align_core::align_types::config::OptimizerConfig;
/// let config = OptimizerConfig { learning_rate: 1e-4, ..Default::default() };
/// assert_eq!(align_train::learning_rate(&config, 0, 10), 1e-4);
/// assert_eq!(align_train::learning_rate(&config, 5, 10), 0.5e-4);
/// ```
pub fn learning_rate(config: &OptimizerConfig, step: u64, total: u64) -> f64 {
    config.learning_rate * schedule_factor(config, step, total)
}

/// Computes the factor of the peak rate in [`learning_rate`], in [0, 1].
pub(crate) fn schedule_factor(config: &OptimizerConfig, step: u64, total: u64) -> f64 {
    let (s, n, w) = (step as f64, total as f64, config.warmup_steps as f64);
    if step < config.warmup_steps {
        s / w.max(1.0)
    } else {
        let after = (n - w).max(1.0);
        match config.lr_scheduler {
            Schedule::Constant => 1.0,
            Schedule::Linear => ((n - s) / after).max(0.0),
            Schedule::Cosine => (0.5 * (1.0 + (std::f64::consts::PI * (s - w) / after).cos())).max(0.0),
        }
    }
}
