//! `align una`.

use align_cli::{
    Result,
    args::{ReferenceArgs, UnaArgs},
    health,
};
use align_core::{Objective, align_types::HealthCheck};
use align_data::Kind;
use align_lm::Model;
use align_losses::{REFERENCE_REWARDS, Reference, Una as UnaObjective};
use align_train::Unit;

use crate::{
    failure, feedback, reference,
    rows::Rows,
    train::{Method, Setup, Training},
};

/// One implicit reward for pairs, labels and scores.
pub struct Una<'a>(pub &'a UnaArgs);

impl Method for Una<'_> {
    fn name(&self) -> &'static str {
        "una"
    }

    fn unit(&self) -> Unit {
        Unit::Groups
    }

    fn reference_args(&self) -> Option<&ReferenceArgs> {
        Some(&self.0.reference)
    }

    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Preference, Kind::Unpaired, Kind::Scored]
    }

    fn columns(&self) -> &'static [&'static str] {
        if self.0.una_config().loss_type.uses_reference_rewards() { &[REFERENCE_REWARDS] } else { &[] }
    }

    fn check_rows(&self, rows: &Rows) -> Result<()> {
        let config = self.0.una_config();
        for set in [&rows.train, &rows.eval] {
            if let Some((smallest, largest)) = feedback::scores(set)? {
                config.check_range(smallest, largest).map_err(feedback::out_of_range)?;
            }
        }
        let objective = UnaObjective::new(config, Reference::Precomputed).map_err(failure::of)?;
        for set in [&rows.train, &rows.eval] {
            set.iter().try_for_each(|group| {
                objective.denominators(&[group?.into_owned()]).map_err(failure::of).map(|_| ())
            })?;
        }
        feedback::differs(rows)
    }

    fn health(&self) -> Vec<HealthCheck> {
        health::una(&self.0.una_config())
    }
}

impl Training for Una<'_> {
    type Model = Model;

    fn objective(&self, setup: &Setup<'_>, rows: &mut Rows) -> Result<Box<dyn Objective>> {
        let made = reference::make(&self.0.reference, setup, rows, false)?;
        let objective = UnaObjective::new(self.0.una_config(), made.reference).map_err(failure::of)?;
        Ok(Box::new(if made.begins_equal { objective.starting_at_reference() } else { objective }))
    }
}
