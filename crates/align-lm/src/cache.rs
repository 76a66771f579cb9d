use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use align_core::{
    CachedLm, CausalLm, Error, KvCache, LayerCache, PackedBatch, Result, no_grad,
    tch::{Device, Kind, Tensor},
};

use crate::attention::{Attention, Qkv, Scores, attend};
use crate::model::Model;

impl Model {
    /// Key-value heads and head size of each layer.
    fn cache_layers(&self) -> Vec<(i64, i64)> {
        let sizes = self.config().sizes();
        vec![(sizes.num_key_value_heads as i64, sizes.head_dim as i64); sizes.num_hidden_layers]
    }

    fn check_cache(&self, cache: &KvCache, tokens: &[&[u32]]) -> Result<()> {
        let (slots, capacity) = (cache.slots() as i64, cache.capacity as i64);
        let layers = self.cache_layers();
        let fits = cache.layers.len() == layers.len()
            && cache.layers.iter().zip(layers).all(|(layer, (heads, size))| {
                let shape = [slots, heads, capacity, size];
                layer.keys.size() == shape && layer.values.size() == shape
            });
        if !fits {
            return Err(Error::input("key-value cache", "it was made for another model"));
        }
        if tokens.len() != cache.slots() {
            let why = format!("{} lists of tokens for {slots} slots", tokens.len());
            return Err(Error::input("key-value cache", why));
        }
        for (slot, (tokens, held)) in tokens.iter().zip(&cache.lengths).enumerate() {
            let refuse = |why: String| Err(Error::input(format!("cache slot {slot}"), why));
            if tokens.is_empty() {
                return refuse("no token to append".into());
            }
            if held + tokens.len() > cache.capacity {
                return refuse(format!("{held} + {} tokens in a capacity of {capacity}", tokens.len()));
            }
            if let Some(id) = tokens.iter().find(|id| **id as usize >= self.vocab_size()) {
                return refuse(format!("token {id} in a vocabulary of {}", self.vocab_size()));
            }
        }
        Ok(())
    }
}

impl CachedLm for Model {
    fn new_cache(&self, slots: usize, capacity: usize) -> Result<KvCache> {
        let context = self.config().context_length();
        if capacity > context {
            let why = format!("{capacity} tokens are more than the model's context of {context}");
            return Err(Error::input("cache capacity", why));
        }
        KvCache::new(&self.cache_layers(), slots, capacity, self.options().compute, self.device())
    }

    fn extend(&self, cache: &mut KvCache, tokens: &[&[u32]]) -> Result<Tensor> {
        self.check_cache(cache, tokens)?;
        let _guard = no_grad();
        let device = self.device();
        if tokens.is_empty() {
            return Ok(Tensor::f_zeros([0, self.vocab_size() as i64], (Kind::Float, device))?);
        }
        let rows = Rows::new(&cache.lengths, tokens);
        let ids = PackedBatch::index_tensor(&rows.ids, device)?;
        let positions = PackedBatch::index_tensor(&rows.positions, device)?;
        let mut attention = CachedAttention {
            slots: PackedBatch::index_tensor(&rows.slots, device)?,
            positions: positions.shallow_clone(),
            reach: Reach::new(&cache.lengths, tokens),
            masks: BTreeMap::new(),
            layers: &mut cache.layers,
        };
        let hidden = self.decoder.hidden(&ids, &positions, &mut attention)?;
        let last = PackedBatch::index_tensor(&rows.last, device)?;
        let logits = self.decoder.head(&hidden.f_index_select(0, &last)?)?;
        for (held, tokens) in cache.lengths.iter_mut().zip(tokens) {
            *held += tokens.len();
        }
        Ok(logits)
    }

    fn replicate_cached(&self) -> Result<Option<Box<dyn CachedLm>>> {
        if self.device() != Device::Cpu {
            return Ok(None);
        }
        let replica = self.replica().map_err(|error| Error::input("replica", error.to_string()))?;
        Ok(Some(Box::new(replica)))
    }
}

/// The new tokens as rows of (slot, position, token), in the order of slots.
#[derive(Debug, Default)]
struct Rows {
    ids: Vec<i64>,
    slots: Vec<i64>,
    positions: Vec<i64>,
    last: Vec<i64>,
}

impl Rows {
    fn new(held: &[usize], tokens: &[&[u32]]) -> Self {
        let mut rows = Self::default();
        for (slot, (held, tokens)) in held.iter().zip(tokens).enumerate() {
            for (offset, id) in tokens.iter().enumerate() {
                rows.ids.push(i64::from(*id));
                rows.slots.push(slot as i64);
                rows.positions.push((held + offset) as i64);
            }
            rows.last.push(rows.ids.len() as i64 - 1);
        }
        rows
    }
}

/// What the new rows may see of the cache.
#[derive(Debug)]
enum Reach {
    /// One new row per slot: one batched call over the used part.
    Decode { held: Vec<i64>, used: i64 },
    /// Several new rows: one call per slot.
    Prefill(Vec<Prefill>),
}

#[derive(Debug)]
struct Prefill {
    held: i64,
    rows: i64,
}

