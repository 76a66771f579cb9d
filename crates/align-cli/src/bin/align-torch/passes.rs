//! Rows through replicas of a model, in batches by tokens.

use std::ops::Range;

use align_cli::Result;
use align_core::align_types::PromptGroup;

use crate::computer;

/// Cuts rows into runs of at most `limit` tokens; a longer row runs alone.
pub fn batches(groups: &[PromptGroup], limit: usize) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let (mut start, mut tokens) = (0, 0);
    for (index, group) in groups.iter().enumerate() {
        let more = group.flat_tokens();
        if index > start && tokens + more > limit {
            batches.push(start..index);
            (start, tokens) = (index, 0);
        }
        tokens += more;
    }
    if start < groups.len() {
        batches.push(start..groups.len());
    }
    batches
}

/// Passes rows through the replicas, and hands on what was made of each batch, in the rows' order.
///
/// Batches are those of all rows, so that a continued command makes the very numbers of an uninterrupted one; those whose
/// rows are all among the first `kept` are left out. `go_on` is asked before each round of passes.
///
/// # Errors
/// Those of `work`, `go_on` and `done`.
pub fn over_rows<M: Send, R: Send>(
    replicas: &mut [M],
    rows: &[PromptGroup],
    limit: usize,
    kept: usize,
    go_on: impl Fn() -> Result<()>,
    work: impl Fn(&mut M, &[PromptGroup]) -> Result<Vec<R>> + Sync,
    mut done: impl FnMut(Range<usize>, Vec<R>) -> Result<()>,
) -> Result<()> {
    let left: Vec<Range<usize>> = batches(rows, limit).into_iter().filter(|batch| batch.end > kept).collect();
    for round in left.chunks(replicas.len().max(1)) {
        go_on()?;
        let jobs = round.iter().map(|batch| rows.get(batch.clone()).unwrap_or_default());
        let results = computer::in_parallel(replicas, jobs, &work)?;
        for (batch, result) in round.iter().zip(results) {
            done(batch.clone(), result)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use align_core::align_types::Completion;

    use super::*;

    fn group(tokens: usize) -> PromptGroup {
        PromptGroup::new(vec![0; tokens], vec![Completion::new(vec![1])])
    }

    #[test]
    fn a_long_row_runs_alone() {
        let groups = [group(2), group(3), group(20), group(1)];
        assert_eq!(batches(&groups, 8), [0..2, 2..3, 3..4]);
        assert!(batches(&[], 8).is_empty());
    }

    /// With 8 tokens a batch: rows 0 and 1, 2, 3. Two rows are there already: the first batch is not computed again.
    #[test]
    fn batches_stay_those_of_all_rows_and_results_come_in_their_order() {
        let groups = [group(2), group(3), group(20), group(1)];
        let run = |kept| {
            let mut found = Vec::new();
            let lengths =
                |(): &mut (), rows: &[PromptGroup]| Ok(rows.iter().map(|row| row.prompt.len()).collect());
            let done = |batch: Range<usize>, lengths: Vec<usize>| {
                found.push((batch, lengths));
                Ok(())
            };
            over_rows(&mut [(), ()], &groups, 8, kept, || Ok(()), lengths, done).unwrap();
            found
        };
        assert_eq!(run(0), [(0..2, vec![2, 3]), (2..3, vec![20]), (3..4, vec![1])]);
        assert_eq!(run(1), run(0), "the first batch has a row that is not there");
        assert_eq!(run(2), run(0)[1..]);
        assert!(run(4).is_empty());
    }
}
