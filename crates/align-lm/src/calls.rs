//! Which groups of a packed batch attend in one call: those of the same shape.

use align_core::{
    Error, PackedBatch, Result,
    tch::{Device, Tensor},
};

use crate::attention::{Group, Qkv};

/// Groups are brought together where this many rows or fewer must be moved for each call that is saved. It is a rough
/// bound: the price of either is small beside the products of matrices, the more so the wider a model is.
///
/// Fine-tuning a GPT-2 of 0.4M on batches of 64 short sequences (`cargo xtask reproduce dpo-vs-ppo --quick --arms sft`) took
/// 0.83 of the CPU time that it took with a call for each group, and led to the same bits.
const ROWS_PER_CALL: usize = 64;

/// A call of attention: groups of the same shape, one after the other.
#[derive(Debug, PartialEq)]
pub(crate) struct Call {
    /// The first of them.
    pub(crate) group: usize,
    /// How many they are; one where a group takes several pieces.
    pub(crate) count: usize,
}

/// The calls of a packed batch.
#[derive(Debug)]
pub(crate) struct Calls {
    pub(crate) calls: Vec<Call>,
    /// For each row of a call's input the row of the stream that it is; none where the stream has that order.
    order: Option<Order>,
    tail: bool,
}

#[derive(Debug)]
struct Order {
    queries: Tensor,
    keys: Tensor,
    /// For each row of the stream its place in the output.
    back: Tensor,
}

/// What groups must have in common to attend in one call; nothing is like a group of several pieces.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shape<'a> {
    several: bool,
    rows: usize,
    /// Of no consequence where all rows are causal.
    prompt: usize,
    completions: &'a [usize],
}

impl<'a> Shape<'a> {
    fn of(group: &'a Group, tail: bool) -> Self {
        let (span, several) = (&group.span, group.split);
        match span.is_causal() {
            true if tail => Self { several, rows: span.len(), prompt: span.prompt_len, completions: &[] },
            true => Self { several, rows: span.len(), prompt: 0, completions: &[] },
            false => Self {
                several,
                rows: span.len(),
                prompt: span.prompt_len,
                completions: &span.completion_lens,
            },
        }
    }

    fn joins(&self, other: &Self) -> bool {
        !self.several && self == other
    }
}

impl Calls {
    /// Decides which groups attend together; `tail` where the queries are those of a [`crate::tail::Tail`] alone.
    pub(crate) fn new(groups: &[Group], tail: bool, device: Device) -> Result<Self> {
        let natural: Vec<usize> = (0..groups.len()).collect();
        let mut sorted = natural.clone();
        let shape = |index: &usize| groups.get(*index).map(|group| Shape::of(group, tail));
        sorted.sort_by_key(shape);
        let (as_they_are, together) = (calls(groups, &natural, tail), calls(groups, &sorted, tail));
        let rows: usize = groups.iter().map(|group| group.span.len()).sum();
        if as_they_are.len().saturating_sub(together.len()) * ROWS_PER_CALL < rows {
            return Ok(Self { calls: as_they_are, order: None, tail });
        }
        Ok(Self { calls: together, order: Some(Order::new(groups, &sorted, tail, device)?), tail })
    }

    /// Brings rows into the order of the calls and cuts them into their pieces.
    pub(crate) fn cut(&self, rows: &Qkv, groups: &[Group]) -> Result<Pieces> {
        let moved = |x: &Tensor, order: Option<&Tensor>| match order {
            Some(order) => x.f_index_select(0, order),
            None => Ok(x.shallow_clone()),
        };
        let order = self.order.as_ref();
        let (keys, queries) = (order.map(|order| &order.keys), order.map(|order| &order.queries));
        let lengths = self.lengths(groups, false);
        Ok(Pieces {
            queries: cut(&moved(&rows.queries, queries)?, &self.lengths(groups, self.tail))?,
            keys: cut(&moved(&rows.keys, keys)?, &lengths)?,
            values: cut(&moved(&rows.values, keys)?, &lengths)?,
        })
    }

    /// Brings outputs, one call after the other, into the order of the stream.
    pub(crate) fn back(&self, out: &Tensor) -> Result<Tensor> {
        Ok(match &self.order {
            Some(order) => out.f_index_select(0, &order.back)?,
            None => out.shallow_clone(),
        })
    }

    /// The rows of every piece.
    fn lengths(&self, groups: &[Group], tail: bool) -> Vec<i64> {
        let pieces = |call: &Call| {
            let pieces = groups.get(call.group).map(|group| pieces(group, tail)).unwrap_or_default();
            pieces.into_iter().map(|rows| rows * call.count as i64).collect::<Vec<_>>()
        };
        self.calls.iter().flat_map(pieces).collect()
    }
}

fn pieces(group: &Group, tail: bool) -> Vec<i64> {
    if tail { group.tail_pieces() } else { group.pieces() }
}

/// Joins neighbours of the same shape.
fn calls(groups: &[Group], order: &[usize], tail: bool) -> Vec<Call> {
    let mut calls: Vec<(Call, Shape)> = Vec::with_capacity(order.len());
    for (index, group) in order.iter().filter_map(|index| Some((*index, groups.get(*index)?))) {
        let shape = Shape::of(group, tail);
        match calls.last_mut() {
            Some((call, last)) if last.joins(&shape) => call.count += 1,
            _ => calls.push((Call { group: index, count: 1 }, shape)),
        }
    }
    calls.into_iter().map(|(call, _)| call).collect()
}