impl Reach {
    fn new(held: &[usize], tokens: &[&[u32]]) -> Self {
        if tokens.iter().all(|tokens| tokens.len() == 1) {
            let held: Vec<i64> = held.iter().map(|held| *held as i64).collect();
            let used = held.iter().max().map_or(0, |held| held + 1);
            return Self::Decode { held, used };
        }
        let slot =
            |(held, tokens): (&usize, &&[u32])| Prefill { held: *held as i64, rows: tokens.len() as i64 };
        Self::Prefill(held.iter().zip(tokens).map(slot).collect())
    }

    /// Builds the mask of each call; none where a call needs none.
    fn masks(&self, scores: &Scores, device: Device) -> Result<Vec<Option<Tensor>>> {
        match self {
            // Slots that are equally long see all that is used.
            Self::Decode { held, used }
                if scores.is_plain((*used as usize).saturating_sub(1))
                    && held.iter().all(|held| held + 1 == *used) =>
            {
                Ok(vec![None])
            }
            Self::Decode { held, used } => {
                let held = PackedBatch::index_tensor(held, device)?.f_view([-1, 1, 1, 1])?;
                Ok(vec![Some(scores.mask_over(&held, *used)?)])
            }
            Self::Prefill(slots) => slots.iter().map(|slot| slot.mask(scores, device)).collect(),
        }
    }
}

impl Prefill {
    fn length(&self) -> i64 {
        self.held + self.rows
    }

    /// Plainly causal where the slot was empty.
    fn mask(&self, scores: &Scores, device: Device) -> Result<Option<Tensor>> {
        if self.held == 0 && scores.is_plain((self.rows as usize).saturating_sub(1)) {
            return Ok(None);
        }
        let rows = Tensor::f_arange_start(self.held, self.length(), (Kind::Int64, device))?;
        Ok(Some(scores.mask_over(&rows.f_view([1, 1, -1, 1])?, self.length())?))
    }
}

/// Attention of new rows over the cache; it writes their keys and values first.
struct CachedAttention<'a> {
    layers: &'a mut [LayerCache],
    slots: Tensor,
    positions: Tensor,
    reach: Reach,
    /// The masks of every call, for each window that a layer asked for.
    masks: BTreeMap<Option<usize>, Vec<Option<Tensor>>>,
}

impl Attention for CachedAttention<'_> {
    fn attend(&mut self, layer: usize, rows: &Qkv, scores: &Scores) -> Result<Tensor> {
        let cache =
            self.layers.get_mut(layer).ok_or_else(|| Error::input("key-value cache", "too few layers"))?;
        let place = [Some(&self.slots), None, Some(&self.positions)];
        let _ = cache.keys.f_index_put_(&place, &rows.keys, false)?;
        let _ = cache.values.f_index_put_(&place, &rows.values, false)?;
        let masks = match self.masks.entry(scores.window) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(self.reach.masks(scores, self.slots.device())?),
        };
        match &self.reach {
            Reach::Decode { used, .. } => {
                decode(cache, &rows.queries, *used, masks.first().and_then(Option::as_ref), scores)
            }
            Reach::Prefill(slots) => prefill(cache, &rows.queries, slots, masks, scores),
        }
    }
}

/// One query row per slot: the query heads that share a key-value head are queries of that head, so that no key is
/// copied.
fn decode(
    cache: &LayerCache,
    queries: &Tensor,
    used: i64,
    mask: Option<&Tensor>,
    scores: &Scores,
) -> Result<Tensor> {
    let (slots, key_value_heads, _, size) = cache.keys.size4()?;
    let rows = Qkv {
        queries: queries.f_reshape([slots, key_value_heads, -1, size])?,
        keys: cache.keys.f_narrow(2, 0, used)?,
        values: cache.values.f_narrow(2, 0, used)?,
    };
    // Slopes differ by query head, all else is the same for them.
    let mask = match mask {
        Some(mask) if scores.slopes.is_some() => Some(mask.f_reshape([slots, key_value_heads, -1, used])?),
        mask => mask.map(Tensor::shallow_clone),
    };
    Ok(scores.attend(&rows, mask.as_ref(), false)?.f_reshape([slots, -1, size])?)
}

fn prefill(
    cache: &LayerCache,
    queries: &Tensor,
    slots: &[Prefill],
    masks: &[Option<Tensor>],
    scores: &Scores,
) -> Result<Tensor> {
    let sizes: Vec<i64> = slots.iter().map(|slot| slot.rows).collect();
    let pieces = queries.f_split_with_sizes(&sizes, 0)?;
    let mut out = Vec::with_capacity(slots.len());
    for (index, ((slot, queries), mask)) in slots.iter().zip(pieces).zip(masks).enumerate() {
        let held = |x: &Tensor| -> Result<Tensor> {
            Ok(x.f_select(0, index as i64)?.f_narrow(1, 0, slot.length())?.f_transpose(0, 1)?)
        };
        let rows = Qkv { queries, keys: held(&cache.keys)?, values: held(&cache.values)? };
        out.push(attend(&rows, 1, mask.as_ref(), scores)?);
    }
    Ok(Tensor::f_cat(&out, 0)?)
}
