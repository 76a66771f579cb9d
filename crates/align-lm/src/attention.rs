use std::collections::BTreeMap;

use align_core::{
    Error, GroupSpan, PackedBatch, Result,
    tch::{Device, Kind, Tensor},
};

use crate::{calls::Calls, matrix::widened};

/// The rows of one layer before attention; queries `[T, heads, D]`, keys and values `[T, key-value heads, D]`.
#[derive(Debug)]
pub(crate) struct Qkv {
    pub(crate) queries: Tensor,
    pub(crate) keys: Tensor,
    pub(crate) values: Tensor,
}

/// How a layer makes weights of the products of queries and keys.
#[derive(Debug, Default)]
pub(crate) struct Scores {
    /// The factor of a product; 1/√D if absent.
    pub(crate) scale: Option<f64>,
    /// Scores are bent below this bound: cap · tanh(score / cap).
    pub(crate) cap: Option<f64>,
    /// A row sees this many positions, its own included; all if absent.
    pub(crate) window: Option<usize>,
    /// What is taken from a score per position of distance, `[heads]` (ALiBi, arXiv:2108.12409); the same in all
    /// layers of a model.
    pub(crate) slopes: Option<Tensor>,
}

impl Scores {
    /// Says whether rows up to `reach` positions apart attend as plainly causal ones do.
    pub(crate) fn is_plain(&self, reach: usize) -> bool {
        self.cap.is_none() && self.slopes.is_none() && self.window.is_none_or(|window| reach < window)
    }

    /// Builds the mask of rows at positions `[.., Q, 1]` over keys at positions `[.., 1, K]`: what a row may see, or
    /// what is added to its scores. Without `allowed` a row sees all positions up to its own.
    fn mask(&self, queries: &Tensor, keys: &Tensor, allowed: Option<Tensor>) -> Result<Tensor> {
        let distance = queries.f_sub(keys)?;
        let mut allowed = match allowed {
            Some(allowed) => allowed,
            None => distance.f_ge(0)?,
        };
        if let Some(window) = self.window {
            allowed = allowed.f_logical_and(&distance.f_lt(window as i64)?)?;
        }
        let Some(slopes) = &self.slopes else {
            return Ok(allowed);
        };
        let bias = slopes.f_view([-1, 1, 1])?.f_mul(&distance.f_neg()?)?;
        Ok(bias.f_masked_fill(&allowed.f_logical_not()?, f64::NEG_INFINITY)?)
    }

    /// As [`Self::mask`] for new rows of slots that hold others: all keys before a row lie in the same slot.
    /// `queries` are `[slots, 1, Q, 1]`; the keys are the first `keys` positions.
    pub(crate) fn mask_over(&self, queries: &Tensor, keys: i64) -> Result<Tensor> {
        self.mask(queries, &Tensor::f_arange(keys, (Kind::Int64, queries.device()))?, None)
    }

    /// Attends with as many or grouped heads: queries `[B, heads, Q, D]`, keys and values `[B, key-value heads, K,
    /// D]`, a mask that broadcasts to `[B, heads, Q, K]`; without one, all rows see all keys, or are causal.
    pub(crate) fn attend(&self, rows: &Qkv, mask: Option<&Tensor>, causal: bool) -> Result<Tensor> {
        let Qkv { queries, keys, values } = rows;
        // Positions are float32; a model in float64 stays so. Scores of rows in 16 bits are float32 inside the kernels.
        let cast = |mask: &Tensor| match mask.kind() {
            Kind::Bool => Ok(mask.shallow_clone()),
            _ => mask.f_to_kind(queries.kind()),
        };
        let mask = mask.map(cast).transpose()?;
        if let Some(cap) = self.cap {
            return self.attend_capped(rows, mask.as_ref(), causal, cap);
        }
        let grouped = heads(queries) != heads(keys);
        Ok(Tensor::f_scaled_dot_product_attention(
            queries, keys, values, mask, 0.0, causal, self.scale, grouped,
        )?)
    }

