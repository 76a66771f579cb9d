//! Rows through replicas of a model, in batches by tokens.

use std::{
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use align_types::PromptGroup;

use crate::{Error, parallel};

/// The number of batches is a multiple of this where rows suffice: so many threads have equal shares and end together.
/// It is no number of threads, on which results must not depend.
const SHARES: usize = 4;

/// Cuts rows into runs of about equally many tokens, and at most `limit`; a longer row runs alone.
pub fn batches(groups: &[PromptGroup], limit: usize) -> Vec<Range<usize>> {
    let total: usize = groups.iter().map(PromptGroup::flat_tokens).sum();
    // Shares a little below the limit: rows do not end where shares do, and what is over would be a batch of its own.
    let count = total.div_ceil((limit - limit / 8).max(1)).next_multiple_of(SHARES);
    let mut batches = Vec::new();
    let (mut start, mut tokens, mut before, mut own) = (0, 0, 0, 0);
    for (index, group) in groups.iter().enumerate() {
        let more = group.flat_tokens();
        // A row belongs to the share in which its middle lies.
        let share = (before + more / 2).saturating_mul(count) / total.max(1);
        if index > start && (tokens + more > limit || share > own) {
            batches.push(start..index);
            (start, tokens, own) = (index, 0, own.max(share));
        }
        (tokens, before) = (tokens + more, before + more);
    }
    if start < groups.len() {
        batches.push(start..groups.len());
    }
    batches
}

/// Passes rows through the replicas, and hands on what was made of each batch, in the rows' order.
///
/// Batches are those of all rows, so that work that is continued makes the very numbers of work that was not interrupted;
/// those whose rows are all among the first `kept` are left out. `work` is told the place of its first row among all. What
/// `work` and `done` fail with ends the passes: to stop early is to return an error.
///
/// ```
/// use align_core::{Error, align_types::{Completion, PromptGroup}, passes::over_rows};
///
/// let rows: Vec<PromptGroup> = (1..4).map(|n| PromptGroup::new(vec![7; n], vec![Completion::new(vec![1])])).collect();
/// let count = |seen: &mut usize, _first: usize, rows: &[PromptGroup]| {
///     *seen += rows.len();
///     Ok::<_, Error>(rows.iter().map(|row| row.prompt.len()).collect())
/// };
/// let (mut replicas, mut lengths) = ([0, 0], Vec::new());
/// over_rows(&mut replicas, &rows, 64, 0, count, |_, found| Ok(lengths.extend(found)))?;
/// assert_eq!((lengths, replicas.iter().sum::<usize>()), (vec![1, 2, 3], 3));
/// # Ok::<(), Error>(())
/// ```
///
/// # Errors
/// Those of `work` and `done`, the first in the rows' order; [`Error::Input`] without a replica; [`Error::Thread`].
pub fn over_rows<M: Send, R: Send, E: From<Error> + Send>(
    replicas: &mut [M],
    rows: &[PromptGroup],
    limit: usize,
    kept: usize,
    work: impl Fn(&mut M, usize, &[PromptGroup]) -> Result<Vec<R>, E> + Sync,
    mut done: impl FnMut(Range<usize>, Vec<R>) -> Result<(), E>,
) -> Result<(), E> {
    if replicas.is_empty() {
        return Err(Error::input("passes over rows", "there is no replica of the model").into());
    }
    let left: Vec<Range<usize>> = batches(rows, limit).into_iter().filter(|batch| batch.end > kept).collect();
    for round in left.chunks(PASSES * replicas.len()) {
        // Whoever is ready takes the next batch: batches are equal shares, but rows may be long.
        let next = AtomicUsize::new(0);
        let take = |model: &mut M| {
            let mut made = Vec::new();
            while let Some(batch) = round.get(next.fetch_add(1, Ordering::Relaxed)) {
                made.push((batch, work(model, batch.start, rows.get(batch.clone()).unwrap_or_default())));
            }
            made
        };
        let mut made: Vec<_> =
            parallel::map(replicas.iter_mut().collect(), take)?.into_iter().flatten().collect();
        made.sort_by_key(|(batch, _)| batch.start);
        for (batch, result) in made {
            done(batch.clone(), result?)?;
        }
    }
    Ok(())
}

/// Passes of each replica before results are handed on.
const PASSES: usize = 4;

#[cfg(test)]
mod tests {
    use align_types::Completion;

    use super::*;

    fn group(tokens: usize) -> PromptGroup {
        PromptGroup::new(vec![0; tokens], vec![Completion::new(vec![1])])
    }

    #[test]
    fn a_long_row_runs_alone() {
        let groups = [group(1), group(1), group(20), group(1)];
        assert_eq!(batches(&groups, 8), [0..2, 2..3, 3..4]);
        assert!(batches(&[], 8).is_empty());
    }

    /// 40 rows of 10 tokens with at most 100 in a batch: 5 batches of 88 become 8, the next multiple of 4, of 5 rows each.
    #[test]
    fn batches_are_equal_shares_for_threads_that_are_to_end_together() {
        let groups: Vec<PromptGroup> = (0..40).map(|_| group(9)).collect();
        let cut = batches(&groups, 100);
        assert_eq!(cut.iter().map(Range::len).collect::<Vec<_>>(), [5; 8]);
        // Rows of very different lengths: all of them once, in order, none over the limit.
        let mixed: Vec<PromptGroup> = (0..97).map(|row| group(1 + row * 37 % 61)).collect();
        let cut = batches(&mixed, 128);
        assert!(cut.windows(2).all(|two| two[0].end == two[1].start));
        assert_eq!((cut[0].start, cut.last().unwrap().end), (0, 97));
        let tokens =
            |batch: &Range<usize>| mixed[batch.clone()].iter().map(PromptGroup::flat_tokens).sum::<usize>();
        assert!(cut.iter().all(|batch| tokens(batch) <= 128));
        assert_eq!(batches(&mixed, usize::MAX).len(), 4);
    }

    /// With 8 tokens a batch: rows 0 and 1, 2, 3. Two rows are there already: the first batch is not computed again.
    #[test]
    fn batches_stay_those_of_all_rows_and_results_come_in_their_order() {
        let groups = [group(1), group(1), group(20), group(1)];
        let run = |kept| {
            let mut found = Vec::new();
            let lengths = |(): &mut (), _, rows: &[PromptGroup]| {
                Ok::<_, Error>(rows.iter().map(|row| row.prompt.len()).collect())
            };
            let done = |batch: Range<usize>, lengths: Vec<usize>| {
                found.push((batch, lengths));
                Ok(())
            };
            over_rows(&mut [(), ()], &groups, 8, kept, lengths, done).unwrap();
            found
        };
        assert_eq!(run(0), [(0..2, vec![1, 1]), (2..3, vec![20]), (3..4, vec![1])]);
        assert_eq!(run(1), run(0), "the first batch has a row that is not there");
        assert_eq!(run(2), run(0)[1..]);
        assert!(run(4).is_empty());
    }

    #[test]
    fn rows_without_a_model_are_not_taken_for_done() {
        let none: &mut [()] = &mut [];
        let work = |(): &mut (), _, rows: &[PromptGroup]| Ok::<_, Error>(vec![(); rows.len()]);
        let error = over_rows(none, &[group(1)], 8, 0, work, |_, _| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "passes over rows: there is no replica of the model");
    }

    /// Of two bad batches the first in the rows' order is the one that is named, whoever found it; those before it are
    /// handed on, and none behind it.
    #[test]
    fn the_first_bad_batch_is_named() {
        let groups: Vec<PromptGroup> = (0..24).map(|row| group(row + 1)).collect();
        let work = |(): &mut (), _, rows: &[PromptGroup]| match rows[0].prompt.len() {
            6.. => Err(Error::input("row", format!("of {}", rows[0].prompt.len()))),
            _ => Ok(vec![(); rows.len()]),
        };
        let mut last = 0;
        let done = |batch: Range<usize>, _| {
            last = batch.end;
            Ok(())
        };
        let error = over_rows(&mut [(), (), ()], &groups, 1, 0, work, done).unwrap_err();
        assert_eq!((error.to_string(), last), ("row: of 6".to_owned(), 5));
    }
}
