use align_core::{
    GroupSpan, PackedBatch, Result,
    tch::{Device, Kind, Tensor},
};

/// The rows of one layer before attention; queries `[T, heads, D]`, keys and values `[T, key-value heads, D]`.
#[derive(Debug)]
pub(crate) struct Qkv {
    pub(crate) queries: Tensor,
    pub(crate) keys: Tensor,
    pub(crate) values: Tensor,
}

/// What the rows of a stream may attend to. Every layer asks it once; the rest of a model sees rows only, whether
/// they are trained on, scored or sampled.
pub(crate) trait Attention {
    /// Attends in layer `layer`; returns `[T, heads, D]`.
    fn attend(&mut self, layer: usize, rows: &Qkv) -> Result<Tensor>;
}

/// Which columns a row of [`attend`] may see.
pub(crate) enum Mask<'a> {
    /// Those up to its own index; queries and keys are equally many.
    Causal,
    /// Those that are `true`; broadcast to `[1, 1, queries, keys]`.
    Allowed(&'a Tensor),
}

/// Scaled dot-product attention of one piece: `[L, heads, D]` over `[M, key-value heads, D]`.
pub(crate) fn attend(queries: &Tensor, keys: &Tensor, values: &Tensor, mask: Mask<'_>) -> Result<Tensor> {
    // libtorch aligns the causal triangle at the top left: with fewer queries than keys it would be silently wrong.
    if matches!(mask, Mask::Causal) && length(queries) != length(keys) {
        return Err(align_core::Error::input("causal attention", "queries and keys differ in number"));
    }
    let heads_first = |x: &Tensor| -> Result<Tensor> { Ok(x.f_transpose(0, 1)?.f_unsqueeze(0)?) };
    let grouped = heads(queries) != heads(keys);
    let (mask, causal) = match mask {
        Mask::Causal => (None, true),
        Mask::Allowed(mask) => (Some(mask), false),
    };
    let out = Tensor::f_scaled_dot_product_attention(
        &heads_first(queries)?,
        &heads_first(keys)?,
        &heads_first(values)?,
        mask,
        0.0,
        causal,
        None,
        grouped,
    )?;
    Ok(out.f_squeeze_dim(0)?.f_transpose(0, 1)?)
}

fn length(x: &Tensor) -> i64 {
    x.size().first().copied().unwrap_or(0)
}

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
enum Plan {
    /// One completion: plainly causal.
    Causal,
    /// One call with the tree mask `[1, 1, L, L]`.
    Tree(Tensor),
    /// A causal call for the prompt, then one per completion over the prompt's keys and its own; the masks
    /// `[1, 1, C, P + C]`. Sibling × sibling scores are never computed.
    Split(Vec<Tensor>),
}

impl Plan {
    fn new(span: &GroupSpan, scores_per_call: usize, device: Device) -> Result<Self> {
        if span.is_causal() {
            return Ok(Self::Causal);
        }
        let split: usize = span.completion_lens.iter().map(|len| len * (span.prompt_len + len)).sum();
        let split = span.prompt_len * span.prompt_len + split;
        let saved = (span.len() * span.len()).saturating_sub(split);
        if saved < scores_per_call * (span.completion_lens.len() + 1) {
            return Ok(Self::Tree(span.tree_mask(device)?.f_unsqueeze(0)?.f_unsqueeze(0)?));
        }
        let masks = span.completion_lens.iter().map(|len| continuation_mask(span.prompt_len, *len, device));
        Ok(Self::Split(masks.collect::<Result<_>>()?))
    }

    /// The number of rows of each piece the stream is cut into.
    fn pieces(&self, span: &GroupSpan) -> Vec<i64> {
        match self {
            Self::Causal | Self::Tree(_) => vec![span.len() as i64],
            Self::Split(_) => std::iter::once(&span.prompt_len)
                .chain(&span.completion_lens)
                .map(|len| *len as i64)
                .collect(),
        }
    }
}

/// Builds the mask of `new` rows that follow `held` others, `[1, 1, new, held + new]`: all that came before, and
/// their own part up to themselves.
pub(crate) fn continuation_mask(held: usize, new: usize, device: Device) -> Result<Tensor> {
    let size = [1, 1, new as i64, (held + new) as i64];
    Ok(Tensor::f_ones(size, (Kind::Bool, device))?.f_tril(held as i64)?)
}

