use align_core::{
    CausalLm, LossComponent, LossOutput, MetricTerm, Objective, PackedBatch, TokenLogProbs,
    align_types::PromptGroup,
};

use crate::{Aggregation, Result, SftConfig, SftLossType};

/// Computes the loss of completions (behaviour cloning), ℓ of each trained token with log-probability lp.
///
/// * nll: ℓ = −lp, the negative log-likelihood;
/// * dft: ℓ = −p lp with p = exp(lp) as a constant (dynamic fine-tuning, 2508.05629): the gradient of a token is −p
///   where that of nll is −1;
/// * token_mean: terms ℓ `[N]`, denominator N;
/// * seq_mean_mean: terms mean ℓ of every completion `[C]`, denominator C.
///
/// ```
/// use align_core::{TokenLogProbs, tch::Tensor};
/// use align_losses::{Aggregation, SftConfig, sft_loss};
///
/// let logps = TokenLogProbs::new(Tensor::from_slice(&[-1.0f32, -3.0, -8.0]), vec![2, 1])?;
/// let loss = |aggregation| sft_loss(&logps, &SftConfig { aggregation, ..Default::default() })?.mean();
/// assert_eq!(loss(Aggregation::TokenMean)?.f_double_value(&[])?, 4.0);
/// assert_eq!(loss(Aggregation::SeqMeanMean)?.f_double_value(&[])?, 5.0);
/// # Ok::<(), align_core::Error>(())
/// ```
///
/// # Errors
/// libtorch refuses.
pub fn sft_loss(logps: &TokenLogProbs, config: &SftConfig) -> Result<LossOutput> {
    let gains = gains(logps, config.loss_type)?;
    let (terms, denominator) = match config.aggregation {
        Aggregation::TokenMean => (gains.values().f_neg()?, gains.tokens()),
        Aggregation::SeqMeanMean => (gains.means()?.f_neg()?, gains.lens().len()),
    };
    let component = LossComponent { name: "sft", weight: 1.0, terms, denominator: denominator as f64 };
    let metrics = vec![MetricTerm::of("logps/completion", &logps.sums()?)?];
    Ok(LossOutput { components: vec![component], metrics })
}

/// Computes what is to rise: −ℓ of every token.
fn gains(logps: &TokenLogProbs, loss: SftLossType) -> Result<TokenLogProbs> {
    let values = logps.values();
    let gains = match loss {
        SftLossType::Dft => values.f_mul(&values.f_detach()?.f_exp()?)?,
        SftLossType::Nll => values.shallow_clone(),
    };
    TokenLogProbs::new(gains, logps.lens().to_vec())
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
        sft_loss(&model.token_log_probs(batch, 1.0)?, &self.config)
    }

    fn replicate(&self) -> Result<Box<dyn Objective>> {
        Ok(Box::new(self.clone()))
    }
}