    /// The fused kernel knows no bound on scores.
    fn attend_capped(&self, rows: &Qkv, mask: Option<&Tensor>, causal: bool, cap: f64) -> Result<Tensor> {
        if causal || mask.is_some_and(|mask| mask.kind() != Kind::Bool) {
            return Err(Error::input("attention with capped scores", "it needs a mask of what rows may see"));
        }
        let (batch, all, length, size) = rows.queries.size4()?;
        let queries = rows.queries.f_reshape([batch, heads(&rows.keys), -1, length, size])?;
        let (keys, values) = (rows.keys.f_unsqueeze(2)?, rows.values.f_unsqueeze(2)?);
        let scale = self.scale.unwrap_or(1.0 / (size as f64).sqrt());
        let scores = widened(&queries.f_matmul(&keys.f_transpose(-2, -1)?)?)?.f_mul_scalar(scale / cap)?;
        let mut scores = scores.f_tanh()?.f_mul_scalar(cap)?;
        if let Some(mask) = mask {
            scores = scores.f_masked_fill(&mask.f_logical_not()?.f_unsqueeze(1)?, f64::NEG_INFINITY)?;
        }
        let out = scores.f_softmax(-1, None)?.f_to_kind(values.kind())?.f_matmul(&values)?;
        Ok(out.f_reshape([batch, all, length, size])?)
    }
}

/// What the rows of a stream may attend to. Every layer asks it once; the rest of a model sees rows only, whether
/// they are trained on, scored or sampled.
pub(crate) trait Attention {
    /// Attends in layer `layer`; returns `[T, heads, D]`.
    fn attend(&mut self, layer: usize, rows: &Qkv, scores: &Scores) -> Result<Tensor>;
}

/// Attention of `count` pieces of one shape, rows first: `[count * L, heads, D]` over `[count * M, key-value heads, D]`;
/// causal without a mask.
pub(crate) fn attend(rows: &Qkv, count: usize, mask: Option<&Tensor>, scores: &Scores) -> Result<Tensor> {
    // libtorch aligns the causal triangle at the top left: with fewer queries than keys it would be silently wrong.
    if mask.is_none() && length(&rows.queries) != length(&rows.keys) {
        return Err(Error::input("causal attention", "queries and keys differ in number"));
    }
    let heads_first = |x: &Tensor| -> Result<Tensor> {
        let (rows, heads, size) = x.size3()?;
        Ok(x.f_view([count as i64, rows / count.max(1) as i64, heads, size])?.f_transpose(1, 2)?)
    };
    let rows = Qkv {
        queries: heads_first(&rows.queries)?,
        keys: heads_first(&rows.keys)?,
        values: heads_first(&rows.values)?,
    };
    let out = scores.attend(&rows, mask, mask.is_none())?.f_transpose(1, 2)?;
    Ok(out.f_flatten(0, 1)?)
}

fn length(x: &Tensor) -> i64 {
    x.size().first().copied().unwrap_or(0)
}

/// The heads of `[.., heads, rows, D]`.
fn heads(x: &Tensor) -> i64 {
    x.size().get(1).copied().unwrap_or(0)
}

/// A call of attention must save this many query-key scores per head to be worth its fixed cost.
///
/// Measured forward and backward on one core, 8 heads of 32 over 4 key-value heads (prompt, completion, completions:
/// milliseconds of one masked call against one call per completion): 131, 45, 2: 6.3 / 5.9 · 131, 45, 8: 24.9 / 15.0
/// · 131, 45, 32: 153 / 31 · 20, 20, 8: 2.6 / 3.5 · 20, 20, 16: 7.0 / 7.2 – the break-even lies near 6000 scores.
const SCORES_PER_CALL: usize = 6000;

/// How one group attends.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) span: GroupSpan,
    /// Whether the prompt attends by itself and each completion over the prompt's keys and its own, so that sibling ×
    /// sibling scores are never computed; otherwise one call with the tree mask.
    pub(crate) split: bool,
}

