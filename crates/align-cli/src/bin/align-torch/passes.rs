//! Rows through replicas of a model, in batches by tokens.

use std::ops::Range;

use align_cli::Result;
use align_core::align_types::PromptGroup;

use crate::failure::Own;

/// Passes rows through the replicas as [`align_core::passes::over_rows`] does; `go_on` is asked before each pass.
///
/// # Errors
/// Those of `work`, `go_on` and `done`.
pub fn over_rows<M: Send, R: Send>(
    replicas: &mut [M],
    rows: &[PromptGroup],
    limit: usize,
    kept: usize,
    go_on: impl Fn() -> Result<()> + Sync,
    work: impl Fn(&mut M, &[PromptGroup]) -> Result<Vec<R>> + Sync,
    mut done: impl FnMut(Range<usize>, Vec<R>) -> Result<()>,
) -> Result<()> {
    let work = |model: &mut M, _, rows: &[PromptGroup]| go_on().and_then(|()| work(model, rows)).map_err(Own);
    let done = |batch: Range<usize>, made: Vec<R>| done(batch, made).map_err(Own);
    align_core::passes::over_rows(replicas, rows, limit, kept, work, done).map_err(|Own(error)| error)
}
