//! What the phases ask of completions, with errors that name the row.

use std::borrow::BorrowMut;

use align_core::align_types::{Completion, FinishReason, PromptGroup};

use crate::{Error, Result};

/// Names a completion for messages: the row of its group and its place in it, from 1.
pub(crate) fn name_of(group: &PromptGroup, index: usize, answer: usize) -> String {
    format!("{}, answer {}", group.describe(index), answer + 1)
}

/// Says whether a completion reached the token limit; one whose end is not known is taken for finished.
pub(crate) fn is_truncated(completion: &Completion) -> bool {
    completion.finish_reason == Some(FinishReason::Length)
}

/// Calls a function on every completion with its name.
pub(crate) fn for_each<G: BorrowMut<PromptGroup>>(
    groups: &mut [G],
    mut f: impl FnMut(&dyn Fn() -> String, &mut Completion) -> Result<()>,
) -> Result<()> {
    for (index, group) in groups.iter_mut().enumerate() {
        let group: &mut PromptGroup = group.borrow_mut();
        let row = group.describe(index);
        for (answer, completion) in group.completions.iter_mut().enumerate() {
            f(&|| format!("{row}, answer {}", answer + 1), completion)?;
        }
    }
    Ok(())
}

/// Checks that there is one finite number per token of a completion.
pub(crate) fn check_tokens<T: Copy + Into<f64>>(
    what: &str,
    numbers: &[T],
    tokens: usize,
    name: &dyn Fn() -> String,
) -> Result<()> {
    if numbers.len() != tokens {
        let why = if numbers.is_empty() {
            format!("its {what} are not known yet")
        } else {
            format!("{} {what} for {tokens} tokens", numbers.len())
        };
        return Err(Error::input(name(), why));
    }
    match numbers.iter().map(|number| (*number).into()).enumerate().find(|(_, number)| !number.is_finite()) {
        Some((token, value)) => {
            let what = format!("the number at token {} of the {what} of {}", token + 1, name());
            Err(Error::NonFinite { what, value })
        }
        None => Ok(()),
    }
}
