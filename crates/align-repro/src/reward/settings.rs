//! What a plan on reward models says of its arms and sizes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    data::Recipe,
    figure::FigureOf,
    model::TrainSettings,
    policy::{PolicyArm, PolicySize},
    world::WorldSettings,
};
use crate::{Result, on_policy::part::PartSettings, planned::Planned};

/// An arm, as the plan has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", deny_unknown_fields, rename_all = "kebab-case")]
pub enum ArmSettings {
    /// A language model that has read the writers' texts: where reward models begin.
    Start {
        /// Width.
        hidden: usize,
        /// Layers.
        layers: usize,
        /// Tells initialisations of one seed apart.
        #[serde(default)]
        init: u64,
    },
    /// A reward model trained on comparisons.
    Trained {
        /// The arm it begins at.
        start: String,
        /// Its comparisons.
        rows: Recipe,
        /// How often each row is seen.
        epochs: f64,
        /// Tells orders of the same rows apart.
        #[serde(default)]
        order: u64,
        /// More comparisons, which it chooses.
        #[serde(default)]
        choice: Option<Choice>,
        /// How its run is read, where it differs from the others.
        #[serde(default)]
        how: How,
    },
    /// The mean of the weights of other arms.
    Weights {
        /// The arms.
        of: Vec<String>,
        /// Whether best-of-n is left out.
        #[serde(default)]
        pairs_only: bool,
    },
    /// The mean of the scores of other arms, each with mean 0 and variance 1 before.
    Scores {
        /// The arms.
        of: Vec<String>,
    },
    /// The one of other arms that agrees best with noisy held-out labels.
    BestSingle {
        /// The arms.
        of: Vec<String>,
    },
    /// The gold reward itself.
    Gold,
    /// A reward that has nothing to do with the answers.
    Nothing,
}

/// How a training run is read.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct How {
    /// Readings of held-out pairs, the end included; as many as the size has unless told.
    #[serde(default)]
    pub readings: Option<u64>,
    /// Whether best-of-n is left out.
    #[serde(default)]
    pub pairs_only: bool,
}

/// Pairs that an arm chooses from a pool by the margins of a present model, before it is told their labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// The arm whose margins count; its own pairs are trained on, too.
    pub present: String,
    /// Which ones.
    pub which: Which,
    /// Pairs to choose from.
    pub pool: usize,
}

/// Which pairs of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Which {
    /// Those with the smallest |margin|.
    Boundary,
    /// Any.
    Random,
    /// Those with the largest |margin|.
    Easiest,
}

/// What best-of-n chooses from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BestOfNSettings {
    /// Held-out requests, at most 28; 0 for an experiment without best-of-n.
    pub requests: usize,
    /// Samples for each.
    pub samples: usize,
    /// The n of the curve.
    pub counts: Vec<usize>,
}

/// What a size takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SizeSettings {
    /// The answers.
    pub world: WorldSettings,
    /// The models.
    pub train: TrainSettings,
    /// Best-of-n.
    pub best_of_n: BestOfNSettings,
    /// Points of a training run at which held-out pairs are read, the end included.
    pub checkpoints: u64,
    /// Whether there are no hard pairs and none with noisy labels, for an experiment that does not read them.
    #[serde(default)]
    pub plain_pairs_only: bool,
}

/// All settings of a plan.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Of `--quick`.
    pub quick: SizeSettings,
    /// Of the full size.
    pub full: SizeSettings,
    /// The arms.
    pub arms: BTreeMap<String, ArmSettings>,
    /// The figures of claims and controls.
    pub figures: BTreeMap<String, FigureOf>,
    /// The policies that are trained on the rewards, where the plan has such a part.
    #[serde(default)]
    pub policy: Option<PartSettings<PolicySize, PolicyArm>>,
}

impl Settings {
    /// Checks that every claim and control of reward models has a figure, which reads the arms that it names and no others.
    pub(super) fn check_figures(&self, planned: &Planned) -> Result<()> {
        let plan = planned.experiment();
        let claims = plan.claims.iter().map(|claim| (&claim.id, &claim.arms));
        let controls = plan.controls.iter().map(|control| (&control.id, &control.arms));
        let of_rewards =
            |(_, arms): &(&String, &Vec<String>)| arms.iter().all(|arm| self.arms.contains_key(arm));
        for (id, arms) in claims.chain(controls).filter(of_rewards) {
            let figure = self.figures.get(id).ok_or_else(|| planned.fail(format!("{id} has no figure")))?;
            let named: BTreeSet<&str> = arms.iter().map(String::as_str).collect();
            let read = figure.reads();
            if read != named {
                let [named, read] = [named, read].map(|arms| arms.into_iter().collect::<Vec<_>>().join(", "));
                return Err(planned.fail(format!("{id} names the arms {named} and its figure reads {read}")));
            }
        }
        Ok(())
    }
}

impl ArmSettings {
    /// The arms whose files it reads.
    pub(super) fn needs(&self) -> Vec<String> {
        match self {
            Self::Start { .. } | Self::Gold | Self::Nothing => Vec::new(),
            Self::Trained { start, choice, .. } => {
                std::iter::once(start.clone()).chain(choice.iter().map(|c| c.present.clone())).collect()
            }
            Self::Weights { of, .. } | Self::Scores { of } | Self::BestSingle { of } => of.clone(),
        }
    }

    /// Says whether it is judged by best-of-n, too.
    pub(super) fn has_samples(&self) -> bool {
        match self {
            Self::Trained { how, .. } => !how.pairs_only,
            Self::Weights { pairs_only, .. } => !pairs_only,
            _ => true,
        }
    }
}