impl Group {
    pub(crate) fn new(span: &GroupSpan, scores_per_call: usize) -> Self {
        let split: usize = span.completion_lens.iter().map(|len| len * (span.prompt_len + len)).sum();
        let split = span.prompt_len * span.prompt_len + split;
        let saved = (span.len() * span.len()).saturating_sub(split);
        let calls = span.completion_lens.len() + 1;
        Self { span: span.clone(), split: !span.is_causal() && saved >= scores_per_call * calls }
    }

    /// Rows of the prompt that predict nothing: all but its last.
    fn silent(&self) -> usize {
        self.span.prompt_len.saturating_sub(1)
    }

    /// As [`Self::pieces`] without the rows that predict nothing.
    pub(crate) fn tail_pieces(&self) -> Vec<i64> {
        let mut pieces = self.pieces();
        if let Some(first) = pieces.first_mut() {
            *first -= self.silent() as i64;
        }
        pieces
    }

    /// As [`Self::masks`] without the rows that predict nothing.
    fn tail_masks(&self, scores: &Scores, device: Device) -> Result<Vec<Option<Tensor>>> {
        let mut masks = self.masks(scores, device)?;
        let silent = self.silent();
        let (Some(first), true) = (masks.first_mut(), silent > 0) else { return Ok(masks) };
        let rows: Vec<i64> = (0..self.pieces().first().copied().unwrap_or(0)).collect();
        *first = Some(match first {
            Some(mask) => mask.f_narrow(-2, silent as i64, (rows.len() - silent) as i64)?,
            None => mask(scores, rows.get(silent..).unwrap_or_default(), &rows, None, device)?,
        });
        Ok(masks)
    }

    /// The number of rows of each piece the stream is cut into.
    pub(crate) fn pieces(&self) -> Vec<i64> {
        let span = &self.span;
        match self.split {
            false => vec![span.len() as i64],
            true => std::iter::once(&span.prompt_len)
                .chain(&span.completion_lens)
                .map(|len| *len as i64)
                .collect(),
        }
    }

    /// Builds the mask of each call; none where it is plainly causal.
    fn masks(&self, scores: &Scores, device: Device) -> Result<Vec<Option<Tensor>>> {
        let span = &self.span;
        let prompt: Vec<i64> = (0..span.prompt_len as i64).collect();
        let own = |len: &usize| -> Vec<i64> { (0..*len as i64).map(|i| prompt.len() as i64 + i).collect() };
        let causal = |rows: &[i64]| match scores.is_plain(rows.len().saturating_sub(1)) {
            true => Ok(None),
            false => mask(scores, rows, rows, None, device).map(Some),
        };
        if self.split {
            let over_prompt = |len| {
                let own = own(len);
                mask(scores, &own, &[prompt.as_slice(), &own].concat(), None, device).map(Some)
            };
            let completions = span.completion_lens.iter().map(over_prompt);
            return std::iter::once(causal(&prompt)).chain(completions).collect();
        }
        let rows: Vec<i64> =
            prompt.iter().copied().chain(span.completion_lens.iter().flat_map(own)).collect();
        match span.is_causal() {
            true => Ok(vec![causal(&rows)?]),
            false => Ok(vec![Some(mask(scores, &rows, &rows, Some(span.tree_mask(device)?), device)?)]),
        }
    }
}

/// As [`Scores::mask`] from lists of positions, `[1, 1 or heads, Q, K]`.
fn mask(
    scores: &Scores,
    queries: &[i64],
    keys: &[i64],
    allowed: Option<Tensor>,
    device: Device,
) -> Result<Tensor> {
    let queries = PackedBatch::index_tensor(queries, device)?.f_view([1, 1, -1, 1])?;
    let keys = PackedBatch::index_tensor(keys, device)?;
    let allowed = allowed.map(|allowed| allowed.f_view([1, 1, queries.size4()?.2, -1])).transpose()?;
    scores.mask(&queries, &keys, allowed)
}

