//! Which tokens of a batch a loss reads, and what is known of them.

use align_core::{
    PackedBatch,
    align_types::{Completion, PromptGroup, Trajectory},
    tch::{Device, Tensor},
};

use crate::{Error, Result, answers::name_of};

/// Says whether a completion takes part in the losses of on-policy training: it was sampled, and not left out.
fn active(completion: &Completion) -> Option<&Trajectory> {
    completion.trajectory.as_deref().filter(|trajectory| !trajectory.advantages.is_empty())
}

/// Lists the tokens of each completion that takes part; checks that all of them have advantages.
pub(super) fn active_lens(groups: &[PromptGroup]) -> Result<Vec<usize>> {
    let mut lens = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        for (answer, completion) in group.completions.iter().enumerate() {
            let Some(trajectory) = active(completion) else { continue };
            let tokens = completion.token_ids.len();
            if trajectory.advantages.len() != tokens || completion.trained_tokens() != tokens {
                let why = format!(
                    "{} advantages for {} of its {tokens} tokens that are trained on",
                    trajectory.advantages.len(),
                    completion.trained_tokens()
                );
                return Err(Error::input(name_of(group, index, answer), why));
            }
            lens.push(tokens);
        }
    }
    Ok(lens)
}

/// Counts the trained tokens of language-modelling rows.
pub(super) fn ptx_tokens(groups: &[PromptGroup]) -> usize {
    let rows = groups.iter().flat_map(|group| &group.completions).filter(|c| c.trajectory.is_none());
    rows.map(Completion::trained_tokens).sum()
}

/// The tokens of a packed batch that losses read, by their places in [`PackedBatch::targets`].
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// Places of the tokens of sampled answers that take part.
    pub sampled: Vec<i64>,
    /// Tokens of each of those answers.
    pub lens: Vec<usize>,
    /// Places of the trained tokens of language-modelling rows.
    pub ptx: Vec<i64>,
}

impl Rows {
    pub fn of(batch: &PackedBatch, groups: &[PromptGroup]) -> Result<Self> {
        let mut rows = Self { lens: active_lens(groups)?, ..Self::default() };
        let mut next = 0;
        let completions = groups.iter().flat_map(|group| &group.completions);
        for (completion, len) in completions.zip(batch.completion_lens()) {
            let places = next..next + *len as i64;
            next = places.end;
            if completion.trajectory.is_none() {
                rows.ptx.extend(places);
            } else if active(completion).is_some() {
                rows.sampled.extend(places);
            }
        }
        Ok(rows)
    }

    /// Picks the numbers of the sampled tokens from those of all tokens, `[N]` or `[N, V]`.
    pub fn pick(&self, all: &Tensor) -> Result<Tensor> {
        pick(all, &self.sampled)
    }
}

/// Picks rows; all of them are handed on as they are.
pub(super) fn pick(all: &Tensor, places: &[i64]) -> Result<Tensor> {
    if all.size().first() == Some(&(places.len() as i64)) {
        return Ok(all.shallow_clone());
    }
    Ok(all.f_index_select(0, &PackedBatch::index_tensor(places, all.device())?)?)
}

/// Reads a list of numbers of all completions that take part, `[N]` in float64.
pub(super) fn known<T: Copy + Into<f64>>(
    groups: &[PromptGroup],
    what: &str,
    device: Device,
    list: impl Fn(&Trajectory) -> &[T],
) -> Result<Tensor> {
    let mut numbers: Vec<f64> = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        for (answer, completion) in group.completions.iter().enumerate() {
            let Some(trajectory) = active(completion) else { continue };
            let name = || name_of(group, index, answer);
            let list = list(trajectory);
            crate::answers::check_tokens(what, list, completion.token_ids.len(), &name)?;
            numbers.extend(list.iter().map(|number| (*number).into()));
        }
    }
    Ok(Tensor::f_from_slice(&numbers)?.f_to_device(device)?)
}
