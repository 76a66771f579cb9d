//! `align kto`.

use align_cli::{
    Result,
    args::{KtoArgs, ReferenceArgs},
    health, talk,
};
use align_core::{
    Objective,
    align_types::{HealthCheck, config::KtoLossType},
};
use align_data::Kind;
use align_lm::Model;
use align_losses::Kto as KtoObjective;
use align_train::Unit;

use crate::{
    failure, feedback, reference,
    rows::Rows,
    train::{Method, Setup, Training},
};

/// Kahneman-Tversky optimisation and its relatives.
pub struct Kto<'a>(pub &'a KtoArgs);

impl Method for Kto<'_> {
    fn name(&self) -> &'static str {
        "kto"
    }

    fn unit(&self) -> Unit {
        Unit::Groups
    }

    fn reference_args(&self) -> Option<&ReferenceArgs> {
        Some(&self.0.reference)
    }

    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Unpaired]
    }

    fn check_rows(&self, rows: &Rows) -> Result<()> {
        let labels = feedback::labels(&rows.train)?;
        labels.differ()?;
        let config = self.0.kto_config();
        if let Some(hint) = config.balance_hint(labels.desirable, labels.undesirable) {
            talk::warn(&hint);
        }
        let batch = self.0.train.batch.batch_size;
        let alone = batch == 1 || rows.train.len() % batch == 1;
        if config.loss_type == KtoLossType::Kto && alone {
            talk::warn(
                "a batch of one row has no answer under another prompt: its baseline z0 is 0; see --batch-size",
            );
        }
        Ok(())
    }

    fn health(&self) -> Vec<HealthCheck> {
        health::kto(&self.0.kto_config(), self.0.train.batch.batch_size)
    }
}

impl Training for Kto<'_> {
    type Model = Model;

    fn objective(&self, setup: &Setup<'_>, rows: &mut Rows) -> Result<Box<dyn Objective>> {
        let config = self.0.kto_config();
        let mismatched = config.loss_type == KtoLossType::Kto;
        // Answers meet prompts of other rows, in the policy and in the reference.
        let context = reference::context(&self.0.reference)?;
        let most = context.map_or(setup.max_length, |tokens| tokens.min(setup.max_length));
        let made = reference::make(&self.0.reference, setup, rows, mismatched)?;
        let mut objective =
            KtoObjective::new(config, made.reference).map_err(failure::of)?.with_max_length(most);
        if let Some(model) = made.model {
            objective = objective.with_baseline_model(Box::new(model));
        }
        Ok(Box::new(if made.begins_equal { objective.starting_at_reference() } else { objective }))
    }
}
