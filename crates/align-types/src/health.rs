//! Checks of a training run while it runs. A method states them, the training loop watches over them; it need not know
//! what the metrics mean.

use std::fmt;

/// Something that goes wrong often enough that a run should say it by itself.
///
/// ```
/// use align_types::{HealthCheck, Rule};
///
/// let check = HealthCheck {
///     name: "no-gradient",
///     rule: Rule::Stuck { metric: "grad_norm", value: 0.0, steps: 3 },
///     meaning: "nothing is learned; see whether the answers of a row differ",
/// };
/// assert_eq!(check.rule.to_string(), "`grad_norm` is exactly 0 in 3 steps running");
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheck {
    /// Its name in `summary.json`; no other check of a run has it.
    pub name: &'static str,
    /// When it speaks; at most once in a run.
    pub rule: Rule,
    /// What it usually means and what to do, to be read after what was seen.
    pub meaning: &'static str,
}

/// When a check speaks. Metrics are those of training steps, `loss` and `grad_norm` among them; a rule whose metric a
/// run does not have is silent, and a step on which a metric is absent or not finite counts for none but
/// [`Rule::Stuck`] and [`Rule::Always`], which it breaks.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Rule {
    /// A metric is at least `bound` on each of the first steps, until they had `rows` rows.
    FromTheStart {
        /// The metric.
        metric: &'static str,
        /// Its least value.
        bound: f64,
        /// Rows that are enough to exclude chance.
        rows: usize,
    },
    /// A metric has one value exactly, this many steps in a row.
    Stuck {
        /// The metric.
        metric: &'static str,
        /// Its value.
        value: f64,
        /// The steps.
        steps: usize,
    },
    /// A metric has one value exactly on every step of a run, which has at least this many.
    Always {
        /// The metric.
        metric: &'static str,
        /// Its value.
        value: f64,
        /// The steps.
        steps: usize,
    },
    /// The mean of a metric over this many steps is outside of its range, by more than the noise of the steps explains.
    Outside {
        /// The metric.
        metric: &'static str,
        /// Its least value.
        low: f64,
        /// Its largest value.
        high: f64,
        /// The steps.
        steps: usize,
    },
    /// Between the first steps and later ones the means of all these metrics moved, by more than the noise explains.
    Moved {
        /// The metrics and how they moved.
        moves: Vec<Move>,
        /// Steps of each mean.
        steps: usize,
    },
}

/// A change of the mean of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Move {
    /// The metric.
    pub metric: &'static str,
    /// Whether it rises; else it falls.
    pub rises: bool,
    /// By how much at least.
    pub by: Amount,
}

/// The least size of a change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// Any that is no noise.
    Any,
    /// A share of the first mean of a metric: with `unit` u, at least share · u · |first mean|.
    Share {
        /// The share, above 0.
        share: f64,
        /// The metric.
        of: &'static str,
        /// What one unit of `of` is in the metric that moves, with the name it has in texts: β nats of reward are one
        /// nat of log-probability.
        unit: Option<(&'static str, f64)>,
    },
}

impl Rule {
    /// Lists the metrics that it looks at.
    pub fn metrics(&self) -> Vec<&'static str> {
        match self {
            Self::FromTheStart { metric, .. }
            | Self::Stuck { metric, .. }
            | Self::Always { metric, .. }
            | Self::Outside { metric, .. } => vec![metric],
            Self::Moved { moves, .. } => moves.iter().flat_map(|one| one.metrics()).collect(),
        }
    }
}

impl Move {
    /// Makes a fall of any size.
    pub fn falls(metric: &'static str) -> Self {
        Self { metric, rises: false, by: Amount::Any }
    }

    /// Makes a rise of any size.
    pub fn rises(metric: &'static str) -> Self {
        Self { metric, rises: true, by: Amount::Any }
    }

    /// Makes it one of at least a share of the first mean of a metric.
    #[must_use]
    pub fn by_share(self, share: f64, of: &'static str, unit: Option<(&'static str, f64)>) -> Self {
        Self { by: Amount::Share { share, of, unit }, ..self }
    }

    fn metrics(&self) -> Vec<&'static str> {
        match self.by {
            Amount::Any => vec![self.metric],
            Amount::Share { of, .. } => vec![self.metric, of],
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FromTheStart { metric, bound, rows } => {
                write!(
                    f,
                    "`{metric}` is at least {bound} on each of the first steps, until they had {rows} rows"
                )
            }
            Self::Stuck { metric, value, steps } => {
                write!(f, "`{metric}` is exactly {value} in {steps} steps running")
            }
            Self::Always { metric, value, steps } => {
                write!(f, "`{metric}` is exactly {value} on every step of a run of at least {steps}")
            }
            Self::Outside { metric, low, high, steps } => {
                write!(f, "the mean of `{metric}` over {steps} steps is clearly ")?;
                match (low.is_finite(), high.is_finite()) {
                    (true, true) => write!(f, "below {low} or above {high}"),
                    (true, false) => write!(f, "below {low}"),
                    _ => write!(f, "above {high}"),
                }
            }
            Self::Moved { moves, steps } => {
                let moves: Vec<String> = moves.iter().map(ToString::to_string).collect();
                write!(f, "from the first {steps} steps to a later {steps}, {}", moves.join(" and "))
            }
        }
    }
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.rises { "rises" } else { "falls" };
        write!(f, "`{}` clearly {verb}", self.metric)?;
        match self.by {
            Amount::Any => Ok(()),
            Amount::Share { share, of, unit } => {
                let unit = unit.map(|(name, _)| format!("{name} · ")).unwrap_or_default();
                write!(f, " by at least {} % of {unit}the first mean of `{of}`", (share * 100.0).round())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_said_in_words() {
        let by_share = Move::falls("rewards/chosen").by_share(0.1, "logps/chosen", Some(("β", 0.1)));
        let moved = Rule::Moved { moves: vec![by_share, Move::rises("rewards/margins")], steps: 20 };
        assert_eq!(
            moved.to_string(),
            "from the first 20 steps to a later 20, `rewards/chosen` clearly falls by at least 10 % of β · the first \
             mean of `logps/chosen` and `rewards/margins` clearly rises"
        );
        assert_eq!(moved.metrics(), ["rewards/chosen", "logps/chosen", "rewards/margins"]);
        let outside = |low, high| Rule::Outside { metric: "kl", low, high, steps: 10 }.to_string();
        assert!(outside(0.0, 50.0).ends_with("clearly below 0 or above 50"));
        assert!(outside(f64::NEG_INFINITY, 50.0).ends_with("clearly above 50"));
        assert!(outside(0.0, f64::INFINITY).ends_with("clearly below 0"));
    }
}
