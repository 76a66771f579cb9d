use std::borrow::BorrowMut;

use align_core::align_types::{Completion, PromptGroup};

use crate::{Error, Result, answers};

/// Which numbers the objectives' `measure` gives of each sampled answer of n tokens, one list after the other: the
/// policy's log-probabilities, those of the reference, those of the first reference, the policy's entropies (n each),
/// then the critic's values (n + 1, the last one of the state behind the answer).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MeasureLayout {
    /// Log-probabilities and entropies of the policy.
    pub policy: bool,
    /// Log-probabilities of the reference.
    pub reference: bool,
    /// Log-probabilities of the first reference, where the reference moves.
    pub first_reference: bool,
    /// Values of the critic.
    pub values: bool,
}

impl MeasureLayout {
    /// The layout of a critic alone.
    pub const CRITIC: Self = Self { policy: false, reference: false, first_reference: false, values: true };

    /// Counts the numbers of an answer of this many tokens.
    pub fn numbers(&self, tokens: usize) -> usize {
        let lists =
            2 * usize::from(self.policy) + usize::from(self.reference) + usize::from(self.first_reference);
        lists * tokens + if self.values { tokens + 1 } else { 0 }
    }
}

/// What was measured and is not kept in the trajectories.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MeasureReport {
    /// Tokens of sampled answers.
    pub tokens: usize,
    /// The policy's entropies, summed over those tokens.
    pub entropy: f64,
}

impl MeasureReport {
    /// Adds what another part of the batch gave.
    pub fn add(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.entropy += other.entropy;
    }

    /// Returns the mean entropy of a token (`policy/entropy_avg`); `None` without tokens.
    pub fn mean_entropy(&self) -> Option<f64> {
        (self.tokens > 0).then(|| self.entropy / self.tokens as f64)
    }
}

/// Marks all completions as sampled by the policy: they get an empty trajectory.
///
/// A completion without a trajectory is a language-modelling row of PPO-ptx, which may lie in the same batch: nothing is
/// measured of it, and it has a loss of its own.
pub fn begin_trajectories<G: BorrowMut<PromptGroup>>(groups: &mut [G]) {
    let completions = groups.iter_mut().flat_map(|group| group.borrow_mut().completions.iter_mut());
    completions.for_each(|completion| completion.trajectory = Some(Box::default()));
}

/// Fills the trajectories of sampled answers with what an objective's `measure` gave of their groups, in the same order.
///
/// ```
/// use align_core::align_types::{Completion, PromptGroup};
/// use align_ppo::{MeasureLayout, begin_trajectories, read_measures};
///
/// let mut groups = [PromptGroup::new(vec![0], vec![Completion::new(vec![5, 2])])];
/// begin_trajectories(&mut groups);
/// read_measures(&mut groups, &[vec![0.5, 0.25, 1.0]], MeasureLayout::CRITIC)?;
/// let trajectory = groups[0].completions[0].trajectory.as_ref().unwrap();
/// assert_eq!((trajectory.values.as_slice(), trajectory.value_after), ([0.5, 0.25].as_slice(), Some(1.0)));
/// # Ok::<(), align_ppo::Error>(())
/// ```
///
/// # Errors
/// [`Error::NonFinite`] names row, answer and token of a number that is none; [`Error::Input`] for lists that do not fit.
pub fn read_measures<G: BorrowMut<PromptGroup>>(
    groups: &mut [G],
    numbers: &[Vec<f64>],
    layout: MeasureLayout,
) -> Result<MeasureReport> {
    if numbers.len() != groups.len() {
        return Err(Error::input("measures", format!("{} lists for {} groups", numbers.len(), groups.len())));
    }
    let mut report = MeasureReport::default();
    for (index, (group, numbers)) in groups.iter_mut().zip(numbers).enumerate() {
        let group: &mut PromptGroup = group.borrow_mut();
        let sampled = group.completions.iter().filter(|c| c.trajectory.is_some());
        let expected: usize = sampled.map(|c| layout.numbers(c.token_ids.len())).sum();
        if expected != numbers.len() {
            let why = format!("{} numbers were measured, {expected} are expected", numbers.len());
            return Err(Error::input(group.describe(index), why));
        }
        let row = group.describe(index);
        let mut rest = numbers.as_slice();
        for (answer, completion) in group.completions.iter_mut().enumerate() {
            let name = || format!("{row}, answer {}", answer + 1);
            report.add(read_answer(completion, &mut rest, layout, &name)?);
        }
    }
    Ok(report)
}

fn read_answer(
    completion: &mut Completion,
    rest: &mut &[f64],
    layout: MeasureLayout,
    name: &dyn Fn() -> String,
) -> Result<MeasureReport> {
    let tokens = completion.token_ids.len();
    let Some(trajectory) = completion.trajectory.as_deref_mut() else { return Ok(MeasureReport::default()) };
    let mut take = |what: &str, count: usize| -> Result<&[f64]> {
        let (list, tail) = rest.split_at_checked(count).unwrap_or((rest, &[]));
        *rest = tail;
        answers::check_tokens(what, list, count, name)?;
        Ok(list)
    };
    let narrow = |list: &[f64]| -> Vec<f32> { list.iter().map(|number| *number as f32).collect() };
    let mut report = MeasureReport::default();
    if layout.policy {
        trajectory.old = narrow(take("log-probabilities", tokens)?);
    }
    if layout.reference {
        trajectory.reference = narrow(take("reference log-probabilities", tokens)?);
    }
    if layout.first_reference {
        trajectory.first_reference = narrow(take("log-probabilities of the first reference", tokens)?);
    }
    if layout.policy {
        report = MeasureReport { tokens, entropy: take("entropies", tokens)?.iter().sum() };
    }
    if layout.values {
        let mut values = narrow(take("values", tokens + 1)?);
        trajectory.value_after = values.pop();
        trajectory.values = values;
    }
    Ok(report)
}