/// Attention over a packed batch: rows see their own group, completions never see their siblings.
#[derive(Debug)]
pub(crate) struct PackedAttention {
    groups: Vec<Group>,
    device: Device,
    /// Which groups attend together: of all queries and of those of the tail.
    calls: BTreeMap<bool, Calls>,
    /// The masks of every call, for each window that a layer asked for, of all queries and of those of the tail: made
    /// once, used by all layers.
    masks: BTreeMap<(Option<usize>, bool), Vec<Option<Tensor>>>,
}

/// The same for a layer whose queries are the rows of a [`crate::tail::Tail`] alone; keys and values are those of all
/// rows.
pub(crate) struct TailAttention<'a>(pub(crate) &'a mut PackedAttention);

impl Attention for TailAttention<'_> {
    fn attend(&mut self, _: usize, rows: &Qkv, scores: &Scores) -> Result<Tensor> {
        self.0.attend_groups(rows, scores, true)
    }
}

impl PackedAttention {
    /// Decides how groups are attended to.
    pub(crate) fn new(batch: &PackedBatch, device: Device) -> Self {
        Self::with_threshold(batch, SCORES_PER_CALL, device)
    }

    /// As [`Self::new`] with another price of a call.
    pub(crate) fn with_threshold(batch: &PackedBatch, scores_per_call: usize, device: Device) -> Self {
        let groups = batch.groups().iter().map(|span| Group::new(span, scores_per_call)).collect();
        Self { groups, device, calls: BTreeMap::new(), masks: BTreeMap::new() }
    }

    fn make_calls(&mut self, tail: bool) -> Result<()> {
        if !self.calls.contains_key(&tail) {
            self.calls.insert(tail, Calls::new(&self.groups, tail, self.device)?);
        }
        Ok(())
    }

    fn make_masks(&mut self, scores: &Scores, tail: bool) -> Result<()> {
        if !self.masks.contains_key(&(scores.window, tail)) {
            let mut masks = Vec::new();
            let calls = self.calls.get(&tail).into_iter().flat_map(|calls| &calls.calls);
            for group in calls.filter_map(|call| self.groups.get(call.group)) {
                masks.extend(match tail {
                    true => group.tail_masks(scores, self.device)?,
                    false => group.masks(scores, self.device)?,
                });
            }
            self.masks.insert((scores.window, tail), masks);
        }
        Ok(())
    }

    fn attend_groups(&mut self, rows: &Qkv, scores: &Scores, tail: bool) -> Result<Tensor> {
        self.make_calls(tail)?;
        self.make_masks(scores, tail)?;
        let calls = self.calls.get(&tail).ok_or_else(|| Error::input("attention", "it has no calls"))?;
        let mut pieces = calls.cut(rows, &self.groups)?;
        let mut masks = self.masks.get(&(scores.window, tail)).into_iter().flatten().map(Option::as_ref);
        let mut out = Vec::with_capacity(calls.calls.len());
        for call in &calls.calls {
            let first = pieces.take()?;
            out.push(attend(&first, call.count, masks.next().flatten(), scores)?);
            let group = self.groups.get(call.group).filter(|group| group.split);
            let completions = group.map_or(0, |group| group.span.completion_lens.len());
            for mask in masks.by_ref().take(completions) {
                let Qkv { queries, keys, values } = pieces.take()?;
                let keys = Tensor::f_cat(&[&first.keys, &keys], 0)?;
                let values = Tensor::f_cat(&[&first.values, &values], 0)?;
                out.push(attend(&Qkv { queries, keys, values }, 1, mask, scores)?);
            }
        }
        calls.back(&Tensor::f_cat(&out, 0)?)
    }
}

