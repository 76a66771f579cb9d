use align_core::{
    CausalLm, LossComponent, LossOutput, MetricTerm, Objective, PackedBatch, TokenLogProbs,
    align_types::PromptGroup,
};

use crate::{Aggregation, Result, SftConfig};

/// Computes the negative log-likelihood of completions (behaviour cloning).
///
/// * token_mean: terms −lp of every trained token `[N]`, denominator N;
/// * seq_mean_mean: terms −mean lp of every completion `[C]`, denominator C.
///
/// ```
/// use align_core::{TokenLogProbs, tch::Tensor};
/// use align_losses::{Aggregation, sft_loss};
///
/// let logps = TokenLogProbs::new(Tensor::from_slice(&[-1.0f32, -3.0, -8.0]), vec![2, 1])?;
/// assert_eq!(sft_loss(&logps, Aggregation::TokenMean)?.mean()?.f_double_value(&[])?, 4.0);
/// assert_eq!(sft_loss(&logps, Aggregation::SeqMeanMean)?.mean()?.f_double_value(&[])?, 5.0);
/// # Ok::<(), align_core::Error>(())
/// ```
///
/// # Errors
/// libtorch refuses.
pub fn sft_loss(logps: &TokenLogProbs, aggregation: Aggregation) -> Result<LossOutput> {
    let (terms, denominator) = match aggregation {
        Aggregation::TokenMean => (logps.values().f_neg()?, logps.tokens()),
        Aggregation::SeqMeanMean => (logps.means()?.f_neg()?, logps.lens().len()),
    };
    let component = LossComponent { name: "sft", weight: 1.0, terms, denominator: denominator as f64 };
    let metrics = vec![MetricTerm::of("logps/completion", &logps.sums()?)?];
    Ok(LossOutput { components: vec![component], metrics })
}

/// Supervised fine-tuning on the trained tokens of every completion of every group.
#[derive(Debug, Clone, Default)]
pub struct Sft {
    config: SftConfig,
}

impl Sft {
    /// Makes the objective.
    pub fn new(config: SftConfig) -> Self {
        Self { config }
    }
}

impl Objective for Sft {
    fn denominators(&self, groups: &[PromptGroup]) -> Result<Vec<f64>> {
        let count: usize = match self.config.aggregation {
            Aggregation::TokenMean => groups.iter().map(PromptGroup::trained_tokens).sum(),
            Aggregation::SeqMeanMean => groups.iter().map(|g| g.completions.len()).sum(),
        };
        Ok(vec![count as f64])
    }

    fn loss(&self, model: &dyn CausalLm, batch: &PackedBatch, _: &[PromptGroup]) -> Result<LossOutput> {
        sft_loss(&model.token_log_probs(batch, 1.0)?, self.config.aggregation)
    }

    fn replicate(&self) -> Result<Box<dyn Objective>> {
        Ok(Box::new(self.clone()))
    }
}
