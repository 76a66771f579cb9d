use align_core::{
    CausalLm, LossOutput, Objective, PackedBatch, Parameter, align_types::PromptGroup,
    align_types::config::UnaConfig, tch::Tensor,
};

use super::{FeedbackInputs, UnaInputs, a_star_target, qrpo_target, una_loss};
use crate::reference::{Reference, check_rewards_are_zero};
use crate::{DpoInputs, Error, Result, UnaLossType};

/// The column with the rewards of the reference policy for the prompt, a list of numbers, that `qrpo` and
/// `a_star_po` need.
pub const REFERENCE_REWARDS: &str = "ref_rewards";

/// UNA over groups of any mixture of kinds.
///
/// A group is a pair when it has two completions without label and reward, the chosen one first. Otherwise every
/// completion has a label (binary feedback) or a reward (a score), and is a row of its own.
#[derive(Debug)]
pub struct Una {
    config: UnaConfig,
    reference: Reference,
    starts_at_reference: bool,
}

/// The rows of each kind, by the place of their completion in the batch.
#[derive(Debug, Default)]
struct Rows {
    chosen: Vec<i64>,
    rejected: Vec<i64>,
    binary: Vec<i64>,
    labels: Vec<f64>,
    scored: Vec<i64>,
    targets: Vec<f64>,
}

impl Una {
    /// Makes the objective.
    ///
    /// # Errors
    /// A configuration outside its range; [`Reference::Free`], as h needs a reference.
    pub fn new(config: UnaConfig, reference: Reference) -> Result<Self> {
        config.validate()?;
        if matches!(reference, Reference::Free) {
            return Err(Error::input(
                "reference",
                "the implicit reward is β log(π / π_ref), which needs one",
            ));
        }
        Ok(Self { config, reference, starts_at_reference: false })
    }

    /// States that policy and reference are equal before the first update: the first rewards are then checked
    /// to be 0.
    #[must_use]
    pub fn starting_at_reference(mut self) -> Self {
        self.starts_at_reference = true;
        self
    }

    fn rows(&self, groups: &[PromptGroup]) -> Result<Rows> {
        let mut rows = Rows::default();
        let mut next = 0;
        for (index, group) in groups.iter().enumerate() {
            let wrong = |why: String| Err(Error::input(group.describe(index), why));
            let first = next;
            next += group.completions.len() as i64;
            let labels: Vec<bool> = group.completions.iter().filter_map(|c| c.label).collect();
            let scores: Vec<f64> = group.completions.iter().filter_map(|c| c.reward).collect();
            let count = group.completions.len();
            if labels.is_empty() && scores.is_empty() && count == 2 {
                rows.chosen.push(first);
                rows.rejected.push(first + 1);
            } else if labels.len() == count && scores.is_empty() {
                rows.binary.extend(first..next);
                rows.labels.extend(labels.iter().map(|label| f64::from(u8::from(*label))));
            } else if scores.len() == count && labels.is_empty() {
                rows.scored.extend(first..next);
                for score in scores {
                    rows.targets.push(self.target(score, group, index)?);
                }
            } else {
                return wrong(format!(
                    "{count} completions with {} labels and {} scores: UNA takes a pair without either, or one of \
                     the two on every completion",
                    labels.len(),
                    scores.len()
                ));
            }
        }
        if !rows.binary.is_empty() && !matches!(self.config.loss_type, UnaLossType::Mse | UnaLossType::Bce) {
            let why = format!("{:?} regresses on rewards, and a label has no scale", self.config.loss_type);
            return Err(Error::input("rows with a label", why));
        }
        Ok(rows)
    }

    /// Computes what the implicit reward of a scored answer is compared with.
    fn target(&self, score: f64, group: &PromptGroup, index: usize) -> Result<f64> {
        let beta = self.config.beta;
        match self.config.loss_type {
            UnaLossType::Qrpo => qrpo_target(score, &reference_rewards(group, index)?, beta),
            UnaLossType::AStarPo => a_star_target(score, &reference_rewards(group, index)?, beta),
            _ => self.config.scale(score).ok_or_else(|| {
                let range = self.config.check_range(score, score);
                let why =
                    range.err().map_or_else(|| "its score does not fit".into(), |error| error.to_string());
                Error::input(group.describe(index), why)
            }),
        }
    }
}

