use align_core::{
    CachedLm, CausalLm, Error, KvCache, LayerCache, PackedBatch, Result, no_grad,
    tch::{Device, Kind, Tensor},
};

use crate::attention::{Attention, Mask, Qkv, attend, continuation_mask};
use crate::config::FamilyConfig;
use crate::model::Model;

impl Model {
    /// Key-value heads and head size of each layer.
    fn cache_layers(&self) -> Vec<(i64, i64)> {
        match self.config().family() {
            FamilyConfig::Llama(llama) => {
                vec![(llama.num_key_value_heads as i64, llama.head_dim as i64); llama.num_hidden_layers]
            }
        }
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
        KvCache::new(&self.cache_layers(), slots, capacity, Kind::Float, self.device())
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
            reach: Reach::new(&cache.lengths, tokens, device)?,
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
    /// One new row per slot: one batched call over the used part; the mask `[slots, 1, 1, used]` hides what lies
    /// beyond a slot's own length, and is absent where all are equally long.
    Decode { used: i64, mask: Option<Tensor> },
    /// Several new rows: one call per slot.
    Prefill(Vec<Prefill>),
}

#[derive(Debug)]
struct Prefill {
    rows: i64,
    length: i64,
    /// Absent where the slot was empty: plainly causal.
    mask: Option<Tensor>,
}

impl Reach {
    fn new(held: &[usize], tokens: &[&[u32]], device: Device) -> Result<Self> {
        if tokens.iter().all(|tokens| tokens.len() == 1) {
            return Self::decode(held, device);
        }
        let slot = |(held, tokens): (&usize, &&[u32])| -> Result<Prefill> {
            let mask = match held {
                0 => None,
                held => Some(continuation_mask(*held, tokens.len(), device)?),
            };
            Ok(Prefill { rows: tokens.len() as i64, length: (held + tokens.len()) as i64, mask })
        };
        Ok(Self::Prefill(held.iter().zip(tokens).map(slot).collect::<Result<_>>()?))
    }

    fn decode(held: &[usize], device: Device) -> Result<Self> {
        let used = held.iter().max().map_or(0, |held| *held as i64 + 1);
        let mask = if held.iter().all(|held| *held as i64 + 1 == used) {
            None
        } else {
            let held: Vec<i64> = held.iter().map(|held| *held as i64).collect();
            let held = PackedBatch::index_tensor(&held, device)?.f_view([-1, 1, 1, 1])?;
            Some(Tensor::f_arange(used, (Kind::Int64, device))?.f_le_tensor(&held)?)
        };
        Ok(Self::Decode { used, mask })
    }
}

/// Attention of new rows over the cache; it writes their keys and values first.
struct CachedAttention<'a> {
    layers: &'a mut [LayerCache],
    slots: Tensor,
    positions: Tensor,
    reach: Reach,
}

impl Attention for CachedAttention<'_> {
    fn attend(&mut self, layer: usize, rows: &Qkv) -> Result<Tensor> {
        let cache =
            self.layers.get_mut(layer).ok_or_else(|| Error::input("key-value cache", "too few layers"))?;
        let place = [Some(&self.slots), None, Some(&self.positions)];
        let _ = cache.keys.f_index_put_(&place, &rows.keys, false)?;
        let _ = cache.values.f_index_put_(&place, &rows.values, false)?;
        match &self.reach {
            Reach::Decode { used, mask } => decode(cache, &rows.queries, *used, mask.as_ref()),
            Reach::Prefill(slots) => prefill(cache, &rows.queries, slots),
        }
    }
}

/// One query row per slot: the query heads that share a key-value head are queries of that head, so that no key is
/// copied.
fn decode(cache: &LayerCache, queries: &Tensor, used: i64, mask: Option<&Tensor>) -> Result<Tensor> {
    let (slots, key_value_heads, _, size) = cache.keys.size4()?;
    let grouped = queries.f_reshape([slots, key_value_heads, -1, size])?;
    let out = Tensor::f_scaled_dot_product_attention(
        &grouped,
        &cache.keys.f_narrow(2, 0, used)?,
        &cache.values.f_narrow(2, 0, used)?,
        mask,
        0.0,
        false,
        None,
        false,
    )?;
    Ok(out.f_reshape([slots, -1, size])?)
}

fn prefill(cache: &LayerCache, queries: &Tensor, slots: &[Prefill]) -> Result<Tensor> {
    let sizes: Vec<i64> = slots.iter().map(|slot| slot.rows).collect();
    let mut out = Vec::with_capacity(slots.len());
    for (index, (slot, queries)) in slots.iter().zip(queries.f_split_with_sizes(&sizes, 0)?).enumerate() {
        let held = |x: &Tensor| -> Result<Tensor> {
            Ok(x.f_select(0, index as i64)?.f_narrow(1, 0, slot.length)?.f_transpose(0, 1)?)
        };
        let mask = slot.mask.as_ref().map_or(Mask::Causal, Mask::Allowed);
        out.push(attend(&queries, &held(&cache.keys)?, &held(&cache.values)?, mask)?);
    }
    Ok(Tensor::f_cat(&out, 0)?)
}
