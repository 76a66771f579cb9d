use clap::{Args, ValueEnum};

use super::values;
use crate::{Error, Result};

/// How many times the variance among models is taken from their mean, unless told.
const COEFFICIENT: f64 = 1.0;

/// How several reward models are one.
#[derive(Debug, Args)]
pub struct EnsembleArgs {
    /// How several reward models are one reward; needs --normalize, as raw rewards have no common scale
    #[arg(long, value_enum, value_name = "CHOICE")]
    pub ensemble: Option<EnsembleName>,
    /// How many times the variance is taken from the mean [default: 1]
    #[arg(long, value_name = "K", value_parser = values::number, allow_hyphen_values = true)]
    pub ensemble_coefficient: Option<f64>,
}

/// Values of `--ensemble`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EnsembleName {
    /// The mean of the models
    Mean,
    /// The worst of the models
    Min,
    /// The mean less --ensemble-coefficient times the variance among the models
    Variance,
}

impl EnsembleArgs {
    /// Returns how many times the variance is taken from the mean.
    pub fn coefficient(&self) -> f64 {
        self.ensemble_coefficient.unwrap_or(COEFFICIENT)
    }

    /// Checks what these flags ask of each other and of the models, which `flag` names.
    ///
    /// # Errors
    /// [`Error::Usage`] names the flags.
    pub(super) fn check(&self, flag: &str, models: usize, normalize: bool) -> Result<()> {
        let usage = |message: String, hint: &str| Err(Error::usage(message, [hint.to_owned()]));
        if self.ensemble.is_some() && models < 2 {
            return usage(format!("--ensemble needs several {flag} DIR"), "one model is no ensemble");
        }
        if self.ensemble.is_some() && !normalize {
            return usage(
                "--ensemble needs --normalize: an offset of a model's raw rewards means nothing, so that they have no \
                 common scale"
                    .to_owned(),
                "fit the scale of each model with `align score --fit-normalization` first, then add --normalize",
            );
        }
        match self.ensemble_coefficient {
            Some(k) if self.ensemble != Some(EnsembleName::Variance) => {
                Err(Error::usage(format!("--ensemble-coefficient {k} needs --ensemble variance"), []))
            }
            Some(k) if !(k.is_finite() && k >= 0.0) => Err(Error::usage(
                format!("--ensemble-coefficient {k}: expected a finite number of at least 0"),
                [],
            )),
            _ => Ok(()),
        }
    }
}