fn reference_rewards(group: &PromptGroup, index: usize) -> Result<Vec<f64>> {
    let list = group.columns.get(REFERENCE_REWARDS).and_then(|value| value.as_array());
    let numbers: Option<Vec<f64>> = list.and_then(|list| list.iter().map(|value| value.as_f64()).collect());
    numbers.filter(|numbers| !numbers.is_empty()).ok_or_else(|| {
        let why =
            "column ref_rewards must be a list of numbers: rewards of the reference policy for the prompt";
        Error::input(group.describe(index), why)
    })
}

/// One `[n]` tensor of the completions at some places.
fn pick(sums: &Tensor, places: &[i64]) -> Result<Tensor> {
    Ok(sums.f_index_select(0, &PackedBatch::index_tensor(places, sums.device())?)?)
}

/// The numbers of one kind of rows.
struct Picked {
    policy: Tensor,
    reference: Tensor,
}

impl Picked {
    fn of(policy: &Tensor, reference: &Tensor, places: &[i64]) -> Result<Self> {
        Ok(Self { policy: pick(policy, places)?, reference: pick(reference, places)? })
    }

    fn feedback<'a>(&'a self, targets: &'a Tensor) -> Option<FeedbackInputs<'a>> {
        (targets.numel() > 0).then_some(FeedbackInputs {
            policy: &self.policy,
            reference: &self.reference,
            targets,
        })
    }
}

impl Objective for Una {
    fn denominators(&self, groups: &[PromptGroup]) -> Result<Vec<f64>> {
        let rows = self.rows(groups)?;
        Ok([rows.chosen.len(), rows.binary.len(), rows.scored.len()].map(|count| count as f64).to_vec())
    }

    fn loss(&self, model: &dyn CausalLm, batch: &PackedBatch, groups: &[PromptGroup]) -> Result<LossOutput> {
        let rows = self.rows(groups)?;
        let policy = model.token_log_probs(batch, 1.0)?.sums()?;
        let reference = self.reference.required_sums(batch, groups)?.f_to_device(policy.device())?;
        let of = |places: &[i64]| Picked::of(&policy, &reference, places);
        let (chosen, rejected) = (of(&rows.chosen)?, of(&rows.rejected)?);
        let (binary, scored) = (of(&rows.binary)?, of(&rows.scored)?);
        let constant = |values: &[f64]| -> Result<Tensor> {
            Ok(Tensor::f_from_slice(values)?.f_to_device(policy.device())?)
        };
        let (labels, targets) = (constant(&rows.labels)?, constant(&rows.targets)?);
        let pairs = DpoInputs {
            ref_chosen: Some(&chosen.reference),
            ref_rejected: Some(&rejected.reference),
            ..DpoInputs::new(&chosen.policy, &rejected.policy)
        };
        let inputs = UnaInputs {
            pairs: (!rows.chosen.is_empty()).then_some(pairs),
            binary: binary.feedback(&labels),
            scored: scored.feedback(&targets),
        };
        una_loss(&inputs, &self.config)
    }

    fn after_update(&mut self, updates: u64, policy: &[Parameter]) -> Result<()> {
        self.reference.after_update(updates, policy)
    }

    fn weights(&self) -> Vec<Parameter> {
        self.reference.weights()
    }

    fn check_first_step(&self, metrics: &[(String, f64)]) -> Result<()> {
        if self.starts_at_reference { check_rewards_are_zero(metrics) } else { Ok(()) }
    }

    fn replicate(&self) -> Result<Box<dyn Objective>> {
        Ok(Box::new(Self {
            config: self.config.clone(),
            reference: self.reference.replicate()?,
            starts_at_reference: self.starts_at_reference,
        }))
    }
}
