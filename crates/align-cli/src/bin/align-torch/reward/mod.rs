//! `align reward`.

mod band;
mod held_out;
mod rows;
mod scorer;

pub use rows::order_of_pair;

use std::path::Path;

use align_cli::{Result, args::RewardModelArgs, health, talk};
use align_core::{
    Objective, ScoreModel,
    align_types::{HealthCheck, PromptSource},
};
use align_data::{DataConfig, Kind};
use align_lm::SequenceClassifier;
use align_rm::{MARGIN, PREFERENCE, RewardModelObjective, TieRule};
use align_train::Unit;
use serde_json::{Map, Value};

use crate::{
    failure,
    rows::Rows,
    train::{Method, Setup, Training},
};
use band::BandSource;
use scorer::Scorer;

/// A reward model from comparisons, labels and scores.
pub struct RewardModel<'a>(pub &'a RewardModelArgs);

impl Method for RewardModel<'_> {
    fn name(&self) -> &'static str {
        "reward"
    }

    fn unit(&self) -> Unit {
        Unit::Groups
    }

    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Preference, Kind::Ranking, Kind::Unpaired, Kind::Scored]
    }

    fn columns(&self) -> &'static [&'static str] {
        &[MARGIN, PREFERENCE]
    }

    fn data_config(&self, config: DataConfig) -> DataConfig {
        DataConfig { all_ties_are_bad: self.0.reward_config().ties == TieRule::Skip, ..config }
    }

    fn check_rows(&self, rows: &Rows) -> Result<()> {
        rows::check(self.0.reward_config(), rows)?;
        match self.0.band() {
            Some(_) => rows::has_pairs(rows),
            None => Ok(()),
        }
    }

    fn health(&self) -> Vec<HealthCheck> {
        health::reward(&self.0.reward_config())
    }
}

impl Training for RewardModel<'_> {
    type Model = SequenceClassifier;

    fn fit(
        &self,
        model: SequenceClassifier,
        folder: &crate::model::Folder,
        rows: &Rows,
    ) -> Result<SequenceClassifier> {
        let adapted = model.lora().is_some();
        rows::fit_pad_token(model, folder, rows, adapted)
    }

    fn objective(
        &self,
        _: &Setup<'_, SequenceClassifier>,
        _: &mut Rows,
    ) -> Result<Box<dyn Objective<dyn ScoreModel>>> {
        Ok(Box::new(RewardModelObjective::new(self.0.reward_config()).map_err(failure::of)?))
    }

    fn source(
        &self,
        setup: &Setup<'_, SequenceClassifier>,
        rows: &Rows,
        steps: u64,
        run: &Path,
    ) -> Result<(Box<dyn PromptSource>, Vec<Value>)> {
        let (all, shares) = rows.source(setup.train.batch.batch_size, setup.train.seed, steps)?;
        let Some(band) = self.0.band() else { return Ok((all, shares)) };
        let scorer = Scorer::over(setup.policy, setup.threads, setup.micro_batch_tokens)?;
        let source = BandSource::new(band, rows.train.clone(), scorer, setup.train, steps, run)?;
        Ok((Box::new(source), shares))
    }

    fn findings(
        &self,
        setup: &Setup<'_, SequenceClassifier>,
        rows: &Rows,
        run: &Path,
    ) -> Result<Map<String, Value>> {
        let mut found = Map::new();
        if self.0.band().is_some() {
            found.insert("pair_band".into(), band::history(run)?.into());
        }
        if !rows.eval.is_empty() {
            let mut scorer = Scorer::over(setup.policy, setup.threads, setup.micro_batch_tokens)?;
            // An adapter is saved in float32, and so is what is trained.
            let saved = Some(setup.policy.source_dtype()).filter(|dtype| *dtype != "float32");
            let saved = saved.filter(|_| setup.policy.lora().is_none());
            let report = held_out::measure(&rows.eval, &mut scorer, setup.train.seed, saved)?;
            match report {
                Some(report) => {
                    talk::say(&report.text());
                    found.insert("held_out".into(), report.summary()?);
                }
                None => talk::say(
                    "held out: there is no accuracy, because no two answers to the same prompt have different scores",
                ),
            }
        }
        Ok(found)
    }
}
