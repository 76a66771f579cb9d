use std::ops::Range;

use align_types::PromptGroup;

/// Shares items out among threads so that their weights are about equal: the heaviest item first, each to the
/// thread with the least so far. Within a thread the items keep their order.
///
/// The result depends on the weights and the number of threads alone.
fn share_out(weights: &[usize], threads: usize) -> Vec<Vec<usize>> {
    let mut heaviest_first: Vec<usize> = (0..weights.len()).collect();
    let weight = |index: &usize| weights.get(*index).copied().unwrap_or(0);
    heaviest_first.sort_by_key(|index| std::cmp::Reverse(weight(index)));
    let mut parts: Vec<(usize, Vec<usize>)> = vec![(0, Vec::new()); threads.max(1)];
    for index in heaviest_first {
        if let Some((load, part)) = parts.iter_mut().min_by_key(|(load, _)| *load) {
            *load += weight(&index);
            part.push(index);
        }
    }
    parts
        .into_iter()
        .map(|(_, mut part)| {
            part.sort_unstable();
            part
        })
        .collect()
}

/// Cuts a row of items into as few runs as there can be of at most `limit` in weight, the heaviest of which is as light
/// as it can be; an item above the limit is a run of its own.
///
/// Even runs take the least memory, and a small rest would cost a whole gradient.
fn cut(weights: &[usize], limit: usize) -> Vec<Range<usize>> {
    let fewest = fill(weights, limit).len();
    let (mut low, mut high) = (0, limit.min(weights.iter().sum()));
    while low < high {
        let middle = low + (high - low) / 2;
        if fill(weights, middle).len() <= fewest {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    fill(weights, high)
}

/// Cuts a row of items into runs of at most `limit` in weight, each as full as it can be.
fn fill(weights: &[usize], limit: usize) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let (mut start, mut load) = (0, 0);
    for (index, weight) in weights.iter().enumerate() {
        if index > start && load + weight > limit {
            runs.push(start..index);
            (start, load) = (index, 0);
        }
        load += weight;
    }
    if start < weights.len() {
        runs.push(start..weights.len());
    }
    runs
}

/// The groups that one worker computes, and how they are cut into forward passes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Part {
    /// The groups, in the order of the batch.
    pub groups: Vec<PromptGroup>,
    /// The place of each group in the batch.
    pub places: Vec<usize>,
    /// The name of each group for messages.
    pub names: Vec<String>,
    /// The groups of each forward pass.
    pub micro_batches: Vec<Range<usize>>,
}

/// A batch as it is computed: shared out among workers and cut into forward passes, once and for all.
///
/// Numbers that are computed over the same packs by the same workers are equal to the bit, which is what makes the
/// importance ratio of PPO exactly 1 before the first update.
///
/// ```
/// use align_core::{Packs, align_types::{Completion, PromptGroup}};
///
/// let group = |n: usize| PromptGroup::new(vec![0; n], vec![Completion::new(vec![1])]);
/// let packs = Packs::new(vec![group(1), group(2), group(3)], 2, 4);
/// // The longest goes alone to the first worker; the others do not fit one pass of four tokens.
/// assert_eq!(packs.parts[0].places, [2]);
/// assert_eq!(packs.parts[1].micro_batches, [0..1, 1..2]);
/// assert_eq!(packs.into_groups(), [group(1), group(2), group(3)]);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Packs {
    /// One part per worker; fewer where there are fewer groups.
    pub parts: Vec<Part>,
}

impl Packs {
    /// Plans a batch: one part per worker, each cut so that no forward pass has more than `micro_batch_tokens` flat
    /// tokens; a longer group runs alone.
    ///
    /// The split by tokens comes first, so that all workers have something to do even when the batch fits one pass.
    pub fn new(groups: Vec<PromptGroup>, workers: usize, micro_batch_tokens: usize) -> Self {
        let tokens: Vec<usize> = groups.iter().map(PromptGroup::flat_tokens).collect();
        let mut groups: Vec<Option<PromptGroup>> = groups.into_iter().map(Some).collect();
        let part = |places: Vec<usize>| {
            let taken: Vec<(String, PromptGroup)> = places
                .iter()
                .filter_map(|place| Some((*place, groups.get_mut(*place)?.take()?)))
                .map(|(place, group)| (group.describe(place), group))
                .collect();
            let (names, groups): (Vec<_>, Vec<_>) = taken.into_iter().unzip();
            let weights: Vec<usize> = groups.iter().map(PromptGroup::flat_tokens).collect();
            Part { groups, places, names, micro_batches: cut(&weights, micro_batch_tokens) }
        };
        let shares = share_out(&tokens, workers).into_iter().filter(|places| !places.is_empty());
        Self { parts: shares.map(part).collect() }
    }