impl Order {
    fn new(groups: &[Group], order: &[usize], tail: bool, device: Device) -> Result<Self> {
        let keys = rows(groups, order, false);
        let queries = if tail { rows(groups, order, true) } else { keys.clone() };
        let mut back = vec![0; queries.len()];
        for (place, row) in queries.iter().enumerate() {
            if let Some(back) = back.get_mut(*row as usize) {
                *back = place as i64;
            }
        }
        let tensor = |rows: &[i64]| PackedBatch::index_tensor(rows, device);
        Ok(Self { queries: tensor(&queries)?, keys: tensor(&keys)?, back: tensor(&back)? })
    }
}

/// The rows of groups in an order, as they are numbered in the stream or in the tail.
fn rows(groups: &[Group], order: &[usize], tail: bool) -> Vec<i64> {
    let mut next = 0;
    let ranges: Vec<_> = groups
        .iter()
        .map(|group| {
            let start = next;
            next += pieces(group, tail).iter().sum::<i64>();
            start..next
        })
        .collect();
    order.iter().filter_map(|index| ranges.get(*index).cloned()).flatten().collect()
}

/// Cuts rows into pieces with a single operation: the backward pass of each `narrow` would add a zero tensor as large as
/// the whole stream.
fn cut(x: &Tensor, pieces: &[i64]) -> Result<std::vec::IntoIter<Tensor>> {
    Ok(x.f_split_with_sizes(pieces, 0)?.into_iter())
}

/// The rows of the calls in turn.
pub(crate) struct Pieces {
    queries: std::vec::IntoIter<Tensor>,
    keys: std::vec::IntoIter<Tensor>,
    values: std::vec::IntoIter<Tensor>,
}

impl Pieces {
    pub(crate) fn take(&mut self) -> Result<Qkv> {
        match (self.queries.next(), self.keys.next(), self.values.next()) {
            (Some(queries), Some(keys), Some(values)) => Ok(Qkv { queries, keys, values }),
            _ => Err(Error::input("attention", "the stream has fewer pieces than its groups")),
        }
    }
}

#[cfg(test)]
mod tests {
    use align_core::GroupSpan;

    use super::*;

    /// Groups of a prompt and its completions; those of several completions attend in one call with a mask.
    fn groups(shapes: &[(usize, &[usize])]) -> Vec<Group> {
        let mut start = 0;
        let group = |(prompt_len, lens): &(usize, &[usize])| {
            let span = GroupSpan { start, prompt_len: *prompt_len, completion_lens: lens.to_vec() };
            start += span.len();
            Group { span, split: lens.len() > 2 }
        };
        shapes.iter().map(group).collect()
    }

    fn counts(calls: &Calls) -> Vec<(usize, usize)> {
        calls.calls.iter().map(|call| (call.group, call.count)).collect()
    }

    fn list(tensor: &Tensor) -> Vec<i64> {
        Vec::try_from(tensor).unwrap()
    }

    /// Rows 0-1, 2-4, 5-6, 7-9: two groups of 2 rows and two of 3.
    #[test]
    fn groups_of_one_length_are_brought_together_and_back() {
        let groups = groups(&[(1, &[1]), (1, &[2]), (1, &[1]), (2, &[1])]);
        let calls = Calls::new(&groups, false, Device::Cpu).unwrap();
        assert_eq!(counts(&calls), [(0, 2), (1, 2)]);
        let order = calls.order.unwrap();
        assert_eq!(list(&order.keys), [0, 1, 5, 6, 2, 3, 4, 7, 8, 9]);
        assert_eq!(list(&order.keys), list(&order.queries));
        assert_eq!(list(&order.back), [0, 1, 4, 5, 6, 2, 3, 7, 8, 9]);
    }

    /// The tail of the last group begins a row later: rows 0-1, 2-4, 5-6 and 7-8 of it.
    #[test]
    fn the_tail_asks_for_the_same_prompt_too() {
        let groups = groups(&[(1, &[1]), (1, &[2]), (1, &[1]), (2, &[1])]);
        let calls = Calls::new(&groups, true, Device::Cpu).unwrap();
        assert_eq!(counts(&calls), [(0, 2), (1, 1), (3, 1)]);
        let order = calls.order.as_ref().unwrap();
        assert_eq!(list(&order.queries), [0, 1, 5, 6, 2, 3, 4, 7, 8]);
        assert_eq!(list(&order.keys), [0, 1, 5, 6, 2, 3, 4, 7, 8, 9]);
        assert_eq!(calls.lengths(&groups, true), [4, 3, 2]);
        assert_eq!(calls.lengths(&groups, false), [4, 3, 3]);
    }

    #[test]
    fn groups_of_several_answers_join_those_of_the_same_answers_unless_they_take_several_pieces() {
        let three: &[usize] = &[1, 1, 1];
        let groups = groups(&[(1, &[1, 2]), (1, &[2, 1]), (1, three), (1, &[1, 2]), (1, three), (4, &[])]);
        let calls = Calls::new(&groups, false, Device::Cpu).unwrap();
        assert_eq!(counts(&calls), [(5, 1), (0, 2), (1, 1), (2, 1), (4, 1)]);
    }

    #[test]
    fn long_groups_stay_where_they_are_but_neighbours_join() {
        let groups = groups(&[(100, &[100]), (1, &[2]), (100, &[100]), (150, &[50])]);
        let calls = Calls::new(&groups, false, Device::Cpu).unwrap();
        assert_eq!(counts(&calls), [(0, 1), (1, 1), (2, 2)]);
        assert!(calls.order.is_none());
    }
}
