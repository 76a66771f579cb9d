//! Held-out prompts.

use std::collections::BTreeMap;

use align_core::{
    BatchReport, Evaluation,
    align_types::{PromptGroup, config::SamplingConfig},
};

use super::{Ppo, Result, take::EVALUATION_STREAMS};
use crate::{IterationError, PpoConfig, objective_metrics, rollout::score_any, sample};

impl Ppo<'_> {
    /// Names what [`Self::evaluate_prompts`] gives; `None` where nothing is held out.
    pub(super) fn names_of_evaluation(&self) -> Option<Vec<String>> {
        if self.eval.is_empty() && self.figures.is_empty() {
            return None;
        }
        let mut names: Vec<String> = Vec::new();
        if !self.eval.is_empty() {
            names.extend(PpoConfig::HELD_OUT.map(str::to_owned));
        }
        names.extend(self.figures.iter().map(|figure| figure.name.clone()));
        Some(names)
    }

    /// Samples and scores answers to held-out prompts, and asks for the further figures.
    pub(super) fn evaluate_prompts(&mut self) -> Result<Option<Evaluation>> {
        if self.eval.is_empty() && self.figures.is_empty() {
            return Ok(None);
        }
        let groups = self.eval.len();
        let metrics = self.figures_of(self.eval.clone())?;
        let score = metrics.iter().find(|(name, _)| name == "objective/scores").map(|(_, score)| -*score);
        // What is minimised has no value on held-out prompts; the negative score stands for it, where there is one, and
        // where there are no prompts the first of the further figures.
        let first = metrics.first().filter(|_| groups == 0).map(|(_, figure)| *figure);
        let loss = score.or(first).unwrap_or(f64::NAN);
        let report = BatchReport { loss, metrics, groups, ..BatchReport::default() };
        Ok(Some(Evaluation { report, warning: None }))
    }

    fn figures_of(&mut self, prompts: Vec<PromptGroup>) -> Result<Vec<(String, f64)>> {
        let mut metrics = Vec::new();
        if !prompts.is_empty() {
            let config = SamplingConfig { num_completions: 1, ..self.settings.sampling.clone() };
            let generator = self.collector.generator.here();
            // The same streams every time: two evaluations differ by the policy alone.
            let mut groups = sample(generator, prompts, &config, EVALUATION_STREAMS)?;
            score_any(self.collector.scorer, &mut groups)?;
            let all: BTreeMap<String, f64> = objective_metrics(&groups).into_iter().collect();
            metrics.extend(
                PpoConfig::HELD_OUT.iter().filter_map(|name| Some(((*name).to_owned(), *all.get(*name)?))),
            );
        }
        for figure in &mut self.figures {
            metrics.push((figure.name.clone(), (figure.measure)().map_err(IterationError::Seam)?));
        }
        Ok(metrics)
    }
}
