//! Scores by a reward model.

use align_core::{
    BoxError, PackedBatch, ScoreModel,
    align_types::{Completion, PromptGroup, TokenId},
    no_grad,
    tch::Kind,
};
use align_lm::SequenceClassifier;
use align_ppo::Scorer;

use crate::{Result, style::policy::GROUPS_PER_PASS};

/// Scores by a reward model, shifted and scaled.
pub struct Rated {
    model: SequenceClassifier,
    scale: (f64, f64),
    end: Option<TokenId>,
}

impl Rated {
    /// Takes a model with the mean and standard deviation that its scores are shifted and divided by.
    pub fn new(model: SequenceClassifier, scale: (f64, f64)) -> Self {
        Self { model, scale, end: None }
    }

    /// Puts this token behind every answer that is scored: the policy does not write it, the model's rows have it.
    pub fn with_end(self, end: TokenId) -> Self {
        Self { end: Some(end), ..self }
    }

    /// Scores the completions of every group, shifted and scaled.
    ///
    /// # Errors
    /// A failure of the model.
    pub fn scores(&self, groups: &[PromptGroup]) -> Result<Vec<Vec<f64>>> {
        let (mean, deviation) = self.scale;
        let mut all = Vec::with_capacity(groups.len());
        for part in groups.chunks(GROUPS_PER_PASS) {
            let scores = match self.end {
                None => raw_scores(&self.model, part)?,
                Some(end) => raw_scores(&self.model, &ended(part, end))?,
            };
            let scaled = |scores: Vec<f64>| scores.iter().map(|score| (score - mean) / deviation).collect();
            all.extend(scores.into_iter().map(scaled));
        }
        Ok(all)
    }
}

impl Scorer for Rated {
    fn score(&mut self, groups: &[PromptGroup]) -> std::result::Result<Vec<Vec<Option<f64>>>, BoxError> {
        let scores = self.scores(groups)?;
        Ok(scores.into_iter().map(|group| group.into_iter().map(Some).collect()).collect())
    }
}

fn ended(groups: &[PromptGroup], end: TokenId) -> Vec<PromptGroup> {
    let ended =
        |answer: &Completion| Completion::new(answer.token_ids.iter().copied().chain([end]).collect());
    let group = |group: &PromptGroup| {
        PromptGroup::new(group.prompt.clone(), group.completions.iter().map(ended).collect())
    };
    groups.iter().map(group).collect()
}

/// Scores the completions of some groups in one pass.
fn raw_scores(model: &SequenceClassifier, groups: &[PromptGroup]) -> Result<Vec<Vec<f64>>> {
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    let _guard = no_grad();
    let scores = model.scores(&PackedBatch::new(groups)?)?.f_to_kind(Kind::Double)?;
    let mut scores = Vec::<f64>::try_from(scores)?.into_iter();
    Ok(groups.iter().map(|group| scores.by_ref().take(group.completions.len()).collect()).collect())
}

/// Computes mean and standard deviation of scores, for [`Rated::new`].
pub fn scale(scores: &[Vec<f64>]) -> (f64, f64) {
    let all: Vec<f64> = scores.iter().flatten().copied().collect();
    let count = all.len().max(1) as f64;
    let mean = all.iter().sum::<f64>() / count;
    let variance = all.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / count;
    (mean, variance.sqrt().max(f64::MIN_POSITIVE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaled_scores_have_mean_0_and_deviation_1() {
        let (mean, deviation) = scale(&[vec![1.0, 3.0], vec![5.0, 7.0]]);
        assert_eq!(mean, 4.0);
        assert!((deviation - 5.0f64.sqrt()).abs() < 1e-12);
    }
}