    /// Counts the groups.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.groups.len()).sum()
    }

    /// Says whether there is no group.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the groups in the order of the batch.
    pub fn groups(&self) -> Vec<&PromptGroup> {
        in_order(self.parts.iter().flat_map(|part| part.places.iter().copied().zip(&part.groups)))
    }

    /// Returns the groups in the order of the batch, to write into what is known of their completions. How they are cut
    /// stays as it is, so that their tokens must too.
    pub fn groups_mut(&mut self) -> Vec<&mut PromptGroup> {
        in_order(self.parts.iter_mut().flat_map(|part| part.places.iter().copied().zip(&mut part.groups)))
    }

    /// Hands the groups over in the order of the batch.
    pub fn into_groups(self) -> Vec<PromptGroup> {
        in_order(self.parts.into_iter().flat_map(|part| part.places.into_iter().zip(part.groups)))
    }
}

fn in_order<T>(placed: impl Iterator<Item = (usize, T)>) -> Vec<T> {
    let mut placed: Vec<(usize, T)> = placed.collect();
    placed.sort_by_key(|(place, _)| *place);
    placed.into_iter().map(|(_, item)| item).collect()
}

#[cfg(test)]
mod tests {
    use align_types::Completion;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_group_above_the_limit_runs_alone() {
        assert_eq!(cut(&[3, 4, 9, 2, 2, 2], 6), [0..1, 1..2, 2..3, 3..6]);
        assert_eq!(cut(&[9, 9], 6), [0..1, 1..2]);
        assert!(cut(&[], 6).is_empty());
    }

    #[test]
    fn passes_are_about_equal() {
        assert_eq!(cut(&[4, 4, 4, 1], 12), [0..2, 2..4]);
        assert_eq!(cut(&[1; 10], 9), [0..5, 5..10]);
        assert_eq!(cut(&[1; 10], 4096).len(), 1);
    }

    #[test]
    fn both_threads_work_when_one_pass_would_do() {
        let group = |n| PromptGroup::new(vec![0; n], vec![Completion::new(vec![1])]);
        let parts = Packs::new(vec![group(1), group(2), group(3)], 2, 1000).parts;
        let tokens = |part: &Part| part.groups.iter().map(PromptGroup::flat_tokens).sum::<usize>();
        assert_eq!(parts.iter().map(tokens).collect::<Vec<_>>(), [4, 5]);
        assert_eq!(parts[1].names, ["group 0", "group 1"]);
        assert_eq!(Packs::new(vec![group(1)], 4, 1000).parts.len(), 1);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_every_thread_is_busy(
            weights in prop::collection::vec(1usize..50, 0..40),
            threads in 1usize..5,
            limit in 1usize..80,
        ) {
            let parts = share_out(&weights, threads);
            prop_assert_eq!(parts.len(), threads);
            let mut all: Vec<usize> = parts.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..weights.len()).collect::<Vec<_>>());
            let heaviest = weights.iter().max().copied().unwrap_or(0);
            let loads: Vec<usize> = parts.iter().map(|p| p.iter().map(|i| weights[*i]).sum()).collect();
            // The lightest thread got its last item while it was the lightest, so loads differ by one item.
            prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= heaviest);
            let runs = cut(&weights, limit);
            prop_assert_eq!(runs.iter().cloned().flatten().collect::<Vec<_>>(), (0..weights.len()).collect::<Vec<_>>());
            prop_assert!(runs.len() <= fill(&weights, limit).len());
            for run in runs {
                let load: usize = weights[run.clone()].iter().sum();
                prop_assert!(load <= limit || run.len() == 1);
            }
        }
    }
}
