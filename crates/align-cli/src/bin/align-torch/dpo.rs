//! `align dpo`.

use align_cli::{
    Result,
    args::{DpoArgs, ReferenceArgs},
    health,
};
use align_core::{Objective, align_types::HealthCheck};
use align_data::Kind;
use align_lm::Model;
use align_losses::{Dpo as DpoObjective, Reference};
use align_train::Unit;

use crate::{
    failure, feedback, reference,
    rows::Rows,
    train::{Method, Setup, Training},
};

/// Direct preference optimisation and its family.
pub struct Dpo<'a>(pub &'a DpoArgs);

impl Method for Dpo<'_> {
    fn name(&self) -> &'static str {
        "dpo"
    }

    fn unit(&self) -> Unit {
        Unit::Pairs
    }

    fn reference_args(&self) -> Option<&ReferenceArgs> {
        self.0.dpo_config().uses_reference().then_some(&self.0.reference)
    }

    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Preference]
    }

    fn check_rows(&self, rows: &Rows) -> Result<()> {
        feedback::pairs_differ(rows)
    }

    fn health(&self) -> Vec<HealthCheck> {
        health::dpo(&self.0.dpo_config())
    }
}

impl Training for Dpo<'_> {
    type Model = Model;

    fn objective(&self, setup: &Setup<'_>, rows: &mut Rows) -> Result<Box<dyn Objective>> {
        let config = self.0.dpo_config();
        if !config.uses_reference() {
            return Ok(Box::new(DpoObjective::new(config, Reference::Free).map_err(failure::of)?));
        }
        let made = reference::make(&self.0.reference, setup, rows, false)?;
        let objective = DpoObjective::new(config, made.reference).map_err(failure::of)?;
        Ok(Box::new(if made.begins_equal { objective.starting_at_reference() } else { objective }))
    }
}
