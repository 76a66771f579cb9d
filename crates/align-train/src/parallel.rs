//! Work on own threads, joined in order.

use crate::{Error, Result};

/// Runs one piece of work per item on compute threads, as [`align_core::parallel::map`].
///
/// # Errors
/// [`Error::Thread`] as there.
pub fn map<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Result<Vec<R>> {
    align_core::parallel::map(items, work).map_err(|error| match error {
        align_core::Error::Thread { why } => Error::Thread(why),
        other => other.into(),
    })
}

/// Deals items out into `parts` runs of about equal number, in order.
pub(crate) fn deal<T>(items: Vec<T>, parts: usize) -> Vec<Vec<T>> {
    let each = items.len().div_ceil(parts.max(1)).max(1);
    let mut dealt = Vec::with_capacity(parts);
    let mut items = items.into_iter();
    loop {
        let run: Vec<T> = items.by_ref().take(each).collect();
        if run.is_empty() {
            return dealt;
        }
        dealt.push(run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_dealt_in_order() {
        assert_eq!(deal(vec![1, 2, 3, 4, 5], 2), [vec![1, 2, 3], vec![4, 5]]);
        assert_eq!(deal(vec![1], 4), [vec![1]]);
    }

    #[test]
    fn a_panic_of_a_thread_is_an_error_of_this_crate() {
        let error = map(vec![0, 1], |x| assert!(x == 0, "x was {x}")).unwrap_err();
        assert!(matches!(&error, Error::Thread(why) if why.contains("x was 1")), "{error}");
    }
}