/// Attention over a packed batch: rows see their own group, completions never see their siblings.
#[derive(Debug)]
pub(crate) struct PackedAttention {
    groups: Vec<Plan>,
    pieces: Vec<i64>,
}

impl PackedAttention {
    /// Builds the masks, once for all layers.
    pub(crate) fn new(batch: &PackedBatch, device: Device) -> Result<Self> {
        Self::with_threshold(batch, SCORES_PER_CALL, device)
    }

    /// As [`Self::new`] with another price of a call.
    pub(crate) fn with_threshold(
        batch: &PackedBatch,
        scores_per_call: usize,
        device: Device,
    ) -> Result<Self> {
        let plan = |span| Plan::new(span, scores_per_call, device);
        let groups = batch.groups().iter().map(plan).collect::<Result<Vec<_>>>()?;
        let pieces = groups.iter().zip(batch.groups()).flat_map(|(plan, span)| plan.pieces(span)).collect();
        Ok(Self { groups, pieces })
    }

    /// Cuts the stream into pieces with a single operation: the backward pass of each `narrow` would add a zero
    /// tensor as large as the whole stream.
    fn cut(&self, x: &Tensor) -> Result<std::vec::IntoIter<Tensor>> {
        Ok(x.f_split_with_sizes(&self.pieces, 0)?.into_iter())
    }
}

impl Attention for PackedAttention {
    fn attend(&mut self, _: usize, rows: &Qkv) -> Result<Tensor> {
        let mut pieces = Pieces {
            queries: self.cut(&rows.queries)?,
            keys: self.cut(&rows.keys)?,
            values: self.cut(&rows.values)?,
        };
        let mut out = Vec::with_capacity(self.pieces.len());
        for group in &self.groups {
            let first = pieces.take()?;
            let all = |mask| attend(&first.queries, &first.keys, &first.values, mask);
            match group {
                Plan::Causal => out.push(all(Mask::Causal)?),
                Plan::Tree(mask) => out.push(all(Mask::Allowed(mask))?),
                Plan::Split(masks) => {
                    out.push(all(Mask::Causal)?);
                    for mask in masks {
                        let own = pieces.take()?;
                        let keys = Tensor::f_cat(&[&first.keys, &own.keys], 0)?;
                        let values = Tensor::f_cat(&[&first.values, &own.values], 0)?;
                        out.push(attend(&own.queries, &keys, &values, Mask::Allowed(mask))?);
                    }
                }
            }
        }
        Ok(Tensor::f_cat(&out, 0)?)
    }
}

struct Pieces {
    queries: std::vec::IntoIter<Tensor>,
    keys: std::vec::IntoIter<Tensor>,
    values: std::vec::IntoIter<Tensor>,
}

impl Pieces {
    fn take(&mut self) -> Result<Qkv> {
        match (self.queries.next(), self.keys.next(), self.values.next()) {
            (Some(queries), Some(keys), Some(values)) => Ok(Qkv { queries, keys, values }),
            _ => Err(align_core::Error::input("attention", "the stream has fewer pieces than its groups")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_long_completions_are_attended_one_by_one() {
        let plan = |prompt_len, lens: &[usize]| {
            let span = GroupSpan { start: 0, prompt_len, completion_lens: lens.to_vec() };
            Plan::new(&span, SCORES_PER_CALL, Device::Cpu).unwrap()
        };
        assert!(matches!(plan(131, &[45]), Plan::Causal));
        assert!(matches!(plan(20, &[20; 8]), Plan::Tree(_)));
        assert!(matches!(plan(131, &[45; 8]), Plan::Split(masks) if masks.len() == 8));
    }

    #[test]
    fn causal_attention_over_unequal_lengths_is_refused() {
        let x = |rows: i64| Tensor::zeros([rows, 1, 2], (Kind::Float, Device::Cpu));
        assert!(attend(&x(1), &x(2), &x(2), Mask::Causal).is_err());
    }

    #[test]
    fn new_rows_see_what_came_before_and_themselves() {
        let mask = continuation_mask(2, 2, Device::Cpu).unwrap();
        let rows = Vec::<Vec<bool>>::try_from(mask.reshape([2, 4])).unwrap();
        assert_eq!(rows, [[true, true, true, false], [true, true, true, true]]);
    }
}