impl Attention for PackedAttention {
    fn attend(&mut self, _: usize, rows: &Qkv, scores: &Scores) -> Result<Tensor> {
        self.attend_groups(rows, scores, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(prompt_len: usize, lens: &[usize]) -> Group {
        let span = GroupSpan { start: 0, prompt_len, completion_lens: lens.to_vec() };
        Group::new(&span, SCORES_PER_CALL)
    }

    #[test]
    fn many_long_completions_are_attended_one_by_one() {
        assert!(!group(131, &[45]).split && !group(20, &[20; 8]).split);
        assert_eq!(group(131, &[45; 8]).pieces(), [131, 45, 45, 45, 45, 45, 45, 45, 45]);
    }

    #[test]
    fn causal_attention_over_unequal_lengths_is_refused() {
        let x = |rows: i64| Tensor::zeros([rows, 1, 2], (Kind::Float, Device::Cpu));
        let rows = Qkv { queries: x(1), keys: x(2), values: x(2) };
        assert!(attend(&rows, 1, None, &Scores::default()).is_err());
    }

    #[test]
    fn new_rows_see_what_came_before_and_themselves() {
        let queries = Tensor::from_slice(&[2i64, 3]).reshape([1, 1, 2, 1]);
        let seen = |scores: &Scores| {
            let mask = scores.mask_over(&queries, 4).unwrap();
            Vec::<Vec<bool>>::try_from(mask.reshape([2, 4])).unwrap()
        };
        let all = seen(&Scores::default());
        assert_eq!(all, [[true, true, true, false], [true, true, true, true]]);
        let two = seen(&Scores { window: Some(2), ..Scores::default() });
        assert_eq!(two, [[false, true, true, false], [false, false, true, true]]);
    }

    /// A completion continues the positions of the prompt, whatever lies between them in the stream: with a prompt
    /// of 2 and completions of 1 and 2, row 4 (position 3) sees, in a window of 3, positions 1, 2 and 3 of its own row.
    #[test]
    fn windows_and_slopes_follow_positions_not_rows() {
        let masks = |scores: Scores| group(2, &[1, 2]).masks(&scores, Device::Cpu).unwrap().swap_remove(0);
        let window = masks(Scores { window: Some(3), ..Scores::default() }).unwrap();
        let last = Vec::<bool>::try_from(window.reshape([5, 5]).get(4)).unwrap();
        assert_eq!(last, [false, true, false, true, true]);
        let slopes = Scores { slopes: Some(Tensor::from_slice(&[1.0f32, 0.5])), ..Scores::default() };
        let bias = masks(slopes).unwrap();
        assert_eq!(bias.size(), [1, 2, 5, 5]);
        let last = Vec::<f32>::try_from(bias.reshape([2, 5, 5]).get(1).get(4)).unwrap();
        assert_eq!(last, [-1.5, -1.0, f32::NEG_INFINITY, -0.5, 0.0]);
    }

    /// The prompt of 3 keeps its last row, which sees the prompt; the answers' rows see what they always do.
    #[test]
    fn the_tail_begins_with_the_last_row_of_the_prompt() {
        let seen = |lens: &[usize]| {
            let group = group(3, lens);
            let masks = group.tail_masks(&Scores::default(), Device::Cpu).unwrap();
            let mask = masks[0].as_ref().unwrap().squeeze();
            (group.tail_pieces(), Vec::<Vec<bool>>::try_from(mask).unwrap())
        };
        let (pieces, mask) = seen(&[1, 1]);
        assert_eq!(pieces, [3]);
        let expected = [
            [true, true, true, false, false],
            [true, true, true, true, false],
            [true, true, true, false, true],
        ];
        assert_eq!(mask, expected);
        let (pieces, mask) = seen(&[2]);
        assert_eq!(pieces, [3]);
        assert_eq!(mask, [[true, true, true, false, false], [true, true, true, true, false], [true; 5]]);
    }

    #[test]
    fn a_window_wider_than_the_group_needs_no_mask() {
        let masks = |window| {
            let scores = Scores { window: Some(window), ..Scores::default() };
            group(3, &[2]).masks(&scores, Device::Cpu).unwrap().swap_remove(0)
        };
        assert!(masks(5).is_none() && masks(4).is_some());
    }
}
