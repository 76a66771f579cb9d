//! Claims, controls, and the figures they are judged by.

use serde::{Deserialize, Serialize};

use crate::{experiment::Size, interval::Estimate};

/// What a figure must show.
///
/// The first three compare the figure itself: exact ones, and bounds with a margin that was fixed before the run. The others
/// are for averages with an interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Criterion {
    /// The figure equals the expected one within the tolerance.
    Close {
        /// The expected figure.
        expected: f64,
        /// Largest distance.
        tolerance: f64,
    },
    /// The figure is at most the bound.
    AtMost {
        /// The bound.
        bound: f64,
    },
    /// The figure is at least the bound.
    AtLeast {
        /// The bound.
        bound: f64,
    },
    /// The whole interval lies above.
    Above {
        /// The value to be above of.
        than: f64,
    },
    /// The interval does *not* lie above as a whole (a control: the effect must not appear).
    NotAbove {
        /// The value of [`Criterion::Above`] that must not be met.
        than: f64,
    },
    /// The whole interval lies within ± margin (a control: nothing may happen).
    Within {
        /// The margin, > 0.
        margin: f64,
    },
}

impl std::fmt::Display for Criterion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Close { expected, tolerance } => write!(f, "equals {expected} within {tolerance:e}"),
            Self::AtMost { bound } => write!(f, "at most {bound:?}"),
            Self::AtLeast { bound } => write!(f, "at least {bound:?}"),
            Self::Above { than } => write!(f, "interval above {than}"),
            Self::NotAbove { than } => write!(f, "interval not above {than}"),
            Self::Within { margin } => write!(f, "interval within ±{margin}"),
        }
    }
}

/// Something a paper says (or that follows from it) and that a run can confirm or refute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Names the figure that the experiment has to deliver.
    pub id: String,
    /// Where it is claimed: section, table, theorem.
    pub source: String,
    /// What is claimed, in one sentence.
    pub statement: String,
    /// The paper's own figure, or that it gives none.
    pub paper: String,
    /// What our figure must show.
    pub criterion: Criterion,
    /// The sizes at which the exit code depends on the claim; at the others it is only reported.
    pub required: Vec<Size>,
    /// The arms the figure comes from.
    pub arms: Vec<String>,
}

/// Something that must be so: a run in which it is not measures something else than it says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// Names the figure that the experiment has to deliver.
    pub id: String,
    /// How a healthy experiment behaves, in one sentence.
    pub statement: String,
    /// What the figure must show for the control to hold.
    pub criterion: Criterion,
    /// The arms the figure comes from.
    pub arms: Vec<String>,
}

/// What a run delivers for a claim or control.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The figure with its interval.
    pub estimate: Estimate,
    /// Digits after the point that mean something.
    pub digits: usize,
}

impl Evidence {
    /// Takes a figure that has no sampling error, shown with six digits.
    pub fn exact(value: f64) -> Self {
        Self { estimate: Estimate::exact(value), digits: 6 }
    }

    /// Takes an average, shown with three digits.
    pub fn average(estimate: Estimate) -> Self {
        Self { estimate, digits: 3 }
    }
}
