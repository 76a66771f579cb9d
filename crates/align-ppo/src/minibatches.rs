//! Which groups make a minibatch.

use align_core::{
    Learn, Packs,
    align_types::{PromptGroup, Purpose, RngStream},
};

/// Shuffles the items of an iteration and cuts them into minibatches as equal as can be; a function of their number, seed,
/// step and epoch. Fewer items than minibatches make fewer minibatches.
pub fn deal<T>(items: Vec<T>, minibatches: usize, seed: u64, step: u64, epoch: u64) -> Vec<Vec<T>> {
    let mut items: Vec<Option<T>> = items.into_iter().map(Some).collect();
    let mut order: Vec<usize> = (0..items.len()).collect();
    RngStream::new(seed, Purpose::Minibatches, step, epoch).shuffle(&mut order);
    let count = minibatches.clamp(1, order.len().max(1));
    let bound = |part: usize| part * order.len() / count;
    (0..count)
        .map(|part| {
            let places = order.get(bound(part)..bound(part + 1)).unwrap_or_default();
            // The order of the batch, so that one minibatch is the batch itself.
            let mut places = places.to_vec();
            places.sort_unstable();
            places.iter().filter_map(|place| items.get_mut(*place)?.take()).collect()
        })
        .collect()
}

/// Plans how each minibatch is computed.
pub(crate) fn pack(policy: &dyn Learn, minibatches: Vec<Vec<PromptGroup>>) -> Vec<Packs> {
    minibatches.into_iter().map(|groups| policy.pack(groups)).collect()
}

/// Deals minibatches of an epoch: sampled groups shuffled, and rows of language modelling one by one to each in turn.
pub(crate) fn deal_with_rows(
    groups: Vec<PromptGroup>,
    rows: Vec<PromptGroup>,
    minibatches: usize,
    (seed, step, epoch): (u64, u64, u64),
) -> Vec<Vec<PromptGroup>> {
    let mut dealt = deal(groups, minibatches, seed, step, epoch);
    let count = dealt.len().max(1);
    for (index, row) in rows.into_iter().enumerate() {
        if let Some(minibatch) = dealt.get_mut(index % count) {
            minibatch.push(row);
        }
    }
    dealt
}

/// Says whether a group was sampled; rows of language modelling have no trajectory.
pub(crate) fn is_sampled(group: &PromptGroup) -> bool {
    group.completions.iter().any(|answer| answer.trajectory.is_some())
}

/// Takes the groups out of their plans.
pub(crate) fn unpack(packs: Vec<Packs>) -> Vec<PromptGroup> {
    packs.into_iter().flat_map(Packs::into_groups).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(n: u32) -> Vec<PromptGroup> {
        (0..n).map(|i| PromptGroup::new(vec![i], vec![])).collect()
    }

    fn tokens(parts: &[Vec<PromptGroup>]) -> Vec<Vec<u32>> {
        parts.iter().map(|part| part.iter().map(|group| group.prompt[0]).collect()).collect()
    }

    #[test]
    fn minibatches_are_even_and_a_function_of_seed_step_and_epoch() {
        let deal = |seed, step, epoch| tokens(&super::deal(groups(10), 3, seed, step, epoch));
        let first = deal(7, 1, 0);
        assert_eq!(first.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 4]);
        let mut all = first.concat();
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
        assert_eq!(first, deal(7, 1, 0));
        for other in [deal(8, 1, 0), deal(7, 2, 0), deal(7, 1, 1)] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn one_minibatch_is_the_batch_and_none_is_empty() {
        assert_eq!(tokens(&deal(groups(4), 1, 0, 1, 0)), [[0, 1, 2, 3]]);
        assert_eq!(deal(groups(2), 5, 0, 1, 0).len(), 2);
    }
}
